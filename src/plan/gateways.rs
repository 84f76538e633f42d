//! Gateways: what of a gateway at the source is written to the target, and every finding about it. Pure.
//!
//! Rules: docs/servers.md, Gateways.

mod compare;
pub mod hearing;
pub mod redirect;
pub mod settings;
#[cfg(test)]
mod tests;
pub(super) mod transform;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use prost_reflect::DynamicMessage;

use self::redirect::Redirect;
use super::{
    belongings::{Verdict, collaborator::People},
    finding::{Finding, Kind, Severity},
    transform::Write,
};
use crate::{
    map::{mask, path as at},
    model::{gateway::GatewayKey, ids::Eui64},
};

pub use compare::{differences, edited, over_all, with_lns_secret};
pub use transform::transform;

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
pub(super) const CONTACTS: [&str; 2] = ["administrative_contact", "technical_contact"];
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
    /// The source's CUPS sends them to the target's.
    pub cups_redirect: bool,
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
    /// What is done so that the source's CUPS sends it here.
    pub redirect: Redirect,
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
    /// What is done so that the source's CUPS sends it to the target.
    pub redirect: Redirect,
    /// True when it is deleted at the source, once all devices are cleared and the target has it connected.
    pub delete: bool,
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

    /// True when the source's CUPS is told to send some of them to the target.
    pub fn redirects(&self) -> bool {
        self.gateways.iter().any(|g| g.redirect == Redirect::Set)
    }

    /// How many are deleted at the source at the end.
    pub fn deletes(&self) -> usize {
        self.gateways.iter().filter(|g| g.delete).count()
    }

    /// What a rollback cannot undo of these deletions; nothing without any.
    pub fn deletion(&self) -> Option<Finding> {
        let deletes = self.deletes();
        (deletes > 0).then(|| {
            let text = format!(
                "{deletes} gateways are deleted at the source in the end (clear.gateways): a rollback restores them there for a \
                 while, 24 hours unless its operator has set another time, and with their EUIs unless somebody takes these; \
                 after that their IDs stay taken there until an administrator purges them"
            );
            let fix = "leave clear.gateways out, and delete them by hand when nobody wants to go back";
            Finding::new(Kind::GatewayDelete, text).fix(fix)
        })
    }

    /// IDs at the source of those that are, or will be, on the target.
    pub fn moving(&self) -> BTreeSet<String> {
        self.gateways.iter().filter(|g| g.verdict != Verdict::Stop).map(|g| g.id.clone()).collect()
    }
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

/// The EUI of a gateway.
pub fn eui(gateway: &DynamicMessage) -> Option<Eui64> {
    Eui64::from_bytes(&at::bytes(gateway, "ids.eui"))
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
