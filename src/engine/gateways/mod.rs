//! Gateways: registered on the target before the first device, with the API keys that the configuration asks for, each step
//! in the journal (`step::belonging`) as for what belongs to an application. The source is only read.

mod back;
mod carry;
mod clear;
mod gather;
mod keys_file;
mod redirect;
mod rights;
pub mod wait;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use glob::Pattern;
use prost_reflect::DynamicMessage;
use tokio_util::sync::CancellationToken;

use super::{
    belongings::log::ItemLog,
    device::Trouble,
    event::{Event, Outcome, Sink},
    guarded::Guarded,
    lock::{Lock, Terms},
    log::LogError,
    run::{Job, RunError},
};
use crate::{
    journal::JournalHandle,
    map::path,
    model::{belonging::ItemKey, gateway::GatewayKey, ids::AppId},
    plan::{
        belongings::Verdict,
        gateways::{self, Decided, Found, GatewaysPlan, Wishes, redirect::Redirect, settings::Settings},
        transform::Write,
    },
    step::belonging::{ItemState, ItemStep},
    tts::{Stack, application::Owner},
};

pub use back::GatewayReturn;
pub use gather::{found, moving, read, to_clear};

/// Which gateways.
#[derive(Debug, Clone)]
pub enum Which {
    /// These IDs.
    Ids(BTreeSet<String>),
    /// Those that the key can list and whose ID has one of these shapes.
    Glob(Vec<Pattern>),
    /// All of a user or an organization of the source.
    Owner(Owner),
    /// These, of which the source knows nothing.
    Listed(Vec<Found>),
}

/// The gateways to register.
#[derive(Debug)]
pub struct GatewayJob {
    /// Where from; nothing for V2.
    pub source: Option<Stack>,
    /// Where to.
    pub target: Stack,
    /// Who owns them there.
    pub owner: Option<Owner>,
    /// Which.
    pub which: Which,
    /// What the user wants.
    pub wishes: Wishes,
    /// How long a run waits for them before sessions go along.
    pub wait: Option<Duration>,
    /// The file of the new API keys.
    pub keys_file: PathBuf,
    /// Certificates of the authorities of the target, when they are not those of the system.
    pub ca: Option<String>,
    /// No more than this.
    pub max: u64,
    /// Calls at once.
    pub in_flight: usize,
}

/// A gateway that no earlier run has begun.
pub type Fresh = (Found, Decided, Verdict);

/// The kind of a gateway in the journal.
const GATEWAY: &str = "gateway";
/// The kind of an API key in the journal.
pub const KEY: &str = "gateway-key";
/// What CUPS hands to a gateway.
const LNS_SECRET: &str = "lbs_lns_secret";
/// Their message.
const MESSAGE: &str = "Gateway";

/// Where the journal keeps gateways: under an ID that no application has.
fn place() -> AppId {
    AppId::unchecked("[gateways]")
}

/// True for the ID under which the journal keeps gateways.
pub fn are_in(application: &AppId) -> bool {
    *application == place()
}

/// Gateways go to no application.
fn nowhere() -> AppId {
    AppId::unchecked("")
}

fn item(gateway: &str) -> ItemKey {
    ItemKey { target: String::new(), sort: GATEWAY.to_owned(), device: String::new(), id: gateway.to_owned() }
}

fn key_item(gateway: &str, kind: GatewayKey) -> ItemKey {
    ItemKey { sort: KEY.to_owned(), id: format!("{gateway}/{}", kind.word()), ..item(gateway) }
}

/// The log of gateways.
///
/// # Errors
/// When the journal cannot be read.
async fn open(journal: &JournalHandle) -> Result<ItemLog, LogError> {
    ItemLog::open(journal, &place()).await
}

/// Gateways of which something is recorded.
fn known(log: &ItemLog) -> Vec<(ItemKey, ItemState)> {
    let mut known = log.known(&nowhere());
    known.retain(|(item, _)| item.sort == GATEWAY);
    known
}

/// True when nothing is left to do about a gateway and its API keys.
///
/// # Errors
/// When the journal cannot be read.
async fn is_done(job: &GatewayJob, log: &ItemLog, item: &ItemKey) -> Result<bool, LogError> {
    let state = log.state(item);
    let keyed = |kind: &GatewayKey| log.state(&key_item(&item.id, *kind)).key().is_some();
    if state.is_matched() {
        return Ok(true);
    }
    let is_there = state.is_there() && job.wishes.api_keys.iter().all(keyed);
    Ok(is_there && redirect::left(job, log, item).await? != Redirect::Set)
}

/// True for the statistics of a gateway that is connected now: they are kept for a while after it has left, then without
/// `connected_at` (docs/servers.md, Gateways).
fn is_connected(stats: &DynamicMessage) -> bool {
    path::has(stats, "connected_at") && !path::has(stats, "disconnected_at")
}

/// What is there at the end: with the new LNS API key, where that takes the place of the source's.
async fn last_write(log: &ItemLog, item: &ItemKey, write: &Write) -> Result<Write, LogError> {
    if !log.state(item).is_held() {
        return Ok(write.clone());
    }
    let key = log.key(&key_item(&item.id, GatewayKey::Lns)).await?;
    Ok(gateways::with_lns_secret(write.clone(), key.as_ref().map(|key| key.reveal())))
}

/// What was found of one of them on the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedGateway {
    /// Its ID at the source.
    pub id: String,
    /// Paths that are not as they were written; empty when all is well.
    pub differences: Vec<String>,
}

/// Compares all that the journal has registered, or found there, with what is on the target.
///
/// # Errors
/// When the journal or the target cannot be read.
pub async fn verify(job: &GatewayJob, journal: &JournalHandle) -> Result<Vec<VerifiedGateway>, RunError> {
    let log = open(journal).await?;
    let mut all = Vec::new();
    for (item, state) in known(&log) {
        if !state.is_matched() && !state.has(ItemStep::Create) {
            continue;
        }
        let sealed = log.sealed_as(MESSAGE, &item).await?;
        let write =
            if state.is_there() { last_write(&log, &item, &sealed.write).await? } else { sealed.write };
        let there = job.target.gateway(&sealed.target_name, &gateways::whole()).await?;
        let differences = match there {
            Some(there) => gateways::edited(&write, &there),
            None => vec!["it is gone".to_owned()],
        };
        all.push(VerifiedGateway { id: item.id, differences });
    }
    Ok(all)
}

/// Works on the gateways of a run.
#[derive(Debug)]
pub struct GatewayKeeper<'a> {
    job: &'a GatewayJob,
    target: Guarded<Stack>,
    source: Option<Guarded<Stack>>,
    log: ItemLog,
    /// Eight characters that tell the keys of this journal from others.
    run: String,
    events: Sink,
    outcomes: Mutex<BTreeMap<String, Outcome>>,
}

impl<'a> GatewayKeeper<'a> {
    /// `lock` is that of the first application.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub async fn of(
        job: &'a GatewayJob,
        journal: &JournalHandle,
        lock: &Lock,
        events: &Sink,
    ) -> Result<Self, LogError> {
        let run: String = journal.read(|j| Ok(j.run_id())).await?.chars().take(8).collect();
        Ok(Self {
            job,
            target: Guarded::new(job.target.clone(), lock.clone()),
            source: job.source.clone().map(|source| Guarded::new(source, lock.clone())),
            log: open(journal).await?,
            run,
            events: events.clone(),
            outcomes: Mutex::default(),
        })
    }

    /// What became of each, by its ID at the source.
    pub fn outcomes(&self) -> Vec<(String, Outcome)> {
        let outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        outcomes.iter().map(|(id, outcome)| (id.clone(), outcome.clone())).collect()
    }

    fn ended(&self, gateway: &str, outcome: Outcome) {
        if let Some(why) = outcome.wrong(&format!("gateway {gateway}")) {
            self.events.send(Event::Note(why));
        }
        self.outcomes.lock().unwrap_or_else(PoisonError::into_inner).insert(gateway.to_owned(), outcome);
    }

    /// # Errors
    /// Only when the journal failed: then the run must end.
    fn settle(&self, gateway: &str, result: Result<Outcome, Trouble>) -> Result<(), LogError> {
        self.ended(gateway, result.or_else(Trouble::outcome)?);
        Ok(())
    }

    /// What has to be changed in the settings of each gateway that is on the target, by its ID at the source.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub async fn settings(&self) -> Result<Vec<(String, Settings)>, LogError> {
        let mut all = Vec::new();
        for (item, state) in known(&self.log) {
            if !state.is_matched() && !state.has(ItemStep::Create) {
                continue;
            }
            let sealed = self.log.sealed_as(MESSAGE, &item).await?;
            let id = |kind| self.log.state(&key_item(&item.id, kind)).key().map(|(id, _)| (kind, id.clone()));
            let settings = Settings {
                id: sealed.target_name,
                eui: gateways::eui(&sealed.write.message),
                host: self.job.target.gateway_server.clone(),
                cups_host: self.job.target.gateway_server.clone(),
                keys: [GatewayKey::Lns, GatewayKey::Cups].into_iter().filter_map(id).collect(),
                keys_file: self.job.keys_file.display().to_string(),
                ca: self.job.ca.clone(),
                authenticated: path::flag(&sealed.write.message, "require_authenticated_connection"),
                redirected: state.has(ItemStep::Redirect),
            };
            all.push((item.id, settings));
        }
        Ok(all)
    }
}

/// What a run did about gateways.
#[derive(Debug, Clone, Default)]
pub struct Registered {
    /// How each ended, by its ID at the source.
    pub outcomes: Vec<(String, Outcome)>,
    /// What has to be changed in the settings of each, by its ID at the source.
    pub settings: Vec<(String, Settings)>,
    /// How the clear at the source ended for each, by its ID there.
    pub cleared: Vec<(String, Outcome)>,
}

/// What a run needs to register gateways.
#[derive(Debug)]
pub struct Registration<'a> {
    /// Which, and where.
    pub job: &'a GatewayJob,
    /// What was planned.
    pub plan: &'a GatewaysPlan,
    /// Those that no earlier run has begun.
    pub fresh: &'a [Fresh],
}

impl Registration<'_> {
    /// Registers them, under the lock of the first application where it is there yet.
    ///
    /// # Errors
    /// When the journal or the file of keys cannot be written.
    pub async fn carry_out(
        self,
        (first, exists): (&Job, bool),
        journal: &JournalHandle,
        terms: &Terms,
        events: &Sink,
        stop: &super::run::Stop,
    ) -> Result<Registered, RunError> {
        let abort: CancellationToken = stop.abort.child_token();
        let lock = Lock::of_those_there(first, exists, terms, events, &abort);
        let keeper = GatewayKeeper::of(self.job, journal, &lock, events).await?;
        if !stop.drain.is_cancelled() {
            tokio::select! {
                biased;
                done = keeper.register(self.plan, self.fresh, &stop.drain) => done?,
                () = abort.cancelled() => if let Some(trouble) = lock.trouble() {
                    events.send(Event::Note(format!("gateways were not registered: {trouble}")));
                    keeper.stopped(self.plan, &trouble.to_string());
                },
            }
        }
        if self.plan.have_work() {
            lock.give_back(stop).await;
        }
        keeper.write_keys().await?;
        let settings = keeper.settings().await?;
        Ok(Registered { outcomes: keeper.outcomes(), settings, cleared: Vec::new() })
    }
}
