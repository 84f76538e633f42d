//! From the records of a source to the records of a target: pure, one device at a time.

use std::fmt;

use prost_reflect::{DynamicMessage, Value};

use super::{
    MUTE,
    facts::{Hosts, TargetFacts, Wishes},
    finding::{Finding, Kind},
    identity, leftover, masks, presence, relay,
    session::{self, Activation, Carry},
    ttn_v2,
};
use crate::{
    map::{path, rules, ttn_v2::V2Device, unknown},
    model::device::{Component, Record, Records},
};

/// A device as it was found at the source.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// What its components hold.
    pub records: Records,
    /// Components whose record is on a host that was not asked, and that host.
    pub elsewhere: Vec<(Component, String)>,
    /// The Join Server is an external one that was read: it stays where it is.
    pub external_js: bool,
    /// The hosts of the source.
    pub hosts: Hosts,
    /// The device as The Things Network Stack V2 has it, when that is the source: the records stand for it.
    pub v2: Option<V2Device>,
}

impl Found {
    /// True when NS and AS both hold a session, and not the same.
    pub fn hold_different_sessions(&self) -> bool {
        let session = |record: &Option<Record>| {
            let record = record.as_ref().filter(|r| path::has(&r.0, "session"))?;
            Some((path::bytes(&record.0, session::KEY_ID), record.session_addr()))
        };
        match (session(&self.records.ns), session(&self.records.as_)) {
            (Some(ns), Some(as_)) => ns != as_,
            _ => false,
        }
    }
}

/// What is written to one component of the target.
#[derive(Clone, PartialEq)]
pub struct Write {
    /// The message.
    pub message: DynamicMessage,
    /// The field mask.
    pub paths: Vec<String>,
}

impl Write {
    /// Makes it one that may not send downlinks.
    pub fn mute(&mut self) {
        path::set_wrapped(&mut self.message, MUTE, Value::Bool(false));
        if !self.paths.iter().any(|p| path::covers(p, MUTE)) {
            self.paths.push(MUTE.to_owned());
        }
    }
}

impl fmt::Debug for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Write({} paths)", self.paths.len())
    }
}

/// A device as it is to be on the target.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Copy {
    /// Its ID there.
    pub id: String,
    /// Identity Server.
    pub is: Option<Write>,
    /// Join Server.
    pub js: Option<Write>,
    /// Application Server.
    pub as_: Option<Write>,
    /// Network Server.
    pub ns: Option<Write>,
}

impl Copy {
    /// What is written to one component.
    pub fn get(&self, component: Component) -> Option<&Write> {
        match component {
            Component::Is => self.is.as_ref(),
            Component::Js => self.js.as_ref(),
            Component::As => self.as_.as_ref(),
            Component::Ns => self.ns.as_ref(),
        }
    }

    /// The place of what is written to one component.
    pub fn slot(&mut self, component: Component) -> &mut Option<Write> {
        match component {
            Component::Is => &mut self.is,
            Component::Js => &mut self.js,
            Component::As => &mut self.as_,
            Component::Ns => &mut self.ns,
        }
    }

    /// The components that are written, in creation order.
    pub fn components(&self) -> impl Iterator<Item = Component> {
        Component::ALL.into_iter().filter(|c| self.get(*c).is_some())
    }
}

/// What planning one device gives.
#[derive(Debug, Clone)]
pub struct Transformed {
    /// The records for the target.
    pub copy: Copy,
    /// What was decided on the session.
    pub carry: Carry,
    /// How the device is activated.
    pub activation: Activation,
    /// Everything worth saying; one that blocks means that the device is not moved.
    pub findings: Vec<Finding>,
    /// Components whose record must stay at the source whatever the clear mode: an external Join Server's, and one whose
    /// root keys the API does not give, so that no snapshot could restore it (S3).
    pub keep_at_source: Vec<Component>,
}

impl Transformed {
    /// The finding that keeps the device from being moved: one that stops it before one for which it only waits.
    pub fn weightiest(&self) -> Option<&Finding> {
        self.findings.iter().filter(|f| f.blocks()).max_by_key(|f| f.severity)
    }
}

/// The field mask path that NS creation resets and a second Set restores (docs/servers.md, Network Server).
pub const STARTED_AT: &str = "session.started_at";

/// Transforms the records of one device.
///
/// What is stored at the source and not carried over is explained by [`super::leftover`], path by path.
pub fn device(found: &Found, facts: &TargetFacts, wishes: &Wishes) -> Transformed {
    let (carry, mut findings) = session::decide(found, facts, wishes);
    let activation = Activation::of(found);
    let id = identity::target_id(found, facts, wishes);
    findings.extend(identity::check(&id, found));
    findings.extend(presence::findings(found, activation, facts, wishes));
    findings.extend(found.v2.as_ref().map(|v2| ttn_v2::findings(v2, wishes)).unwrap_or_default());
    let rules = leftover::Rules { found, carry, activation };
    let mut copy = Copy { id, ..Copy::default() };
    let mut keep_at_source = Vec::new();
    for (component, record) in found.records.present() {
        if component == Component::Js && !rules.writes_js() {
            keep_at_source.push(component);
            continue;
        }
        findings.extend(unknown_fields(component, record));
        findings.extend(rules.findings(component, record));
        let mut message = component_message(component, record, &rules, facts, wishes, &copy.id);
        if component == Component::Is {
            findings.extend(identity::add_attributes(&mut message, wishes));
            findings.extend(found.v2.as_ref().and_then(|v2| ttn_v2::old_id(&mut message, v2)));
            if found.v2.is_some() && wishes.allowed.contains(&Kind::LongDescription) {
                ttn_v2::shorten_description(&mut message);
            }
        }
        if component == Component::Ns {
            findings.extend(relay::follow(&mut message, facts, wishes));
        }
        if let (Component::Ns, Some(v2)) = (component, &found.v2) {
            findings.extend(ttn_v2::network(&mut message, v2, carry, facts, wishes));
        }
        findings.extend(invalid(component, &message, found.v2.is_some()));
        findings.extend(masks::unsupported(component, &message, facts));
        let paths = masks::write_paths(component, &message, carry);
        *copy.slot(component) = Some(Write { message, paths });
    }
    if let Some(ns) = &copy.ns {
        findings.extend(super::radio::check(found, ns, carry, facts));
    }
    let findings = findings.into_iter().map(|f| f.allow(&wishes.allowed)).collect();
    masks::without_lost_paths(&mut copy, facts);
    Transformed { copy, carry, activation, findings, keep_at_source }
}

/// The device's ID at the source.
pub fn device_id(found: &Found) -> String {
    identity::device_id(found)
}

fn unknown_fields(component: Component, record: &Record) -> Option<Finding> {
    let fields = unknown::find(&record.0);
    (!fields.is_empty()).then(|| {
        Finding::new(
            Kind::UnknownFields,
            "the answer holds fields that this build does not know (newer servers have mac_settings_profile_ids and label_ids)",
        )
        .at(component)
        .paths(fields.iter().map(ToString::to_string))
        .fix("use a newer stackferry, or allow the loss \"unknown-fields\"")
    })
}

fn component_message(
    component: Component,
    record: &Record,
    rules: &leftover::Rules<'_>,
    facts: &TargetFacts,
    wishes: &Wishes,
    id: &str,
) -> DynamicMessage {
    let mut message = path::project(&record.0, &rules.carried(component, record));
    identity::identify(&mut message, record, wishes, id);
    match component {
        Component::Is => {
            let all = [Component::Ns, Component::As, Component::Js];
            addresses(&mut message, record, &all, rules, facts);
        }
        Component::Js => addresses(&mut message, record, &[Component::Ns, Component::As], rules, facts),
        Component::As => {}
        Component::Ns => network(&mut message, record, rules.carry, wishes),
    }
    message
}

/// Addresses name the target's own components, wherever the source named any. An external Join Server stays, and where no
/// Join Server has keys of the device none is named.
fn addresses(
    message: &mut DynamicMessage,
    record: &Record,
    components: &[Component],
    rules: &leftover::Rules<'_>,
    facts: &TargetFacts,
) {
    let found = rules.found;
    for &component in components {
        let field = presence::address_field(component);
        let was = path::string(&record.0, field);
        if was.is_empty() {
            continue;
        }
        let join_server = component == Component::Js;
        let address = if join_server && found.external_js && !found.hosts.mean(component, &was) {
            was
        } else if join_server && session::lacks_root_keys(found) {
            continue;
        } else {
            facts.hosts.of(component).to_owned()
        };
        if !address.is_empty() {
            path::set(message, field, Value::String(address));
        }
    }
}

/// What the NS record holds besides what is carried: the DevAddr of the session, the plan on the target, and the setting
/// that lets an ABP device start at zero.
fn network(message: &mut DynamicMessage, record: &Record, carry: Carry, wishes: &Wishes) {
    if matches!(carry, Carry::Keep | Carry::Reset)
        && let Some(addr) = path::get(&record.0, "session.dev_addr")
    {
        path::set(message, "ids.dev_addr", addr.into_owned());
    }
    if carry == Carry::Reset {
        path::set(message, "mac_settings.resets_f_cnt.value", Value::Bool(true));
    }
    if let Some(plan) = super::radio::plan_for(record, wishes) {
        path::set(message, "frequency_plan_id", Value::String(plan));
    }
}

/// Broken rules. That a description of V2 is too long, or its ID none, has a finding of its own.
fn invalid(component: Component, message: &DynamicMessage, of_v2: bool) -> Vec<Finding> {
    rules::violations(message)
        .into_iter()
        .filter(|v| !(of_v2 && matches!(v.path().as_str(), "description" | "ids.device_id")))
        .map(|v| {
            Finding::new(Kind::InvalidField, v.reason())
                .at(component)
                .paths([v.path()])
                .fix("change the value at the source, where the target's rule allows less")
        })
        .collect()
}
