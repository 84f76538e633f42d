//! The command line program: parse, run, exit code.

use std::{alloc::System, process::ExitCode};

use clap::Parser as _;
use zeroizing_alloc::ZeroAlloc;

/// Overwrites every block of memory when it is given back: keys pass through messages, buffers and strings of libraries
/// that know nothing of wiping.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    stackferry::cli::run(stackferry::cli::Arguments::parse()).into()
}
