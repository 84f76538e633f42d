//! `plan`: shows what a run would do.

use std::path::Path;

use super::{Exit, Failure, connect, load, run::journal_if_there};
use crate::{
    engine::{event::Sink, run},
    plan::Verdict,
    report::{self, Terminal, progress},
};

pub(super) async fn run(path: &Path, terminal: &Terminal, verbose: u8) -> Result<Exit, Failure> {
    let config = load(path, terminal)?;
    let (sender, events) = tokio::sync::mpsc::unbounded_channel();
    let sink = Sink::new(sender);
    let work = async move {
        let sides = connect::sides(&config, &sink).await?;
        let journal = journal_if_there(&config)?;
        let (plan, _) = run::plan(&sides.jobs, journal.as_ref(), &connect::pace(&config), &sink).await?;
        if let Some(journal) = journal {
            journal.close().await?;
        }
        drop((sink, sides));
        Ok::<_, Failure>(plan)
    };
    let (plan, ()) = tokio::join!(work, progress::watch_calls(events, terminal, verbose));
    let plan = plan?;
    terminal.data(&report::plan::text(&plan));
    terminal.json(&report::json::line("planned", report::json::plan(&plan)));
    Ok(if plan.count(|v| *v == Verdict::Stop) > 0 { Exit::Devices } else { Exit::Done })
}
