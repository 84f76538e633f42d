//! `clear`: goes on with what is held by `clear.hold`.

use std::path::PathBuf;

use clap::Args;

use super::{
    Exit, Failure, connect, load,
    run::{Consent, How, move_devices},
};
use crate::{engine::run::Pace, report::Terminal};

/// What `clear` takes.
#[derive(Debug, Args)]
pub struct ClearArguments {
    /// The migration, as TOML.
    config: PathBuf,
    #[command(flatten)]
    consent: Consent,
}

pub(super) async fn run(
    arguments: &ClearArguments,
    terminal: &Terminal,
    verbose: u8,
) -> Result<Exit, Failure> {
    let config = load(&arguments.config, terminal)?;
    let pace = Pace { hold: false, only_begun: true, ..connect::pace(&config) };
    let again = format!("stackferry clear {}", arguments.config.display());
    let how = How { pace, consent: arguments.consent, planned: None };
    move_devices(&config, how, &again, terminal, verbose).await
}
