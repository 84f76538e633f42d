//! `verify`: is the target still what was written?

use std::path::Path;

use super::{Exit, Failure, connect, load, run::journal_if_there};
use crate::{
    engine::{event::Sink, gateways, verify},
    report::{self, Terminal, progress},
};

pub(super) async fn run(path: &Path, terminal: &Terminal, verbose: u8) -> Result<Exit, Failure> {
    let config = load(path, terminal)?;
    let Some(journal) = journal_if_there(&config)? else {
        let why = format!("there is no journal {}: nothing was moved yet", config.journal.path.display());
        return Err(Failure::new(Exit::Journal, why, None));
    };
    let (sender, events) = tokio::sync::mpsc::unbounded_channel();
    let sink = Sink::new(sender);
    let work = async move {
        let sides = connect::sides(&config, connect::Which::Begun, &sink).await?;
        let mut found = verify::all(sides.jobs, &journal, &connect::pace(&config)).await?;
        if let Some(job) = &sides.gateways {
            found.gateways = gateways::verify(job, &journal).await?;
        }
        journal.close().await?;
        Ok::<_, Failure>(found)
    };
    let (found, ()) = tokio::join!(work, progress::watch_calls(events, terminal, verbose));
    let found = found?;
    terminal.data(&report::verify::text(&found));
    terminal.json(&report::json::line("verified", report::verify::json(&found)));
    Ok(if found.is_as_written() { Exit::Done } else { Exit::Devices })
}
