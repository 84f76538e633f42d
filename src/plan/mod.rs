//! The plan: a pure function of what was found at the source, what the target said of itself, what the user wants, and
//! what the journal knows.

pub mod back;
pub mod belongings;
pub mod compare;
pub mod contacts;
pub mod facts;
pub mod failed;
pub mod finding;
pub mod gateways;
pub mod handover;
pub mod identity;
pub mod leftover;
pub mod masks;
pub mod presence;
pub mod queue;
pub mod radio;
pub mod reference;
pub mod relay;
pub mod sealed;
pub mod session;
pub mod stale;
pub mod transform;
pub mod ttn_v2;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use facts::{TargetFacts, Wishes};
use finding::{Finding, Kind, Severity};
use gateways::hearing::Heard;
use session::{Activation, Carry};
use transform::{Found, Transformed};

use crate::{
    map::{diff, path, ttn_v2::V2Device},
    model::{
        device::{Component, Record},
        ids::{AppId, DeviceId, Eui64},
    },
    wire,
};

/// The NS setting that mutes a device: false stops downlinks and join-accepts, uplinks go on (docs/servers.md, Muting).
pub const MUTE: &str = "mac_settings.schedule_downlinks";

/// What a run will do.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// One entry per application that could be read, in the order of the configuration.
    pub applications: Vec<ApplicationPlan>,
    /// Those that could not.
    pub failed: Vec<failed::FailedApplication>,
    /// Gateways that are registered on the target.
    pub gateways: gateways::GatewaysPlan,
}

/// What becomes of one application.
#[derive(Debug, Clone)]
pub struct ApplicationPlan {
    /// At the source.
    pub source: AppId,
    /// On the target.
    pub target: AppId,
    /// True when it does not exist on the target yet.
    pub create: bool,
    /// Findings about the application itself.
    pub findings: Vec<Finding>,
    /// What it has besides its devices, by name.
    pub belongings: Vec<belongings::ItemPlan>,
    /// Its devices by ID.
    pub devices: Vec<DevicePlan>,
}

/// What becomes of one device.
#[derive(Debug, Clone)]
pub struct DevicePlan {
    /// ID at the source.
    pub id: DeviceId,
    /// ID on the target.
    pub target_id: String,
    /// OTAA, ABP or multicast.
    pub activation: Activation,
    /// What becomes of its session.
    pub carry: Carry,
    /// Components that hold a record at the source.
    pub components: Vec<Component>,
    /// What will be done.
    pub verdict: Verdict,
    /// Everything worth saying.
    pub findings: Vec<Finding>,
    /// gRPC calls that moving it will take.
    pub calls: u32,
    /// True when an earlier run began it.
    pub was_begun: bool,
    /// Who heard it lately at the source.
    pub heard: Heard,
}

/// What the run does with a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is moved.
    Move,
    /// An earlier run began; this one goes on. The word for where it stands.
    Resume(&'static str),
    /// An earlier run finished it.
    Done,
    /// Not now: it waits for something that ends by itself.
    Wait,
    /// Not moved: see its findings.
    Stop,
}

impl Verdict {
    /// The word for it in files.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Move => "move",
            Self::Resume(_) => "resume",
            Self::Done => "done",
            Self::Wait => "wait",
            Self::Stop => "stop",
        }
    }
}

impl Plan {
    /// All devices with their application.
    pub fn devices(&self) -> impl Iterator<Item = (&ApplicationPlan, &DevicePlan)> {
        self.applications.iter().flat_map(|a| a.devices.iter().map(move |d| (a, d)))
    }

    /// How many devices have a verdict.
    pub fn count(&self, which: impl Fn(&Verdict) -> bool) -> usize {
        self.devices().filter(|(_, d)| which(&d.verdict)).count()
    }

    /// gRPC calls that the run will take after the plan, for the devices that it moves.
    pub fn calls(&self) -> u64 {
        let moves = |d: &DevicePlan| matches!(d.verdict, Verdict::Move | Verdict::Resume(_));
        let devices: u64 = self.devices().filter(|(_, d)| moves(d)).map(|(_, d)| u64::from(d.calls)).sum();
        // Looked at, set, read back.
        let around = self.applications.iter().flat_map(|a| &a.belongings);
        devices + 3 * around.filter(|item| item.verdict == belongings::Verdict::Create).count() as u64
    }
}

/// What planning a device starts from.
#[derive(Debug, Clone)]
pub struct Input {
    /// ID at the source.
    pub id: DeviceId,
    /// What was found there; empty for devices that an earlier run has begun or finished.
    pub found: Found,
    /// What the journal says: `None` when it knows nothing of the device.
    pub begun: Option<Begun>,
    /// The device that holds its EUIs on the target, if any.
    pub holder: Option<(AppId, DeviceId)>,
}

/// A device that an earlier run began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begun {
    /// Its ID on the target.
    pub target_id: String,
    /// The word for where it stands.
    pub state: &'static str,
    /// True when nothing is left to do.
    pub finished: bool,
}

/// Plans the devices of one application.
///
/// `existing` are the IS records of the target application by device ID.
pub fn devices(
    inputs: &[Input],
    existing: &HashMap<String, Record>,
    facts: &TargetFacts,
    wishes: &Wishes,
) -> Vec<DevicePlan> {
    let mut plans: Vec<_> = inputs.iter().map(|input| device(input, existing, facts, wishes)).collect();
    plans.sort_by(|a, b| a.id.cmp(&b.id));
    for (id, finding) in ttn_v2::across(inputs) {
        if let Some(plan) = plans.iter_mut().find(|plan| plan.id == id && !plan.was_begun) {
            plan.findings.push(finding);
        }
    }
    let proposals = match wishes.id_from {
        facts::IdFrom::Id => identity::proposals(inputs.iter().map(|input| input.id.as_str()), wishes),
        facts::IdFrom::Eui => BTreeMap::new(),
    };
    clashes(&mut plans, &proposals);
    plans
}

fn device(
    input: &Input,
    existing: &HashMap<String, Record>,
    facts: &TargetFacts,
    wishes: &Wishes,
) -> DevicePlan {
    if let Some(begun) = &input.begun {
        return DevicePlan {
            id: input.id.clone(),
            target_id: begun.target_id.clone(),
            activation: Activation::Unknown,
            carry: Carry::Nothing,
            components: Vec::new(),
            verdict: if begun.finished { Verdict::Done } else { Verdict::Resume(begun.state) },
            findings: Vec::new(),
            calls: if begun.finished { 0 } else { 20 },
            was_begun: true,
            heard: Heard::default(),
        };
    }
    let components: Vec<_> = input.found.records.present().map(|(c, _)| c).collect();
    let mut transformed = transform::device(&input.found, facts, wishes);
    if components.is_empty() && input.found.elsewhere.is_empty() {
        transformed.findings = vec![
            Finding::new(Kind::NotFound, "no component of the source has a record of this device")
                .fix("check the ID, and that it is a device of this application"),
        ];
    } else {
        transformed.findings.extend(on_target(input, &transformed, existing, wishes));
    }
    DevicePlan {
        id: input.id.clone(),
        target_id: transformed.copy.id.clone(),
        activation: transformed.activation,
        carry: transformed.carry,
        calls: calls(&input.found, &transformed),
        was_begun: false,
        heard: input.found.records.ns.as_ref().map(|ns| Heard::of(&ns.0)).unwrap_or_default(),
        verdict: verdict(&transformed.findings),
        findings: transformed.findings,
        components,
    }
}

fn verdict(findings: &[Finding]) -> Verdict {
    match findings.iter().map(|f| f.severity).max() {
        Some(Severity::Stop) => Verdict::Stop,
        Some(Severity::Wait) => Verdict::Wait,
        _ => Verdict::Move,
    }
}

/// Is the ID or the pair of EUIs there already? An equal record is adopted.
fn on_target(
    input: &Input,
    transformed: &Transformed,
    existing: &HashMap<String, Record>,
    wishes: &Wishes,
) -> Option<Finding> {
    let id = &transformed.copy.id;
    if let Some(record) = existing.get(id) {
        let Some(write) = &transformed.copy.is else {
            return Some(
                Finding::new(Kind::IdTaken, format!("{id} is on the target already")).at(Component::Is),
            );
        };
        let ours = path::project(&write.message, &write.paths);
        let differences = diff::diff(&ours, &path::project(&record.0, &write.paths));
        let paths: Vec<_> = differences.into_iter().map(|d| d.path).collect();
        return Some(if paths.is_empty() {
            Finding::new(Kind::Adopted, format!("{id} is on the target already, as it should be"))
                .at(Component::Is)
        } else {
            Finding::new(Kind::IdTaken, format!("{id} is on the target already and differs"))
                .at(Component::Is)
                .paths(paths)
                .fix("remove it there, or move this device under another ID (transform.device-id)")
        });
    }
    let (app, holder) = input.holder.as_ref()?;
    if *app == wishes.target_app && holder.as_str() == id {
        return None;
    }
    let record = input.found.records.present().map(|(_, r)| r).find(|r| r.dev_eui().is_some())?;
    let (join_eui, dev_eui) = (record.join_eui().unwrap_or(Eui64([0; 8])), record.dev_eui()?);
    Some(euis_taken(join_eui, dev_eui, app, holder))
}

/// The finding for devices of the target application that are none of the planned ones: the target is not empty, and
/// they stay as they are.
pub fn others(planned: &[DevicePlan], existing: &HashMap<String, Record>) -> Option<Finding> {
    let ours: BTreeSet<_> = planned.iter().map(|d| d.target_id.as_str()).collect();
    let mut others: Vec<_> = existing.keys().map(String::as_str).filter(|id| !ours.contains(id)).collect();
    others.sort_unstable();
    let count = others.len();
    others.truncate(8);
    let more = if count > others.len() { ", …" } else { "" };
    let text = format!(
        "{count} of the target's devices are not part of this move and stay as they are: {}{more}",
        others.join(", ")
    );
    (count > 0).then(|| Finding::new(Kind::OthersOnTarget, text))
}

/// The finding for a pair of EUIs that another device of the target has.
pub fn euis_taken(join_eui: Eui64, dev_eui: Eui64, app: &AppId, device: &DeviceId) -> Finding {
    let whose =
        if app.as_str().is_empty() { device.to_string() } else { format!("{device} of application {app}") };
    Finding::new(
        Kind::EuisTaken,
        format!("JoinEUI {join_eui} and DevEUI {dev_eui} are registered on the target as {whose}"),
    )
    .at(Component::Is)
    .paths(["ids.join_eui", "ids.dev_eui"])
    .fix("remove that device from the target, or leave this one out")
}

/// The finding for a call that the target refused, in the server's own words.
///
/// For an ID on the list of reserved words (`pkg/identityserver/blocklist`) it proposes another.
pub fn refused(kind: Kind, error: &wire::Error) -> Finding {
    let reserved = error
        .status()
        .and_then(|s| s.errors.iter().find(|e| e.name == "forbidden_id"))
        .and_then(|e| e.attributes.get("id")?.as_str())
        .and_then(|id| identity::propose(&format!("dev-{id}"), None));
    let fix = match reserved {
        Some(id) => format!("`{id}` would do: rename the device at the source, or use transform.device-id"),
        None => error.hint().unwrap_or_default(),
    };
    Finding::new(kind, error.to_string()).fix(fix)
}

/// Two devices of a run must not get one ID (`a_b` and `a-b`).
fn clashes(plans: &mut [DevicePlan], proposals: &BTreeMap<String, String>) {
    let mut by_id: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (index, plan) in plans.iter().enumerate() {
        by_id.entry(plan.target_id.clone()).or_default().push(index);
    }
    for (id, indexes) in by_id.into_iter().filter(|(id, indexes)| indexes.len() > 1 && !id.is_empty()) {
        let names: Vec<_> = indexes.iter().map(|&i| plans[i].id.to_string()).collect();
        for index in indexes {
            let plan = &mut plans[index];
            let fix = match proposals.get(plan.id.as_str()) {
                Some(name) => format!(
                    "`{name}` would do: set transform.device-id = {{ rename = \"auto\" }}, or rename it at the source"
                ),
                // The one that keeps its name when the other makes way, or both under `from = "eui"`.
                None => "let the other make way (transform.device-id = { rename = \"auto\" }), rename one of them at the \
                         source, or use transform.device-id = { from = \"eui\" }"
                    .to_owned(),
            };
            if matches!(plan.verdict, Verdict::Move | Verdict::Wait | Verdict::Stop) {
                plan.verdict = Verdict::Stop;
                plan.findings.push(
                    Finding::new(Kind::IdClash, format!("{} would all become `{id}`", names.join(", ")))
                        .fix(fix),
                );
            }
        }
    }
}

/// gRPC calls for moving a device, as `engine::device` makes them when the source is cleared with `clear.mode = "keys"`;
/// fewer in the other modes.
fn calls(found: &Found, transformed: &Transformed) -> u32 {
    let copy = &transformed.copy;
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    if let Some(device) = &found.v2 {
        return calls_of_v2(device, copy);
    }
    let was_muted = found.records.ns.as_ref().map(|ns| path::wrapped_flag(&ns.0, MUTE) == Some(false));
    let mute = u32::from(was_muted == Some(false));
    // All four registries, each time.
    let read = 4;
    let read_again = read;
    let before_live = if copy.ns.is_some() { read } else { 0 };
    let looked = u32::from(found.records.js.is_some() && found.records.ns.is_none() && copy.js.is_some());
    // Look for what an earlier attempt left, write, read back.
    let written = 3 * count(copy.components().count());
    let started = copy.ns.as_ref().is_some_and(|w| path::has(&w.message, transform::STARTED_AT));
    let cleared = found
        .records
        .present()
        .filter(|(c, _)| *c != Component::Is && !transformed.keep_at_source.contains(c))
        .count();
    let seen = u32::from(transformed.carry == Carry::Drop);
    let checked = if cleared > 0 { seen + read } else { 0 };
    read + mute
        + read_again
        + written
        + before_live
        + 2 * u32::from(started)
        + checked
        + looked
        + count(cleared)
}

/// As [`calls`], in mute-target. Pages of the source are shared by many devices and do not count.
fn calls_of_v2(device: &V2Device, copy: &transform::Copy) -> u32 {
    let has = |at: &str| copy.ns.as_ref().is_some_and(|w| path::has(&w.message, at));
    // Snapshot, last look and clear; without a session the clear alone.
    let source = if device.has_session() { 3 } else { 1 };
    let written = 3 * u32::try_from(copy.components().count()).unwrap_or(u32::MAX);
    let started = 2 * u32::from(has(transform::STARTED_AT));
    // The target is looked at and counted, then NS and AS are read and raised.
    let counted = if has("session") { 5 } else { 0 };
    // Unmuted, and read back once more.
    source + written + started + counted + 3
}

#[cfg(test)]
mod tests;
