//! A process with limits: of processor time, which does not depend on what else the machine does, of waiting,
//! and of memory.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Address space, in KiB: a mutant that allocates without end shall not take the machine with it, and there
/// is one for each processor.
const MEMORY_KIB: u64 = 8 << 20;
const POLL: Duration = Duration::from_millis(5);
/// Whoever uses no processor for so long waits for what never comes.
const IDLE: Duration = Duration::from_secs(8);

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With success.
    Passed,
    /// Otherwise: what it printed.
    Failed(String),
    /// It was stopped at a limit: what it had printed.
    TimedOut(String),
}

/// Runs `command`, at most `cpu` of processor time, and while it uses any. What it prints goes to `log`.
pub(crate) fn run(command: &Command, cpu: Duration, log: &Path) -> Result<End, String> {
    let failed = |e: std::io::Error| format!("{}: {e}", command.get_program().to_string_lossy());
    let out = File::create(log).map_err(|e| format!("{}: {e}", log.display()))?;
    let seconds = cpu.as_secs().max(1);
    let mut shell = Command::new("sh");
    shell.args([
        "-c",
        &format!("ulimit -t {seconds}; ulimit -v {MEMORY_KIB}; ulimit -c 0; exec \"$@\""),
        "sh",
    ]);
    shell.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        shell.env(name, value.unwrap_or_default());
    }
    shell.stdin(Stdio::null()).stderr(out.try_clone().map_err(failed)?).stdout(out);
    let mut child = shell.spawn().map_err(failed)?;
    let status = wait(&mut child).map_err(failed)?;
    let said = || String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned();
    Ok(match status {
        Some(status) if status.success() => End::Passed,
        Some(status) if !out_of_time(status) => End::Failed(said()),
        _ => End::TimedOut(said()),
    })
}

/// The processor time that ended processes of this one have used.
pub(crate) fn used_by_ended() -> Duration {
    Duration::from_millis(10 * ticks("self", 2))
}

/// Waits for the end, or until the process has only waited for some time itself: then `None`. Who gets no
/// processor does not wait itself.
fn wait(child: &mut Child) -> std::io::Result<Option<ExitStatus>> {
    let (mut since, mut used) = (Instant::now(), 0);
    let mut polls = 0_u32;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        polls += 1;
        if polls.is_multiple_of(100) {
            let now = ticks(&child.id().to_string(), 0);
            if now != used || is_runnable(child.id()) {
                (since, used) = (Instant::now(), now);
            } else if since.elapsed() > IDLE {
                child.kill()?;
                child.wait()?;
                return Ok(None);
            }
        }
        std::thread::sleep(POLL);
    }
}

/// The processor time of a process so far, or of its ended children (`skip` of 2), in ticks of 10 ms.
fn ticks(process: &str, skip: usize) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // utime, stime, cutime and cstime are the 12th to the 15th.
    behind_name(&stat).skip(11 + skip).take(2).filter_map(|n| n.parse::<u64>().ok()).sum()
}

/// Whether a thread of the process runs, would run, or waits for a disk.
fn is_runnable(process: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    threads
        .filter_map(|thread| fs::read_to_string(thread.path().join("stat")).ok())
        .any(|stat| matches!(behind_name(&stat).next(), Some("R" | "D")))
}

/// The words of a line of /proc behind the name, which may contain anything.
fn behind_name(stat: &str) -> impl Iterator<Item = &str> {
    stat.rsplit(')').next().unwrap_or_default().split_whitespace()
}

/// Whether the kernel stopped it at its limit of processor time.
fn out_of_time(status: ExitStatus) -> bool {
    use std::os::unix::process::ExitStatusExt as _;
    const SIGKILL: i32 = 9;
    const SIGXCPU: i32 = 24;
    matches!(status.signal(), Some(SIGXCPU | SIGKILL))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> End {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("test").replace("::", "-");
        let log = std::env::temp_dir().join(format!("anonmem-{name}-{}", std::process::id()));
        let end = run(&command, Duration::from_secs(1), &log).unwrap();
        fs::remove_file(log).unwrap();
        end
    }

    #[test]
    fn a_process_that_passes_fails_or_spins_is_told_apart() {
        assert_eq!(shell("exit 0"), End::Passed);
        assert_eq!(shell("echo found; exit 1"), End::Failed("found\n".into()));
        let before = used_by_ended();
        assert_eq!(shell("echo here; while :; do :; done"), End::TimedOut("here\n".into()));
        assert!(used_by_ended() - before >= Duration::from_millis(900));
    }

    #[test]
    fn a_process_gets_no_more_memory_than_its_limit() {
        let block = |mib: u64| shell(&format!("dd if=/dev/zero of=/dev/null bs={mib}M count=1 2>&1"));
        assert!(matches!(block(MEMORY_KIB >> 10), End::Failed(said) if said.contains("memory")));
        assert_eq!(block(64), End::Passed);
    }
}
