//! Gateways: what of a gateway at the source is written to the target, and every finding about it. Pure.
//!
//! Rules: docs/servers.md, Gateways.

pub mod hearing;
pub mod settings;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use prost_reflect::{DynamicMessage, Value};

use super::{
    belongings::{Verdict, collaborator::People},
    finding::{Finding, Kind, Severity},
    transform::Write,
};
use crate::{
    map::{diff, mask, path as at, rules, unknown},
    model::{
        gateway::GatewayKey,
        ids::{Eui64, is_id},
    },
};

/// The call that reads a gateway, in the table of field masks.
pub const GET: &str = "GatewayRegistry/Get";
/// The call that sets one.
const SET: &str = "GatewayRegistry/Update";
/// Paths that only somebody with `RIGHT_GATEWAY_READ_SECRETS` may ask for.
pub const SECRETS: [&str; 3] = ["lbs_lns_secret", "claim_authentication_code", "target_cups_key"];
/// Identifiers, what a server stamps, and forms of fields that have a newer one.
const LEFT: &[&str] = &[
    "ids",
    "created_at",
    "updated_at",
    "deleted_at",
    "frequency_plan_id",
    "contact_info",
    "gateway_server_address",
];
/// Where the source's CUPS sends the gateway.
const REDIRECT: [&str; 2] = ["target_cups_uri", "target_cups_key"];
pub(super) const CONTACTS: [&str; 2] = ["administrative_contact", "technical_contact"];
/// How an API key of The Things Stack begins (`pkg/auth`).
const API_KEY: &[u8] = b"NNSXS.";
/// Paths of newer servers that this build knows by name alone.
const NEWER: [&str; 2] = ["alert_notification_profile_ids", "label_ids"];

/// The mask that reads all of a gateway: the topmost paths, so that fields of newer servers come along.
pub fn whole() -> Vec<String> {
    let top = mask::allowed(GET).iter().filter(|p| !p.contains('.'));
    top.copied().chain(NEWER).map(str::to_owned).collect()
}

/// [`whole`], but for secrets.
pub fn without_secrets() -> Vec<String> {
    whole().into_iter().filter(|p| !SECRETS.contains(&p.as_str())).collect()
}

/// What the user wants.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// Put before every ID.
    pub prefix: String,
    /// Who is who.
    pub people: People,
    /// API keys that are made for each.
    pub api_keys: Vec<GatewayKey>,
    /// Frequency plan at the source → plan on the target.
    pub frequency_plans: BTreeMap<String, String>,
    /// Losses that the user accepts.
    pub allowed: Vec<Kind>,
}

/// What the target said of itself.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The host of its Gateway Server.
    pub gateway_server: String,
    /// Its frequency plans.
    pub frequency_plans: BTreeSet<String>,
    /// It is the source, too.
    pub one_deployment: bool,
}

/// A gateway as it was found at the source.
#[derive(Clone)]
pub struct Found {
    /// Its ID there.
    pub id: String,
    /// All of it that could be read. Any part may be a secret.
    pub message: DynamicMessage,
    /// False when the API key may not read its secrets.
    pub secrets: bool,
}

impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Found({})", self.id)
    }
}

/// What the target has where the gateway is to go.
#[derive(Clone, Default)]
pub struct There {
    /// The gateway with its ID, if we may see all of it.
    pub ours: Option<DynamicMessage>,
    /// The ID is that of a gateway that we may not see.
    pub theirs: bool,
    /// The ID is that of a deleted gateway of the owner.
    pub deleted: bool,
    /// The deleted gateway was made, and deleted, by this journal.
    pub by_us: bool,
    /// The gateway that has its EUI.
    pub eui_holder: Option<String>,
}

impl fmt::Debug for There {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "There(ours: {}, theirs: {}, deleted: {})", self.ours.is_some(), self.theirs, self.deleted)
    }
}

/// What is written for a gateway.
#[derive(Debug, Clone)]
pub struct Decided {
    /// Its ID on the target.
    pub target_id: String,
    /// The gateway, without an LNS secret that is yet to be made; and the paths in it.
    pub write: Write,
    /// True when the new LNS API key becomes its LNS secret.
    pub lns_secret: bool,
    /// Everything worth saying.
    pub findings: Vec<Finding>,
}

/// What becomes of a gateway, for people. No secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayPlan {
    /// Its ID at the source.
    pub id: String,
    /// Its ID on the target.
    pub target_id: String,
    /// Its EUI, if it has one.
    pub eui: Option<Eui64>,
    /// What will be done.
    pub verdict: Verdict,
    /// API keys that are made for it.
    pub keys: Vec<GatewayKey>,
    /// Everything worth saying.
    pub findings: Vec<Finding>,
}

/// What becomes of all of them.
#[derive(Debug, Clone, Default)]
pub struct GatewaysPlan {
    /// By ID.
    pub gateways: Vec<GatewayPlan>,
    /// Findings about all of them.
    pub findings: Vec<Finding>,
}

impl GatewaysPlan {
    /// True when a run has something to do.
    pub fn have_work(&self) -> bool {
        self.gateways.iter().any(|g| matches!(g.verdict, Verdict::Create | Verdict::Resume(_)))
    }

    /// True when a run would be refused something.
    pub fn stops(&self) -> bool {
        self.findings.iter().any(Finding::blocks) || self.gateways.iter().any(|g| g.verdict == Verdict::Stop)
    }

    /// IDs at the source of those that are, or will be, on the target.
    pub fn moving(&self) -> BTreeSet<String> {
        self.gateways.iter().filter(|g| g.verdict != Verdict::Stop).map(|g| g.id.clone()).collect()
    }
}

/// The EUI of a gateway.
pub fn eui(gateway: &DynamicMessage) -> Option<Eui64> {
    Eui64::from_bytes(&at::bytes(gateway, "ids.eui"))
}

/// Decides what is written to the target. Every stored path is in the write, in a finding, or left to the server.
pub fn transform(found: &Found, facts: &Facts, wishes: &Wishes) -> Decided {
    let target_id = format!("{}{}", wishes.prefix, found.id);
    let mut findings = common(found);
    let mut copy = at::project(&found.message, &copied(&found.message));
    let lns_secret = secrets(found, &mut copy, wishes, &mut findings);
    plans(&mut copy, facts, wishes, &mut findings);
    contacts(&found.message, &mut copy, wishes, &mut findings);
    for field in REDIRECT {
        at::clear(&mut copy, field);
    }
    if REDIRECT.iter().any(|field| at::has(&found.message, field)) {
        let text = "the source's CUPS sends it to another CUPS, whose address and key are not copied";
        findings.push(Finding::new(Kind::GatewaySecret, text).paths(REDIRECT));
    }
    let text = |text: &str| Value::String(text.to_owned());
    at::set(&mut copy, "gateway_server_address", text(&facts.gateway_server));
    let named = at::string(&found.message, "gateway_server_address");
    if !named.is_empty() && named != facts.gateway_server {
        let words = format!("its Gateway Server is {} on the target", facts.gateway_server);
        findings.push(Finding::new(Kind::Replaced, words).paths(["gateway_server_address"]));
    }
    let mut paths: Vec<String> =
        at::stored(&copy).iter().filter_map(|p| Some(p.split('.').next()?.to_owned())).collect();
    paths.dedup();
    at::set(&mut copy, "ids.gateway_id", text(&target_id));
    if let Some(eui) = eui(&found.message) {
        at::set(&mut copy, "ids.eui", Value::Bytes(eui.0.to_vec().into()));
    }
    if !is_id(&target_id) {
        let text = format!(
            "{target_id} is no ID that The Things Stack takes: a-z, 0-9, single dashes, 3 to 36 of them"
        );
        findings.push(Finding::new(Kind::BadId, text).fix("change gateways.id.prefix"));
    } else {
        findings.extend(rules::violations(&copy).iter().map(|broken| {
            let text = format!("the target would refuse it: {}", broken.reason());
            Finding::new(Kind::InvalidField, text).paths([broken.path()]).fix("set it right at the source")
        }));
    }
    for finding in &mut findings {
        finding.text = format!("gateway {}: {}", found.id, finding.text);
    }
    let findings = findings.into_iter().map(|f| f.allow(&wishes.allowed)).collect();
    Decided { target_id, write: Write { message: copy, paths }, lns_secret, findings }
}

fn is_left(path: &str) -> bool {
    LEFT.iter().any(|left| at::covers(left, path))
}

fn settable(path: &str) -> bool {
    mask::cover(mask::allowed(SET), path).is_some()
}

/// The stored paths that go along, whatever is changed in them.
fn copied(message: &DynamicMessage) -> Vec<String> {
    at::stored(message).into_iter().filter(|p| !is_left(p) && settable(p)).collect()
}

/// Findings about fields that have no place.
fn common(found: &Found) -> Vec<Finding> {
    let mut findings = Vec::new();
    let unknown = unknown::find(&found.message);
    if !unknown.is_empty() {
        findings.push(
            Finding::new(Kind::UnknownFields, "the source holds fields that this version does not know")
                .paths(unknown.iter().map(ToString::to_string))
                .fix("use a newer stackferry, or allow the loss: allow-loss = [\"unknown-fields\"]"),
        );
    }
    let mut lost: Vec<_> =
        at::stored(&found.message).into_iter().filter(|p| !is_left(p) && !settable(p)).collect();
    // Newer servers derive it from the contacts.
    let derived = CONTACTS.iter().any(|contact| at::has(&found.message, contact));
    if at::has(&found.message, "contact_info") && !derived {
        lost.push("contact_info".to_owned());
    }
    if !lost.is_empty() {
        findings.push(Finding::new(Kind::LeftBehind, "no call can set these").paths(lost));
    }
    findings
}

/// Takes out secrets that are of no use on the target; true when a new LNS secret is made.
fn secrets(found: &Found, copy: &mut DynamicMessage, wishes: &Wishes, findings: &mut Vec<Finding>) -> bool {
    if !found.secrets {
        let text =
            "the API key of the source may not read its secrets: LNS secret and claim code, if it has any";
        findings.push(
            Finding::new(Kind::SecretUnreadable, text)
                .fix("give the key RIGHT_GATEWAY_READ_SECRETS, or allow the loss: allow-loss = [\"secret-unreadable\"]"),
        );
        return wishes.api_keys.contains(&GatewayKey::Lns);
    }
    for secret in ["lbs_lns_secret", "claim_authentication_code.secret"] {
        if at::has(&found.message, &format!("{secret}.key_id")) && !at::has(copy, &format!("{secret}.value"))
        {
            let text = "the source keeps it encrypted and does not tell it";
            let finding = Finding::new(Kind::SecretUnreadable, text).paths([secret]);
            findings.push(finding.fix(
                "set it on the target by hand, or allow the loss: allow-loss = [\"secret-unreadable\"]",
            ));
        }
        // With which key a server encrypts is its own.
        at::clear(copy, &format!("{secret}.key_id"));
    }
    if at::has(copy, "claim_authentication_code") && !at::has(copy, "claim_authentication_code.secret.value")
    {
        at::clear(copy, "claim_authentication_code");
    }
    if !at::has(copy, "lbs_lns_secret.value") {
        at::clear(copy, "lbs_lns_secret");
        return false;
    }
    let value = at::bytes(copy, "lbs_lns_secret.value");
    if !value.windows(API_KEY.len()).any(|part| part == API_KEY) {
        return false;
    }
    at::clear(copy, "lbs_lns_secret");
    let remade = wishes.api_keys.contains(&GatewayKey::Lns);
    let text = if remade {
        "its LNS secret is an API key of the source: the new LNS API key takes its place"
    } else {
        "its LNS secret is an API key of the source, which CUPS hands to the gateway: it is not copied"
    };
    let mut finding = Finding::new(Kind::GatewaySecret, text).paths(["lbs_lns_secret"]);
    if remade {
        finding.severity = Severity::Note;
    } else {
        finding.fix = "add api-keys = [\"lns\"] if CUPS of the target is to manage it".to_owned();
    }
    findings.push(finding);
    remade
}

/// Frequency plans by the names that they have on the target.
fn plans(copy: &mut DynamicMessage, facts: &Facts, wishes: &Wishes, findings: &mut Vec<Finding>) {
    let stored = at::get(copy, "frequency_plan_ids").map(std::borrow::Cow::into_owned);
    let stored = stored.as_ref().and_then(Value::as_list).unwrap_or_default();
    // A gateway without a plan is answered with one empty ID (docs/servers.md, Gateways).
    let plans: Vec<_> = stored.iter().filter_map(Value::as_str).filter(|plan| !plan.is_empty()).collect();
    let renamed: Vec<_> =
        plans.iter().map(|plan| wishes.frequency_plans.get(*plan).map_or(*plan, String::as_str)).collect();
    for plan in renamed.iter().filter(|plan| !facts.frequency_plans.contains(**plan)) {
        let text = format!("the target does not have the frequency plan {plan}");
        let finding = Finding::new(Kind::FrequencyPlan, text).paths(["frequency_plan_ids"]);
        findings.push(finding.fix("name the target's in transform.frequency-plan"));
    }
    let renamed: Vec<_> = renamed.into_iter().map(|plan| Value::String(plan.to_owned())).collect();
    at::clear(copy, "frequency_plan_ids");
    if !renamed.is_empty() {
        at::set(copy, "frequency_plan_ids", Value::List(renamed));
    }
}

/// The user or organization in a contact: where its ID stands, and its name.
pub(super) fn account(message: &DynamicMessage, contact: &str) -> Option<(String, String)> {
    ["user", "organization"].into_iter().find_map(|kind| {
        let path = format!("{contact}.{kind}_ids.{kind}_id");
        let id = at::string(message, &path);
        (!id.is_empty()).then(|| (path, format!("{kind} {id}")))
    })
}

fn contacts(found: &DynamicMessage, copy: &mut DynamicMessage, wishes: &Wishes, findings: &mut Vec<Finding>) {
    let mut replaced: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for contact in CONTACTS {
        at::clear(copy, contact);
        let Some((path, name)) = account(found, contact) else { continue };
        match wishes.people.there(&name).split_once(' ') {
            Some((_, id)) => at::set(copy, &path, Value::String(id.to_owned())),
            None => replaced.entry(name).or_default().push(contact),
        }
    }
    for (name, contacts) in replaced {
        let text = format!("{name} is its contact, whom the owner on the target replaces");
        let finding = Finding::new(Kind::GatewayContact, text).paths(contacts);
        findings.push(finding.fix(format!("say in [people] who {name} is on the target")));
    }
}

/// A gateway without what says the same as nothing, and without the contacts that a server fills in.
fn canonical(gateway: &DynamicMessage, contacts: &[&str]) -> DynamicMessage {
    let mut out = at::project(gateway, &copied(gateway));
    at::set(&mut out, "gateway_server_address", Value::String(at::string(gateway, "gateway_server_address")));
    let stored = at::get(&out, "frequency_plan_ids").map(std::borrow::Cow::into_owned);
    let none = |list: &[Value]| list.iter().all(|v| v.as_str() == Some(""));
    if stored.as_ref().and_then(Value::as_list).is_some_and(none) {
        at::clear(&mut out, "frequency_plan_ids");
    }
    for secret in ["lbs_lns_secret", "claim_authentication_code.secret", "target_cups_key"] {
        at::clear(&mut out, &format!("{secret}.key_id"));
    }
    for contact in CONTACTS.iter().filter(|contact| !contacts.contains(contact)) {
        at::clear(&mut out, contact);
    }
    for (whole, part) in [
        ("lbs_lns_secret", "lbs_lns_secret.value"),
        ("target_cups_key", "target_cups_key.value"),
        ("claim_authentication_code", "claim_authentication_code.secret.value"),
        ("lrfhss", "lrfhss.supported"),
    ] {
        if !at::has(&out, part) {
            at::clear(&mut out, whole);
        }
    }
    for empty in ["version_ids", "schedule_anytime_delay"] {
        if at::child(&out, empty).is_some_and(|inner| inner.fields().next().is_none()) {
            at::clear(&mut out, empty);
        }
    }
    out
}

/// Where what is there is not what is written, by path. Everything that can be set counts, also what only one of them has.
pub fn differences(write: &Write, there: &DynamicMessage) -> Vec<String> {
    let named: Vec<_> = CONTACTS.into_iter().filter(|contact| at::has(&write.message, contact)).collect();
    let (ours, theirs) = (canonical(&write.message, &named), canonical(there, &named));
    let mut paths: Vec<_> = diff::diff(&ours, &theirs).into_iter().map(|d| d.path).collect();
    if eui(&write.message) != eui(there) {
        paths.insert(0, "ids.eui".to_owned());
    }
    paths
}

/// The write with the new LNS API key as its LNS secret.
#[must_use]
pub fn with_lns_secret(mut write: Write, key: Option<&str>) -> Write {
    if let Some(key) = key {
        at::set(&mut write.message, "lbs_lns_secret.value", Value::Bytes(key.as_bytes().to_vec().into()));
        if !write.paths.iter().any(|p| p == "lbs_lns_secret") {
            write.paths.push("lbs_lns_secret".to_owned());
        }
    }
    write
}

/// The write that makes a gateway that was deleted what it should be, whatever it was.
#[must_use]
pub fn over_all(mut write: Write) -> Write {
    let named: Vec<_> = CONTACTS.into_iter().filter(|contact| at::has(&write.message, contact)).collect();
    let heads = mask::allowed(SET).iter().filter(|p| !p.contains('.') && !is_left(p));
    let heads = heads.filter(|p| !CONTACTS.contains(p) || named.contains(p));
    write.paths = heads.map(|p| (*p).to_owned()).collect();
    write.paths.extend(["ids.eui", "gateway_server_address"].map(str::to_owned));
    write
}

/// What is to be done about a gateway that no earlier run has begun, with more findings.
pub fn verdict(found: &Found, decided: &Decided, facts: &Facts, there: &There) -> (Verdict, Vec<Finding>) {
    let of = |kind: Kind, text: String| Finding::new(kind, format!("gateway {}: {text}", found.id));
    let id = &decided.target_id;
    if facts.one_deployment {
        let mut finding = of(
            Kind::SameDeployment,
            "source and target are one deployment, which has it already: it stays as it is".to_owned(),
        );
        finding.severity = Severity::Note;
        return (Verdict::Equal, vec![finding]);
    }
    if let Some(ours) = &there.ours
        && eui(ours) == eui(&found.message)
    {
        let paths = differences(&decided.write, ours);
        if paths.is_empty() {
            return (Verdict::Equal, Vec::new());
        }
        let text = "it is on the target already, differs, and stays as it is".to_owned();
        let fix = "change it there by hand, if it matters";
        return (Verdict::Differs, vec![of(Kind::GatewayDiffers, text).paths(paths).fix(fix)]);
    }
    let mut findings = Vec::new();
    let other = "choose another ID with gateways.id.prefix";
    if there.ours.is_some() {
        let text = format!("{id} is another gateway on the target, with another EUI");
        findings.push(of(Kind::IdTaken, text).fix(other));
    } else if there.theirs {
        let text = format!("{id} is a gateway of somebody else on the target");
        findings.push(of(Kind::IdTaken, text).fix(other));
    } else if there.deleted && !there.by_us {
        let text = format!("{id} is the ID of a deleted gateway on the target, and stays taken");
        let fix = format!(
            "restore it there, or have an administrator purge it, or {other}; a restore does not give its EUI back"
        );
        findings.push(of(Kind::IdTaken, text).fix(fix));
    }
    if let (Some(eui), Some(holder)) = (eui(&found.message), &there.eui_holder)
        && holder != id
    {
        let text = format!("its EUI {eui} is that of gateway {holder} on the target");
        findings.push(
            of(Kind::GatewayEuiTaken, text)
                .fix("delete that gateway there if it is this one, or leave this one out"),
        );
    }
    let stopped = findings.iter().chain(&decided.findings).any(Finding::blocks);
    (if stopped { Verdict::Stop } else { Verdict::Create }, findings)
}
