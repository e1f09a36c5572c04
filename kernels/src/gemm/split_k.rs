//! Deep products of few results: K is cut in parts, whose sums are tasks, where rows and panels give threads too little.
//!
//! Sums are taken modulo 2³², so that neither the parts nor their order change a result.

use super::{
    amx,
    driver::{Core, Split},
    kernel::Rows,
    pack::ALIGN,
};
use crate::{
    cpu::Cpu,
    epilogue::{Epilogue, NR, TileOut, as_bytes_mut, finish_tile},
    multiversion::multiversion,
    par::{DisjointMut, Parallel, TASK_MACS, for_each_with_worker},
};

/// Values of K below which another part costs more than it saves.
const MIN_DEPTH: usize = 512;

/// The most results whose sums are kept, so that memory stays small: more give enough tasks by themselves.
const MAX_RESULTS: usize = 1 << 16;

/// How K is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KSplit {
    parts: usize,
    /// Values of every part but perhaps the last.
    depth: usize,
    m: usize,
}

impl KSplit {
    /// Parts for the threads that `split` leaves without a task, if that pays.
    pub(super) fn new(core: &Core<'_>, m: usize, split: &Split, threads: usize) -> Option<Self> {
        let (k, n, tasks) = (core.layout.k, core.layout.n, split.tasks().max(1));
        if threads < 2 * tasks {
            return None;
        }
        let on_tiles = core.set.tiles_unit.is_some() && amx::grain(m, k).is_some();
        if on_tiles || m.checked_mul(n).is_none_or(|results| results > MAX_RESULTS) {
            return None;
        }
        let macs = (m * n).saturating_mul(k);
        let parts = (threads / tasks).min(macs / TASK_MACS / tasks);
        let depth = k.div_ceil(parts.clamp(1, (k / MIN_DEPTH).max(1))).next_multiple_of(ALIGN);
        let parts = k.div_ceil(depth.max(1));
        (parts > 1).then_some(Self { parts, depth, m })
    }

    /// Runs a call as [`super::run_checked`] does; `ldc` is in bytes.
    pub(super) fn run(
        self,
        core: &Core<'_>,
        par: &dyn Parallel,
        split: &Split,
        (a, lda): (&[u8], usize),
        residual: Option<(&[u8], usize)>,
        (out, ldc): (&mut [u8], usize),
    ) {
        let Self { parts, depth, m } = self;
        let (k, n) = (core.layout.k, core.layout.n);
        let ld = n.next_multiple_of(NR);
        let mut sums = vec![0i32; parts * m * ld];
        let as_sums = Epilogue::sums(n);
        {
            let products = DisjointMut::new(as_bytes_mut(&mut sums));
            for_each_with_worker(par, parts * split.tasks(), &|_, task| {
                let (part, (rows, panels)) = (task % parts, split.task(task / parts));
                let start = part * depth;
                let core = core.of_part((start, depth.min(k - start)), &as_sums);
                let cols = 4 * panels.start * NR..4 * (panels.end * NR).min(n);
                let at = part * m + rows.start..part * m + rows.end;
                let a = a.as_ptr().wrapping_add(rows.start * lda);
                // SAFETY: each part has rows of its own for its sums, of which the split's tasks are disjoint parts; A
                // spans all rows (checked before); the weights were packed for an ISA that a `Cpu` proved; i32 are
                // aligned.
                unsafe {
                    let out = products.rect(at, cols, 4 * ld);
                    let to = TileOut { out, ldc: 4 * ld, residual: std::ptr::null(), ldr: 0 };
                    core.vector_block(a, lda, rows.len(), panels, to);
                }
            });
        }
        let mut row_sums = vec![0; if core.epilogue.w_zero.is_some() { m } else { 0 }];
        if !row_sums.is_empty() {
            let rows = Rows { a: a.as_ptr(), lda, k, count: m, sign: core.a_sign };
            // SAFETY: as above, of all rows; there is a place for each.
            unsafe { (core.set.row_sums)(&rows, row_sums.as_mut_ptr()) };
        }
        let (first, others) = sums.split_at_mut(m * ld);
        for (row, acc) in first.chunks_exact_mut(ld).enumerate() {
            let others = others.chunks_exact(ld).skip(row).step_by(m);
            for other in others {
                for (acc, other) in acc.iter_mut().zip(other) {
                    *acc = acc.wrapping_add(*other);
                }
            }
            let residual = residual.map_or(&[][..], |(r, ldr)| &r[row * ldr..row * ldr + n]);
            let out = &mut out[row * ldc..row * ldc + n * core.epilogue.element_bytes()];
            let row_sum = row_sums.get(row).copied().unwrap_or(0);
            finish_row(Cpu::of(core.set.isa), core.epilogue, acc, row_sum, residual, out);
        }
    }
}

multiversion!(fn finish_row = finish_row_body(epilogue: &Epilogue, acc: &mut [i32], row_sum: i32, residual: &[u8], out: &mut [u8]));

/// Writes one row of sums, without bias and zero-point terms.
#[inline(always)]
fn finish_row_body(
    epilogue: &Epilogue,
    acc: &mut [i32],
    row_sum: i32,
    residual: &[u8],
    out: &mut [u8],
) {
    let n = epilogue.n();
    for (acc, bias) in acc.iter_mut().zip(&epilogue.bias) {
        *acc = acc.wrapping_add(*bias);
    }
    if let Some(zeros) = &epilogue.w_zero {
        for (acc, zero) in acc.iter_mut().zip(zeros) {
            *acc = acc.wrapping_sub(zero.wrapping_mul(row_sum));
        }
    }
    let element = epilogue.element_bytes();
    assert!(
        out.len() == n * element
            && out.as_ptr().addr().is_multiple_of(element)
            && (epilogue.residual().is_none() || residual.len() == n)
            && acc.len() >= n
    );
    let to = TileOut { out: out.as_mut_ptr(), ldc: 0, residual: residual.as_ptr(), ldr: 0 };
    let width = acc.len();
    // SAFETY: one row, whose lengths and alignment were asserted; the slices are this call's.
    unsafe { finish_tile(epilogue, acc, width, (0, n), to) };
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::{
        epilogue::{Output, Sign},
        gemm::PackedB,
    };

    fn parts(m: usize, n: usize, k: usize, threads: usize) -> Option<(usize, usize)> {
        let cpu = Cpu::with_isa(crate::cpu::Isa::Scalar).unwrap();
        let b = PackedB::pack(cpu, &vec![0; n * k], k, n, false, None, Sign::U8).unwrap();
        let epilogue = b.epilogue(&vec![0; n], &Output::I32).unwrap();
        let core = b.core(&epilogue);
        let split = Split::new(m, &core.layout, threads, core.set.grain(m, k));
        KSplit::new(&core, m, &split, threads).map(|parts| (parts.parts, parts.depth))
    }

    #[test]
    fn k_is_cut_where_rows_and_panels_leave_threads_without_work() {
        assert_eq!(parts(12, 64, 9216, 1), None, "one thread");
        assert_eq!(parts(12, 64, 9216, 2), Some((2, 4608)));
        assert_eq!(parts(12, 64, 9217, 2), Some((2, 4672)), "parts begin at multiples of 64");
        assert_eq!(parts(12, 64, 300, 2), None, "shallow");
        assert_eq!(parts(1, 16, 4096, 8), None, "small");
        assert_eq!(parts(384, 768, 768, 2), None, "enough rows and panels");
        assert_eq!(parts(0, 64, 4096, 2), None);
    }
}
