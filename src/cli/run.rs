//! `run`: moves the devices, or goes on with that.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    time::Instant,
};

use clap::Args;

use super::{Exit, Failure, connect, load, signals};
use crate::{
    config::{ClearGateways, ClearMode, Config, Env, Side},
    engine::{
        event::{Sink, Summary},
        lock::Terms,
        run::{self, Dispatcher, Pace, Stop},
    },
    journal::{Error, ErrorKind, Journal, JournalHandle, Pins, SealKeyRef, View, Who},
    plan::{Verdict, stale::Decided},
    report::{self, Output, Terminal, progress},
};

/// The largest file that is read as a plan: some hundred bytes a device.
const MAX_PLAN: u64 = 1 << 30;

/// What `run` takes.
#[derive(Debug, Args)]
pub struct RunArguments {
    /// The migration, as TOML.
    pub(super) config: PathBuf,
    /// Show the plan and change nothing.
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Do what this file of `plan --out` says, or nothing: refused when anything would be done otherwise by now.
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run")]
    plan: Option<PathBuf>,
    #[command(flatten)]
    consent: Consent,
}

pub(super) async fn run(arguments: &RunArguments, terminal: &Terminal, verbose: u8) -> Result<Exit, Failure> {
    if arguments.dry_run {
        return super::plan::run(&arguments.config, None, terminal, verbose).await;
    }
    let config = load(&arguments.config, terminal)?;
    let again = format!("stackferry run {}", arguments.config.display());
    let planned = arguments.plan.as_deref().map(planned).transpose()?;
    let how = How { pace: connect::pace(&config), consent: arguments.consent, planned };
    move_devices(&config, how, &again, terminal, verbose).await
}

/// Connects, plans, asks, moves, and says what happened. `again` is the command that goes on.
pub(super) async fn move_devices(
    config: &Config,
    how: How,
    again: &str,
    terminal: &Terminal,
    verbose: u8,
) -> Result<Exit, Failure> {
    let begun = Instant::now();
    let (sender, events) = tokio::sync::mpsc::unbounded_channel();
    let sink = Sink::new(sender);
    let stop = Stop::default();
    let work = async {
        let which = match how.pace {
            Pace { only_begun: false, .. } => connect::Which::All,
            // The source's gateways go once all applications have moved.
            Pace { gateways: ClearGateways::Delete, .. } => connect::Which::BegunOfAll,
            _ => connect::Which::Begun,
        };
        let sides = connect::sides(config, which, &sink).await?;
        carry_out(config, how, sides, terminal, sink, &stop).await
    };
    let (summary, ()) = tokio::join!(work, progress::watch(events, terminal, verbose));
    let Some(summary) = summary? else { return Ok(Exit::Done) };
    Ok(close(&summary, begun, again, terminal))
}

/// What the user has agreed to on the command line.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Consent {
    /// Do not ask before a real source or target is changed.
    #[arg(short, long)]
    pub(super) yes: bool,
    /// Take an application from a run of another journal that is dead: its marker is watched first.
    #[arg(long)]
    pub(super) take_over: bool,
}

/// How a run goes about it.
#[derive(Debug)]
pub(super) struct How {
    pub(super) pace: Pace,
    pub(super) consent: Consent,
    /// What may be done, when that was written down before.
    pub(super) planned: Option<Decided>,
}

/// Reads a file of `plan --out`.
fn planned(path: &Path) -> Result<Decided, Failure> {
    let refused = |e: &dyn std::fmt::Display| {
        let hint = "make a new one with `stackferry plan --out`".to_owned();
        Failure::new(Exit::Usage, format!("the plan {}: {e}", path.display()), Some(hint))
    };
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(MAX_PLAN).read_to_string(&mut text));
    read.map_err(|e| refused(&e))?;
    Decided::from_json(&text).map_err(|e| refused(&e))
}

/// Plans, asks, and moves. `None` when the user said no.
pub(super) async fn carry_out(
    config: &Config,
    how: How,
    sides: connect::Sides,
    terminal: &Terminal,
    sink: Sink,
    stop: &Stop,
) -> Result<Option<Summary>, Failure> {
    let How { pace, consent, planned } = how;
    let journal = open_journal(config)?;
    let result = async {
        let gateways = sides.gateways.as_ref();
        let (plan, ready) = run::plan(sides.jobs, gateways, Some(&journal), &pace, &sink).await?;
        if let Some(planned) = &planned {
            let hint = "look at the new plan with `stackferry plan --out`; nothing was done".to_owned();
            let now = Decided::of(&plan, config.decisive());
            planned.check(&now).map_err(|stale| Failure::new(Exit::Usage, stale, Some(hint)))?;
        }
        let going = plan.count(|v| matches!(v, Verdict::Move | Verdict::Resume(_)));
        let around = ready.applications.iter().map(|(_, ready)| ready.belongings.changes()).sum();
        let registers = plan.gateways.have_work();
        let deletes = if pace.hold { 0 } else { plan.gateways.deletes() };
        let question = || question((going, around, registers, deletes), config, pace.hold);
        let changes = going + around + deletes > 0 || registers;
        if changes && is_real(config) && !consent.yes && !asked(terminal, "plan", question)? {
            terminal.talk("nothing was changed");
            return Ok(None);
        }
        // Only now: until here nothing is changed, and Ctrl-C ends the process at once.
        let _listening = signals::listen(stop, &sink);
        let lock = Terms::of(&journal, config.limits.lock_renewal, consent.take_over).await?;
        let keys_file = connect::keys_file(config, &plan);
        let dispatcher = Dispatcher {
            journal: &journal,
            pace,
            events: &sink,
            stop,
            lock,
            gateways,
            keys_file: keys_file.as_ref(),
        };
        Ok::<_, Failure>(Some(dispatcher.carry_out(&plan, ready).await?))
    }
    .await;
    let closed = journal.close().await;
    let summary = result?;
    closed?;
    Ok(summary)
}

/// Asks for a yes. Where nobody can be asked, `command` shows what would be done.
pub(super) fn asked(
    terminal: &Terminal,
    command: &str,
    question: impl FnOnce() -> String,
) -> Result<bool, Failure> {
    if terminal.output() == Output::Json || !terminal.can_ask() {
        let hint = format!("look at it with `stackferry {command}`, then run with --yes");
        return Err(Failure::new(Exit::Usage, "nobody is here to say yes to the plan", Some(hint)));
    }
    terminal
        .confirm(&question())
        .map_err(|e| Failure::new(Exit::Failed, format!("cannot read the answer: {e}"), None))
}

fn question(
    (going, around, registers, deletes): (usize, usize, bool, usize),
    config: &Config,
    hold: bool,
) -> String {
    let v2 = is_v2(&config.source);
    let around = if around > 0 { format!(", and {around} things around them,") } else { String::new() };
    let first =
        if registers { format!("Register gateways at {}. ", place(&config.target)) } else { String::new() };
    let last = if deletes > 0 {
        format!(" Then {deletes} gateways are deleted there, each once the target has it connected.")
    } else {
        String::new()
    };
    format!(
        "{first}Move {}{around} from {} to {}? At the source {}.{last}",
        report::plan::devices(going),
        place(&config.source),
        place(&config.target),
        match config.clear.mode {
            _ if hold && v2 => "nothing is cleared yet (clear.hold), and the copies stay muted",
            _ if hold => "nothing is cleared yet (clear.hold), and they stay muted",
            ClearMode::Nothing | ClearMode::Mute if v2 => "they stay, and the copies are muted",
            ClearMode::Nothing | ClearMode::Mute => "they stay, muted",
            ClearMode::Keys if v2 =>
                "their keys are set to zeros once the copies are verified, which go live then",
            ClearMode::Keys => "their keys and sessions are removed once the target is verified",
            ClearMode::Delete => "they are deleted once the target is verified",
        }
    )
}

fn is_v2(side: &Side) -> bool {
    match side {
        Side::TtnV2(_) => true,
        Side::Rehearsal(embedded) => embedded.is_ttn_v2,
        Side::Tts(_) => false,
    }
}

pub(super) fn place(side: &Side) -> String {
    match side {
        Side::Tts(stack) => stack.identity_server.host.clone(),
        Side::TtnV2(v2) => v2.handler.as_ref().unwrap_or(&v2.discovery).host.clone(),
        Side::Rehearsal(_) => "an embedded stack".to_owned(),
    }
}

pub(super) fn is_real(config: &Config) -> bool {
    [&config.source, &config.target].into_iter().any(|side| !matches!(side, Side::Rehearsal(_)))
}

/// Says what happened.
pub(super) fn close(summary: &Summary, begun: Instant, again: &str, terminal: &Terminal) -> Exit {
    let exit = Exit::of(summary);
    terminal.data(&report::summary::text(summary, begun.elapsed(), again));
    terminal.json(&report::json::summary(summary, exit.code()));
    exit
}

/// The journal, locked for this process, made if it is not there.
pub(super) fn open_journal(config: &Config) -> Result<JournalHandle, Failure> {
    let key = match &config.journal.seal_key {
        None => SealKeyRef::Beside,
        Some(reference) => SealKeyRef::Given(reference.resolve(&Env::process()).map_err(|e| {
            let help = e.help();
            Failure::new(Exit::Usage, e, Some(help))
        })?),
    };
    let pins = Pins { items: config.fingerprint() };
    let open = |accept: &[&str]| Journal::open(&config.journal.path, &key, &pins, &Who::current(), accept);
    let opened = match open(&[]) {
        Err(Error { kind: ErrorKind::Changed(changes), .. }) if nothing_begun(config)? => {
            let names: Vec<_> = changes.iter().map(|change| change.key.as_str()).collect();
            open(&names)
        }
        opened => opened,
    };
    Ok(opened?.journal.share()?)
}

/// True when no run has come as far as a device: then the journal may serve another configuration.
fn nothing_begun(config: &Config) -> Result<bool, Failure> {
    Ok(View::open(&config.journal.path)?.devices()?.is_empty())
}

/// The journal when an earlier run made one.
pub(super) fn journal_if_there(config: &Config) -> Result<Option<JournalHandle>, Failure> {
    if View::is_there(&config.journal.path)? { open_journal(config).map(Some) } else { Ok(None) }
}
