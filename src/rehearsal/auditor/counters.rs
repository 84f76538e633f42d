//! S4: no counter and no nonce goes back.
//!
//! Two floors are kept for each key. A *side* must never store less than it stored before. A side that is *live* must
//! in addition never store less than any side stored while it was live: what a muted side counts on (uplinks that it
//! still hears, JoinNonces of accepts that it never sends) binds that side alone, as no device has seen an answer, and no
//! longer than the record: one that comes back in a rollback is as it was sealed last.
//!
//! Neither V2 nor The Things Stack has a compare-and-set, so that what happens between a reading and the write after it is lost
//! (docs/strategies.md, "What V2 cannot give"): the counters of a session which began at V2 between the last look and the clear of
//! the AppKey, and an uplink or two that the muted copy hears while its counters are raised.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Promise, Side, State,
    facts::{Counter, Fingerprint, RecordFacts},
};
use crate::model::device::Component;

/// How many DevNonces a Join Server remembers: with so many, older ones may be gone.
const DEV_NONCE_LIMIT: usize = 10;

#[derive(Clone, Default)]
pub struct Floors {
    counters: BTreeMap<(Scope, Fingerprint, Counter), u64>,
    nonces: BTreeMap<(Scope, Fingerprint), BTreeSet<u32>>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Scope {
    Side(Side),
    Live,
}

/// A counter that was read from a record.
struct Reading {
    component: Component,
    key: Fingerprint,
    counter: Counter,
    value: u64,
    live: bool,
    /// It may go back, and the floor with it.
    free: bool,
    /// It may go back to this value, but no further.
    least: Option<u64>,
    /// It may go back by so much.
    slack: u64,
}

/// Uplinks that a muted copy hears between the reading and the writing of its counters, at most.
const HEARD_MEANWHILE: u64 = 2;

/// The DevNonces that a Join Server remembers for a root key, and whether that key is live.
type UsedNonces = (Fingerprint, BTreeSet<u32>, bool);

impl State {
    pub(super) fn check_counters(&mut self, side: Side, ns_key: &str) {
        self.note_young(side, ns_key);
        let (readings, nonces) = self.read(side, ns_key);
        for reading in readings {
            for scope in scopes(side, reading.live) {
                if let Some(floor) = self.floors.raise(scope, &reading) {
                    let Reading { component, counter, value, .. } = reading;
                    let what = format!("{component} `{}` went back from {floor} to {value}", counter.path());
                    self.breach(Promise::S4, side, ns_key, what);
                }
            }
        }
        for (key, used, live) in nonces {
            for scope in scopes(side, live) {
                if self.floors.forgets(scope, key, &used) {
                    let what = "JS `used_dev_nonces` lacks nonces that were used".to_owned();
                    self.breach(Promise::S4, side, ns_key, what);
                }
            }
        }
    }

    /// Notes a session of V2 that was not there before, and that the copy on the target cannot have.
    fn note_young(&mut self, side: Side, ns_key: &str) {
        let Some(ns) = self.side(side).get(Component::Ns, ns_key).map(|kept| &kept.facts) else { return };
        let copied = self.side(side.other()).by_euis(Component::Is, &ns.euis).is_some();
        if let Some(key) = ns.session.filter(|key| ns.is_v2 && copied && !self.floors.knows(side, *key)) {
            self.young.insert(key);
        }
    }

    fn read(&self, side: Side, ns_key: &str) -> (Vec<Reading>, Vec<UsedNonces>) {
        let state = self.side(side);
        let live = state.live(ns_key);
        let ns = state.get(Component::Ns, ns_key).map(|kept| &kept.facts);
        let as_ = state.get(Component::As, ns_key).map(|kept| &kept.facts);
        let js = match ns {
            Some(ns) => state.by_euis(Component::Js, &ns.euis).map(|(_, kept)| &kept.facts),
            None => state.get(Component::Js, ns_key).map(|kept| &kept.facts),
        };
        let reset = ns.and_then(|ns| ns.euis.dev_eui).is_some_and(|eui| self.terms.reset.contains(&eui));
        let of_v2 = |ns: &RecordFacts| {
            let there = self.side(side.other()).by_euis(Component::Is, &ns.euis);
            there.is_some_and(|(_, is)| is.facts.is_v2)
        };
        let written_over = |ns: &RecordFacts| {
            ns.is_v2 && js.is_none() && ns.session.is_some_and(|key| self.young.contains(&key))
        };
        let mut readings = Vec::new();
        if let Some((ns, key)) = ns.and_then(|ns| ns.session.map(|key| (ns, key))) {
            for counter in [Counter::FCntUp, Counter::NFCntDown, Counter::ConfFCntDown] {
                readings.push(Reading {
                    component: Component::Ns,
                    key,
                    counter,
                    value: ns.counter(counter),
                    live: live.sessions.contains(&key),
                    free: reset || (counter == Counter::FCntUp && ns.resets_f_cnt) || written_over(ns),
                    least: None,
                    slack: match counter {
                        Counter::FCntUp if !ns.may_send && of_v2(ns) => HEARD_MEANWHILE,
                        _ => 0,
                    },
                });
            }
        }
        if let Some((as_, key)) = as_.and_then(|as_| as_.app_session.map(|key| (as_, key))) {
            readings.push(Reading {
                component: Component::As,
                key,
                counter: Counter::AFCntDown,
                value: as_.counter(Counter::AFCntDown),
                live: ns.and_then(|ns| ns.session).is_some_and(|s| live.sessions.contains(&s)),
                free: reset || ns.is_some_and(written_over),
                slack: 0,
                // In 1.0.x the AS follows the network's counter, also back from what it only queued.
                least: ns.filter(|ns| ns.shared_f_cnt_down).map(|ns| ns.counter(Counter::NFCntDown)),
            });
        }
        let mut nonces = Vec::new();
        let js = js.filter(|js| !js.is_v2);
        for (js, key) in js.iter().flat_map(|js| js.roots.iter().map(move |key| (js, *key))) {
            let js: &RecordFacts = js;
            let live = live.roots.contains(&key);
            for (counter, free) in [(Counter::JoinNonce, false), (Counter::DevNonce, js.resets_join_nonces)] {
                let value = js.counter(counter);
                let component = Component::Js;
                readings.push(Reading { component, key, counter, value, live, free, least: None, slack: 0 });
            }
            nonces.push((key, js.used_dev_nonces.clone(), live));
        }
        (readings, nonces)
    }
}

fn scopes(side: Side, live: bool) -> impl Iterator<Item = Scope> {
    [Some(Scope::Side(side)), live.then_some(Scope::Live)].into_iter().flatten()
}

impl Floors {
    /// True when the side has had this session before.
    pub fn knows(&self, side: Side, session: Fingerprint) -> bool {
        self.counters.contains_key(&(Scope::Side(side), session, Counter::FCntUp))
    }

    /// A record is gone from a side: what it alone has counted is gone with it.
    pub fn forget(&mut self, side: Side, record: &RecordFacts) {
        let keys = record.sessions().chain(record.app_session).chain(record.roots.iter().copied());
        let keys: BTreeSet<_> = keys.collect();
        self.counters.retain(|(scope, key, _), _| *scope != Scope::Side(side) || !keys.contains(key));
        self.nonces.retain(|(scope, key), _| *scope != Scope::Side(side) || !keys.contains(key));
    }

    /// Raises a floor. When the reading is below it and must not be: the floor that was broken.
    fn raise(&mut self, scope: Scope, reading: &Reading) -> Option<u64> {
        let floor = self.counters.entry((scope, reading.key, reading.counter)).or_default();
        let before = std::mem::replace(floor, reading.value);
        let allowed = reading.free
            || reading.value.saturating_add(reading.slack) >= before
            || reading.least.is_some_and(|n| reading.value >= n);
        if allowed {
            return None;
        }
        *floor = before;
        Some(before)
    }

    /// True when a nonce that was seen is missing, and not only because the list is full.
    fn forgets(&mut self, scope: Scope, key: Fingerprint, used: &BTreeSet<u32>) -> bool {
        let seen = self.nonces.entry((scope, key)).or_default();
        let missing = !seen.is_subset(used);
        if missing && used.len() < DEV_NONCE_LIMIT {
            return true;
        }
        seen.clone_from(used);
        false
    }
}
