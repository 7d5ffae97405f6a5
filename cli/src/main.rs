//! The `anonmem` command: parses the command line, runs it, turns its end into an exit status.

use std::process::ExitCode;

use anonmem_cli::args::{Cli, Command};
use anonmem_cli::error::{EXIT_USAGE, Error, one_line};
use anonmem_cli::{guest, lab, run};
use clap::Parser;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            eprintln!("anonmem: {}; see anonmem --help", one_line(&error.to_string()));
            return ExitCode::from(EXIT_USAGE);
        }
        Err(help) => help.exit(),
    };
    let outcome = match &cli.command {
        Command::Run(options) => run::run(options),
        Command::Cases => Ok(lab::list()),
        Command::Check(options) => lab::check(options),
        Command::Race(options) => lab::race(options),
        Command::Bench(options) if options.guest.guest => guest::bench(options),
        Command::Bench(options) => anonmem_bench::bench(&options.table).map(|()| 0).map_err(Error::usage),
    };
    match outcome {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("anonmem: {error}");
            ExitCode::from(error.exit_status())
        }
    }
}
