//! What belongs to an application besides its devices, carried out: decided and sealed before the first device, created before
//! it (or, for what one device has, after that device), released once the first device is live, and, where the configuration
//! says so, paused or deleted at the source once all devices are done. The same code for every kind (`plan::belongings`).

mod back;
mod carry;
mod clear;
mod contacts;
mod gather;
mod key;
pub(super) mod log;
mod verify;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::sync::OnceCell;

use super::{
    device::Trouble,
    event::{Event, Outcome, Sink},
    guarded::Guarded,
    lock::Lock,
    log::LogError,
    run::Job,
};
use crate::{
    journal::JournalHandle,
    model::{
        belonging::ItemKey,
        ids::{AppId, DeviceId},
    },
    plan::{
        belongings::{self, Decided, Found, ItemPlan, Sort, Verdict},
        facts::Wishes,
        finding::{Finding, Kind},
    },
    tts::{Stack, application::Owner, belongings::Which},
};

/// The word for a contact in plans and summaries.
const CONTACT: &str = "contact";

pub use contacts::are_set as contacts_are_set;
pub use gather::read;
use log::ItemLog;
pub use verify::{VerifiedItem, verify};

/// What was read of the belongings of an application, and what is planned about them.
#[derive(Debug, Default)]
pub struct Belongings {
    /// For people.
    pub plans: Vec<ItemPlan>,
    /// Findings about kinds of them.
    pub findings: Vec<Finding>,
    /// Those that no earlier run has begun, with what would be written.
    fresh: Vec<(Found, Decided, Verdict)>,
    /// Those that an earlier run only sealed and that the source has no more.
    vanished: Vec<ItemKey>,
    /// The packages that the target has, when it was asked.
    packages: Option<BTreeSet<String>>,
    /// How many wait to be cleared at the source.
    to_clear: usize,
    /// Contacts that are set once the collaborators are there.
    contacts: Vec<(&'static str, String)>,
    /// All devices of the source application, chosen or not.
    pub(super) devices: Vec<DeviceId>,
    /// IDs of the API keys with which this program works.
    keys_in_use: BTreeSet<String>,
}

impl Belongings {
    /// True when a run has something to do about them, whatever becomes of devices.
    pub fn have_work(&self) -> bool {
        let open = |verdict| matches!(verdict, Verdict::Create | Verdict::Resume(_) | Verdict::Equal);
        self.to_clear > 0 || self.plans.iter().any(|plan| open(plan.verdict))
    }

    /// How many of them a run is to change something about, whatever becomes of devices.
    pub fn changes(&self) -> usize {
        let open = |verdict| matches!(verdict, Verdict::Create | Verdict::Resume(_));
        self.to_clear + self.plans.iter().filter(|plan| open(plan.verdict)).count()
    }

    /// True when the target gets something before the first device.
    pub fn create(&self) -> bool {
        self.plans.iter().any(|plan| plan.verdict == Verdict::Create && plan.key.device.is_empty())
    }

    /// Adds contacts of the application that are to be set.
    pub(super) fn set_contacts(&mut self, target: &AppId, contacts: Vec<(&'static str, String)>) {
        let plan = |(contact, _): &(&str, String)| ItemPlan {
            key: contact_key(target, contact),
            called: String::new(),
            verdict: Verdict::Create,
            findings: Vec::new(),
        };
        self.plans.extend(contacts.iter().map(plan));
        self.contacts = contacts;
    }

    /// Leaves those alone that no earlier run has begun.
    pub fn only_begun(&mut self) {
        self.contacts.clear();
        let begun = |verdict| matches!(verdict, Verdict::Resume(_) | Verdict::Done);
        self.plans.retain(|plan| begun(plan.verdict));
        self.fresh.clear();
        self.vanished.clear();
    }
}

/// Works on the belongings of one pair of applications. Shared by all who work on its devices.
#[derive(Debug)]
pub struct Keeper {
    /// Nothing for V2, which has nothing of the kind that a clear would take.
    source: Option<Guarded<Stack>>,
    app: AppId,
    target: Guarded<Stack>,
    target_app: AppId,
    journal: JournalHandle,
    log: ItemLog,
    /// Who owns the application on the target, where this journal has made it.
    owner: Option<Owner>,
    wishes: Wishes,
    events: Sink,
    /// The packages that the target has; asked once its application is there.
    packages: OnceCell<Option<BTreeSet<String>>>,
    /// Set once a device is live on the target.
    live: OnceCell<()>,
    outcomes: Mutex<BTreeMap<ItemKey, Outcome>>,
}

impl Keeper {
    /// # Errors
    /// When the journal cannot be read.
    pub async fn of(
        job: &Job,
        journal: &JournalHandle,
        lock: &Lock,
        events: &Sink,
    ) -> Result<Self, LogError> {
        let source = job.source.tts();
        Ok(Self {
            source: source.map(|source| Guarded::new(source.stack().clone(), lock.clone())),
            app: job.source.app().clone(),
            target: Guarded::new(job.target.stack().clone(), lock.clone()),
            target_app: job.target.app().clone(),
            journal: journal.clone(),
            log: ItemLog::open(journal, job.source.app()).await?,
            owner: job.owner.clone(),
            wishes: job.wishes.clone(),
            events: events.clone(),
            packages: OnceCell::new(),
            live: OnceCell::new(),
            outcomes: Mutex::default(),
        })
    }

    /// What became of each of them, by name.
    pub fn outcomes(&self) -> Vec<(String, Outcome)> {
        let outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        outcomes.iter().map(|(key, outcome)| (self.name(key), outcome.clone())).collect()
    }

    /// True when it was worked on in this run, to no good end.
    fn has_failed(&self, item: &ItemKey) -> bool {
        let outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        outcomes
            .get(item)
            .is_some_and(|o| matches!(o, Outcome::Refused(_) | Outcome::Blocked(_) | Outcome::Stopped(_)))
    }

    fn name(&self, item: &ItemKey) -> String {
        belongings::name(&self.target_app, item)
    }

    fn there<'a>(&'a self, sort: &'static Sort, item: &'a ItemKey, name: &'a str) -> Which<'a> {
        Which::there(sort, item, &self.target_app, name)
    }

    fn here<'a>(&'a self, sort: &'static Sort, item: &'a ItemKey) -> Which<'a> {
        Which { sort, app: &self.app, device: &item.device, id: &item.id }
    }

    /// Remembers how it ended, and says so when that is no good end.
    fn ended(&self, item: &ItemKey, outcome: Outcome) {
        if let Some(why) = outcome.wrong(&item.to_string()) {
            self.events.send(Event::Note(format!("{}: {why}", self.target_app)));
        }
        self.outcomes.lock().unwrap_or_else(PoisonError::into_inner).insert(item.clone(), outcome);
    }

    /// What became of it, when the work on it has ended so.
    ///
    /// # Errors
    /// Only when the journal failed: then the run must end.
    fn settle(&self, item: &ItemKey, result: Result<Outcome, Trouble>) -> Result<(), LogError> {
        self.ended(item, result.or_else(Trouble::outcome)?);
        Ok(())
    }
}

/// The name of a contact in plans and summaries. The journal has none: whom it made a collaborator it makes a contact only in
/// the place of the owner, and that is seen on the target.
fn contact_key(target: &AppId, contact: &str) -> ItemKey {
    let id = contact.trim_end_matches("_contact").to_owned();
    ItemKey { target: target.to_string(), sort: CONTACT.to_owned(), device: String::new(), id }
}

/// The kind of a recorded one. A journal of a newer version may have kinds that this one does not know.
fn sort_of(item: &ItemKey) -> Result<&'static Sort, Trouble> {
    Sort::by_name(&item.sort).ok_or_else(|| {
        let text = format!("{item}: this version knows no such thing");
        Trouble::Block(Finding::new(Kind::Refused, text).fix("go on with the version that wrote the journal"))
    })
}

/// What time it is, in seconds since 1970.
fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs().try_into().unwrap_or(i64::MAX))
}

fn edited(item: &ItemKey, text: &str, paths: Vec<String>) -> Finding {
    Finding::new(Kind::ChangedMeanwhile, format!("{item}: {text}")).paths(paths)
}
