//! The fate of every path that is stored at the source: carried, or left with a reason.
//!
//! Records are taken apart here path by path, so that nothing can be left out without somebody having said why (S9).

use std::{
    collections::{BTreeMap, HashMap},
    sync::LazyLock,
};

use prost_reflect::{DynamicMessage, Kind as Type};

use super::{
    MUTE,
    finding::{Finding, Kind},
    queue,
    session::{self, Activation, Carry},
    transform::Found,
};
use crate::{
    map::{
        mask, owner, path,
        replaced::{self, Treatment},
    },
    model::device::{Component, Record},
    proto,
};

/// What becomes of one stored path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is written to the target.
    Carried,
    /// It is left without a finding of its own; why.
    Left(&'static str),
    /// It is left, and a finding of this kind says why.
    Reported(Kind, &'static str),
}

/// What was decided for one device: decides the fate of its paths.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// The device.
    pub found: &'a Found,
    /// What becomes of its session.
    pub carry: Carry,
    /// How it is activated.
    pub activation: Activation,
}

const FOLLOWS: &str = "follows from what is written";
const SERVERS_OWN: &str = "the target's own is written, or set by its server";
const SESSION_STAYS: &str = "goes with the session, which stays behind";
const RESET: &str = "starts anew with the reset";
const JOIN_IN_PROGRESS: &str = "goes with the join that is not complete, of which a finding speaks";
const OWN_FINDING: &str = "has a finding of its own";
const WRAPPED_TOO: &str = "the key is carried in the clear";
const STAYS: &str = "stays with its Join Server: an external one, or one whose root keys cannot be read";
const OTHER_REGISTRY: &str = "is carried by the registry that owns it";
const EMPTY: &str = "an empty message holds nothing";
const ONLY_WRAPPED: &str = "a key is held only wrapped with a key of the source: it cannot be read";
const KEY_ID_OF_NO_JOIN: &str =
    "only a join gives a session key ID: the Network Server refuses it for other devices";
const NO_PATH: &str = "the server has no mask path for it";

/// Where the queue of downlinks may be.
const QUEUES: &[&str] = &[
    "session.queued_application_downlinks",
    "pending_session.queued_application_downlinks",
    "queued_application_downlinks",
];

/// Session parts that `abp-reset` starts anew; so does the whole MAC state.
const RESETS: &[&str] = &[
    "session.last_f_cnt_up",
    "session.last_n_f_cnt_down",
    "session.last_conf_f_cnt_down",
    "session.last_a_f_cnt_down",
    "session.started_at",
];

impl Rules<'_> {
    /// False when the JS record stays where it is: an external one, and one without root keys that can be read, which
    /// would look joinable and never be (facts §4a).
    pub fn writes_js(&self) -> bool {
        !self.found.external_js && !session::lacks_root_keys(self.found)
    }

    /// What becomes of a path that is stored in the record of `component`.
    pub fn fate(&self, component: Component, message: &DynamicMessage, at: &str) -> Fate {
        if component == Component::Js && !self.writes_js() {
            return Fate::Left(STAYS);
        }
        if path::covers("ids", at) {
            return Fate::Left(FOLLOWS);
        }
        if QUEUES.iter().any(|q| path::covers(q, at))
            || (component == Component::Is && path::covers("picture", at))
        {
            return Fate::Left(OWN_FINDING);
        }
        if path::covers(MUTE, at) {
            // Only the muted value is ours; that downlinks are on may be the user's own setting.
            let muted = path::wrapped_flag(message, MUTE) == Some(false);
            return if muted { Fate::Left(OWN_FINDING) } else { Fate::Carried };
        }
        self.session(component, at)
            .or_else(|| self.wrapped(component, message, at))
            .or_else(|| table(component, at))
            .unwrap_or_else(|| self.by_mask(component, message, at))
    }

    /// Sessions, MAC state and joins under way.
    fn session(&self, component: Component, at: &str) -> Option<Fate> {
        let below = |parent| path::covers(parent, at);
        if component == Component::Ns && (below("pending_session") || below("pending_mac_state")) {
            return Some(Fate::Left(JOIN_IN_PROGRESS));
        }
        if !below("session") && !below("mac_state") {
            return None;
        }
        if matches!(self.carry, Carry::Drop | Carry::Nothing) {
            return Some(Fate::Left(SESSION_STAYS));
        }
        if self.carry == Carry::Reset && (below("mac_state") || RESETS.iter().any(|p| below(p))) {
            return Some(Fate::Left(RESET));
        }
        if component == Component::Ns && below("mac_state") {
            return Some(Fate::Carried);
        }
        let joins = !matches!(self.activation, Activation::Abp | Activation::Multicast);
        (!joins && at == session::KEY_ID).then_some(Fate::Reported(Kind::Replaced, KEY_ID_OF_NO_JOIN))
    }

    /// The wrapped form of a key, and its label.
    fn wrapped(&self, component: Component, message: &DynamicMessage, at: &str) -> Option<Fate> {
        let (key, last) = at.rsplit_once('.')?;
        if last != "encrypted_key" && last != "kek_label" {
            return None;
        }
        let readable = path::has(message, &format!("{key}.key"));
        let nothing_wrapped = !path::has(message, &format!("{key}.encrypted_key"));
        Some(if readable || nothing_wrapped {
            Fate::Left(WRAPPED_TOO)
        } else if self.elsewhere_in_session(component, &format!("{key}.key")) {
            Fate::Left(OTHER_REGISTRY)
        } else {
            Fate::Reported(Kind::LeftBehind, ONLY_WRAPPED)
        })
    }

    /// What the registry has a path for is written. An empty message is, where its presence alone says something: as the
    /// member of a `oneof` (`mac_settings.adr.mode.dynamic {}` is dynamic ADR with the defaults of the network).
    fn by_mask(&self, component: Component, message: &DynamicMessage, at: &str) -> Fate {
        if owner::is_writable(component, at) {
            return Fate::Carried;
        }
        if path::child(message, at).is_some_and(|m| m.fields().next().is_none()) {
            let has_path = mask::allowed(owner::set_rpc(component)).contains(&at);
            return if has_path && chooses(at) { Fate::Carried } else { Fate::Left(EMPTY) };
        }
        if self.elsewhere_in_session(component, at) {
            return Fate::Left(OTHER_REGISTRY);
        }
        let reason = UNWRITABLE.get(&component).and_then(|paths| paths.get(at)).copied();
        Fate::Reported(Kind::LeftBehind, reason.unwrap_or(NO_PATH))
    }

    /// NS and AS each show parts of the session that the other owns: true when the owner carries it.
    fn elsewhere_in_session(&self, component: Component, at: &str) -> bool {
        let (other, record) = match component {
            Component::As => (Component::Ns, &self.found.records.ns),
            Component::Ns => (Component::As, &self.found.records.as_),
            _ => return false,
        };
        path::covers("session", at)
            && owner::is_writable(other, at)
            && record.as_ref().is_some_and(|r| path::has(&r.0, at))
    }

    /// The paths that are written: what [`path::project`] takes over.
    pub fn carried(&self, component: Component, record: &Record) -> Vec<String> {
        let stored = path::stored(&record.0).into_iter();
        let carried = stored.filter(|p| self.fate(component, &record.0, p) == Fate::Carried);
        let mut paths: Vec<String> = Vec::new();
        for path in carried {
            // Whole, with everything in it that has no path of its own.
            let whole = component == Component::Ns && path::covers("mac_state", &path);
            let path = if whole { "mac_state".to_owned() } else { path };
            if paths.last() != Some(&path) {
                paths.push(path);
            }
        }
        paths
    }

    /// One finding for each reason for which something of a record is left.
    pub fn findings(&self, component: Component, record: &Record) -> Vec<Finding> {
        let mut findings: Vec<_> = own_findings(component, &record.0).collect();
        let mut reasons: BTreeMap<(Kind, &str), Vec<String>> = BTreeMap::new();
        for path in path::stored(&record.0) {
            if let Fate::Reported(kind, reason) = self.fate(component, &record.0, &path) {
                reasons.entry((kind, reason)).or_default().push(path);
            }
        }
        findings.extend(
            reasons
                .into_iter()
                .map(|((kind, reason), paths)| Finding::new(kind, reason).at(component).paths(paths)),
        );
        findings
    }
}

/// What has a finding of its own kind: the picture, queued downlinks, and a source that was found muted.
fn own_findings(component: Component, message: &DynamicMessage) -> impl Iterator<Item = Finding> {
    let picture = (component == Component::Is && path::has(message, "picture")).then(|| {
        Finding::new(Kind::Picture, "the picture is a reference to the source's own store")
            .at(component)
            .paths(["picture"])
            .fix("allow the loss \"picture\" and upload it on the target by hand")
    });
    let queues: Vec<_> = QUEUES.iter().copied().filter(|q| path::has(message, q)).collect();
    let queued = (!queues.is_empty()).then(|| {
        let fix = "wait until they are sent; or note them (`ttn-lw-cli end-devices downlink list APPLICATION DEVICE`), allow the \
                   loss \"queued-downlinks\", and queue them on the target once the device has gone live there";
        Finding::new(Kind::QueuedDownlinks, queue::words(message, &queues)).at(component).paths(queues).fix(fix)
    });
    let muted = component == Component::Ns && path::wrapped_flag(message, MUTE) == Some(false);
    let muted = muted.then(|| {
        // What this journal has muted is planned as it was before (`engine::device::reread`).
        let text = "it was found muted, and this journal did not do that: another migration, a tool or a person may be moving \
                    it; the copy is not muted";
        Finding::new(Kind::MutedSource, text).at(component).paths([MUTE]).fix(
            "go on with the journal that muted it, or bring it back with that; if no migration of it is under way, unmute it \
             at the source (`ttn-lw-cli end-devices set APPLICATION DEVICE --mac-settings.schedule-downlinks`), or allow the \
             loss \"muted-source\"",
        )
    });
    [picture, queued, muted].into_iter().flatten()
}

/// What [`replaced::table`] says. Addresses are replaced without a word.
fn table(component: Component, at: &str) -> Option<Fate> {
    let row = replaced::find(component, at)?;
    Some(match row.treatment {
        Treatment::Reported => Fate::Reported(Kind::Replaced, row.reason),
        Treatment::TargetsOwn if !row.path.ends_with("_server_address") => {
            Fate::Reported(Kind::Replaced, row.reason)
        }
        Treatment::TargetsOwn | Treatment::Dropped | Treatment::ServerSet => Fate::Left(SERVERS_OWN),
    })
}

/// True when a segment of the path is a `oneof`, whose member is chosen by being there.
fn chooses(at: &str) -> bool {
    let mut descriptor = proto::descriptor("EndDevice");
    for segment in at.split('.') {
        if descriptor.oneofs().any(|o| o.name() == segment) {
            return true;
        }
        match descriptor.get_field_by_name(segment).map(|f| f.kind()) {
            Some(Type::Message(inner)) => descriptor = inner,
            _ => return false,
        }
    }
    false
}

/// The reasons of [`owner::unwritable`] by path.
static UNWRITABLE: LazyLock<HashMap<Component, HashMap<String, &'static str>>> = LazyLock::new(|| {
    let of = |c| owner::unwritable(c).into_iter().map(|u| (u.path, u.reason)).collect();
    Component::ALL.into_iter().map(|c| (c, of(c))).collect()
});
