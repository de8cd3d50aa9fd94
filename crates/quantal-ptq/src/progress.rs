//! Telling somebody how far a long job is.

/// Hears how far a job is. The command line draws a bar; tests and libraries pass [`Silent`].
pub trait Progress {
    /// A stage starts: its name, and its number of steps where known.
    fn begin(&mut self, stage: &str, total: Option<usize>);
    /// One step of the stage is done.
    fn step(&mut self);
    /// The stage is over.
    fn done(&mut self);
}

/// Hears nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&mut self, _stage: &str, _total: Option<usize>) {}
    fn step(&mut self) {}
    fn done(&mut self) {}
}
