//! Signals are process-wide: their test is a process of its own.

use anonmem_cli::channel::signals::Signals;
use rustix::process::{Signal, getpid, kill_process};

#[test]
fn a_signal_is_counted_and_not_fatal() {
    let mut signals = Signals::new().unwrap();
    assert!(signals.take().is_empty());
    kill_process(getpid(), Signal::HUP).unwrap();
    let mut arrived = Vec::new();
    while arrived.is_empty() {
        arrived = signals.take();
    }
    assert_eq!(arrived, [1]);
}
