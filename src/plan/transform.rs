//! From the records of a source to the records of a target: pure, one device at a time.

use std::fmt;

use prost_reflect::{DynamicMessage, Value};

use super::{
    facts::{Hosts, IdFrom, TargetFacts, Wishes},
    finding::{Finding, Kind},
    session::{self, Activation, Carry},
};
use crate::{
    map::{
        mask, owner, path,
        replaced::{self, Treatment},
        rules, unknown,
    },
    model::{
        device::{Component, Record, Records},
        ids::is_id,
    },
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
}

/// What is written to one component of the target.
#[derive(Clone, PartialEq)]
pub struct Write {
    /// The message.
    pub message: DynamicMessage,
    /// The field mask.
    pub paths: Vec<String>,
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
}

/// The field mask path that NS creation resets and a second Set restores (docs/servers.md, Network Server).
pub const STARTED_AT: &str = "session.started_at";

/// The session paths of the NS that a kept session needs, also where they hold a zero.
const NS_SESSION: &[&str] = &[
    "session.dev_addr",
    "session.keys.session_key_id",
    "session.keys.f_nwk_s_int_key.key",
    "session.keys.s_nwk_s_int_key.key",
    "session.keys.nwk_s_enc_key.key",
    "session.last_f_cnt_up",
    "session.last_n_f_cnt_down",
    "session.last_conf_f_cnt_down",
];

/// Transforms the records of one device.
pub fn device(found: &Found, facts: &TargetFacts, wishes: &Wishes) -> Transformed {
    let (carry, mut findings) = session::decide(found, facts, wishes);
    let activation = Activation::of(found);
    let source_id = device_id(found);
    let id = target_id(found, &source_id, wishes);
    if !is_id(&id) {
        findings.push(bad_id(&id));
    }
    findings.extend(elsewhere(found));
    findings.extend(partial(found, activation));
    let mut copy = Copy { id, ..Copy::default() };
    for (component, record) in found.records.present() {
        if component == Component::Js && found.external_js {
            continue;
        }
        findings.extend(unknown_fields(component, record));
        findings.extend(left_behind(component, record));
        let message = component_message(component, record, found, carry, facts, wishes, &copy.id);
        findings.extend(invalid(component, &message));
        let paths = write_paths(component, &message, carry);
        findings.extend(unsupported(component, &paths, facts));
        *copy.slot(component) = Some(Write { message, paths });
    }
    if let Some(ns) = &copy.ns {
        findings.extend(super::radio::check(found, ns, carry, facts));
    }
    let findings = findings.into_iter().map(|f| f.allow(&wishes.allowed)).collect();
    let mut transformed = Transformed { copy, carry, activation, findings };
    without_lost_paths(&mut transformed, facts);
    transformed
}

/// The device's ID at the source.
pub fn device_id(found: &Found) -> String {
    found.records.present().map(|(_, r)| r.device_id()).find(|id| !id.is_empty()).unwrap_or_default()
}

fn target_id(found: &Found, source_id: &str, wishes: &Wishes) -> String {
    let eui = found.records.present().find_map(|(_, r)| r.dev_eui());
    let base = match (wishes.id_from, eui) {
        (IdFrom::Eui, Some(eui)) => format!("eui-{}", eui.to_string().to_ascii_lowercase()),
        _ => source_id.replace('_', "-"),
    };
    format!("{}{base}", wishes.id_prefix)
}

fn bad_id(id: &str) -> Finding {
    let mut proposed: String = id
        .to_ascii_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect::<String>()
        .split('-')
        .filter(|s| !s.is_empty())
        .collect::<Vec<_>>()
        .join("-");
    proposed.truncate(36);
    let fix = if is_id(&proposed) {
        format!("`{proposed}` would do: choose another transform.device-id rule")
    } else {
        "choose another transform.device-id rule".to_owned()
    };
    Finding::new(
        Kind::BadId,
        format!("the target takes no device ID `{id}` (3 to 36 of a-z, 0-9, single dashes)"),
    )
    .at(Component::Is)
    .paths(["ids.device_id"])
    .fix(fix)
}

fn elsewhere(found: &Found) -> impl Iterator<Item = Finding> {
    found.elsewhere.iter().map(|(component, host)| {
        Finding::new(
            Kind::OtherCluster,
            format!("its {} record is on {host}, which was not asked", component.long()),
        )
        .at(*component)
        .fix(format!("add {host} as another host of the source, or move this device from there"))
    })
}

fn partial(found: &Found, activation: Activation) -> Option<Finding> {
    let has = |c| found.records.get(c).is_some();
    let js_wanted =
        activation == Activation::Otaa || (activation == Activation::Unknown && has(Component::Js));
    let missing: Vec<_> = Component::ALL
        .into_iter()
        .filter(|c| !has(*c) && (*c != Component::Js || js_wanted))
        .map(|c| c.to_string())
        .collect();
    if has(Component::Js) && !has(Component::Ns) {
        return Some(
            Finding::new(Kind::ClearWithoutMute, "a Join Server record without Network Server record cannot be muted")
                .at(Component::Js)
                .fix("allow the loss \"clear-without-mute\": its keys are then cleared first, from a snapshot read twice"),
        );
    }
    (!missing.is_empty()).then(|| {
        Finding::new(
            Kind::Partial,
            format!("no record in {}: the copy is made without, too", missing.join(", ")),
        )
    })
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

/// What the API gives but no call takes.
fn left_behind(component: Component, record: &Record) -> Vec<Finding> {
    let message = &record.0;
    let mut findings = Vec::new();
    if component == Component::Is && path::has(message, "picture") {
        findings.push(
            Finding::new(Kind::Picture, "the picture is a reference to the source's own store")
                .at(component)
                .paths(["picture"])
                .fix("allow the loss \"picture\" and upload it on the target by hand"),
        );
    }
    let queued = ["session.queued_application_downlinks", "queued_application_downlinks"];
    if component == Component::Ns && queued.iter().any(|p| path::has(message, p)) {
        findings.push(
            Finding::new(Kind::QueuedDownlinks, "downlinks wait in the source's queue")
                .at(component)
                .paths(["session.queued_application_downlinks"])
                .fix("wait until they are sent, or allow the loss \"queued-downlinks\""),
        );
    }
    if component == Component::Ns && path::wrapped_flag(message, super::MUTE) == Some(false) {
        findings.push(
            Finding::new(
                Kind::MutedSource,
                "was found muted: an earlier attempt or tool did that; the copy is not muted",
            )
            .at(component)
            .paths([super::MUTE]),
        );
    }
    findings.extend(not_taken_over(component, message));
    findings
}

/// Values that belong to the source, as the one table of them says; server addresses are replaced without a word.
fn not_taken_over(component: Component, message: &DynamicMessage) -> impl Iterator<Item = Finding> {
    let own_finding = ["picture", "session.queued_application_downlinks", super::MUTE];
    let rows = replaced::table().iter().filter(move |row| row.component == component);
    rows.filter(move |row| match row.treatment {
        Treatment::Reported => !own_finding.contains(&row.path),
        Treatment::TargetsOwn => !row.path.starts_with("ids.") && !row.path.ends_with("_server_address"),
        Treatment::Dropped | Treatment::ServerSet => false,
    })
    .filter(|row| path::has(message, row.path))
    .map(move |row| Finding::new(Kind::Replaced, row.reason).at(component).paths([row.path]))
}

fn component_message(
    component: Component,
    record: &Record,
    found: &Found,
    carry: Carry,
    facts: &TargetFacts,
    wishes: &Wishes,
    id: &str,
) -> DynamicMessage {
    let writable = owner::writable(component);
    let mut message = path::project(&record.0, &writable);
    let unmuted = path::wrapped_flag(&message, super::MUTE) == Some(true);
    for row in replaced::table().iter().filter(|r| r.component == component) {
        path::clear(&mut message, row.path);
    }
    if unmuted {
        // Only the muted value is ours; that downlinks are on may be the user's own setting.
        path::set_wrapped(&mut message, super::MUTE, Value::Bool(true));
    }
    identify(&mut message, record, wishes, id);
    match component {
        Component::Is => identity(&mut message, record, found, facts, wishes),
        Component::Js => addresses(&mut message, record, &[Component::Ns, Component::As], found, facts),
        Component::As => application_session(&mut message, carry),
        Component::Ns => network_session(&mut message, record, carry, wishes),
    }
    message
}

fn identify(message: &mut DynamicMessage, record: &Record, wishes: &Wishes, id: &str) {
    path::clear(message, "ids");
    path::set(message, "ids.device_id", Value::String(id.to_owned()));
    let app = wishes.target_app.as_str().to_owned();
    path::set(message, "ids.application_ids.application_id", Value::String(app));
    for eui in ["ids.dev_eui", "ids.join_eui"] {
        if let Some(value) = path::get(&record.0, eui) {
            path::set(message, eui, value.into_owned());
        }
    }
}

fn identity(
    message: &mut DynamicMessage,
    record: &Record,
    found: &Found,
    facts: &TargetFacts,
    wishes: &Wishes,
) {
    path::clear(message, "picture");
    addresses(message, record, &[Component::Ns, Component::As, Component::Js], found, facts);
    if wishes.attributes.is_empty() {
        return;
    }
    let descriptor = crate::proto::descriptor("EndDevice");
    if let Some(field) = descriptor.get_field_by_name("attributes")
        && let Value::Map(map) = message.get_field_mut(&field)
    {
        for (key, value) in &wishes.attributes {
            map.insert(prost_reflect::MapKey::String(key.clone()), Value::String(value.clone()));
        }
    }
}

/// Addresses name the target's own components, wherever the source named any; an external Join Server stays.
fn addresses(
    message: &mut DynamicMessage,
    record: &Record,
    components: &[Component],
    found: &Found,
    facts: &TargetFacts,
) {
    for &component in components {
        let field = match component {
            Component::Ns => "network_server_address",
            Component::As => "application_server_address",
            _ => "join_server_address",
        };
        let was = path::string(&record.0, field);
        if was.is_empty() {
            continue;
        }
        let external = component == Component::Js && found.external_js && !found.hosts.mean(component, &was);
        let address = if external { was } else { facts.hosts.of(component).to_owned() };
        if !address.is_empty() {
            path::set(message, field, Value::String(address));
        }
    }
}

fn application_session(message: &mut DynamicMessage, carry: Carry) {
    match carry {
        Carry::Keep => {}
        Carry::Reset => path::clear(message, "session.last_a_f_cnt_down"),
        Carry::Drop | Carry::Nothing => path::clear(message, "session"),
    }
}

fn network_session(message: &mut DynamicMessage, record: &Record, carry: Carry, wishes: &Wishes) {
    for pending in ["pending_session", "pending_mac_state"] {
        path::clear(message, pending);
    }
    match carry {
        Carry::Keep | Carry::Reset => {
            // Whole, not by leaves: the server would merge leaves into fresh factory values.
            if let Some(state) = path::child(&record.0, "mac_state") {
                path::set(message, "mac_state", Value::Message(state));
            }
            if let Some(addr) = path::get(&record.0, "session.dev_addr") {
                path::set(message, "ids.dev_addr", addr.into_owned());
            }
        }
        Carry::Drop | Carry::Nothing => {
            path::clear(message, "session");
            path::clear(message, "mac_state");
        }
    }
    if carry == Carry::Reset {
        path::clear(message, "mac_state");
        for counter in ["last_f_cnt_up", "last_n_f_cnt_down", "last_conf_f_cnt_down", "started_at"] {
            path::clear(message, &format!("session.{counter}"));
        }
        path::set(message, "mac_settings.resets_f_cnt.value", Value::Bool(true));
    }
    if let Some(plan) = super::radio::plan_for(record, wishes) {
        path::set(message, "frequency_plan_id", Value::String(plan));
    }
}

fn invalid(component: Component, message: &DynamicMessage) -> Vec<Finding> {
    rules::violations(message)
        .into_iter()
        .map(|v| {
            Finding::new(Kind::InvalidField, v.reason.clone())
                .at(component)
                .paths([v.path()])
                .fix("change the value at the source, where the target's rule allows less")
        })
        .collect()
}

/// The mask: the deepest allowed path for everything that is stored, and what a kept session needs besides.
fn write_paths(component: Component, message: &DynamicMessage, carry: Carry) -> Vec<String> {
    let allowed = mask::allowed(owner::set_rpc(component));
    let mut paths: Vec<String> = Vec::new();
    let mut push = |p: &str| {
        if p != "ids.dev_addr" && p != STARTED_AT && !paths.iter().any(|q| q == p) {
            paths.push(p.to_owned());
        }
    };
    for stored in path::stored(message) {
        if component == Component::Ns && stored.starts_with("mac_state.") {
            push("mac_state");
        } else if let Some(cover) = mask::cover(allowed, &stored) {
            push(cover);
        }
    }
    if component == Component::Ns {
        for always in ["frequency_plan_id", "lorawan_version", "lorawan_phy_version", "supports_join"] {
            push(always);
        }
        if matches!(carry, Carry::Keep | Carry::Reset) && path::has(message, "session") {
            for p in NS_SESSION {
                let is_key_id = *p == "session.keys.session_key_id";
                if !is_key_id || path::has(message, p) {
                    push(p);
                }
            }
        }
    }
    paths
}

fn unsupported(component: Component, paths: &[String], facts: &TargetFacts) -> Option<Finding> {
    let refused = facts.refused_paths.get(&component)?;
    let lost: Vec<_> = paths.iter().filter(|p| is_refused(p, refused)).cloned().collect();
    (!lost.is_empty()).then(|| {
        Finding::new(Kind::UnsupportedPaths, "the target is older and cannot store these values")
            .at(component)
            .paths(lost)
            .fix("update the target, or allow the loss \"unsupported-paths\"")
    })
}

fn is_refused(path: &str, refused: &[String]) -> bool {
    refused.iter().any(|r| path::covers(r, path))
}

/// Takes the paths that the target does not know out of what is written; the finding has said so.
fn without_lost_paths(transformed: &mut Transformed, facts: &TargetFacts) {
    for (component, refused) in &facts.refused_paths {
        if let Some(write) = transformed.copy.slot(*component) {
            write.paths.retain(|p| !is_refused(p, refused));
            for path in refused {
                path::clear(&mut write.message, path);
            }
        }
    }
}
