//! The command line program: parse, run, exit code.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    stackferry::cli::run(stackferry::cli::Arguments::parse()).into()
}
