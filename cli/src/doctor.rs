//! `anonmem doctor`: what of this machine each subcommand needs, and what to do about what is missing.

use std::ffi::OsStr;
use std::path::Path;

use clap::Args;
use serde::Serialize;

use crate::cc::{self, Program};
use crate::error::Result;
use crate::out;
use crate::pack::busybox;
use crate::pack::program::find_on_path;
use crate::vm::{kernel, qemu};

/// The exit status when `anonmem run` cannot work.
const EXIT_MISSING: u8 = 1;

/// Options of `anonmem doctor`.
#[derive(Clone, Copy, Debug, Args)]
pub struct DoctorOptions {
    /// Print what was found as JSON
    #[arg(long)]
    pub json: bool,
}

/// How much something is missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Need {
    /// Without it `anonmem run` does not work.
    Required,
    /// Without it something is slower, or a subcommand does not work.
    Useful,
}

/// One thing, and whether it is here.
#[derive(Clone, Debug, Serialize)]
struct Finding {
    what: &'static str,
    need: Need,
    /// What needs it.
    used_by: &'static str,
    /// Where it is, or what to do.
    found: std::result::Result<String, String>,
}

/// Looks for everything and says what is missing.
///
/// # Errors
///
/// The report cannot be written.
pub fn doctor(options: &DoctorOptions) -> Result<u8> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let named = |variable| std::env::var_os(variable).map(std::path::PathBuf::from);
    let findings = [
        Finding {
            what: "QEMU",
            need: Need::Required,
            used_by: "run, conform --run, bench --guest",
            found: told(qemu::find(named("ANONMEM_QEMU").as_deref(), &path)),
        },
        Finding {
            what: "kernel",
            need: Need::Required,
            used_by: "run, conform --run, bench --guest",
            found: told(kernel::find(named("ANONMEM_KERNEL").as_deref())),
        },
        Finding {
            what: "KVM",
            need: Need::Useful,
            used_by: "run: ten times faster than QEMU's translator",
            found: kvm(),
        },
        Finding {
            what: "busybox",
            need: Need::Useful,
            used_by: "run: the commands of a shell; without it, the host's own are packed",
            found: busybox::find_static(&path)
                .map(|path| path.display().to_string())
                .ok_or_else(|| "apt-get install busybox-static".into()),
        },
        Finding {
            what: "C compiler",
            need: Need::Useful,
            used_by: "conform, bench --guest",
            found: c_compiler(&path),
        },
        Finding {
            what: "valgrind",
            need: Need::Useful,
            used_by: "make bench-instructions, in a checkout",
            found: find_on_path(OsStr::new("valgrind"), &path)
                .map(|path| path.display().to_string())
                .ok_or_else(|| "apt-get install valgrind".into()),
        },
        Finding {
            what: "memory",
            need: Need::Useful,
            used_by: "run: 256M for the program and 100M for QEMU",
            found: memory(),
        },
    ];
    let works = findings.iter().all(|f| f.need == Need::Useful || f.found.is_ok());
    let text = if options.json {
        format!("{:#}\n", serde_json::json!({ "version": 1, "run_works": works, "findings": findings }))
    } else {
        findings.iter().map(as_text).chain([last_line(works).to_string()]).collect()
    };
    out::print(&text)?;
    Ok(if works { 0 } else { EXIT_MISSING })
}

fn as_text(finding: &Finding) -> String {
    let Finding { what, need, used_by, found } = finding;
    match (found, need) {
        (Ok(here), _) => format!("ok       {what:<11} {here}\n"),
        (Err(advice), Need::Required) => {
            format!("MISSING  {what:<11} {advice}\n         needed by {used_by}\n")
        }
        (Err(advice), Need::Useful) => {
            format!("missing  {what:<11} {advice}\n         useful for {used_by}\n")
        }
    }
}

fn last_line(works: bool) -> &'static str {
    if works { "anonmem run works here.\n" } else { "anonmem run does not work here yet.\n" }
}

fn told(found: Result<std::path::PathBuf>) -> std::result::Result<String, String> {
    found.map(|path| path.display().to_string()).map_err(|error| error.to_string())
}

fn kvm() -> std::result::Result<String, String> {
    let device = Path::new("/dev/kvm");
    match std::fs::File::options().read(true).write(true).open(device) {
        Ok(_) => Ok("/dev/kvm".into()),
        Err(_) if device.exists() => Err("/dev/kvm is not yours to open: usermod -aG kvm $USER".into()),
        Err(_) => Err("no /dev/kvm: in a virtual machine, its host must allow nesting".into()),
    }
}

/// Whether it makes static programs: that its C library is here shows only so.
fn c_compiler(path: &OsStr) -> std::result::Result<String, String> {
    const NOTHING: Program<'_> = Program {
        name: "nothing",
        sources: &[("nothing.c", "int main(void) { return 0; }\n")],
        wanted_by: "anonmem conform",
    };
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    cc::build(&NOTHING, dir.path(), path).map_err(|error| error.to_string())?;
    Ok("makes static programs".into())
}

fn memory() -> std::result::Result<String, String> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib: u64 = available.and_then(|text| text.split_whitespace().next()?.parse().ok()).unwrap_or(0);
    let mib = kib >> 10;
    if mib >= 356 { Ok(format!("{mib} MiB available")) } else { Err(format!("{mib} MiB available")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_told_with_what_to_do() {
        let finding = |need, found| Finding { what: "QEMU", need, used_by: "run", found };
        let line = as_text(&finding(Need::Required, Err("install it".into())));
        assert_eq!(line, "MISSING  QEMU        install it\n         needed by run\n");
        let line = as_text(&finding(Need::Useful, Ok("/usr/bin/qemu".into())));
        assert_eq!(line, "ok       QEMU        /usr/bin/qemu\n");
    }

    #[test]
    fn a_compiler_that_is_not_there_is_missing() {
        assert!(c_compiler(OsStr::new("/nowhere")).unwrap_err().contains("libc6-dev"));
    }
}
