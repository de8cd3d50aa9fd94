//! Progress of long work, drawn on a terminal alone.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use quantal::Progress;

/// A bar for one stage after the other.
#[derive(Default)]
pub(super) struct Bar(Option<ProgressBar>);

impl Progress for Bar {
    fn begin(&mut self, stage: &str, total: Option<usize>) {
        if !crate::printer::watched() {
            return;
        }
        let template = if total.is_some() { "{msg:>12} [{bar:32}] {pos}/{len} {eta}" } else { "{msg:>12} {pos}" };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(total.map(|n| n as u64), ProgressDrawTarget::stderr());
        self.0 = Some(bar.with_style(style.progress_chars("=> ")).with_message(stage.to_owned()));
    }

    fn step(&mut self) {
        if let Some(bar) = &self.0 {
            bar.inc(1);
        }
    }

    fn done(&mut self) {
        if let Some(bar) = self.0.take() {
            bar.finish_and_clear();
        }
    }
}
