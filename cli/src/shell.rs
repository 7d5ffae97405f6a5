//! `anonmem completions` and `anonmem man`: what shells and `man` know of the command, made of its own
//! definition.

use std::path::{Path, PathBuf};

use clap::Args;
use clap_complete::Shell;

use crate::error::{Error, Result};
use crate::out;

/// Options of `anonmem completions`.
#[derive(Clone, Copy, Debug, Args)]
pub struct CompletionsOptions {
    /// Whose
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Options of `anonmem man`.
#[derive(Clone, Debug, Args)]
pub struct ManOptions {
    /// Write a page for the command and for each subcommand into this directory
    #[arg(long, value_name = "DIR", conflicts_with = "subcommand")]
    pub dir: Option<PathBuf>,

    /// The subcommand whose page to print; the command's own without
    #[arg(value_name = "SUBCOMMAND")]
    pub subcommand: Option<String>,
}

/// Prints a shell's completions of the command that `cli` defines.
///
/// # Errors
///
/// They cannot be written.
pub fn completions(options: &CompletionsOptions, mut cli: clap::Command) -> Result<u8> {
    let mut text = Vec::new();
    clap_complete::generate(options.shell, &mut cli, "anonmem", &mut text);
    out::print(&String::from_utf8_lossy(&text))?;
    Ok(0)
}

/// Prints a page about the command that `cli` defines, or writes all of them.
///
/// # Errors
///
/// There is no such subcommand; a page cannot be written.
pub fn man(options: &ManOptions, mut cli: clap::Command) -> Result<u8> {
    cli.build();
    if let Some(dir) = &options.dir {
        write_all(&cli, dir)?;
        return Ok(0);
    }
    let chosen = match &options.subcommand {
        None => Some(&cli),
        Some(name) => cli.get_subcommands().find(|command| command.get_name() == name),
    };
    let Some(command) = chosen else {
        let name = options.subcommand.as_deref().unwrap_or_default();
        return Err(Error::usage(format_args!("there is no subcommand {name}; see anonmem --help")));
    };
    out::print(&page(command)?)?;
    Ok(0)
}

fn write_all(cli: &clap::Command, dir: &Path) -> Result<()> {
    out::write(&dir.join("anonmem.1"), &page(cli)?)?;
    for command in cli.get_subcommands().filter(|command| command.get_name() != "help") {
        out::write(&dir.join(format!("anonmem-{}.1", command.get_name())), &page(command)?)?;
    }
    Ok(())
}

/// One page, in the language of `man`.
fn page(command: &clap::Command) -> Result<String> {
    let mut text = Vec::new();
    clap_mangen::Man::new(command.clone())
        .render(&mut text)
        .map_err(|error| Error::usage(format_args!("cannot make a page: {error}")))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
