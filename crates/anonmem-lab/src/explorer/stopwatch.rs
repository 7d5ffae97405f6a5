//! The processor time of a thread: what a search may use of it does not depend on what else the machine does.

use core::time::Duration;
use rustix::time::{ClockId, clock_gettime};

/// The processor time of the thread that started it.
pub(crate) struct Stopwatch(Duration);

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self(used())
    }

    /// What the thread has used since. The same thread asks.
    pub(crate) fn elapsed(&self) -> Duration {
        used().saturating_sub(self.0)
    }
}

fn used() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_uses_no_time() {
        let watch = Stopwatch::start();
        let parent = std::thread::current();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let other = Stopwatch::start();
                while other.elapsed() < Duration::from_millis(200) {}
                parent.unpark();
            });
            std::thread::park();
        });
        assert!(watch.elapsed() < Duration::from_millis(100), "{:?}", watch.elapsed());
    }
}
