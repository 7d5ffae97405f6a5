//! The `anonmem` command: parses the command line, runs it, turns its end into an exit status.

use std::process::ExitCode;

use anonmem_bench::Trust;
use anonmem_cli::args::{Cli, Command};
use anonmem_cli::error::{EXIT_UNSURE, EXIT_USAGE, Error, Result, one_line};
use anonmem_cli::{guest, lab, out, run};
use clap::{CommandFactory, Parser};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            out::say(format_args!(
                "{}; see {}",
                one_line(&error.to_string()),
                help_for(std::env::args().nth(1))
            ));
            return ExitCode::from(EXIT_USAGE);
        }
        Err(help) => help.exit(),
    };
    let outcome = match &cli.command {
        Command::Run(options) => run::run(options),
        Command::Cases(options) => lab::list(options),
        Command::Check(options) => lab::check(options),
        Command::Race(options) => lab::race(options),
        Command::Bench(options) if options.guest.guest => guest::bench(options),
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

/// Measures beside the host's kernel.
fn bench(options: &anonmem_bench::Options) -> Result<u8> {
    out::check_writable(
        [&options.json, &options.csv, &options.svg, &options.markdown].map(|path| path.as_deref()),
    )?;
    match anonmem_bench::bench(options) {
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
