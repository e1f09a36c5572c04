//! Multiplication of two activations: B is packed at run time, into memory that the caller lends.

use super::{
    check_k, check_residual,
    driver::Core,
    kernel::KernelSet,
    pack::{ALIGN, PanelLayout},
    run_checked,
};
use crate::{
    Cpu, KernelError,
    epilogue::{Epilogue, OutSlice, Output, Sign, as_bytes_mut},
    error::{check_at_least, checked_product, checked_span},
    par::{DisjointMut, Parallel, Serial, WorkerScratch, for_each_with_state, for_macs},
};

/// The most columns of B, for which there are tables before there is a B.
const MAX_N: usize = 1 << 28;

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
    /// With the bias alone: the terms of zero points depend on B.
    epilogue: Epilogue,
    /// A row of ones, of the sign that kernels multiply as it is: its products with B are the sums of columns.
    ones: Vec<u8>,
    ones_sign: Sign,
    sums: Epilogue,
}

impl DynamicGemm {
    /// A multiplication of `a_sign` activations with zero point `a_zero` by a `k` × `n` matrix of `b_sign` with zero
    /// point `b_zero`. `bias` holds N values, or none.
    ///
    /// # Errors
    /// If a zero point is outside its storage, the bias or output does not fit `n`, K is too large for an i32, or N is
    /// beyond 2²⁸.
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
        check_k(k, &[b_zero])?;
        if n > MAX_N {
            return Err(KernelError::invalid("columns of B", n, "at most 2^28"));
        }
        let set = KernelSet::of(cpu);
        let layout = PanelLayout::new(k, n, set.kr)?;
        let bias = if bias.is_empty() { vec![0; n] } else { bias.to_vec() };
        let w_zero = (b_zero != 0).then_some([b_zero]);
        let w_zero = w_zero.as_ref().map(<[i32; 1]>::as_slice);
        let epilogue = Epilogue::new(n, bias, w_zero, output)?;
        let sums = Epilogue::sums(n);
        let (ones, ones_sign) = (vec![1; k], set.staged_as.unwrap_or(Sign::U8));
        Ok(Self { set, layout, a_sign, a_zero, b_sign, b_zero, epilogue, ones, ones_sign, sums })
    }

    /// What storing B as s8 subtracts from its values.
    fn b_shift(sign: Sign) -> i32 {
        match sign {
            Sign::U8 => 128,
            Sign::S8 => 0,
        }
    }

    /// Bytes of scratch that [`Self::run`] needs with so many threads.
    pub fn scratch_bytes(&self, threads: usize) -> usize {
        self.product_scratch().saturating_mul(threads.max(1))
    }

    /// Room for a packed B, aligned.
    fn product_scratch(&self) -> usize {
        self.set.packed_bytes(&self.layout) + ALIGN
    }

    /// Computes the products of `m` rows of A, `lda` bytes apart, and B: row-major `[k, n]`, or `[n, k]` if
    /// `transposed`, rows `ldb` bytes apart. `starts` says where in `a` and `b` the operands of each product begin; the
    /// results follow each other, in rows `ldc` elements apart. `scratch` needs [`Self::scratch_bytes`]; its contents
    /// do not matter.
    ///
    /// # Errors
    /// If a slice is too short, of the wrong element type, or rows would overlap.
    #[allow(clippy::too_many_arguments, reason = "three matrices with their row distances")]
    pub fn run(
        &self,
        par: &dyn Parallel,
        m: usize,
        starts: &[(usize, usize)],
        (a, lda): (&[u8], usize),
        (b, ldb): (&[u8], usize),
        transposed: bool,
        (out, ldc): (OutSlice<'_>, usize),
        scratch: &mut [u8],
    ) -> Result<(), KernelError> {
        let PanelLayout { k, n, .. } = self.layout;
        let (rows, cols) = if transposed { (n, k) } else { (k, n) };
        check_at_least("leading dimension of B", ldb, if rows > 1 { cols } else { 0 })?;
        check_at_least("scratch", scratch.len(), self.scratch_bytes(par.threads()))?;
        let end = |what, start: usize, span: usize| {
            start.checked_add(span).ok_or(KernelError::Overflow { what })
        };
        let (a_span, b_span) = (checked_span("A", m, k, lda)?, checked_span("B", rows, cols, ldb)?);
        for &(a_start, b_start) in starts {
            check_at_least("A", a.len(), end("A", a_start, a_span)?)?;
            check_at_least("B", b.len(), end("B", b_start, b_span)?)?;
        }
        check_at_least("leading dimension of A", lda, if m > 1 { k } else { 0 })?;
        // The distance of a single row does not matter.
        let ldc = if m > 1 || starts.len() > 1 { ldc } else { n };
        check_at_least("leading dimension of C", ldc, n)?;
        let all_rows = checked_product("rows of C", &[starts.len(), m])?;
        let element = self.epilogue.element_bytes();
        let out = out.into_bytes(&self.epilogue)?;
        check_at_least("C", out.len() / element, checked_span("C", all_rows, n, ldc)?)?;
        check_residual(&self.epilogue, false)?;

        if all_rows == 0 || n == 0 {
            return Ok(());
        }
        let each = m * ldc * element;
        let macs = all_rows.saturating_mul(n).saturating_mul(k.max(1));
        let par = for_macs(par, macs);
        let threads = par.threads().max(1);
        let scratch = WorkerScratch::new(scratch, self.product_scratch(), threads);
        // A product as a whole has B packed once, by the thread that uses it: better wherever there are enough.
        let (across, within): (&dyn Parallel, &dyn Parallel) =
            if starts.len() >= threads { (par, &Serial) } else { (&Serial, par) };
        let len = out.len();
        let out = DisjointMut::new(out);
        let state = |worker| Worker {
            // SAFETY: states are made once for each worker.
            packed: unsafe { scratch.get(worker) },
            sums: vec![0; n],
            epilogue: self.epilogue.clone(),
        };
        for_each_with_state(across, starts.len(), &state, &|worker, i| {
            let (a_start, b_start) = starts[i];
            // SAFETY: products write different rows.
            let out = unsafe { out.slice(i * each..((i + 1) * each).min(len)) };
            let b = (&b[b_start..], ldb);
            self.product(within, m, (&a[a_start..], lda), b, transposed, (out, ldc), worker);
        });
        Ok(())
    }

    /// One product of operands that [`Self::run`] has checked.
    #[allow(clippy::too_many_arguments, reason = "three matrices with their row distances")]
    fn product(
        &self,
        par: &dyn Parallel,
        m: usize,
        a: (&[u8], usize),
        b: (&[u8], usize),
        transposed: bool,
        out: (&mut [u8], usize),
        worker: &mut Worker<'_>,
    ) {
        let Self { set, layout, a_sign, .. } = *self;
        let Worker { packed, sums, epilogue } = worker;
        // SAFETY: any byte is a valid i8 and the other way round; same size and alignment.
        let (_, packed, _) = unsafe { packed.align_to_mut::<i8>() };
        let misaligned = packed.as_ptr().align_offset(ALIGN);
        let packed = &mut packed[misaligned..];
        let mask = if self.b_sign == Sign::U8 { 0x80 } else { 0 };
        layout.pack_matrix(packed, b, transposed, |v| (v ^ mask) as i8);
        let depth = (0, layout.k);
        let (ones, ones_sign) = (&self.sums, self.ones_sign);
        let core =
            Core { set, layout, packed, epilogue: ones, a_sign: ones_sign, sums: &[], depth };
        run_checked(&core, &Serial, 1, (&self.ones, 0), None, (as_bytes_mut(sums), 0));

        // Σ (a − z_a)(b − z_b) = Σ a'(b − z_b) − (z_a + offset)·Σ (b − z_b), where a' = a + offset is what kernels
        // multiply; their term of z_b needs the row sums of a, and that of the offset is undone here.
        let offset = set.offset(a_sign);
        let zeros = (layout.k as i32).wrapping_mul(self.b_zero);
        for ((bias, own), &sum) in epilogue.bias.iter_mut().zip(&self.epilogue.bias).zip(&*sums) {
            let zero_term = self.a_zero.wrapping_mul(sum.wrapping_sub(zeros));
            *bias = own.wrapping_sub(zero_term).wrapping_sub(offset.wrapping_mul(sum));
        }
        let core = Core { epilogue, a_sign, sums, ..core };
        run_checked(&core, par, m, a, None, out);
    }
}

/// What a worker keeps from one product to the next.
struct Worker<'a> {
    /// Room for B.
    packed: &'a mut [u8],
    /// `Σ_k b` of each column.
    sums: Vec<i32>,
    /// With the terms of zero points in the bias.
    epilogue: Epilogue,
}
