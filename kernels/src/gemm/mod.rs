//! Integer matrix multiplication: `C[M, N] = epilogue(bias[n] + Σ_k A[m, k] · (B[k, n] − w_zero[n]))`.
//!
//! A holds raw 8-bit activations, row-major. Their zero point is not known here: the caller folds it into the bias,
//! `bias' = bias − z_a · Σ_k (B − w_zero)`, for which [`PackedB::weight_sums`] gives the sums.
//! Every result is exact: the sum is taken modulo 2³², and K is limited so that the true sum fits.

#[cfg_attr(
    not(all(target_arch = "x86_64", target_os = "linux")),
    allow(dead_code, reason = "nothing else has tiles, but in tests")
)]
pub(crate) mod amx;
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
pub(crate) mod arm_asm;
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
mod arm_dotprod;
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
pub(crate) mod arm_epilogues;
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
mod arm_i8mm;
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
mod arm_neon;
#[cfg(target_arch = "x86_64")]
mod crossed;
mod dot;
mod driver;
mod dynamic;
pub(crate) mod kernel;
pub(crate) mod pack;
mod row_sums;
mod scalar;
mod scratch;
mod split_k;
mod strided;
mod whole_rows;
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86_avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86_avx512bw;
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86_avx512vnni;
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86_avxvnni;
#[cfg(target_arch = "x86_64")]
mod x86_ymms;
#[cfg(target_arch = "x86_64")]
mod x86_zmm;

use std::{fmt, sync::Arc};

pub(crate) use self::driver::Core;
pub use self::dynamic::DynamicGemm;
use self::{
    amx::TileState,
    driver::Split,
    kernel::KernelSet,
    pack::{AlignedBytes, PanelLayout},
    split_k::KSplit,
};
use crate::{
    Cpu, KernelError,
    epilogue::{Epilogue, NR, OutSlice, Output, Sign, TileOut},
    error::{check_at_least, check_backed, check_len, checked_product, checked_span},
    par::{DisjointMut, Parallel, for_each_with_state},
};

/// Fails if `Σ_k (a − z_a)·(b − z_b)` of `k` terms can leave an i32, with any stored a and b, any zero point of a, and
/// the given weight zero points. Of both signs alike: the same sums are computed as u8 here and as s8 there.
pub(crate) fn check_k(k: usize, w_zero: &[i32]) -> Result<(), KernelError> {
    let b = w_zero
        .iter()
        .map(|&z| (-128 - i64::from(z)).abs().max((127 - i64::from(z)).abs()))
        .max()
        .unwrap_or(128);
    let limit = (i64::from(i32::MAX) / (255 * b)) as usize;
    if k <= limit { Ok(()) } else { Err(KernelError::KTooLarge { k, limit }) }
}

/// The zero points of `n` columns, given once or per column; none where all are zero.
pub(crate) fn expand_zero_points(
    w_zero: Option<&[i32]>,
    n: usize,
) -> Result<Option<Vec<i32>>, KernelError> {
    let Some(w_zero) = w_zero.filter(|z| z.iter().any(|&z| z != 0)) else {
        return Ok(None);
    };
    if let Some(z) = w_zero.iter().find(|z| !(-256..=256).contains(*z)) {
        return Err(KernelError::invalid("weight zero point", z, "in -256 ... 256"));
    }
    match *w_zero {
        [one] => Ok(Some(vec![one; n])),
        _ => check_len("weight zero points", w_zero.len(), n).map(|()| Some(w_zero.to_vec())),
    }
}

/// s8 weights of shape K × N, packed for one ISA. Immutable and shareable.
pub struct PackedB {
    set: &'static KernelSet,
    layout: PanelLayout,
    data: AlignedBytes,
    a_sign: Sign,
    /// `Σ_k b`
    sums: Vec<i32>,
    w_zero: Option<Vec<i32>>,
}

impl fmt::Debug for PackedB {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PackedB")
            .field("layout", &self.layout)
            .field("a_sign", &self.a_sign)
            .finish_non_exhaustive()
    }
}

impl PackedB {
    /// Packs `b`, row-major `[k, n]`, or `[n, k]` if `transposed`, for multiplication with activations of `a_sign`.
    ///
    /// `w_zero` holds the weights' zero points, one per column or one for all; without it they are zero.
    ///
    /// # Errors
    /// If `b` is not `k·n` long, sizes overflow, N is beyond 65,536 without elements of `b`, or K is so large that a sum
    /// may not fit into an i32: more than 65,793, less with weight zero points.
    pub fn pack(
        cpu: Cpu,
        b: &[i8],
        k: usize,
        n: usize,
        transposed: bool,
        w_zero: Option<&[i32]>,
        a_sign: Sign,
    ) -> Result<Self, KernelError> {
        check_len("weights", b.len(), checked_product("weights", &[k, n])?)?;
        check_backed("columns of weights", n, b.len())?;
        let ldb = if transposed { k } else { n };
        Self::pack_with(cpu, (k, n), k, w_zero, a_sign, |layout, packed| {
            layout.pack_matrix(packed, (b, ldb), transposed, |v| v);
        })
    }

    /// Packs the matrix of `k` × `n` whose element (k, n) is `at(k, n)`, of which at most `terms` of a column are not
    /// zero.
    pub(crate) fn pack_from(
        cpu: Cpu,
        (k, n): (usize, usize),
        terms: usize,
        w_zero: Option<&[i32]>,
        a_sign: Sign,
        at: impl Fn(usize, usize) -> i8,
    ) -> Result<Self, KernelError> {
        Self::pack_with(cpu, (k, n), terms, w_zero, a_sign, |layout, packed| {
            layout.pack(packed, at)
        })
    }

    fn pack_with(
        cpu: Cpu,
        (k, n): (usize, usize),
        terms: usize,
        w_zero: Option<&[i32]>,
        a_sign: Sign,
        pack: impl FnOnce(&PanelLayout, &mut [i8]),
    ) -> Result<Self, KernelError> {
        let w_zero = expand_zero_points(w_zero, n)?;
        check_k(terms, w_zero.as_deref().unwrap_or_default())?;
        let set = KernelSet::of(cpu);
        let layout = PanelLayout::new(k, n, set.kr)?;
        let mut data = AlignedBytes::zeroed(set.packed_bytes(&layout));
        pack(&layout, data.as_mut_slice());
        let set = set.for_weights(data.as_slice());
        let sums = layout.column_sums(data.as_slice());
        Ok(Self { set, layout, data, a_sign, sums, w_zero })
    }

    /// Rows of B.
    pub fn k(&self) -> usize {
        self.layout.k
    }

    /// Columns of B.
    pub fn n(&self) -> usize {
        self.layout.n
    }

    /// Panels of 16 columns.
    pub(crate) fn panels(&self) -> usize {
        self.layout.panels()
    }

    /// How the activations' bytes are read.
    pub fn a_sign(&self) -> Sign {
        self.a_sign
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> usize {
        self.layout.bytes()
    }

    /// `Σ_k (B[k, n] − w_zero[n])` per column: `bias' = bias − z_a · sum` folds the activations' zero point.
    pub fn weight_sums(&self) -> Vec<i32> {
        let zero = |n: usize| self.w_zero.as_ref().map_or(0, |z| z[n]);
        self.sums.iter().enumerate().map(|(n, &sum)| sum - self.k() as i32 * zero(n)).collect()
    }

    /// The epilogue for these weights.
    pub(crate) fn epilogue(&self, bias: &[i32], output: &Output) -> Result<Epilogue, KernelError> {
        check_len("bias", bias.len(), self.n())?;
        let offset = self.set.offset(self.a_sign);
        let bias = bias
            .iter()
            .zip(&self.sums)
            .map(|(b, sum)| b.wrapping_sub(offset.wrapping_mul(*sum)))
            .collect();
        let epilogue = Epilogue::new(self.n(), bias, self.w_zero.as_deref(), output)?;
        Ok(epilogue.of_products(self.k()))
    }

    pub(crate) fn core<'a>(&'a self, epilogue: &'a Epilogue) -> Core<'a> {
        let Self { set, layout, ref data, a_sign, ref sums, .. } = *self;
        let depth = (0, layout.k);
        Core { set, layout, packed: data.as_slice(), epilogue, a_sign, sums, depth }
    }
}

/// Checks the operands of one call; the answer is the output's bytes.
fn check_operands<'a>(
    core: &Core<'_>,
    m: usize,
    (a, lda): (&[u8], usize),
    residual: Option<(&[u8], usize)>,
    (out, ldc): (OutSlice<'a>, usize),
) -> Result<&'a mut [u8], KernelError> {
    let PanelLayout { k, n, .. } = core.layout;
    let out = out.into_bytes(core.epilogue)?;
    check_at_least("leading dimension of A", lda, if m > 1 { k } else { 0 })?;
    check_at_least("leading dimension of C", ldc, if m > 1 { n } else { 0 })?;
    check_at_least("A", a.len(), checked_span("A", m, k, lda)?)?;
    check_at_least("C", out.len() / core.epilogue.element_bytes(), checked_span("C", m, n, ldc)?)?;
    check_residual(core.epilogue, residual.is_some())?;
    if let Some((r, ldr)) = residual {
        check_at_least("residual", r.len(), checked_span("residual", m, n, ldr)?)?;
    }
    Ok(out)
}

/// Runs a call whose operands [`check_operands`], or the caller, found sound; `ldc` is in elements.
pub(crate) fn run_checked(
    core: &Core<'_>,
    par: &dyn Parallel,
    m: usize,
    (a, lda): (&[u8], usize),
    residual: Option<(&[u8], usize)>,
    (out, ldc): (&mut [u8], usize),
) {
    let n = core.layout.n;
    if m == 0 || n == 0 {
        return;
    }
    // The distance of a single row, or of empty ones, to the next may be any number.
    let k = core.layout.k;
    let lda = if m == 1 || k == 0 { k } else { lda };
    let ldc = if m == 1 { n } else { ldc };
    let residual = residual.map(|(r, ldr)| (r, if m == 1 { n } else { ldr }));
    let element = core.epilogue.element_bytes();
    let ldc = ldc * element;
    let (threads, grain) = (par.threads().max(1), core.set.grain(m, k));
    let split = Split::new(m, &core.layout, threads, grain);
    if let Some(parts) = KSplit::new(core, m, &split, threads) {
        return parts.run(core, par, &split, (a, lda), residual, (out, ldc));
    }
    let out = DisjointMut::new(out);
    for_each_with_state(par, split.tasks(), &|_| TileState::Idle, &|state, task| {
        let (rows, panels) = split.task(task);
        let cols = panels.start * NR..(panels.end * NR).min(n);
        let bytes = cols.start * element..cols.end * element;
        let (residual, ldr) = residual.map_or((std::ptr::null(), 0), |(r, ldr)| {
            (r.as_ptr().wrapping_add(rows.start * ldr + cols.start), ldr)
        });
        let a = a.as_ptr().wrapping_add(rows.start * lda);
        // SAFETY: the split's tasks are disjoint; A, C and the residual span all rows and columns (checked before);
        // the weights were packed for an ISA that a `Cpu` proved. An `OutSlice` is aligned for its type, and rows and
        // columns are whole elements.
        unsafe {
            let to = TileOut { out: out.rect(rows.clone(), bytes, ldc), ldc, residual, ldr };
            core.block(state, a, lda, rows.len(), panels, to);
        }
    });
}

/// Fails unless a residual is given exactly when the epilogue adds one.
pub(crate) fn check_residual(epilogue: &Epilogue, given: bool) -> Result<(), KernelError> {
    if epilogue.residual().is_some() == given {
        return Ok(());
    }
    let value = if given { "given" } else { "missing" };
    Err(KernelError::invalid("residual operand", value, "given exactly if the output adds one"))
}

/// A matrix multiplication by constant weights.
#[derive(Debug)]
pub struct Gemm {
    packed: Arc<PackedB>,
    epilogue: Epilogue,
}

impl Gemm {
    /// Binds packed weights to a bias of N values (`bias'` of the module docs) and an output.
    ///
    /// # Errors
    /// If the bias or the output's per-column values are not N long, or a bound or multiplier is out of range.
    pub fn new(packed: Arc<PackedB>, bias: &[i32], output: &Output) -> Result<Self, KernelError> {
        let epilogue = packed.epilogue(bias, output)?;
        Ok(Self { packed, epilogue })
    }

    /// The weights.
    pub fn packed(&self) -> &Arc<PackedB> {
        &self.packed
    }

    /// Computes C from the `m` rows of A, which start `lda` bytes apart; the rows of C start `ldc` elements apart.
    /// `residual` is the second operand of the output's residual addition, of C's shape, and its row distance.
    ///
    /// # Errors
    /// If a slice is too short for its rows, of the wrong element type, or rows would overlap.
    #[allow(clippy::too_many_arguments, reason = "matrices with their row distances")]
    pub fn run(
        &self,
        par: &dyn Parallel,
        m: usize,
        a: &[u8],
        lda: usize,
        residual: Option<(&[u8], usize)>,
        out: OutSlice<'_>,
        ldc: usize,
    ) -> Result<(), KernelError> {
        let core = self.packed.core(&self.epilogue);
        let out = check_operands(&core, m, (a, lda), residual, (out, ldc))?;
        run_checked(&core, par, m, (a, lda), residual, (out, ldc));
        Ok(())
    }
}
