//! The `anonmem` command: parses the command line, runs it, turns its end into an exit status.

use std::process::ExitCode;

use anonmem_cli::args::{Cli, Command};
use anonmem_cli::error::{EXIT_USAGE, Error, one_line};
use anonmem_cli::{conform, doctor, out, run, shell};
#[cfg(feature = "measure")]
use anonmem_cli::{error::EXIT_UNSURE, error::Result, families, guest, lab, scale};
use clap::{CommandFactory, Parser};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            let word = std::env::args().nth(1);
            if let Some(word) = word.as_deref().filter(|word| is_left_out(word)) {
                out::say(format_args!("built for `anonmem run` alone; `make build` has `anonmem {word}`"));
            } else {
                out::say(format_args!("{}; see {}", one_line(&error.to_string()), help_for(word)));
            }
            return ExitCode::from(EXIT_USAGE);
        }
        Err(help) => help.exit(),
    };
    let outcome = match &cli.command {
        Command::Run(options) => run::run(options),
        Command::Conform(options) => conform::conform(options),
        Command::Doctor(options) => doctor::doctor(options),
        Command::Completions(options) => shell::completions(options, Cli::command()),
        Command::Man(options) => shell::man(options, Cli::command()),
        #[cfg(feature = "measure")]
        Command::Cases(options) => lab::list(options),
        #[cfg(feature = "measure")]
        Command::Check(options) => lab::check(options),
        #[cfg(feature = "measure")]
        Command::Race(options) => lab::race(options),
        #[cfg(feature = "measure")]
        Command::Scale(options) => scale::scale(options),
        #[cfg(feature = "measure")]
        Command::Bench(options) if options.guest.guest => guest::bench(options),
        #[cfg(feature = "measure")]
        Command::Bench(options) => bench(&options.table),
    };
    match outcome {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            if !matches!(error, Error::ClosedPipe) {
                out::say(&error);
            }
            ExitCode::from(error.exit_status())
        }
    }
}

/// Whether `word` is a subcommand that this build does not have.
fn is_left_out(word: &str) -> bool {
    cfg!(not(feature = "measure")) && matches!(word, "bench" | "cases" | "check" | "race" | "scale")
}

/// Measures beside the host's kernel.
#[cfg(feature = "measure")]
fn bench(options: &anonmem_bench::Options) -> Result<u8> {
    use anonmem_bench::{Trust, options::Rmap};

    if options.rmap_study {
        out::print(&families::study())?;
        return Ok(0);
    }
    out::check_writable(
        [&options.json, &options.csv, &options.svg, &options.markdown].map(|path| path.as_deref()),
    )?;
    let done = match options.rmap {
        Rmap::AnonVma => anonmem_bench::bench(options),
        Rmap::Family => families::bench(options),
    };
    match done {
        Ok(Trust::Good) => Ok(0),
        Ok(Trust::Disturbed) => Ok(EXIT_UNSURE),
        Err(anonmem_bench::Error::Print(error)) => Err(out::failed(&error)),
        Err(error) => Err(Error::usage(error)),
    }
}

/// The command that shows the help for what was asked.
fn help_for(word: Option<String>) -> String {
    let cli = Cli::command();
    match cli.get_subcommands().find(|command| Some(command.get_name()) == word.as_deref()) {
        Some(command) => format!("anonmem {} --help", command.get_name()),
        None => "anonmem --help".to_string(),
    }
}
