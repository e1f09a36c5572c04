//! Work splitting: the one place where elementwise kernels turn `&mut [T]` into parts for several workers.
//!
//! The parts have a fixed size chosen by the kernel, never by the number of workers, so a result cannot
//! depend on how many there are.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::par::Parallel;

/// Bytes that one task of a memory-bound kernel should write at least: below it a hand-over to another
/// worker costs more than the work.
pub(crate) const TASK_BYTES: usize = 64 * 1024;

/// Rows per task so that a task of `row_bytes` long rows has about [`TASK_BYTES`] of work.
pub(crate) fn rows_per_task(row_bytes: usize) -> usize {
    (TASK_BYTES / row_bytes.max(1)).max(1)
}

/// Calls `body(i, part)` for every `chunk` long part of `out` (the last may be shorter), spread over `par`.
///
/// # Panics
/// If `chunk` is 0.
pub(crate) fn chunks<T: Send>(
    par: &dyn Parallel,
    out: &mut [T],
    chunk: usize,
    body: impl Fn(usize, &mut [T]) + Sync,
) {
    chunks_with::<T, u8>(par, out, chunk, &mut [], 0, |i, part, _| body(i, part));
}

/// As [`chunks`], with `per_worker` elements of `scratch` lent to each worker.
///
/// # Panics
/// If `chunk` is 0 or `scratch` is shorter than `per_worker`.
pub(crate) fn chunks_with<T: Send, S: Send>(
    par: &dyn Parallel,
    out: &mut [T],
    chunk: usize,
    scratch: &mut [S],
    per_worker: usize,
    body: impl Fn(usize, &mut [T], &mut [S]) + Sync,
) {
    let (out, len) = (Shared(out.as_mut_ptr()), out.len());
    tasks(par, len.div_ceil(chunk), scratch, per_worker, |i, scratch| {
        let start = i * chunk;
        // SAFETY: `start` is inside of `out`, which is borrowed exclusively until `tasks` returns; it calls
        // each `i` once, so that no other reference to this part exists.
        let part = unsafe { std::slice::from_raw_parts_mut(out.at(start), chunk.min(len - start)) };
        body(i, part, scratch);
    });
}

/// A block of a row-major matrix, owned by one task.
pub(crate) struct Rect<'a, T> {
    base: *mut T,
    ld: usize,
    /// Rows of the block.
    pub(crate) rows: Range<usize>,
    /// Columns of the block.
    pub(crate) cols: Range<usize>,
    owner: PhantomData<&'a mut [T]>,
}

impl<T> Rect<'_, T> {
    /// The first element; row `i` of the block is `i · ld` further, and all `rows.len() × cols.len()` elements
    /// may be read and written.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut T {
        self.base
    }

    /// Elements from one row to the next.
    pub(crate) fn ld(&self) -> usize {
        self.ld
    }

    /// Row `i` of the block.
    pub(crate) fn row(&mut self, i: usize) -> &mut [T] {
        assert!(i < self.rows.len());
        // SAFETY: the block's rows are exclusively ours (see `rects_with`), and `i` is one of them.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(i * self.ld), self.cols.len()) }
    }
}

/// Cuts `out`, a matrix with rows of `cols` elements, into blocks of `block` rows × columns and calls
/// `body(rect, scratch)` for each; scratch as in [`chunks_with`].
///
/// # Panics
/// If a block size is 0, `cols` does not divide the length, or `scratch` is too short.
pub(crate) fn rects_with<T: Send, S: Send>(
    par: &dyn Parallel,
    out: &mut [T],
    cols: usize,
    block: [usize; 2],
    scratch: &mut [S],
    per_worker: usize,
    body: impl Fn(Rect<'_, T>, &mut [S]) + Sync,
) {
    if out.is_empty() {
        return;
    }
    assert!(out.len().is_multiple_of(cols));
    let (base, rows) = (Shared(out.as_mut_ptr()), out.len() / cols);
    let across = cols.div_ceil(block[1]);
    tasks(par, rows.div_ceil(block[0]) * across, scratch, per_worker, |i, scratch| {
        let (r, c) = (i / across * block[0], i % across * block[1]);
        let rect = Rect {
            // SAFETY: the block's first element is inside of `out`, which is borrowed exclusively until `tasks`
            // returns; it calls each `i` once, and blocks of different `i` are disjoint.
            base: unsafe { base.at(r * cols + c) },
            ld: cols,
            rows: r..rows.min(r + block[0]),
            cols: c..cols.min(c + block[1]),
            owner: PhantomData,
        };
        body(rect, scratch);
    });
}

/// Calls `body(i, scratch)` once for each `i` below `count`, spread over `par`; as many workers take part as
/// there is scratch for, and at least one.
///
/// Safe code may implement [`Parallel`] and call a task twice or not at all, so tasks and scratch are claimed
/// through counters and not by the index it passes: "once" holds whatever the pool does.
fn tasks<S: Send>(
    par: &dyn Parallel,
    count: usize,
    scratch: &mut [S],
    per_worker: usize,
    body: impl Fn(usize, &mut [S]) + Sync,
) {
    let lent = scratch.len().checked_div(per_worker).unwrap_or(usize::MAX);
    let workers = par.threads().min(count).min(lent);
    if workers <= 1 {
        let scratch = &mut scratch[..per_worker];
        (0..count).for_each(|i| body(i, scratch));
        return;
    }
    let base = Shared(scratch.as_mut_ptr());
    let (next_worker, next_task) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = |_: usize| {
        let worker = next_worker.fetch_add(1, Ordering::Relaxed);
        if worker >= workers {
            return;
        }
        // SAFETY: the counter gives each worker index out once, and `scratch`, which has room for `workers`
        // parts, is borrowed exclusively until we return.
        let scratch =
            unsafe { std::slice::from_raw_parts_mut(base.at(worker * per_worker), per_worker) };
        loop {
            let i = next_task.fetch_add(1, Ordering::Relaxed);
            if i >= count {
                return;
            }
            body(i, scratch);
        }
    };
    par.for_each(workers, &work);
    // A pool that ran fewer tasks than asked for leaves the rest to us.
    next_worker.store(0, Ordering::Relaxed);
    work(0);
}

/// A pointer that several threads may hold; those who dereference it answer for it.
struct Shared<T>(*mut T);

// SAFETY: the pointer alone gives no access; the users above hand each element to one thread at a time, which
// is sound for `T: Send`.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// # Safety
    /// `i` is at most the length of the slice that the pointer was made from.
    unsafe fn at(&self, i: usize) -> *mut T {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(i) }
    }
}

/// Every CPU of this machine and a pool of three threads, for tests that compare them.
#[cfg(test)]
pub(crate) mod testing {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::sync::Arc;

    use crate::cpu::{Cpu, ISA_VARIABLE};
    use crate::par::RayonPool;

    /// One [`Cpu`] per available ISA, or of that which `REQUANT_ISA` names; those that can have AMX in software once
    /// more with it.
    pub(crate) fn cpus() -> Vec<Cpu> {
        let isas = match std::env::var(ISA_VARIABLE) {
            Ok(name) => vec![name.parse().unwrap()],
            Err(_) => Cpu::available(),
        };
        let cpus = isas.into_iter().map(|isa| Cpu::with_isa(isa).unwrap());
        cpus.flat_map(|cpu| [Some(cpu), cpu.with_modelled_tiles()]).flatten().collect()
    }

    /// A pool of three threads.
    pub(crate) fn pool() -> RayonPool {
        RayonPool::new(Arc::new(rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pool that calls every task twice, or none at all.
    struct Wrong(usize);

    impl Parallel for Wrong {
        fn threads(&self) -> usize {
            4
        }

        fn for_each(&self, tasks: usize, f: &(dyn Fn(usize) + Sync)) {
            for _ in 0..self.0 {
                (0..tasks).for_each(f);
            }
        }
    }

    #[test]
    fn parts_are_visited_once_whatever_the_pool_does() {
        let pools: [&dyn Parallel; 4] =
            [&crate::par::Serial, &testing::pool(), &Wrong(0), &Wrong(2)];
        for pool in pools {
            for len in [0, 1, 6, 7, 8, 100] {
                let (mut out, mut scratch) = (vec![0; len], [0u8; 10]);
                chunks_with(pool, &mut out, 7, &mut scratch, 3, |i, part, s| {
                    assert_eq!(s.len(), 3);
                    part.iter_mut().for_each(|v| *v += i + 1);
                });
                assert!(out.iter().enumerate().all(|(j, &v)| v == j / 7 + 1), "{out:?}");
            }
            let mut out = vec![0; 5 * 7];
            rects_with(pool, &mut out, 7, [2, 3], &mut [0u8; 0], 0, |mut rect, _| {
                let (rows, cols) = (rect.rows.clone(), rect.cols.clone());
                for r in 0..rows.len() {
                    rect.row(r)
                        .iter_mut()
                        .zip(cols.clone())
                        .for_each(|(v, c)| *v += (rows.start + r) * 7 + c + 1);
                }
            });
            assert!(out.iter().enumerate().all(|(i, &v)| v == i + 1), "{out:?}");
        }
    }
}
