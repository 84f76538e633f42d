//! `plan`: shows what a run would do.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{Exit, Failure, connect, load, run::journal_if_there};
use crate::{
    engine::{event::Sink, run},
    plan::{Verdict, belongings, stale::Decided},
    report::{self, Terminal, progress},
};

/// What `plan` takes.
#[derive(Debug, Args)]
pub struct PlanArguments {
    /// The migration, as TOML.
    config: PathBuf,
    /// Write the plan as JSON into this file, for `run --plan`. It holds no secrets.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(super) async fn plan(
    arguments: &PlanArguments,
    terminal: &Terminal,
    verbose: u8,
) -> Result<Exit, Failure> {
    run(&arguments.config, arguments.out.as_deref(), terminal, verbose).await
}

pub(super) async fn run(
    path: &Path,
    out: Option<&Path>,
    terminal: &Terminal,
    verbose: u8,
) -> Result<Exit, Failure> {
    let config = load(path, terminal)?;
    let decisive = config.decisive();
    let (sender, events) = tokio::sync::mpsc::unbounded_channel();
    let sink = Sink::new(sender);
    let work = async move {
        let sides = connect::sides(&config, connect::Which::All, &sink).await?;
        let journal = journal_if_there(&config)?;
        let (gateways, pace) = (sides.gateways.as_ref(), connect::pace(&config));
        let (plan, _) = run::plan(sides.jobs, gateways, journal.as_ref(), &pace, &sink).await?;
        if let Some(journal) = journal {
            journal.close().await?;
        }
        drop(sink);
        Ok::<_, Failure>(plan)
    };
    let (plan, ()) = tokio::join!(work, progress::watch_calls(events, terminal, verbose));
    let plan = plan?;
    if let Some(out) = out {
        std::fs::write(out, Decided::of(&plan, decisive).to_json())
            .map_err(|e| Failure::new(Exit::Failed, format!("cannot write {}: {e}", out.display()), None))?;
    }
    terminal.data(&report::plan::text(&plan));
    terminal.json(&report::json::line("planned", report::json::plan(&plan)));
    let around = plan.applications.iter().flat_map(|a| &a.belongings);
    let stopped = around.filter(|item| item.verdict == belongings::Verdict::Stop).count();
    let stopped = stopped + usize::from(plan.gateways.stops());
    let stopped = stopped + plan.failed.len();
    Ok(if stopped + plan.count(|v| *v == Verdict::Stop) > 0 { Exit::Devices } else { Exit::Done })
}
