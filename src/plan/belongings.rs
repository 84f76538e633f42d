//! What belongs to an application besides its devices: its link, webhooks, pub/subs, associations of packages, activation settings,
//! collaborators, API keys.
//!
//! A kind of them is a [`Sort`]: a table of how it is called, listed, read, set and deleted, and of what in it is never
//! copied. Everything else is the same for all: [`transform`] decides what is written and what is a finding,
//! [`differences`] compares, `tts::belongings` calls, `engine::belongings` carries out, `step::belonging` remembers.

pub mod api_key;
pub mod collaborator;
pub mod link;
pub mod package;
pub mod pubsub;
pub mod rights;
pub mod sealed;
pub mod settings;
mod sort;
#[cfg(test)]
mod tests;
pub mod webhook;

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
};

use prost_reflect::{DynamicMessage, ReflectMessage as _, Value};

use super::{
    facts::Wishes,
    finding::{Finding, Kind},
    transform::Write,
};
use crate::{
    map::{diff, path, rules, unknown},
    model::{belonging::ItemKey, ids::AppId},
    proto,
};
pub use sort::{Cleared, Ids, Method, Pause, SORTS, Sort};

/// What the target said of itself that matters here.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Mask paths that its version does not know, by the name of the kind.
    pub refused: HashMap<&'static str, Vec<String>>,
    /// The packages that it has; `None` when it was not asked.
    pub packages: Option<BTreeSet<String>>,
    /// Providers of pub/subs that it has switched off.
    pub disabled: Vec<&'static str>,
    /// The rights of our key on the application; `None` when that is yet to be created.
    pub rights: Option<BTreeSet<String>>,
    /// IDs of the API keys with which this program works.
    pub keys_in_use: BTreeSet<String>,
    /// IDs of the API keys that webhooks of the source which are copied hand out for downlinks.
    pub downlink_keys: BTreeSet<String>,
    /// What time it is, in seconds since 1970.
    pub now: i64,
}

/// A belonging as it was found at the source.
#[derive(Clone)]
pub struct Found {
    /// Which.
    pub key: ItemKey,
    /// Its kind.
    pub sort: &'static Sort,
    /// What it is called on the target where that differs: the device's ID, the account of a collaborator, the ID of an API key.
    /// Empty for what else the application has, for a collaborator whom nobody has mapped, and for a key that is yet to be made.
    pub target_name: String,
    /// All of it. Any part may be a secret.
    pub message: DynamicMessage,
}

impl Found {
    /// What people call it, where its identifier tells them little.
    pub fn called(&self) -> String {
        if self.sort.ids == Ids::Key { path::string(&self.message, "name") } else { String::new() }
    }

    /// How it is spoken of.
    pub fn title(&self) -> String {
        match self.called() {
            name if name.is_empty() => self.key.to_string(),
            name => format!("{} ({name})", self.key),
        }
    }
}

impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Found({})", self.key)
    }
}

/// What is to be done about a belonging.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is created.
    Create,
    /// An earlier run began; this one goes on. The word for where it stands.
    Resume(&'static str),
    /// An earlier run finished it.
    Done,
    /// It is there as it should be, and not by us.
    Equal,
    /// Something else is there under its name, and stays.
    Differs,
    /// It stays behind, as it should: see its findings.
    Leave,
    /// It is not copied: see its findings.
    Stop,
}

impl Verdict {
    /// The word for it in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Resume(_) => "resume",
            Self::Done => "done",
            Self::Equal => "equal",
            Self::Differs => "differs",
            Self::Leave => "leave",
            Self::Stop => "stop",
        }
    }
}

/// What becomes of a belonging, for people. No secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemPlan {
    /// Which.
    pub key: ItemKey,
    /// What people call it, where its identifier tells them little; or empty.
    pub called: String,
    /// What will be done.
    pub verdict: Verdict,
    /// Everything worth saying.
    pub findings: Vec<Finding>,
}

/// What is written of a belonging.
#[derive(Debug, Clone)]
pub struct Decided {
    /// Message and paths; the API key is not in it.
    pub write: Write,
    /// True when a new API key is made for it.
    pub wants_key: bool,
    /// Everything worth saying.
    pub findings: Vec<Finding>,
}

impl Decided {
    /// The finding for which it is not copied.
    pub fn blocked(&self) -> bool {
        self.findings.iter().any(Finding::blocks)
    }

    /// True when it stays behind without anything to be done about it.
    pub fn left(&self) -> bool {
        !self.blocked() && self.findings.iter().any(leaves)
    }
}

fn leaves(finding: &Finding) -> bool {
    matches!(finding.kind, Kind::UnmappedPerson | Kind::KeyLeft)
}

/// Decides what is written to the target for what was found. Every stored path is in the write, in a finding, or in
/// [`Sort::left`].
pub fn transform(found: &Found, facts: &Facts, wishes: &Wishes) -> Decided {
    let Found { sort, message, .. } = found;
    let mut findings = common(found, facts);
    findings.extend((sort.look)(message, facts));
    if findings.iter().any(|f| f.kind == Kind::KeyLeft) {
        // What else could be said of it does not matter.
        findings.retain(|f| f.kind == Kind::KeyLeft);
    }
    let (name, title) = (&found.key, found.title());
    for finding in &mut findings {
        finding.text = format!("{title}: {}", finding.text);
    }
    let mut findings: Vec<_> = findings.into_iter().map(|f| f.allow(&wishes.allowed)).collect();
    // What a loss that is allowed names is left out.
    let lost: Vec<_> = findings.iter().filter(|f| !f.blocks()).flat_map(|f| f.paths.clone()).collect();
    let is_lost = |p: &str| lost.iter().any(|l| path::covers(l, p) || path::covers(p, l));
    let kept: Vec<_> = path::stored(message)
        .into_iter()
        .filter(|p| !sort.is_left(p) && sort.settable(p) && !is_lost(p))
        .collect();
    let wants_key = sort.ids == Ids::Key || sort.key.is_some_and(|key| kept.iter().any(|p| p == key));
    let kept: Vec<_> = kept.into_iter().filter(|p| sort.key != Some(p.as_str())).collect();
    let mut copy = path::project(message, &kept);
    if path::exists(&copy.descriptor(), "ids") {
        let target = AppId::unchecked(name.target.clone());
        let (device, id) = sort.names_there(name, &found.target_name);
        sort.ids.write(&mut copy, "ids.", &target, device, id);
    }
    let mut paths: Vec<String> = Vec::new();
    for head in kept.iter().filter_map(|p| p.split('.').next()) {
        if !paths.iter().any(|p| p == head) {
            paths.push(head.to_owned());
        }
    }
    if sort.ids == Ids::Key && !paths.iter().any(|p| p == "name") {
        // It is made under another one.
        paths.push("name".to_owned());
    }
    // One whom nobody has mapped has no name to check yet.
    if !findings.iter().any(leaves) {
        findings.extend(broken_rules(&title, &copy));
    }
    Decided { write: Write { message: copy, paths }, wants_key, findings }
}

/// The findings that every kind can have.
fn common(found: &Found, facts: &Facts) -> Vec<Finding> {
    let Found { sort, message, .. } = found;
    let mut findings = Vec::new();
    findings.extend(collaborator::unmapped(found));
    let unknown = unknown::find(message);
    if !unknown.is_empty() {
        findings.push(
            Finding::new(Kind::UnknownFields, "the source holds fields that this version does not know")
                .paths(unknown.iter().map(ToString::to_string))
                .fix("use a newer stackferry, or allow the loss: allow-loss = [\"unknown-fields\"]"),
        );
    }
    let stored: Vec<_> = path::stored(message).into_iter().filter(|p| !sort.is_left(p)).collect();
    let refused = facts.refused.get(sort.name).map_or(&[][..], Vec::as_slice);
    let unsupported: Vec<_> =
        stored.iter().filter(|p| refused.iter().any(|r| path::covers(r, p))).cloned().collect();
    if !unsupported.is_empty() {
        findings.push(
            Finding::new(Kind::UnsupportedPaths, "the target's version has no place for these")
                .paths(unsupported)
                .fix("update the target, or allow the loss: allow-loss = [\"unsupported-paths\"]"),
        );
    }
    let unsettable: Vec<_> = stored.iter().filter(|p| !sort.settable(p)).cloned().collect();
    if !unsettable.is_empty() {
        findings.push(Finding::new(Kind::LeftBehind, "no call can set these").paths(unsettable));
    }
    if let Some(has) = &facts.rights
        && !["RIGHT_ALL", "RIGHT_APPLICATION_ALL"].iter().any(|all| has.contains(*all))
    {
        let missing = |needed: &[&'static str]| -> Vec<_> {
            needed.iter().filter(|right| !has.contains(**right)).copied().collect()
        };
        let lacks = missing(sort.rights);
        if !lacks.is_empty() {
            findings.push(rights("it cannot be written with the API key of the target", &lacks));
        }
        let lacks = missing(KEY_RIGHTS);
        if let Some(key) = sort.key.filter(|key| path::has(message, key))
            && !lacks.is_empty()
        {
            let text = "the API key of the target may not make the key that its downlinks need";
            findings.push(Finding {
                fix: rights("", &lacks).fix,
                ..Finding::new(Kind::DownlinkKey, text).paths([key])
            });
        }
    }
    findings
}

/// What making an API key for downlinks takes: nobody can give a right that he does not have.
pub const KEY_RIGHTS: &[&str] = &["RIGHT_APPLICATION_SETTINGS_API_KEYS", KEY_RIGHT];
/// The one right of an API key for downlinks, as the Console makes it for webhooks (docs/servers.md, Integrations).
pub const KEY_RIGHT: &str = "RIGHT_APPLICATION_TRAFFIC_DOWN_WRITE";

fn rights(text: &str, missing: &[&str]) -> Finding {
    Finding::new(Kind::Rights, format!("{text}: it lacks {}", missing.join(", "))).fix(format!(
        "in the Console of the target: Applications, API keys: give the key {}",
        missing.join(", ")
    ))
}

/// What the target would refuse, by its own rules.
fn broken_rules(name: &str, copy: &DynamicMessage) -> Vec<Finding> {
    let broken = rules::violations(copy);
    let findings = broken.iter().map(|broken| {
        Finding::new(Kind::InvalidField, format!("{name}: the target would refuse it: {}", broken.reason()))
            .paths([broken.path()])
            .fix("set it right at the source, or leave the kind out of application.copy")
    });
    findings.collect()
}

/// What is there under the name of a belonging that is none of our making: its verdict, with a finding when it differs.
pub fn there(found: &Found, decided: &Decided, there: &DynamicMessage) -> (Verdict, Vec<Finding>) {
    let sort = found.sort;
    let mut paths = differences(sort, &decided.write, there);
    if let Some(key) = sort.key {
        // Whether its key is good cannot be seen; that it is the source's, which is none here, can.
        let (ours, theirs) = (path::string(&found.message, key), path::string(there, key));
        paths.retain(|p| p != key);
        if decided.wants_key == theirs.is_empty() || (decided.wants_key && ours == theirs) {
            paths.push(key.to_owned());
        }
    }
    if paths.is_empty() {
        return (Verdict::Equal, Vec::new());
    }
    let text = format!("{}: it is on the target already, differs, and stays as it is", found.title());
    let finding = Finding::new(Kind::IntegrationDiffers, text)
        .paths(paths)
        .fix("change it there by hand, or delete it there and run again");
    (Verdict::Differs, vec![finding])
}

/// Where what is there is not what is written, by path. Everything that can be set counts, also what only one of them has.
pub fn differences(sort: &Sort, write: &Write, there: &DynamicMessage) -> Vec<String> {
    let ours = path::project(&write.message, &write.paths);
    let found: Vec<_> =
        path::stored(there).into_iter().filter(|p| !sort.is_left(p) && sort.settable(p)).collect();
    let differences = diff::diff(&ours, &path::project(there, &found));
    // Whether an empty message was stored is not ours to tell where the other side has nothing below it either.
    differences.into_iter().map(|d| d.path).collect()
}

/// The write with its new API key in place.
#[must_use]
pub fn with_key(sort: &Sort, mut write: Write, key: Option<&str>) -> Write {
    if let (Some(field), Some(key)) = (sort.key, key) {
        path::set(&mut write.message, field, Value::String(key.to_owned()));
        write.paths.push(field.to_owned());
    }
    write
}

/// The write as it is until the first device is live: paused.
#[must_use]
pub fn paused(sort: &Sort, mut write: Write) -> Write {
    if let Some(Pause::Flag(pause)) = sort.pause {
        path::set(&mut write.message, pause, Value::Bool(true));
        if !write.paths.iter().any(|p| p == pause) {
            write.paths.push(pause.to_owned());
        }
    }
    write
}

/// How long from now what is ended at the source goes on, in seconds: no server takes a time that is past, and its clock is not
/// ours.
const GRACE: i64 = 60;

/// What pauses one that `was` so, and nothing else. `now` in seconds since 1970.
///
/// An API key goes along whole: a server that knows no field mask there would take one without rights for one to be deleted.
pub fn pausing(sort: &Sort, was: &Write, now: i64) -> Write {
    let Some(pause) = sort.pause else { return Write { message: empty(sort), paths: Vec::new() } };
    let mut message = if sort.ids == Ids::Key { was.message.clone() } else { empty(sort) };
    match pause {
        Pause::Flag(flag) => path::set(&mut message, flag, Value::Bool(true)),
        Pause::Expiry(time) => {
            path::clear(&mut message, time);
            path::set(&mut message, &format!("{time}.seconds"), Value::I64(now + GRACE));
        }
    }
    Write { message, paths: vec![pause.path().to_owned()] }
}

/// What takes one out of its pause, so that it is as it `was`, and nothing else.
pub fn unpausing(sort: &Sort, was: &Write) -> Write {
    let path = sort.pause.map_or("", Pause::path);
    let message =
        if sort.ids == Ids::Key { was.message.clone() } else { path::project(&was.message, &[path]) };
    Write { message, paths: vec![path.to_owned()] }
}

/// True when one that `was` so is so `there`, but paused; or ends by itself before it could be.
pub fn is_paused(sort: &Sort, was: &Write, there: &DynamicMessage, now: i64) -> bool {
    match sort.pause {
        None => false,
        Some(Pause::Flag(_)) => differences(sort, &paused(sort, was.clone()), there).is_empty(),
        Some(Pause::Expiry(time)) => {
            let other = differences(sort, was, there).iter().any(|p| !path::covers(time, p));
            !other && api_key::expiry(there).is_some_and(|at| at <= now + GRACE)
        }
    }
}

/// One as it was found, as a write that puts it back where it was, API key and all.
pub fn as_it_was(sort: &Sort, found: &DynamicMessage) -> Write {
    let stored: Vec<_> =
        path::stored(found).into_iter().filter(|p| !sort.is_left(p) && sort.settable(p)).collect();
    let mut message = path::project(found, &stored);
    if let Some(ids) = path::child(found, "ids") {
        path::set(&mut message, "ids", Value::Message(ids));
    }
    let mut paths: Vec<String> =
        stored.iter().filter_map(|p| Some(p.split('.').next()?.to_owned())).collect();
    paths.dedup();
    Write { message, paths }
}

/// What it is called where several applications are told apart.
pub fn name(target: &AppId, item: &ItemKey) -> String {
    format!("{target}: {item}")
}

/// An empty message of this kind.
pub fn empty(sort: &Sort) -> DynamicMessage {
    proto::message(sort.message)
}

/// The finding for a secret that the source keeps to itself.
fn unreadable(text: &str, paths: &[&str]) -> Finding {
    Finding::new(Kind::SecretUnreadable, text)
        .paths(paths.iter().copied())
        .fix("set it up on the target by hand, or allow the loss: allow-loss = [\"secret-unreadable\"]")
}
