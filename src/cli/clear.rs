//! `clear`: goes on with what is held by `clear.hold`.

use std::path::PathBuf;

use clap::Args;

use super::{Exit, Failure, connect, load, run::move_devices};
use crate::{engine::run::Pace, report::Terminal};

/// What `clear` takes.
#[derive(Debug, Args)]
pub struct ClearArguments {
    /// The migration, as TOML.
    config: PathBuf,
    /// Do not ask before a real source or target is changed.
    #[arg(short, long)]
    yes: bool,
}

pub(super) async fn run(
    arguments: &ClearArguments,
    terminal: &Terminal,
    verbose: u8,
) -> Result<Exit, Failure> {
    let config = load(&arguments.config, terminal)?;
    let pace = Pace { hold: false, only_begun: true, ..connect::pace(&config) };
    let again = format!("stackferry clear {}", arguments.config.display());
    move_devices(&config, pace, arguments.yes, &again, terminal, verbose).await
}
