//! The progress line: shown only on a terminal, and only once a step has taken two seconds.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How long a run may be silent.
const PATIENCE: Duration = Duration::from_secs(2);

/// A line on the terminal that appears when packing or booting takes long, and goes without a trace.
pub struct Progress {
    start: Instant,
    wanted: bool,
    message: String,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Makes a progress line for standard error, if that is a terminal.
    #[must_use]
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
            wanted: std::io::stderr().is_terminal(),
            message: String::new(),
            bar: None,
        }
    }

    /// Tells what is being done; the line shows it when it is time.
    pub fn step(&mut self, message: impl Into<String>) {
        self.message = message.into();
        if let Some(bar) = &self.bar {
            bar.set_message(self.message.clone());
        }
        self.tick();
    }

    /// Tells whether the line may still appear, so that it is worth calling [`Progress::tick`].
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.wanted
    }

    /// Shows that something still moves. Cheap; call it often.
    pub fn tick(&mut self) {
        if !self.wanted {
            return;
        }
        if let Some(bar) = &self.bar {
            bar.tick();
        } else if self.start.elapsed() >= PATIENCE {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{spinner} anonmem: {msg} ({elapsed})") {
                bar.set_style(style);
            }
            bar.set_elapsed(self.start.elapsed());
            bar.set_message(self.message.clone());
            bar.tick();
            self.bar = Some(bar);
        }
    }

    /// Removes the line, for good: from here on the terminal belongs to the program.
    pub fn finish(&mut self) {
        self.wanted = false;
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}
