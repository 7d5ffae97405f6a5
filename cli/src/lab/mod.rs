//! `anonmem cases`, `anonmem check`, `anonmem race`: the catalogue, explored and drawn.
//!
//! The explorer and the cases are `anonmem-lab`; here they get a command line, tables and pictures.

mod board;
mod catalogue;
mod check;
mod draw;
mod mutant;
mod race;

use std::path::PathBuf;

use anonmem::ReverseMapChoice;
use anonmem_lab::Model;
use anonmem_lab::cases::{self, Case};
use clap::{Args, ValueEnum};

pub use catalogue::list;
pub use check::check;
pub use race::race;

use crate::error::Error;
use crate::values::Rmap;

/// A memory model, as an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ModelOption {
    /// Sequential consistency.
    Sc,
    /// Store histories in the spirit of C11.
    C11,
}

impl ModelOption {
    fn is(option: Option<Self>, model: Model) -> bool {
        match option {
            None => true,
            Some(Self::Sc) => model == Model::Sc,
            Some(Self::C11) => model == Model::C11,
        }
    }
}

impl Rmap {
    /// Runs `f`, in whose worlds that is the reverse map.
    fn over<R>(self, f: impl FnOnce() -> R) -> R {
        let choice = match self {
            Self::AnonVma => ReverseMapChoice::AnonVmas,
            Self::Family => ReverseMapChoice::Families,
        };
        cases::over(choice, f)
    }

    /// What to add to a command line that repeats something.
    const fn argument(self) -> &'static str {
        match self {
            Self::AnonVma => "",
            Self::Family => " --rmap family",
        }
    }
}

/// Options of `anonmem check`.
#[derive(Debug, Args)]
pub struct CheckOptions {
    /// Cases to explore; all of them if none is named (`anonmem cases` lists them)
    #[arg(value_name = "CASE")]
    pub cases: Vec<String>,
    /// Only under this memory model
    #[arg(long)]
    pub model: Option<ModelOption>,
    /// How the memory manager finds what maps a page
    #[arg(long, value_enum, default_value_t)]
    pub rmap: Rmap,
    /// Seconds for everything together; even what comes last is tried for a moment
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub budget: u64,
    /// Explorations at a time [default: one a CPU]
    #[arg(long, value_name = "N")]
    pub jobs: Option<usize>,
    /// Write the verdicts as JSON, too
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the verdicts as JUnit XML, too
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
}

/// Options of `anonmem cases`.
#[derive(Debug, Args)]
pub struct CasesOptions {
    /// Only cases whose name, title, rule or planted bugs have all of these words
    #[arg(value_name = "WORD")]
    pub words: Vec<String>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// Options of `anonmem race`.
#[derive(Debug, Args)]
pub struct RaceOptions {
    /// The case to draw
    pub case: String,
    /// With this planted bug: a variant of the case's own model, or a patch of the production source, which
    /// is built first (from a checkout)
    #[arg(long, value_name = "NAME")]
    pub mutant: Option<String>,
    /// Under this memory model [default: the case's first]
    #[arg(long)]
    pub model: Option<ModelOption>,
    /// How the memory manager finds what maps a page
    #[arg(long, value_enum, default_value_t)]
    pub rmap: Rmap,
    /// Exactly the execution that this id names
    #[arg(long, value_name = "ID")]
    pub replay: Option<String>,
    /// Leave the copy of the source and what was built of it (over a gigabyte in target/mutants/race), so
    /// that the next planted bug is built in seconds
    #[arg(long, requires = "mutant")]
    pub keep_build: bool,
    /// Every step of every CPU; without it, what only one CPU touches is folded into a line that names the
    /// functions
    #[arg(long)]
    pub full: bool,
    /// Seconds for the search
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub budget: u64,
    /// Draw the columns into an SVG file, too
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Draw the columns into an HTML file, too
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// The case called `name`, or an error that names the nearest ones.
fn find(name: &str) -> Result<&'static Case, Error> {
    cases::find(name).ok_or_else(|| {
        let near: Vec<_> = cases::all().iter().filter(|c| c.name.contains(name)).map(|c| c.name).collect();
        let hint = if near.is_empty() { "`anonmem cases` lists them".into() } else { near.join(", ") };
        Error::usage(format!("there is no case {name:?}; {hint}"))
    })
}
