//! Helpers that stay with one caller for a while, so that handing work over costs well below a microsecond.
//!
//! Entering a rayon pool costs 10 to 20 µs, more than most steps of a model take. A [`Crew`] enters it once and
//! keeps the threads that come: each waits for the caller's next job, helps, and waits again.
//!
//! ```text
//! state = job number | open? | helpers inside        one atomic word
//!
//! caller:  publish the job, open ── claim tasks until none is left ── close, wait until no helper is inside
//! helper:  wait for an open job it has not seen ── go inside (only while open) ── claim tasks ── leave
//! ```
//! The caller never waits for a helper that has not come: a job is done when its tasks are, whoever did them, so
//! a pool that is busy with others, or small jobs, cost no more than doing the work alone.

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::par::{Parallel, Serial};

/// How long a helper without work keeps its processor before it sleeps.
const SPIN: Duration = Duration::from_micros(50);

/// Set in the state while helpers may go inside.
const OPEN: u64 = 1 << 16;
/// One more job.
const JOB: u64 = 1 << 17;
/// The helpers that are inside.
const INSIDE: u64 = OPEN - 1;

/// Threads of a pool that help one caller until it drops the crew. They are asked to come when there is a first
/// job to share.
pub struct Crew {
    pool: Arc<rayon::ThreadPool>,
    shared: Arc<Shared>,
    helpers: usize,
    asked: AtomicBool,
    /// Whether a job is being done: one that is given meanwhile, by a task or another thread, runs serially.
    busy: AtomicBool,
}

struct Shared {
    state: AtomicU64,
    job: UnsafeCell<Option<Job>>,
    next_task: AtomicUsize,
    panicked: AtomicBool,
    dismissed: AtomicBool,
    sleepers: AtomicUsize,
    lock: Mutex<()>,
    wake: Condvar,
}

type Task<'a> = &'a (dyn Fn(usize) + Sync);

/// A job's tasks. The function lives until the job is closed and no helper is inside, not longer.
#[derive(Clone, Copy)]
struct Job {
    tasks: usize,
    task: Task<'static>,
}

// SAFETY: `job` is written by the one caller that holds `busy`, while the state is not open and nobody is inside; it
// is read by helpers inside only. Going inside (acquire) happens after opening (release). The function that the job
// points to is `Sync`. All other fields are `Sync` themselves.
unsafe impl Sync for Shared {}

impl Crew {
    /// A crew of as many threads as `pool` has, the caller among them.
    pub(crate) fn of(pool: &Arc<rayon::ThreadPool>) -> Self {
        let shared = Shared {
            state: AtomicU64::new(0),
            job: UnsafeCell::new(None),
            next_task: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            dismissed: AtomicBool::new(false),
            sleepers: AtomicUsize::new(0),
            lock: Mutex::new(()),
            wake: Condvar::new(),
        };
        Self {
            pool: Arc::clone(pool),
            shared: Arc::new(shared),
            helpers: pool.current_num_threads().saturating_sub(1).min(INSIDE as usize),
            asked: AtomicBool::new(false),
            busy: AtomicBool::new(false),
        }
    }

    /// Asks the helpers to come, once.
    fn ask(&self) {
        if !self.asked.swap(true, Ordering::Relaxed) {
            for _ in 0..self.helpers {
                let shared = Arc::clone(&self.shared);
                self.pool.spawn(move || shared.help());
            }
        }
    }
}

impl Drop for Crew {
    /// Lets the helpers go. It waits for none: no job is open.
    fn drop(&mut self) {
        self.shared.dismissed.store(true, Ordering::SeqCst);
        self.shared.rouse();
    }
}

impl Parallel for Crew {
    fn threads(&self) -> usize {
        self.helpers + 1
    }

    fn for_each(&self, tasks: usize, f: &(dyn Fn(usize) + Sync)) {
        if tasks <= 1 || self.helpers == 0 || self.busy.swap(true, Ordering::Acquire) {
            return Serial.for_each(tasks, f);
        }
        self.ask();
        // SAFETY: the reference is used by helpers that are inside the job only, and `open` waits for them when it is
        // dropped, which is before `f` ends.
        let task = unsafe { std::mem::transmute::<Task<'_>, Task<'static>>(f) };
        let open = Opened::new(self, Job { tasks, task });
        self.shared.work(tasks, f);
        drop(open);
        assert!(!self.shared.panicked.load(Ordering::Relaxed), "a task panicked");
    }
}

/// A published job; closed when dropped, also by a panic of the caller's own task.
struct Opened<'a>(&'a Crew);

impl<'a> Opened<'a> {
    fn new(crew: &'a Crew, job: Job) -> Self {
        let shared = &*crew.shared;
        // SAFETY: this caller alone holds `busy`, the state is not open, and the last job waited until nobody was
        // inside.
        unsafe { *shared.job.get() = Some(job) };
        shared.next_task.store(0, Ordering::Relaxed);
        shared.panicked.store(false, Ordering::Relaxed);
        // Sequentially consistent with the sleepers' count: either the caller sees a sleeper, or that sees the job.
        shared.state.fetch_add(JOB | OPEN, Ordering::SeqCst);
        shared.rouse();
        Self(crew)
    }
}

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        let state = &self.0.shared.state;
        state.fetch_and(!OPEN, Ordering::AcqRel);
        let mut waiting = Waiting::default();
        while state.load(Ordering::Acquire) & INSIDE != 0 {
            // Whoever is inside has begun a task; if that takes long, another thread may want this processor.
            if waiting.is_over() {
                std::thread::yield_now();
            }
        }
        self.0.busy.store(false, Ordering::Release);
    }
}

impl Shared {
    /// Claims and runs tasks until none is left.
    fn work(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        loop {
            let i = self.next_task.fetch_add(1, Ordering::Relaxed);
            if i >= tasks {
                return;
            }
            task(i);
        }
    }

    /// A helper's life.
    fn help(&self) {
        let mut seen = 0;
        while let Some(state) = self.next_job(seen) {
            let inside = state + 1;
            let (acquire, relaxed) = (Ordering::Acquire, Ordering::Relaxed);
            if self.state.compare_exchange(state, inside, acquire, relaxed).is_err() {
                // Another helper went in or out, or the job is over: look again.
                continue;
            }
            seen = state / JOB;
            // SAFETY: this helper is inside an open job, so that the caller neither writes it nor lets the function go
            // before the helper leaves.
            let job = unsafe { *self.job.get() };
            if let Some(Job { tasks, task }) = job {
                if catch_unwind(AssertUnwindSafe(|| self.work(tasks, task))).is_err() {
                    self.panicked.store(true, Ordering::Relaxed);
                }
            }
            self.state.fetch_sub(1, Ordering::Release);
        }
    }

    /// Waits for a job after number `seen`, first awake, then asleep; `None` when dismissed.
    fn next_job(&self, seen: u64) -> Option<u64> {
        let ready = || {
            let state = self.state.load(Ordering::SeqCst);
            (state & OPEN != 0 && state / JOB > seen).then_some(state)
        };
        let mut waiting = Waiting::default();
        loop {
            if self.dismissed.load(Ordering::SeqCst) {
                return None;
            }
            if let Some(state) = ready() {
                return Some(state);
            }
            if waiting.is_over() {
                let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
                self.sleepers.fetch_add(1, Ordering::SeqCst);
                while ready().is_none() && !self.dismissed.load(Ordering::SeqCst) {
                    guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
                }
                self.sleepers.fetch_sub(1, Ordering::SeqCst);
                waiting = Waiting::default();
            }
        }
    }

    /// Wakes the helpers that sleep.
    fn rouse(&self) {
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            // The lock makes sure that whoever counted itself a sleeper does wait by now.
            drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.wake.notify_all();
        }
    }
}

/// Time spent waiting; the clock is read once in a while.
#[derive(Default)]
struct Waiting {
    rounds: u32,
    since: Option<Instant>,
}

impl Waiting {
    /// One round more; whether [`SPIN`] has passed.
    fn is_over(&mut self) -> bool {
        std::hint::spin_loop();
        self.rounds += 1;
        self.rounds.is_multiple_of(64) && self.since.get_or_insert_with(Instant::now).elapsed() > SPIN
    }
}

impl std::fmt::Debug for Crew {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Crew").field("helpers", &self.helpers).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn pool(threads: usize) -> Arc<rayon::ThreadPool> {
        Arc::new(rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap())
    }

    fn count(crew: &Crew, tasks: usize) {
        let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
        crew.for_each(tasks, &|i| {
            counts[i].fetch_add(1, Ordering::Relaxed);
        });
        assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1), "{tasks} tasks");
    }

    #[test]
    fn every_task_of_many_jobs_runs_once() {
        for threads in 1..=4 {
            let crew = Crew::of(&pool(threads));
            for job in 0..3000 {
                count(&crew, job % 9);
                if job % 1000 == 0 {
                    // Long enough for the helpers to fall asleep.
                    std::thread::sleep(4 * SPIN);
                }
            }
        }
    }

    #[test]
    fn crews_share_a_pool() {
        let pool = pool(2);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let crew = Crew::of(&pool);
                    (0..500).for_each(|job| count(&crew, job % 7));
                });
            }
        });
    }

    #[test]
    fn a_job_within_a_job_runs() {
        let crew = Crew::of(&pool(3));
        let inner = AtomicUsize::new(0);
        crew.for_each(10, &|_| {
            crew.for_each(5, &|_| {
                inner.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert_eq!(inner.load(Ordering::Relaxed), 50);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_crew_lives_on() {
        let crew = Crew::of(&pool(3));
        for bad in 0..20 {
            let job = || {
                crew.for_each(20, &|i| {
                    std::thread::yield_now();
                    assert!(i != bad, "task {i}");
                });
            };
            assert!(catch_unwind(AssertUnwindSafe(job)).is_err());
            count(&crew, 20);
        }
    }

    #[test]
    fn a_pool_that_is_busy_is_not_waited_for() {
        let pool = pool(2);
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let held = Mutex::new(held);
        // Both threads are taken until the crew is gone.
        pool.spawn_broadcast(move |_| assert!(held.lock().unwrap().recv().is_err()));
        let crew = Crew::of(&pool);
        (0..100).for_each(|job| count(&crew, job));
        drop(crew);
        drop(hold);
    }
}
