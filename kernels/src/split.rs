//! Work splitting: the one place where elementwise kernels turn `&mut [T]` into parts for several workers.
//!
//! The parts have a fixed size chosen by the kernel, never by the number of workers, so a result cannot
//! depend on how many there are.

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

/// As [`chunks`], with `per_worker` elements of `scratch` lent to each worker; as many workers take part
/// as there is scratch for, and at least one.
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
    let parts = out.len().div_ceil(chunk);
    let lent = scratch.len().checked_div(per_worker).unwrap_or(usize::MAX);
    let workers = par.threads().min(parts).min(lent);
    if workers <= 1 {
        let scratch = &mut scratch[..per_worker];
        for (i, part) in out.chunks_mut(chunk).enumerate() {
            body(i, part, scratch);
        }
        return;
    }
    let parts_of =
        Parts { base: out.as_mut_ptr(), len: out.len(), chunk, next: AtomicUsize::new(0) };
    let slots = Parts {
        base: scratch.as_mut_ptr(),
        len: workers * per_worker,
        chunk: per_worker,
        next: AtomicUsize::new(0),
    };
    let worker = |_task: usize| {
        let slot = slots.next.fetch_add(1, Ordering::Relaxed);
        if slot >= workers {
            return;
        }
        // SAFETY: the counter hands each slot out once; `scratch` is borrowed exclusively until we return.
        let scratch = unsafe { slots.part(slot) };
        loop {
            let i = parts_of.next.fetch_add(1, Ordering::Relaxed);
            if i >= parts {
                return;
            }
            // SAFETY: the counter hands each part out once; `out` is borrowed exclusively until we return.
            body(i, unsafe { parts_of.part(i) }, scratch);
        }
    };
    par.for_each(workers, &worker);
    // A pool that ran fewer tasks than asked for leaves the rest to us.
    slots.next.store(0, Ordering::Relaxed);
    worker(0);
}

/// Equal parts of a borrowed slice, claimed through a counter. Safe code may implement [`Parallel`] and
/// call a task index twice, so exclusive access rests on the counter and not on that index.
struct Parts<T> {
    base: *mut T,
    len: usize,
    chunk: usize,
    next: AtomicUsize,
}

// SAFETY: each part is given to one thread at a time (see `Parts::part`), which is a move of `&mut [T]`.
unsafe impl<T: Send> Sync for Parts<T> {}

impl<T> Parts<T> {
    /// # Safety
    /// - The borrow that `base` and `len` come from is live.
    /// - No other reference to part `i` exists.
    #[allow(clippy::mut_from_ref, reason = "exclusive by the contract above")]
    unsafe fn part(&self, i: usize) -> &mut [T] {
        let start = i * self.chunk;
        debug_assert!(start <= self.len);
        // SAFETY: start + length <= len, and the caller vouches for exclusive access.
        unsafe {
            std::slice::from_raw_parts_mut(self.base.add(start), self.chunk.min(self.len - start))
        }
    }
}

/// Every CPU of this machine and a pool of three threads, for tests that compare them.
#[cfg(test)]
pub(crate) mod testing {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::sync::Arc;

    use crate::cpu::Cpu;
    use crate::par::RayonPool;

    /// One [`Cpu`] per available ISA.
    pub(crate) fn cpus() -> Vec<Cpu> {
        Cpu::available().into_iter().map(|isa| Cpu::with_isa(isa).unwrap()).collect()
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
        }
    }
}
