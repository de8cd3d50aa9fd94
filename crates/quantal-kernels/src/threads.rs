//! The thread pool: splits a step over output tiles, each task owning a disjoint part of the output.
//!
//! Workers spin for about the time of a step after a job and then park, so a chain of small steps pays little for each
//! fork-join and an idle pool costs nothing. The caller works too, and waits only for workers that took part: a worker
//! that the system did not schedule in time never delays a step.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// More threads than this are never started.
const MAX_COUNT: usize = 1024;

/// How long a thread looks for a change before it parks: longer than most steps that are too small to split.
const SPIN: Duration = Duration::from_micros(100);

/// A fixed number of threads that run tasks together.
pub struct Threads {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl Threads {
    /// A pool of `count` threads, the calling one included: at least 1 and at most 1024. Threads that the system
    /// refuses to start are done without.
    pub fn new(count: usize) -> Self {
        let count = count.clamp(1, MAX_COUNT);
        let shared = Arc::new(Shared { next: (0..count).map(|_| Next::default()).collect(), ..Shared::default() });
        let workers = (1..count)
            .map_while(|place| {
                let shared = Arc::clone(&shared);
                std::thread::Builder::new().name("quantal".into()).spawn(move || shared.work(place)).ok()
            })
            .collect();
        Self { shared, workers }
    }

    /// How many threads share the work.
    pub fn count(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `task(0) … task(tasks − 1)`, each once, and returns when all are done. The order is not defined.
    ///
    /// Each thread begins with its own run of neighbouring tasks, the same whenever the number of tasks is, so that what
    /// one step left in a core's cache is there for the next; a thread that is done takes over what others have left.
    ///
    /// Inside a task, and while another thread uses the pool, the tasks run one after the other on the calling thread.
    ///
    /// # Panics
    /// When a task panicked, with its payload; tasks that had not begun are then left out.
    pub fn parallel_for(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        let taken = tasks > 1 && !self.workers.is_empty() && !self.shared.busy.swap(true, Ordering::Acquire);
        if !taken {
            (0..tasks).for_each(task);
            return;
        }
        let outcome = self.shared.fork_join(tasks, task);
        self.shared.busy.store(false, Ordering::Release);
        if let Some(payload) = outcome {
            resume_unwind(payload);
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.wake_workers();
        for worker in self.workers.drain(..) {
            // A worker catches the panics of its tasks; it has none of its own to report.
            let _ = worker.join();
        }
    }
}

/// Workers inside the current job: the low bits of `Shared::state`.
const INSIDE: u64 = 0xFFFF;
/// The bit of `Shared::state` that lets workers in. The bits above count the jobs.
const OPEN: u64 = 0x1_0000;

type Task<'a> = &'a (dyn Fn(usize) + Sync);

/// A counter on cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
struct Next(AtomicUsize);

#[derive(Default)]
struct Shared {
    /// Held by the thread whose job this is.
    busy: AtomicBool,
    state: AtomicU64,
    job: UnsafeCell<Option<(Task<'static>, usize)>>,
    /// For each thread, the next task of its run.
    next: Vec<Next>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    stop: AtomicBool,
    lock: Mutex<()>,
    /// Workers wait here for a job, counted by `parked`.
    opened: Condvar,
    parked: AtomicU32,
    /// The caller waits here for the last worker, and says so in `waiting`.
    left: Condvar,
    waiting: AtomicBool,
}

// SAFETY: all but `job` is Sync by itself. `job` is written in `fork_join` alone, by the holder of `busy` while no
// worker is inside (`state` has neither OPEN nor INSIDE bits), and read by workers between entering and leaving.
unsafe impl Sync for Shared {}

impl Shared {
    /// Runs a job; the caller holds `busy`. Gives the payload of the first panic.
    fn fork_join(&self, tasks: usize, task: Task<'_>) -> Option<Box<dyn Any + Send>> {
        for (place, next) in self.next.iter().enumerate() {
            next.0.store(self.first(place, tasks), Ordering::Relaxed);
        }
        // SAFETY: only the lifetime changes. Workers reach the reference between entering and leaving a job, and this
        // function does not return (nor unwind: `run` catches) before `state` is closed and shows none inside.
        let erased = unsafe { std::mem::transmute::<Task<'_>, Task<'static>>(task) };
        // SAFETY: `busy` is held and `state` is closed with nobody inside, as left by the previous `fork_join`.
        unsafe { *self.job.get() = Some((erased, tasks)) };
        self.state.fetch_add((OPEN << 1) | OPEN, Ordering::SeqCst);
        if self.parked.load(Ordering::SeqCst) > 0 {
            self.wake_workers();
        }
        self.run(0, tasks, task);
        self.state.fetch_and(!OPEN, Ordering::SeqCst);
        let empty = || self.state.load(Ordering::SeqCst) & INSIDE == 0;
        if !spin_until(empty) {
            let mut guard = lock(&self.lock);
            self.waiting.store(true, Ordering::SeqCst);
            while !empty() {
                guard = self.left.wait(guard).unwrap_or_else(PoisonError::into_inner);
            }
            self.waiting.store(false, Ordering::SeqCst);
        }
        lock(&self.panic).take()
    }

    /// The first task of the run of the thread at `place`.
    fn first(&self, place: usize, tasks: usize) -> usize {
        let (each, more) = (tasks / self.next.len(), tasks % self.next.len());
        place * each + place.min(more)
    }

    /// Takes tasks until there are none: those of the thread at `place`, then those of the others.
    fn run(&self, place: usize, tasks: usize, task: Task<'_>) {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let count = self.next.len();
            for owner in (place..count).chain(0..place) {
                let end = self.first(owner + 1, tasks);
                loop {
                    let i = self.next[owner].0.fetch_add(1, Ordering::Relaxed);
                    if i >= end {
                        break;
                    }
                    task(i);
                }
            }
        }));
        if let Err(payload) = outcome {
            for next in &self.next {
                // Half of the range: further increments by each thread cannot wrap around.
                next.0.store(usize::MAX / 2, Ordering::Relaxed);
            }
            let mut first = lock(&self.panic);
            if first.is_none() {
                *first = Some(payload);
            } else {
                // Dropping it could panic again, here where nothing may unwind.
                std::mem::forget(payload);
            }
        }
    }

    /// The life of the worker at `place`.
    fn work(&self, place: usize) {
        let mut seen = 0;
        loop {
            let news = || self.state.load(Ordering::SeqCst) & !(INSIDE | OPEN) != seen || self.stopped();
            if !spin_until(news) {
                let mut guard = lock(&self.lock);
                self.parked.fetch_add(1, Ordering::SeqCst);
                while !news() {
                    guard = self.opened.wait(guard).unwrap_or_else(PoisonError::into_inner);
                }
                self.parked.fetch_sub(1, Ordering::SeqCst);
            }
            if self.stopped() {
                return;
            }
            let state = self.state.load(Ordering::SeqCst);
            seen = state & !(INSIDE | OPEN);
            if self.enter(state) {
                // SAFETY: inside a job (entered, not yet left), `job` is not written; see the Sync impl.
                if let Some((task, tasks)) = unsafe { *self.job.get() } {
                    self.run(place, tasks, task);
                }
                let after = self.state.fetch_sub(1, Ordering::SeqCst) - 1;
                if after & (INSIDE | OPEN) == 0 && self.waiting.load(Ordering::SeqCst) {
                    let _guard = lock(&self.lock);
                    self.left.notify_one();
                }
            }
        }
    }

    /// Counts this worker in, if the job seen in `state` is still open.
    fn enter(&self, mut state: u64) -> bool {
        let job = state & !INSIDE;
        while state & OPEN != 0 && state & !INSIDE == job {
            match self.state.compare_exchange_weak(state, state + 1, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return true,
                Err(now) => state = now,
            }
        }
        false
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    fn wake_workers(&self) {
        let _guard = lock(&self.lock);
        self.opened.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Spins until the condition holds, and gives up (false) after a while.
fn spin_until(condition: impl Fn() -> bool) -> bool {
    if condition() {
        return true;
    }
    let start = Instant::now();
    loop {
        for _ in 0..32 {
            if condition() {
                return true;
            }
            std::hint::spin_loop();
        }
        if start.elapsed() > SPIN {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often each of `tasks` tasks ran.
    fn runs(threads: &Threads, tasks: usize) -> Vec<usize> {
        let counts: Vec<_> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
        threads.parallel_for(tasks, &|i| {
            counts[i].fetch_add(1, Ordering::Relaxed);
        });
        counts.into_iter().map(AtomicUsize::into_inner).collect()
    }

    #[test]
    fn each_task_runs_once_for_any_count() {
        for count in [0, 1, 2, 3, 8] {
            let threads = Threads::new(count);
            assert_eq!(threads.count(), count.max(1));
            for tasks in [0, 1, 2, 7, 100] {
                for _ in 0..50 {
                    assert_eq!(runs(&threads, tasks), vec![1; tasks]);
                }
            }
        }
    }

    #[test]
    fn parked_workers_wake_up_again() {
        let threads = Threads::new(2);
        for _ in 0..20 {
            std::thread::sleep(SPIN * 10);
            // The two tasks meet, so both threads take part.
            let met = std::sync::Barrier::new(2);
            threads.parallel_for(2, &|_| {
                met.wait();
            });
        }
    }

    #[test]
    fn the_caller_waits_for_a_slow_worker() {
        let threads = Threads::new(2);
        let slow = AtomicUsize::new(0);
        let met = std::sync::Barrier::new(2);
        let caller = std::thread::current().id();
        threads.parallel_for(2, &|_| {
            met.wait();
            if std::thread::current().id() != caller {
                std::thread::sleep(Duration::from_millis(20));
                slow.store(1, Ordering::Relaxed);
            }
        });
        assert_eq!(slow.into_inner(), 1);
    }

    #[test]
    fn nested_and_concurrent_calls_finish() {
        let threads = Threads::new(3);
        let total = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    threads.parallel_for(10, &|_| {
                        threads.parallel_for(10, &|_| {
                            total.fetch_add(1, Ordering::Relaxed);
                        });
                    });
                });
            }
        });
        assert_eq!(total.into_inner(), 400);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let threads = Threads::new(3);
        for bad in [0, 5, 99] {
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                threads.parallel_for(100, &|i| assert!(i != bad, "task {i}"));
            }));
            let payload = outcome.expect_err("the task panicked");
            assert_eq!(payload.downcast_ref::<String>(), Some(&format!("task {bad}")));
            assert_eq!(runs(&threads, 30), vec![1; 30]);
        }
    }

    #[test]
    fn every_worker_may_panic_at_once() {
        let threads = Threads::new(3);
        let met = std::sync::Barrier::new(3);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            threads.parallel_for(3, &|_| {
                met.wait();
                panic!("all");
            });
        }));
        assert!(outcome.is_err());
        assert_eq!(runs(&threads, 9), vec![1; 9]);
    }
}
