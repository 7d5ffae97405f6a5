//! Who waits for what when nobody can go on.

use super::{engine::Engine, op::Kind};

/// Says who waits for what.
pub(crate) fn deadlock(e: &Engine) -> String {
    let waits = (0..e.nr_cpus).filter_map(|cpu| {
        let op = e.cpus[cpu].pending?;
        let what = match op.kind {
            Kind::Lock | Kind::LockShared | Kind::Attempt => match e.objects.get(op.object).writer {
                0 if op.kind == Kind::LockShared => {
                    "for a lock behind a writer that waits for readers".into()
                }
                0 => "for a lock that readers hold".into(),
                holder => format!("for a lock that CPU{} holds", holder - 1),
            },
            Kind::Wait => "for something that nobody brings about any more".into(),
            other => format!("at {other:?}"),
        };
        Some(format!("CPU{cpu} waits {what} ({}:{})", op.at.file(), op.at.line()))
    });
    waits.collect::<Vec<_>>().join("; ")
}
