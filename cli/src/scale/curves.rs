//! What the conflicts of an operation with itself cost: a bound for each number of CPUs.

use anonmem_lab::scale::model::{cpus, throughput};
use anonmem_lab::scale::{Op, Relation, mode_name};

use super::found::Found;

/// Operations a microsecond at each number of CPUs, for threads of one process, or for processes where the
/// operation is one of a process.
pub(super) fn curve(found: &Found, mode: usize, op: &Op) -> Option<Vec<f64>> {
    let of = |relation| found.study.pair(relation, found.modes[mode], op, op);
    let pair = of(Relation::Threads).or_else(|| of(Relation::Family))?;
    Some(cpus().map(|n| throughput(&pair.cost, &found.prices, n)).collect())
}

/// The curves as a table.
pub(super) fn text(found: &Found) -> String {
    let mut text = format!(
        "the model: how many times as many operations n CPUs do as one, all the same operation on other pages \
         (threads of\none process; brk and fork: processes of one family). Simulated accesses at {} ns; a \
         transfer of a line {:.0} ns ({});\nan interrupted CPU {} ns. Bounds, not measurements.\n",
        found.prices.access_ns,
        found.prices.transfer_ns,
        source(found),
        found.prices.interrupt_ns,
    );
    let width = found.ops.iter().map(|op| op.name.len()).max().unwrap_or(0).max(9);
    for (mode, name) in found.modes.iter().enumerate() {
        text += &format!("\n{:>width$}", mode_name(*name));
        cpus().for_each(|n| text += &format!(" {n:>6}"));
        text.push('\n');
        for op in &found.ops {
            let Some(curve) = curve(found, mode, op) else { continue };
            text += &format!("{:>width$}", op.name);
            curve.iter().for_each(|rate| text += &format!(" {:>6.1}", rate / curve[0]));
            text.push('\n');
        }
    }
    text
}

/// Where the time of a transfer comes from.
pub(super) fn source(found: &Found) -> &'static str {
    if found.measured { "measured here, by a ping-pong" } else { "given" }
}
