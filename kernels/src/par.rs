//! Parallelism: who runs the tasks, and how tasks write into one output without meeting.
//!
//! A kernel cuts its output into tasks; which thread computes which task never changes a result.

use std::{
    marker::PhantomData,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

pub use crate::crew::Crew;

/// Something that runs independent tasks, perhaps on several threads.
pub trait Parallel: Sync {
    /// How many tasks may run at a time; at least 1.
    fn threads(&self) -> usize;

    /// Calls `f(0)` … `f(tasks − 1)`, each exactly once, in any order, and returns when all are done.
    fn for_each(&self, tasks: usize, f: &(dyn Fn(usize) + Sync));
}

/// Runs every task on the calling thread.
#[derive(Debug, Clone, Copy, Default)]
pub struct Serial;

impl Parallel for Serial {
    fn threads(&self) -> usize {
        1
    }

    fn for_each(&self, tasks: usize, f: &(dyn Fn(usize) + Sync)) {
        (0..tasks).for_each(f);
    }
}

/// Runs tasks on a rayon pool and the calling thread; threads take the next task from a shared counter.
#[derive(Debug, Clone)]
pub struct RayonPool {
    pool: Arc<rayon::ThreadPool>,
}

impl RayonPool {
    /// Tasks will run on `pool`, which may be shared with anything else.
    pub fn new(pool: Arc<rayon::ThreadPool>) -> Self {
        Self { pool }
    }

    /// Enters the pool for many jobs: while the crew lives, work is handed over much faster than by the pool itself.
    pub fn crew(&self) -> Crew {
        Crew::of(&self.pool)
    }
}

impl Parallel for RayonPool {
    fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    fn for_each(&self, tasks: usize, f: &(dyn Fn(usize) + Sync)) {
        let workers = self.threads().min(tasks);
        if workers <= 1 {
            return Serial.for_each(tasks, f);
        }
        let next = AtomicUsize::new(0);
        let work = || {
            loop {
                let task = next.fetch_add(1, Ordering::Relaxed);
                if task >= tasks {
                    break;
                }
                f(task);
            }
        };
        // The calling thread works too, so one helper fewer than workers is needed.
        self.pool.in_place_scope(|scope| {
            for _ in 1..workers {
                scope.spawn(|_| work());
            }
            work();
        });
    }
}

/// Multiply-adds of 8-bit operands below which another task costs more than it saves.
pub(crate) const TASK_MACS: usize = 1 << 18;

/// The most threads that work is cut for: more than any machine has, so that some tasks for each are a number.
pub(crate) const MAX_THREADS: usize = 1 << 16;

/// How many tasks of about [`TASK_MACS`] multiply-adds `threads` threads share: some for each, one for one thread.
pub(crate) fn tasks_for(threads: usize, macs: usize) -> usize {
    match threads {
        0 | 1 => 1,
        _ => (macs / TASK_MACS).clamp(1, 4 * threads.min(MAX_THREADS)),
    }
}

/// `par`, or [`Serial`] where so few multiply-adds are not worth waking another thread.
pub(crate) fn for_macs(par: &dyn Parallel, macs: usize) -> &dyn Parallel {
    if macs < 2 * TASK_MACS { &Serial } else { par }
}

/// Runs `tasks` tasks on at most `par.threads()` workers and tells each task which worker it runs on.
///
/// No two tasks run on one worker at the same time, so that a worker's index, which is below `par.threads()`, may
/// select its scratch memory. Safe code may implement [`Parallel`] and call a task twice, so workers and tasks are
/// claimed through counters: each task runs at most once, whatever the pool does.
pub(crate) fn for_each_with_worker(
    par: &dyn Parallel,
    tasks: usize,
    f: &(dyn Fn(usize, usize) + Sync),
) {
    for_each_with_state(par, tasks, &|worker| worker, &|worker, task| f(*worker, task));
}

/// The same with a state for each worker, which `state` makes of the worker's index: it begins before the worker's
/// first task and ends after the last, on the thread that runs these.
pub(crate) fn for_each_with_state<S>(
    par: &dyn Parallel,
    tasks: usize,
    state: &(dyn Fn(usize) -> S + Sync),
    f: &(dyn Fn(&mut S, usize) + Sync),
) {
    if tasks <= 1 {
        // No counters, which cost as much as a small product.
        if tasks == 1 {
            f(&mut state(0), 0);
        }
        return;
    }
    let workers = par.threads().clamp(1, tasks);
    let (next_worker, next_task) = (AtomicUsize::new(0), AtomicUsize::new(0));
    par.for_each(workers, &|_| {
        let worker = next_worker.fetch_add(1, Ordering::Relaxed);
        if worker >= workers {
            return;
        }
        let mut state = state(worker);
        loop {
            let task = next_task.fetch_add(1, Ordering::Relaxed);
            if task >= tasks {
                break;
            }
            f(&mut state, task);
        }
    });
}

/// A mutable slice that tasks on several threads write disjoint parts of.
///
/// Bounds are always checked; that the parts are disjoint is the caller's promise, and checked in debug builds.
pub struct DisjointMut<'a, T> {
    data: *mut T,
    len: usize,
    #[cfg(debug_assertions)]
    claims: std::sync::Mutex<Vec<Claim>>,
    owner: PhantomData<&'a mut [T]>,
}

/// A handed-out rectangle, and the leading dimension it was described with.
#[cfg(debug_assertions)]
struct Claim {
    rows: Range<usize>,
    cols: Range<usize>,
    ld: usize,
}

// SAFETY: a `DisjointMut` stands for the `&mut [T]` it was made from; parts of it go to other threads only as
// exclusive, disjoint regions (contract of `rect` and `slice`), which is sound for `T: Send`.
unsafe impl<T: Send> Send for DisjointMut<'_, T> {}
// SAFETY: as above; the shared methods read nothing but the pointer, the length and a mutex.
unsafe impl<T: Send> Sync for DisjointMut<'_, T> {}

impl<'a, T> DisjointMut<'a, T> {
    /// Takes `slice` over until the result is dropped.
    pub fn new(slice: &'a mut [T]) -> Self {
        Self {
            data: slice.as_mut_ptr(),
            len: slice.len(),
            #[cfg(debug_assertions)]
            claims: std::sync::Mutex::default(),
            owner: PhantomData,
        }
    }

    /// The elements `range`.
    ///
    /// # Safety
    /// - No two ranges or rectangles taken from one `DisjointMut` overlap, over its whole life.
    ///
    /// # Panics
    /// If the range leaves the slice; in debug builds, if it overlaps an earlier one.
    #[allow(clippy::mut_from_ref, reason = "the contract makes every returned region exclusive")]
    pub unsafe fn slice(&self, range: Range<usize>) -> &mut [T] {
        let len = range.len();
        // SAFETY: the caller keeps the ranges disjoint.
        let start = unsafe { self.rect(0..1, range, self.len) };
        // SAFETY: `rect` checked that the range lies in the slice; nobody else has it (contract).
        unsafe { std::slice::from_raw_parts_mut(start, len) }
    }

    /// A pointer to the first element of the rectangle `rows` × `cols` of a matrix whose rows start `ld` elements
    /// apart. The caller may write exactly the elements of the rectangle.
    ///
    /// # Safety
    /// - No two ranges or rectangles taken from one `DisjointMut` overlap, over its whole life.
    ///
    /// # Panics
    /// If the rectangle leaves the slice; in debug builds, if it overlaps an earlier one of the same `ld`.
    pub unsafe fn rect(&self, rows: Range<usize>, cols: Range<usize>, ld: usize) -> *mut T {
        if rows.is_empty() || cols.is_empty() {
            return self.data;
        }
        let end = (rows.end - 1).checked_mul(ld).and_then(|row| row.checked_add(cols.end));
        assert!(end.is_some_and(|end| end <= self.len), "a task's output lies inside the output");
        #[cfg(debug_assertions)]
        {
            let mut claims = self.claims.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let meet = |a: &Range<usize>, b: &Range<usize>| a.start < b.end && b.start < a.end;
            let clash =
                claims.iter().any(|c| c.ld == ld && meet(&c.rows, &rows) && meet(&c.cols, &cols));
            assert!(
                !clash,
                "two tasks were given overlapping output: rows {rows:?}, columns {cols:?}"
            );
            claims.push(Claim { rows: rows.clone(), cols: cols.clone(), ld });
        }
        // SAFETY: the first element lies before `end`, which lies in the slice.
        unsafe { self.data.add(rows.start * ld + cols.start) }
    }
}

/// Scratch memory cut into one piece per worker.
pub(crate) struct WorkerScratch<'a> {
    start: *mut u8,
    bytes: usize,
    workers: usize,
    owner: PhantomData<&'a mut [u8]>,
}

// SAFETY: pieces are handed out one per worker (contract of `get`), so no two threads meet in one.
unsafe impl Sync for WorkerScratch<'_> {}

impl<'a> WorkerScratch<'a> {
    /// Cuts the first `bytes · workers` bytes of `scratch`.
    ///
    /// # Panics
    /// If it is shorter.
    pub(crate) fn new(scratch: &'a mut [u8], bytes: usize, workers: usize) -> Self {
        let start = scratch[..bytes * workers].as_mut_ptr();
        Self { start, bytes, workers, owner: PhantomData }
    }

    /// The piece of `worker`.
    ///
    /// # Safety
    /// - No two pieces of one worker are in use at the same time.
    #[allow(clippy::mut_from_ref, reason = "the contract makes every returned piece exclusive")]
    pub(crate) unsafe fn get(&self, worker: usize) -> &mut [u8] {
        assert!(worker < self.workers);
        // SAFETY: the piece lies in the region taken in `new`, and is exclusive by contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(worker * self.bytes), self.bytes) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn pool(threads: usize) -> RayonPool {
        RayonPool::new(Arc::new(
            rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap(),
        ))
    }

    #[test]
    fn every_task_runs_exactly_once() {
        for threads in 1..=3 {
            for tasks in [0, 1, 2, 7, 100] {
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool(threads).for_each(tasks, &|t| {
                    counts[t].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn a_worker_runs_one_task_at_a_time() {
        let pool = pool(3);
        let busy: Vec<AtomicUsize> = (0..3).map(|_| AtomicUsize::new(0)).collect();
        for_each_with_worker(&pool, 200, &|worker, _| {
            assert_eq!(busy[worker].fetch_add(1, Ordering::SeqCst), 0);
            std::thread::yield_now();
            busy[worker].fetch_sub(1, Ordering::SeqCst);
        });
    }

    /// Calls every task twice.
    struct Twice;

    impl Parallel for Twice {
        fn threads(&self) -> usize {
            2
        }

        fn for_each(&self, tasks: usize, f: &(dyn Fn(usize) + Sync)) {
            (0..tasks).chain(0..tasks).for_each(f);
        }
    }

    #[test]
    fn a_careless_pool_cannot_run_a_task_twice() {
        let counts: Vec<AtomicUsize> = (0..9).map(|_| AtomicUsize::new(0)).collect();
        for_each_with_worker(&Twice, 9, &|worker, task| {
            assert!(worker < 2);
            counts[task].fetch_add(1, Ordering::Relaxed);
        });
        assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
    }

    #[test]
    fn disjoint_parts_are_written_and_overlaps_are_caught_in_debug_builds() {
        let mut data = vec![0u8; 12];
        let parts = DisjointMut::new(&mut data);
        // SAFETY: the three ranges are disjoint.
        unsafe {
            parts.slice(0..4).fill(1);
            parts.slice(8..12).fill(3);
            parts.slice(4..8).fill(2);
        }
        if cfg!(debug_assertions) {
            // SAFETY: debug builds panic before anything overlapping is handed out.
            let overlap = std::panic::catch_unwind(|| unsafe { parts.slice(3..5).len() });
            assert!(overlap.is_err());
        }
        drop(parts);
        assert_eq!(data, [1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]);
    }

    #[test]
    #[cfg_attr(
        debug_assertions,
        allow(unused_mut, reason = "the matrix is only written through the parts")
    )]
    fn a_rectangle_outside_is_refused_in_every_build() {
        let mut data = vec![0u8; 10];
        let parts = DisjointMut::new(&mut data);
        // SAFETY: nothing is handed out, the call panics.
        let outside = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| unsafe {
            parts.rect(0..3, 0..4, 4)
        }));
        assert!(outside.is_err());
    }
}
