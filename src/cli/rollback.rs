//! `rollback`: brings devices back to the source, whatever was done to them.

use std::{collections::BTreeSet, fs::File, io, path::PathBuf, time::Instant};

use clap::Args;

use super::{
    Exit, Failure, connect, load,
    run::{Consent, asked, close, is_real, journal_if_there, place},
    signals,
};
use crate::{
    config::{Config, read_list},
    engine::{
        event::{Sink, Summary},
        lock::Terms,
        rollback::{Chosen, Rollback},
        run::Stop,
    },
    journal::JournalHandle,
    model::ids::{AppId, DeviceId},
    report::{self, Terminal, progress},
};

/// What `rollback` takes.
#[derive(Debug, Args)]
pub struct RollbackArguments {
    /// The migration, as TOML.
    config: PathBuf,
    /// Only devices of this source application; may be repeated.
    #[arg(long = "application", value_name = "ID")]
    applications: Vec<AppId>,
    /// Only this device, by its ID at the source; may be repeated. Without it, all that a run has begun.
    #[arg(long = "device", value_name = "ID")]
    devices: Vec<String>,
    /// Only the devices listed in this file, one ID a line; `-` reads standard input.
    #[arg(long, value_name = "FILE")]
    device_file: Option<PathBuf>,
    /// Show what would come back and what not, and change nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    consent: Consent,
}

pub(super) async fn run(
    arguments: &RollbackArguments,
    terminal: &Terminal,
    verbose: u8,
) -> Result<Exit, Failure> {
    let config = load(&arguments.config, terminal)?;
    let chosen = chosen(arguments, &config)?;
    let Some(journal) = journal_if_there(&config)? else {
        let why = format!("there is no journal {}: nothing was moved yet", config.journal.path.display());
        return Err(Failure::new(Exit::Journal, why, None));
    };
    let begun = Instant::now();
    let (sender, events) = tokio::sync::mpsc::unbounded_channel();
    let sink = Sink::new(sender);
    let work = async {
        let sides = connect::sides(&config, connect::Which::Begun, &sink).await?;
        let result = carry_out(arguments, &config, &sides, &journal, &chosen, terminal, sink).await;
        let closed = journal.close().await;
        let summary = result?;
        closed?;
        Ok::<_, Failure>(summary)
    };
    let (summary, ()) = tokio::join!(work, progress::watch(events, terminal, verbose));
    let Some(summary) = summary? else { return Ok(Exit::Done) };
    let again = format!("stackferry rollback {}", arguments.config.display());
    Ok(close(&summary, begun, &again, terminal))
}

/// Says what does not come back, asks, and brings back. `None` when nothing was done.
async fn carry_out(
    arguments: &RollbackArguments,
    config: &Config,
    sides: &connect::Sides,
    journal: &JournalHandle,
    chosen: &Chosen,
    terminal: &Terminal,
    sink: Sink,
) -> Result<Option<Summary>, Failure> {
    let stop = Stop::default();
    let lock = Terms::of(journal, config.limits.lock_renewal, arguments.consent.take_over).await?;
    let rollback = Rollback {
        journal,
        pace: connect::pace(config),
        events: &sink,
        stop: &stop,
        lock,
        gateways: sides.gateways.as_ref(),
    };
    let jobs = &sides.jobs.ready[..];
    let returns = rollback.survey(jobs, chosen).await?;
    let around = rollback.around(jobs, chosen).await?;
    terminal.data(&report::rollback::text(&returns));
    if around > 0 {
        terminal.data(&format!("  - around the devices: {around} to take back, once all devices are back"));
    }
    let gateways = rollback.gateways(jobs, chosen).await?;
    if !gateways.is_empty() {
        terminal.data(&report::gateways::rollback(&gateways));
    }
    let mut planned = report::rollback::json(&returns);
    planned["gateways"] = report::gateways::rollback_json(&gateways).into();
    terminal.json(&report::json::line("rollback-planned", planned));
    if arguments.dry_run {
        return Ok(None);
    }
    if returns.is_empty() && around == 0 && gateways.is_empty() {
        let removed = rollback.tidy(jobs).await?.removed;
        removed
            .iter()
            .for_each(|app| terminal.talk(&format!("application {app} removed: its ID stays taken")));
        return Ok(None);
    }
    let question = || {
        let devices = report::plan::devices(returns.iter().filter(|r| r.outlook.is_ok()).count());
        format!(
            "Bring {devices} back to {}, and remove them from {}?",
            place(&config.source),
            place(&config.target)
        )
    };
    if is_real(config) && !arguments.consent.yes && !asked(terminal, "rollback --dry-run", question)? {
        terminal.talk("nothing was changed");
        return Ok(None);
    }
    // Only now: until here nothing is changed, and Ctrl-C ends the process at once.
    let _listening = signals::listen(&stop, &sink);
    let mut summary = rollback.carry_out(jobs, chosen).await?;
    summary.failed.extend(sides.jobs.failed.iter().cloned());
    Ok(Some(summary))
}

/// The devices that were named. One that no application of the configuration could have is a mistake.
fn chosen(arguments: &RollbackArguments, config: &Config) -> Result<Chosen, Failure> {
    let usage = |text: String| Failure::new(Exit::Usage, text, None);
    for app in &arguments.applications {
        if !config.applications.iter().any(|a| a.takes(app)) {
            return Err(usage(format!("the configuration has no source application {app}")));
        }
    }
    let mut devices: BTreeSet<_> =
        arguments.devices.iter().map(|id| DeviceId::unchecked(id.clone())).collect();
    if let Some(file) = &arguments.device_file {
        let fail = |e: &dyn std::fmt::Display| usage(format!("{}: {e}", file.display()));
        let from: Box<dyn io::Read> = if file.as_os_str() == "-" {
            Box::new(io::stdin())
        } else {
            Box::new(File::open(file).map_err(|e| fail(&e))?)
        };
        devices.extend(read_list(from).map_err(|e| fail(&e))?);
    }
    Ok(Chosen { applications: arguments.applications.iter().cloned().collect(), devices })
}
