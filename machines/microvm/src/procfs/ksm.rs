//! `/sys/kernel/mm/ksm`: what KSM is told, and what it has saved; and the files of a process about it.
//!
//! Linux: mm/ksm.c `ksm_attrs`; fs/proc/base.c `proc_pid_ksm_stat`. Differs: `merge_domains`.

use super::generated::Taken;
use crate::proc::ksm;
use crate::proc::mm::Space;
use crate::proc::number::Number;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use anonmem::{KsmSettings, KsmStats};
use anonmem_oslib::Result;
use anonmem_oslib::choice;
use anonmem_oslib::errno::{EACCES, EINVAL};
use anonmem_oslib::vfs::{Body, FileType, Meta, Synthetic, Vfs};

/// A file.
#[derive(Clone, Copy)]
enum File {
    /// 0, 1 or 2.
    Run,
    /// A number that the kernel task goes by.
    Number(&'static Number),
    PagesToScan,
    SleepMillisecs,
    AcrossNodes,
    MaxPageSharing,
    UseZeroPages,
    SmartScan,
    AdvisorMode,
    MergeDomains,
    /// Something that is counted.
    Stat(fn(&KsmStats) -> i64),
}

const FILES: &[(&str, File)] = &[
    ("run", File::Run),
    ("pages_to_scan", File::PagesToScan),
    ("sleep_millisecs", File::SleepMillisecs),
    ("merge_across_nodes", File::AcrossNodes),
    ("use_zero_pages", File::UseZeroPages),
    ("max_page_sharing", File::MaxPageSharing),
    ("stable_node_chains_prune_millisecs", File::Number(&ksm::PRUNE_MS)),
    ("smart_scan", File::SmartScan),
    ("advisor_mode", File::AdvisorMode),
    ("advisor_max_cpu", File::Number(&ksm::ADVISOR_MAX_CPU)),
    ("advisor_target_scan_time", File::Number(&ksm::ADVISOR_TARGET)),
    ("advisor_min_pages_to_scan", File::Number(&ksm::ADVISOR_MIN)),
    ("advisor_max_pages_to_scan", File::Number(&ksm::ADVISOR_MAX)),
    ("merge_domains", File::MergeDomains),
    ("pages_shared", File::Stat(|s| s.pages_shared as i64)),
    ("pages_sharing", File::Stat(|s| s.pages_sharing as i64)),
    ("pages_unshared", File::Stat(|s| s.pages_unshared as i64)),
    ("pages_volatile", File::Stat(|s| s.pages_volatile as i64)),
    ("pages_skipped", File::Stat(|s| s.pages_skipped as i64)),
    ("pages_scanned", File::Stat(|s| s.pages_scanned as i64)),
    ("full_scans", File::Stat(|s| s.full_scans as i64)),
    ("stable_node_chains", File::Stat(|s| s.stable_node_chains as i64)),
    ("stable_node_dups", File::Stat(|s| s.stable_node_dups as i64)),
    ("ksm_zero_pages", File::Stat(|s| s.zero_pages as i64)),
    ("general_profit", File::Stat(|s| s.general_profit)),
];

impl File {
    const fn mode(self) -> u32 {
        match self {
            File::Stat(_) => 0o444,
            File::Run
            | File::Number(_)
            | File::PagesToScan
            | File::SleepMillisecs
            | File::AcrossNodes
            | File::MaxPageSharing => 0o644,
            File::UseZeroPages | File::SmartScan | File::AdvisorMode | File::MergeDomains => 0o644,
        }
    }

    fn text(self) -> String {
        let number = match self {
            File::Run => ksm::run(),
            File::Number(number) => number.get(),
            File::PagesToScan => ksm::PAGES_TO_SCAN.get(),
            File::SleepMillisecs => ksm::SLEEP_MS.get(),
            File::AcrossNodes => ksm::ACROSS_NODES.get(),
            File::MaxPageSharing => ksm::settings().max_page_sharing.into(),
            File::UseZeroPages => ksm::settings().use_zero_pages.into(),
            File::SmartScan => ksm::settings().smart_scan.into(),
            File::AdvisorMode => return choice::text(ksm::ADVISOR_MODES, ksm::advisor_mode()),
            File::MergeDomains => return choice::text(ksm::DOMAINS, ksm::domains()),
            File::Stat(of) => return format!("{}\n", of(&ksm::stats())),
        };
        format!("{number}\n")
    }

    fn set(self, text: &str) -> Result<()> {
        let number = || text.parse::<u64>().or(Err(EINVAL));
        let on = || match number()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(EINVAL),
        };
        match self {
            File::Run => ksm::set_run(number()?),
            File::Number(to) => to.set(number()?),
            File::PagesToScan => ksm::set_pages_to_scan(number()?),
            File::SleepMillisecs => ksm::set_sleep(number()?),
            File::AcrossNodes => ksm::set_across_nodes(number()?),
            File::MaxPageSharing => {
                let max_page_sharing = u32::try_from(number()?).or(Err(EINVAL))?;
                ksm::change(|settings| KsmSettings { max_page_sharing, ..settings })
            }
            File::UseZeroPages => {
                let use_zero_pages = on()?;
                ksm::change(|settings| KsmSettings { use_zero_pages, ..settings })
            }
            File::SmartScan => {
                let smart_scan = on()?;
                ksm::change(|settings| KsmSettings { smart_scan, ..settings })
            }
            File::AdvisorMode => ksm::set_advisor_mode(text),
            File::MergeDomains => ksm::set_domains(text),
            File::Stat(_) => Err(EACCES),
        }
    }
}

impl Synthetic for File {
    fn kind(&self) -> FileType {
        FileType::Regular
    }

    fn admits(&self, meta: &Meta, wanted: u32) -> bool {
        super::caller::caller_may(meta, wanted)
    }

    fn content(&self) -> Result<Vec<u8>> {
        Ok(self.text().into_bytes())
    }

    fn write(&self, bytes: &[u8]) -> Result<()> {
        let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        self.set(core::str::from_utf8(bytes).or(Err(EINVAL))?)
    }
}

/// Puts the files into the tree.
pub(super) fn init(vfs: &Vfs) -> core::result::Result<(), Taken> {
    for (name, file) in FILES {
        let path = format!("/sys/kernel/mm/ksm/{name}");
        let put = vfs.put(path.as_bytes(), file.mode(), Body::Synthetic(Arc::new(*file)));
        put.map_err(|error| Taken(path, error))?;
    }
    Ok(())
}

/// The text of `/proc/PID/ksm_stat`. No object is kept for a page that was only looked at.
#[doc(alias = "proc_pid_ksm_stat")]
pub(super) fn of_process(space: &Space) -> String {
    let usage = ksm::usage(space);
    let yes = |yes: bool| if yes { "yes" } else { "no" };
    let any = ksm::merges_any(space);
    let mergeable = any || crate::proc::mm::is_mergeable(space);
    format!(
        "ksm_rmap_items 0\nksm_zero_pages {}\nksm_merging_pages {}\nksm_process_profit {}\nksm_merge_any: {}\nksm_mergeable: {}\n",
        usage.zero,
        usage.merging,
        (usage.merging + usage.zero) * 4096,
        yes(any),
        yes(mergeable),
    )
}

/// The text of `/proc/PID/ksm_merging_pages`.
#[doc(alias = "proc_pid_ksm_merging_pages")]
pub(super) fn merging_pages(space: &Space) -> String {
    format!("{}\n", ksm::usage(space).merging)
}
