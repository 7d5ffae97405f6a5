//! How busy others keep the machine while a measurement runs.

use std::{fmt, fs, time::Instant};

/// A moment, to be compared with a later one.
pub struct LoadWatch {
    started: Instant,
    machine: Option<Busy>,
    own: f64,
}

/// Seconds since boot, all CPUs together.
#[derive(Clone, Copy)]
struct Busy {
    used: f64,
    stolen: f64,
}

/// What happened between two moments.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// CPUs that others kept busy, on average.
    pub others: f64,
    /// CPUs' worth of time that a hypervisor gave to somebody else.
    pub stolen: f64,
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { others, stolen } = self;
        let warning = if self.is_too_much() { " TOO BUSY for trustworthy times." } else { "" };
        write!(f, "others kept {others:.2} CPUs busy and {stolen:.2} were stolen by a hypervisor.{warning}")
    }
}

impl Load {
    /// Whether times that were measured meanwhile are not to be trusted.
    pub fn is_too_much(self) -> bool {
        self.others + self.stolen > 0.1
    }
}

impl LoadWatch {
    /// Starts watching.
    pub fn start() -> Self {
        Self { started: Instant::now(), machine: busy(), own: own_seconds() }
    }

    /// What happened since.
    pub fn load(&self) -> Load {
        let wall = self.started.elapsed().as_secs_f64().max(1e-9);
        let (Some(then), Some(now)) = (self.machine, busy()) else { return Load::default() };
        let own = own_seconds() - self.own;
        let per_wall = |seconds: f64| (seconds / wall).max(0.0);
        Load { others: per_wall(now.used - then.used - own), stolen: per_wall(now.stolen - then.stolen) }
    }
}

/// From /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal, in ticks.
fn busy() -> Option<Busy> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let numbers: Vec<f64> =
        stat.lines().next()?.split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
    // SAFETY: asks for a constant.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64;
    let sum = |fields: &[usize]| fields.iter().filter_map(|&i| numbers.get(i)).sum::<f64>() / ticks;
    Some(Busy { used: sum(&[0, 1, 2, 5, 6]), stolen: sum(&[7]) })
}

/// CPU time of this process and of the children that it has waited for.
fn own_seconds() -> f64 {
    [libc::RUSAGE_SELF, libc::RUSAGE_CHILDREN]
        .map(|who| {
            // SAFETY: all-zero is a value of this plain structure.
            let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
            // SAFETY: the pointer is to a local.
            unsafe { libc::getrusage(who, &mut usage) };
            let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
            seconds(usage.ru_utime) + seconds(usage.ru_stime)
        })
        .iter()
        .sum()
}
