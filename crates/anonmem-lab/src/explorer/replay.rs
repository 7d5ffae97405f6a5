//! Replay ids: an execution in one word.
//!
//! `seed-001.3~5be1f00d:sc:0x12.1x3.0:0.0.1` is scenario, version, a check sum over what the scenario is, the
//! memory model, the CPUs of the steps as runs, and the choices.

use super::Guide;
use crate::{memory::Model, scenario::Program};
use core::fmt::Write;

/// The id of the execution that `guide` describes.
pub fn encode(program: &dyn Program, model: Model, guide: &Guide) -> String {
    let mut id = format!("{}:{}:", identity(program), model.name());
    let mut rest = &guide.cpus[..];
    while let Some(&cpu) = rest.first() {
        let run = rest.iter().take_while(|c| **c == cpu).count();
        if rest.len() < guide.cpus.len() {
            id.push('.');
        }
        match run {
            1 => write!(id, "{cpu}"),
            _ => write!(id, "{cpu}x{run}"),
        }
        .expect("strings take all");
        rest = &rest[run..];
    }
    let choices: Vec<_> = guide.choices.iter().map(u16::to_string).collect();
    if choices.iter().any(|c| c != "0") {
        write!(id, ":{}", choices.join(".")).expect("strings take all");
    }
    id
}

/// The model and the schedule that `id` stands for.
///
/// # Errors
/// Why it is not one of `program`.
pub fn decode(program: &dyn Program, id: &str) -> Result<(Model, Guide), String> {
    let mut parts = id.trim().split(':');
    let theirs = parts.next().unwrap_or_default();
    let ours = identity(program);
    if theirs != ours {
        return Err(format!(
            "the id is of {theirs}, this is {ours}: find the failure again, or build the version that the id came from"
        ));
    }
    let model = match parts.next() {
        Some("sc") => Model::Sc,
        Some("c11") => Model::C11,
        other => return Err(format!("unknown memory model {:?} in the id", other.unwrap_or(""))),
    };
    let mut guide = Guide::default();
    for run in parts.next().unwrap_or_default().split('.').filter(|r| !r.is_empty()) {
        let (cpu, len) = run.split_once('x').unwrap_or((run, "1"));
        let malformed = || format!("the run {run:?} in the id is not CPU or CPUxSTEPS");
        let cpu: u8 = cpu.parse().map_err(|_| malformed())?;
        let len: usize = len.parse().map_err(|_| malformed())?;
        if len > 100_000 || usize::from(cpu) >= program.nr_cpus() {
            return Err(malformed());
        }
        guide.cpus.extend(core::iter::repeat_n(cpu, len));
    }
    for choice in parts.next().unwrap_or_default().split('.').filter(|c| !c.is_empty()) {
        guide
            .choices
            .push(choice.parse().map_err(|_| format!("the choice {choice:?} in the id is no number"))?);
    }
    Ok((model, guide))
}

/// Name, version and a check sum of what the scenario says about itself.
fn identity(program: &dyn Program) -> String {
    let mut sum = 0xcbf2_9ce4_8422_2325u64;
    let mut add = |bytes: &[u8]| {
        for byte in bytes.iter().chain(&[0]) {
            sum = (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    };
    add(program.name().as_bytes());
    add(env!("CARGO_PKG_VERSION").as_bytes());
    add(&program.version().to_le_bytes());
    (0..program.nr_cpus()).for_each(|cpu| add(program.caption(cpu).as_bytes()));
    format!("{}.{}~{:08x}", program.name(), program.version(), sum >> 32)
}
