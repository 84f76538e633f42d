//! `verify`: is the target still what was written?

use std::path::Path;

use super::{Exit, Failure, connect, load, run::journal_if_there};
use crate::{
    engine::{belongings, event::Sink, gateways, verify},
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
        let sides = connect::sides(&config, &sink).await?;
        let (mut all, mut around) = (Vec::new(), Vec::new());
        for job in &sides.jobs {
            around.extend(belongings::verify(job, &journal).await?);
            all.extend(verify::verify(job, &journal, config.rollout.in_flight).await?);
        }
        let registered = match &sides.gateways {
            Some(job) => gateways::verify(job, &journal).await?,
            None => Vec::new(),
        };
        journal.close().await?;
        Ok::<_, Failure>((all, around, registered))
    };
    let (verified, ()) = tokio::join!(work, progress::watch_calls(events, terminal, verbose));
    let (verified, around, registered) = verified?;
    terminal.data(&report::verify::text(&verified, &around, &registered));
    terminal.json(&report::json::line("verified", report::verify::json(&verified, &around, &registered)));
    let as_written = verified.iter().all(|v| v.differences.is_empty())
        && registered.iter().all(|v| v.differences.is_empty());
    Ok(if as_written && around.iter().all(|v| v.differences.is_empty()) { Exit::Done } else { Exit::Devices })
}
