//! Watches what two deployments store, and reports the first moment at which a promise of safety is broken.
//!
//! It knows only the stored records: no plan, no journal. It keeps its own copy of both sides under one lock, which is
//! the innermost one: its watchers run while a store is locked, and it never locks a store.
//!
//! The promises are those of SAFETY.md: S1 clear last, S2 never live twice, S3 never live nowhere, S4 counters never
//! go back. *Live* means: holds a root key or a session, and may send downlinks.

mod complete;
mod counters;
mod facts;
mod proof;
mod v2;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use prost_reflect::DynamicMessage;

use super::store::{Change, Store, Table, Tables};
use crate::model::{device::Component, ids::Eui64};
use counters::Floors;
use facts::{Euis, Fingerprint, RecordFacts};

pub use proof::{Proof, prove_alive};

/// Which deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// Where the devices come from.
    Source,
    /// Where they go.
    Target,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::Source => Self::Target,
            Self::Target => Self::Source,
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Target => "target",
        })
    }
}

/// A promise of SAFETY.md that stored records can show to be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Promise {
    /// Clear last.
    S1,
    /// Never live twice.
    S2,
    /// Never live nowhere.
    S3,
    /// Counters never go back.
    S4,
}

/// A broken promise. It holds no key: paths and counters only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breach {
    /// Which promise.
    pub promise: Promise,
    /// On which side it was seen.
    pub side: Side,
    /// `application_id.device_id` on that side.
    pub device: String,
    /// The device, where it has a DevEUI.
    pub dev_eui: Option<Eui64>,
    /// What happened.
    pub what: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { promise, side, device, dev_eui, what } = self;
        let eui = dev_eui.map(|eui| format!(" ({eui})")).unwrap_or_default();
        write!(f, "{promise:?}: {device}{eui} at the {side}: {what}")
    }
}

/// What the run that is watched may do beyond the rules.
#[derive(Debug, Clone, Default)]
pub struct Terms {
    /// Source and target are one deployment: records must be deleted before they can be created, so S1 is not watched
    /// (the sealed snapshot takes the target's place).
    pub swap: bool,
    /// Field paths, or parents of them, that the run replaces or is allowed to lose.
    pub replaced: BTreeSet<String>,
    /// DevEUIs of devices whose session counters start anew on the target, as they are reset by hand.
    pub reset: BTreeSet<Eui64>,
}

/// Watches two sides. Clones watch together.
#[derive(Clone)]
pub struct Auditor(Arc<Mutex<State>>);

impl fmt::Debug for Auditor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auditor").field("breaches", &self.state().breaches).finish()
    }
}

impl Auditor {
    /// An auditor that has seen nothing yet.
    pub fn new(terms: Terms) -> Self {
        Self(Arc::new(Mutex::new(State {
            terms,
            protected: Side::Source,
            sides: [SideState::default(), SideState::default()],
            floors: Floors::default(),
            young: BTreeSet::new(),
            ever_live: BTreeMap::new(),
            breaches: Vec::new(),
        })))
    }

    /// Takes in what a store holds, a The Things Stack's or a V2's, and watches it from now on. With an application ID only its
    /// devices: in a swap, source and target are two applications of one store.
    pub fn attach(&self, side: Side, store: &mut Store, application_id: Option<&str>) {
        let application = application_id.map(|id| format!("{id}."));
        let ours = move |key: &str| {
            // The marker of a run comes and goes: it is no device.
            !key.ends_with(".stackferry-lock")
                && application.as_ref().is_none_or(|prefix| key.starts_with(prefix.as_str()))
        };
        for component in [Component::Is, Component::Js, Component::As, Component::Ns] {
            let records = store.tables().get(&Table::of(component)).into_iter().flatten();
            for (key, record) in records.filter(|(key, _)| ours(key)) {
                self.state().note(side, component, key, Some(Kept::read(record)));
            }
        }
        for (key, _) in store.iter(Table::V2Devices).filter(|(key, _)| ours(key)) {
            self.state().note_v2(side, store.tables(), key);
        }
        let auditor = self.clone();
        store.watch(move |tables: &Tables, change: &Change<'_>| {
            if let Some(key) = v2::device_of(tables, change).filter(|key| ours(key)) {
                auditor.state().note_v2(side, tables, &key);
            }
            let component = Component::ALL.into_iter().find(|c| Table::of(*c) == change.table);
            if let Some(component) = component.filter(|_| ours(change.key)) {
                let now = tables.get(&change.table).and_then(|entries| entries.get(change.key));
                auditor.state().note(side, component, change.key, now.map(Kept::read));
            }
        });
    }

    /// All that it has seen so far, to come back to with [`Auditor::restore`]: it watches nothing.
    #[must_use]
    pub fn copy(&self) -> Self {
        Self(Arc::new(Mutex::new(self.state().clone())))
    }

    /// Forgets everything that was seen since `copy` was made.
    pub fn restore(&self, copy: &Self) {
        let state = copy.state().clone();
        *self.state() = state;
    }

    /// From now on S1 protects this side: a rollback clears the target, and only once the source holds everything.
    pub fn protect(&self, side: Side) {
        self.state().protected = side;
    }

    /// What was broken so far, in order.
    pub fn breaches(&self) -> Vec<Breach> {
        self.state().breaches.clone()
    }

    /// The run is over: adds a breach of S3 for every device that was live once and is live nowhere now.
    pub fn finish(&self) -> Vec<Breach> {
        let mut state = self.state();
        state.find_the_dead();
        state.breaches.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone)]
struct State {
    terms: Terms,
    protected: Side,
    sides: [SideState; 2],
    floors: Floors,
    /// Sessions that began at V2 when the target had its copy already (`counters`).
    young: BTreeSet<Fingerprint>,
    /// What each device has been live with, by side and key.
    ever_live: BTreeMap<(Side, String), Live>,
    breaches: Vec<Breach>,
}

/// The records of one side by component and key.
#[derive(Clone, Default)]
struct SideState {
    now: BTreeMap<(Component, String), Arc<Kept>>,
    /// The last that was held before something was taken away.
    held: BTreeMap<(Component, String), Arc<Kept>>,
    /// Where to find records by EUIs.
    by_euis: BTreeMap<(Component, Euis), String>,
    /// What each NS record is live with.
    live_now: BTreeMap<String, Live>,
    /// What is live, and in which NS records.
    alive: BTreeMap<Fingerprint, BTreeSet<String>>,
}

struct Kept {
    message: Arc<DynamicMessage>,
    facts: RecordFacts,
}

impl Kept {
    fn read(message: &Arc<DynamicMessage>) -> Self {
        Self { message: Arc::clone(message), facts: RecordFacts::read(message) }
    }
}

/// What a device may use to send and be sent to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Live {
    roots: BTreeSet<Fingerprint>,
    sessions: BTreeSet<Fingerprint>,
}

impl Live {
    fn all(&self) -> impl Iterator<Item = Fingerprint> {
        self.roots.iter().chain(&self.sessions).copied()
    }
}

impl SideState {
    fn get(&self, component: Component, key: &str) -> Option<&Kept> {
        self.now.get(&(component, key.to_owned())).map(Arc::as_ref)
    }

    /// The JS or NS record with these EUIs: join messages find it by nothing else.
    fn by_euis(&self, component: Component, euis: &Euis) -> Option<(&str, &Kept)> {
        let key = self.by_euis.get(&(component, *euis))?;
        self.get(component, key).map(|kept| (key.as_str(), kept))
    }

    fn set(&mut self, place: (Component, String), kept: Option<Arc<Kept>>) {
        let (component, key) = &place;
        if let Some(euis) = kept.as_ref().map(|kept| kept.facts.euis).filter(|euis| euis.dev_eui.is_some()) {
            self.by_euis.insert((*component, euis), key.clone());
        }
        match kept {
            Some(kept) => self.now.insert(place, kept),
            None => self.now.remove(&place),
        };
    }

    /// Brings what is live up to date after a change at this device, and returns it.
    fn refresh(&mut self, ns_key: &str) -> Live {
        let live = self.live(ns_key);
        let before = self.live_now.insert(ns_key.to_owned(), live.clone()).unwrap_or_default();
        for fingerprint in before.all() {
            let keys = self.alive.entry(fingerprint).or_default();
            keys.remove(ns_key);
            if keys.is_empty() {
                self.alive.remove(&fingerprint);
            }
        }
        for fingerprint in live.all() {
            self.alive.entry(fingerprint).or_default().insert(ns_key.to_owned());
        }
        live
    }

    /// What the device of an NS record is live with.
    fn live(&self, ns_key: &str) -> Live {
        let Some(ns) = self.get(Component::Ns, ns_key).filter(|ns| ns.facts.may_send) else {
            return Live::default();
        };
        let js = self.by_euis(Component::Js, &ns.facts.euis).filter(|_| ns.facts.supports_join);
        Live {
            roots: js.map(|(_, js)| js.facts.roots.clone()).unwrap_or_default(),
            sessions: ns.facts.sessions().collect(),
        }
    }
}

impl State {
    fn side(&self, side: Side) -> &SideState {
        &self.sides[usize::from(side == Side::Target)]
    }

    fn side_mut(&mut self, side: Side) -> &mut SideState {
        &mut self.sides[usize::from(side == Side::Target)]
    }

    fn note_v2(&mut self, side: Side, tables: &Tables, key: &str) {
        for (component, now) in v2::records(tables, key) {
            let is_there = now.is_some() || self.side(side).get(component, key).is_some();
            if is_there {
                self.note(side, component, key, now);
            }
        }
    }

    fn note(&mut self, side: Side, component: Component, key: &str, now: Option<Kept>) {
        let place = (component, key.to_owned());
        let now = now.map(Arc::new);
        let before = self.side(side).now.get(&place).cloned();
        let lost = before
            .as_ref()
            .and_then(|before| facts::loss(&before.message, now.as_ref().map(|n| n.message.as_ref())));
        if let (Some(before), None) = (&before, &now) {
            self.floors.forget(side, &before.facts);
        }
        let state = self.side_mut(side);
        state.set(place.clone(), now.clone());
        if lost.is_none()
            && let Some(kept) = &now
        {
            state.held.insert(place, Arc::clone(kept));
        }
        let ns_key = self.ns_key(side, component, key, now.as_deref().or(before.as_deref()));
        self.check_counters(side, &ns_key);
        self.check_live(side, &ns_key);
        if let Some(lost) = lost.filter(|_| side == self.protected && !self.terms.swap) {
            self.check_complete(side, component, key, &lost);
        }
    }

    /// The NS record that goes with this one: the same EUIs for JS, the same key otherwise.
    fn ns_key(&self, side: Side, component: Component, key: &str, record: Option<&Kept>) -> String {
        let by_euis = record.filter(|_| component == Component::Js).and_then(|kept| {
            self.side(side).by_euis(Component::Ns, &kept.facts.euis).map(|(key, _)| key.to_owned())
        });
        by_euis.unwrap_or_else(|| key.to_owned())
    }

    fn check_live(&mut self, side: Side, ns_key: &str) {
        let live = self.side_mut(side).refresh(ns_key);
        let alive = &self.side(side.other()).alive;
        let twice = |keys: &BTreeSet<Fingerprint>| keys.iter().any(|key| alive.contains_key(key));
        let twice = match (twice(&live.roots), twice(&live.sessions)) {
            (true, _) => Some("root key"),
            (false, true) => Some("session"),
            (false, false) => None,
        };
        let ever = self.ever_live.entry((side, ns_key.to_owned())).or_default();
        ever.roots.extend(live.roots);
        ever.sessions.extend(live.sessions);
        if let Some(what) = twice {
            let other = side.other();
            self.breach(Promise::S2, side, ns_key, format!("its {what} is live at the {other} as well"));
        }
    }

    fn find_the_dead(&mut self) {
        let alive = |keys: &BTreeSet<Fingerprint>| {
            keys.iter().any(|key| self.sides.iter().any(|side| side.alive.contains_key(key)))
        };
        // A device that can join goes on as long as it can join: sessions come and go.
        let dead: Vec<(Side, String)> = self
            .ever_live
            .iter()
            .filter(|(_, ever)| match ever.roots.is_empty() {
                true => !ever.sessions.is_empty() && !alive(&ever.sessions),
                false => !alive(&ever.roots),
            })
            .map(|(place, _)| place.clone())
            .collect();
        for (side, key) in dead {
            self.breach(Promise::S3, side, &key, "was live, and is live on neither side now".to_owned());
        }
    }

    /// Records a breach once.
    fn breach(&mut self, promise: Promise, side: Side, device: &str, what: String) {
        let state = self.side(side);
        let euis = Component::ALL
            .into_iter()
            .find_map(|c| state.held.get(&(c, device.to_owned())).and_then(|kept| kept.facts.euis.dev_eui));
        let breach = Breach { promise, side, device: device.to_owned(), dev_eui: euis, what };
        if !self.breaches.contains(&breach) {
            self.breaches.push(breach);
        }
    }
}

#[cfg(test)]
mod tests;
