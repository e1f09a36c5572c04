//! Multiplication of two activations: B is packed at run time, into memory that the caller lends.

use super::{
    check_k, check_operands,
    driver::Core,
    kernel::KernelSet,
    pack::{ALIGN, PanelLayout},
    run_checked,
};
use crate::{
    Cpu, KernelError,
    epilogue::{Epilogue, OutSlice, Output, Sign},
    error::{check_at_least, checked_span},
    par::Parallel,
};

/// `C[M, N] = epilogue(bias[n] + Σ_k (A[m, k] − a_zero) · (B[k, n] − b_zero))` with B not known before the run.
#[derive(Debug)]
pub struct DynamicGemm {
    set: &'static KernelSet,
    layout: PanelLayout,
    a_sign: Sign,
    a_zero: i32,
    b_sign: Sign,
    /// Zero point of B as packed, in s8.
    b_zero: i32,
    bias: Vec<i32>,
    output: Output,
}

impl DynamicGemm {
    /// A multiplication of `a_sign` activations with zero point `a_zero` by a `k` × `n` matrix of `b_sign` with zero
    /// point `b_zero`. `bias` holds N values, or none.
    ///
    /// # Errors
    /// If a zero point is outside its storage, the bias or output does not fit `n`, or K is too large for an i32.
    pub fn new(
        cpu: Cpu,
        (k, n): (usize, usize),
        (a_sign, a_zero): (Sign, i32),
        (b_sign, b_zero): (Sign, i32),
        bias: &[i32],
        output: &Output,
    ) -> Result<Self, KernelError> {
        for (what, sign, zero) in
            [("zero point of A", a_sign, a_zero), ("zero point of B", b_sign, b_zero)]
        {
            if !(sign.min()..=sign.max()).contains(&zero) {
                return Err(KernelError::invalid(what, zero, "within its storage type"));
            }
        }
        let b_zero = b_zero - Self::b_shift(b_sign);
        check_k(k, a_sign, &[b_zero])?;
        let set = KernelSet::of(cpu);
        let layout = PanelLayout::new(k, n, set.kr)?;
        let bias = if bias.is_empty() { vec![0; n] } else { bias.to_vec() };
        Epilogue::new(n, bias.clone(), None, output)?;
        Ok(Self { set, layout, a_sign, a_zero, b_sign, b_zero, bias, output: output.clone() })
    }

    /// What storing B as s8 subtracts from its values.
    fn b_shift(sign: Sign) -> i32 {
        match sign {
            Sign::U8 => 128,
            Sign::S8 => 0,
        }
    }

    /// Bytes of scratch that [`Self::run`] needs.
    pub fn scratch_bytes(&self) -> usize {
        self.set.packed_bytes(&self.layout) + ALIGN
    }

    /// Computes C from `m` rows of A, `lda` bytes apart, and B: row-major `[k, n]`, or `[n, k]` if `transposed`, rows
    /// `ldb` bytes apart. `scratch` needs [`Self::scratch_bytes`]; its contents do not matter.
    ///
    /// # Errors
    /// If a slice is too short, of the wrong element type, or rows would overlap.
    #[allow(clippy::too_many_arguments, reason = "three matrices with their row distances")]
    pub fn run(
        &self,
        par: &dyn Parallel,
        m: usize,
        (a, lda): (&[u8], usize),
        (b, ldb): (&[u8], usize),
        transposed: bool,
        (out, ldc): (OutSlice<'_>, usize),
        scratch: &mut [u8],
    ) -> Result<(), KernelError> {
        let PanelLayout { k, n, .. } = self.layout;
        let (rows, cols) = if transposed { (n, k) } else { (k, n) };
        check_at_least("leading dimension of B", ldb, if rows > 1 { cols } else { 0 })?;
        check_at_least("B", b.len(), checked_span("B", rows, cols, ldb)?)?;
        check_at_least("scratch", scratch.len(), self.scratch_bytes())?;

        // SAFETY: any byte is a valid i8 and the other way round; same size and alignment.
        let (_, scratch, _) = unsafe { scratch.align_to_mut::<i8>() };
        let misaligned = scratch.as_ptr().align_offset(ALIGN);
        let packed = &mut scratch[misaligned..];
        let mask = if self.b_sign == Sign::U8 { 0x80 } else { 0 };
        let at = |k_: usize, n_: usize| {
            (if transposed { b[n_ * ldb + k_] } else { b[k_ * ldb + n_] } ^ mask) as i8
        };
        self.layout.pack(packed, at);

        // Σ (a − z_a)(b − z_b) = Σ a'(b − z_b) − (z_a + offset)·Σ (b − z_b), where a' = a + offset is what kernels
        // multiply; their term of z_b needs the row sums of a, and that of the offset is undone here.
        let offset = self.set.offset(self.a_sign);
        let mut bias = self.bias.clone();
        let sums: Vec<i32> = (0..n).map(|n| (0..k).map(|k| i32::from(at(k, n))).sum()).collect();
        for (bias, &sum) in bias.iter_mut().zip(&sums) {
            let zero_term =
                self.a_zero.wrapping_mul(sum.wrapping_sub((k as i32).wrapping_mul(self.b_zero)));
            *bias = bias.wrapping_sub(zero_term).wrapping_sub(offset.wrapping_mul(sum));
        }
        let w_zero = (self.b_zero != 0).then_some([self.b_zero]);
        let epilogue =
            Epilogue::new(n, bias, w_zero.as_ref().map(<[i32; 1]>::as_slice), &self.output)?;
        let core = Core {
            set: self.set,
            layout: self.layout,
            packed,
            epilogue: &epilogue,
            a_sign: self.a_sign,
            sums: &sums,
        };
        let out = check_operands(&core, m, (a, lda), None, (out, ldc))?;
        run_checked(&core, par, m, (a, lda), None, (out, ldc));
        Ok(())
    }
}
