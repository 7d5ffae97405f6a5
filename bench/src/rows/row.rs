//! What a row of the table is made of.

use serde::Serialize;

/// What a number is per.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Unit {
    /// Nanoseconds per base page of 4 KiB.
    #[serde(rename = "ns/page")]
    NsPerPage,
    /// Nanoseconds per pair of calls.
    #[serde(rename = "ns/pair")]
    NsPerPair,
    /// Nanoseconds per call.
    #[serde(rename = "ns/call")]
    NsPerCall,
    /// Pages per page that was touched.
    #[serde(rename = "pages/touched")]
    PerTouched,
    /// Bytes per frame of 4 KiB.
    #[serde(rename = "B/frame")]
    BytesPerFrame,
}

impl Unit {
    /// As it is printed.
    pub const fn label(self) -> &'static str {
        match self {
            Self::NsPerPage => "ns/page",
            Self::NsPerPair => "ns/pair",
            Self::NsPerCall => "ns/call",
            Self::PerTouched => "pages/touched",
            Self::BytesPerFrame => "B/frame",
        }
    }
}

/// The work that the hardware alone needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Limit {
    /// Zeroing the same pages, one by one, in memory that no cache holds.
    Zeroing,
    /// Copying the same pages, one by one, in memory that no cache holds.
    Copying,
    /// Compressing the same pages and decompressing them, one by one.
    Compressing,
}

impl Limit {
    /// The name of the limit's own row.
    pub const fn row(self) -> &'static str {
        match self {
            Self::Zeroing => "limit-zeroing",
            Self::Copying => "limit-copying",
            Self::Compressing => "limit-compressing",
        }
    }
}

/// What anonmem aims at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Aim {
    /// At most so many times the limit, plus so much.
    Limit(f64, f64),
    /// At most so much.
    Most(f64),
    /// At most so many times another row.
    Row(f64, &'static str),
}

/// What the host pays to get into its kernel, per unit of a row.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Entries {
    /// System calls.
    pub syscalls: f64,
    /// Page-fault exceptions.
    pub exceptions: f64,
}

/// What is part of the host's time and not of ours. One system call for a whole region is not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HostOnly {
    /// An exception and the return from it, for each unit.
    Exception,
    /// A system call and the return from it, for each unit.
    SystemCall,
    /// Translations are flushed from the TLB.
    TlbFlush,
    /// Pages are charged to a memory cgroup or uncharged.
    Charge,
    /// Pages are put on an LRU list or taken off.
    Lru,
    /// A task with its files and signals, beside its address space.
    Task,
}

impl HostOnly {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Exception, Self::SystemCall, Self::TlbFlush, Self::Charge, Self::Lru, Self::Task];

    /// The letter that stands for it in a column.
    pub const fn letter(self) -> char {
        match self {
            Self::Exception => 'e',
            Self::SystemCall => 's',
            Self::TlbFlush => 't',
            Self::Charge => 'c',
            Self::Lru => 'l',
            Self::Task => 'p',
        }
    }

    /// What the letter means.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Exception => "an exception and its return",
            Self::SystemCall => "a system call and its return",
            Self::TlbFlush => "TLB flushes",
            Self::Charge => "the charge to a memory cgroup",
            Self::Lru => "LRU lists",
            Self::Task => "a process: task, files, signals",
        }
    }
}

/// One kind of work.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    /// Its name on the command line and in files.
    pub id: &'static str,
    /// What is done, for people.
    pub title: &'static str,
    /// What its numbers are per.
    pub unit: Unit,
    /// What the hardware alone needs, if that is most of the work.
    pub limit: Option<Limit>,
    /// What anonmem aims at.
    pub aim: Option<Aim>,
    /// Exceptions and system calls of the host, per unit.
    pub entries: Entries,
    /// What the host's side includes and ours does not.
    pub host_only: &'static [HostOnly],
    /// What our side does.
    pub ours: &'static str,
    /// What the host's side does.
    pub host: &'static str,
    /// What the Rust peer's side does.
    pub peer: &'static str,
}

/// A row that waits for a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct NotYet {
    /// Its name.
    pub id: &'static str,
    /// What would be done.
    pub title: &'static str,
    /// What it waits for.
    pub needs: &'static str,
}
