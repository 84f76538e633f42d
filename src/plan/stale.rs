//! A plan as a file: what was decided for each device and under which configuration, so that a run can refuse to do
//! anything else. Decisions only: counters and sessions move while people look at a plan.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{
    ApplicationPlan, DevicePlan, Plan,
    finding::{Finding, Kind, Severity},
    gateways::{GatewayPlan, redirect::Redirect},
};

/// Version of the file.
const VERSION: u32 = 3;
/// Differences that are named one by one.
const NAMED: usize = 20;

/// What was decided. It holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decided {
    v: u32,
    /// SHA-256 over everything below.
    digest: String,
    /// Settings by name.
    configuration: BTreeMap<String, String>,
    /// By `source → target`.
    applications: BTreeMap<String, Application>,
    /// By ID at the source: what is done about a gateway, and its findings.
    #[serde(default)]
    gateways: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Application {
    create: bool,
    findings: BTreeSet<String>,
    /// What becomes of what it has besides its devices, by name.
    belongings: BTreeMap<String, String>,
    devices: BTreeMap<String, Device>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Device {
    verdict: String,
    target_device: String,
    activation: String,
    session: String,
    components: String,
    findings: BTreeSet<String>,
}

/// Why a plan cannot be carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Stale {
    /// Not a file that `plan --out` wrote.
    #[error("it is no plan of stackferry: {0}")]
    Unreadable(String),
    /// Another version of the file.
    #[error("it is a plan of version {0}, and this stackferry knows {VERSION}")]
    Version(u32),
    /// Somebody changed the file.
    #[error("its digest is not that of its contents: it was edited")]
    Edited,
    /// What would be done now is something else.
    #[error("what would be done now is not what was planned:{}", named(.0))]
    Differs(Vec<String>),
}

fn named(differences: &[String]) -> String {
    let mut text = String::new();
    for difference in differences.iter().take(NAMED) {
        text.push_str("\n  ");
        text.push_str(difference);
    }
    if differences.len() > NAMED {
        text.push_str(&format!("\n  and {} more", differences.len() - NAMED));
    }
    text
}

impl Decided {
    /// What `plan` decides under `configuration`, whose names and values hold no secret.
    pub fn of(plan: &Plan, configuration: impl IntoIterator<Item = (String, String)>) -> Self {
        let applications =
            plan.applications.iter().map(|a| (format!("{} → {}", a.source, a.target), a.into()));
        let mut decided = Self {
            v: VERSION,
            digest: String::new(),
            configuration: configuration.into_iter().collect(),
            applications: applications.collect(),
            gateways: plan.gateways.gateways.iter().map(gateway).collect(),
        };
        decided.digest = decided.digest();
        decided
    }

    /// Reads what [`Decided::to_json`] wrote.
    ///
    /// # Errors
    /// When it is something else, or was edited.
    pub fn from_json(text: &str) -> Result<Self, Stale> {
        let unreadable = |e: serde_json::Error| Stale::Unreadable(e.to_string());
        let value: serde_json::Value = serde_json::from_str(text).map_err(unreadable)?;
        let version = value.get("v").and_then(serde_json::Value::as_u64);
        if let Some(other) = version.and_then(|v| u32::try_from(v).ok()).filter(|v| *v != VERSION) {
            return Err(Stale::Version(other));
        }
        let read: Self = serde_json::from_value(value).map_err(unreadable)?;
        if read.digest == read.digest() { Ok(read) } else { Err(Stale::Edited) }
    }

    /// As JSON for a file.
    pub fn to_json(&self) -> String {
        // Texts, flags and maps with text keys, which JSON always takes.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    fn digest(&self) -> String {
        let contents = serde_json::to_vec(&(self.v, &self.configuration, &self.applications, &self.gateways));
        hex::encode(Sha256::digest(contents.unwrap_or_default()))
    }

    /// Refuses unless `now` decides the same. A device that a run has begun since keeps to what was decided then, in the
    /// journal.
    ///
    /// # Errors
    /// [`Stale::Differs`] with what differs.
    pub fn check(&self, now: &Self) -> Result<(), Stale> {
        let mut differences = Vec::new();
        maps(&self.configuration, &now.configuration, |name, before, after| {
            differences.push(change(name, before.map(String::as_str), after.map(String::as_str)));
        });
        maps(&self.gateways, &now.gateways, |id, before, after| match (before, after) {
            // One that a run has begun since keeps to what was decided then.
            (Some(_), Some(after)) if after.starts_with("resume") || after.starts_with("done") => {}
            (Some(before), Some(after)) => {
                differences.push(change(&format!("gateway {id}"), Some(before), Some(after)));
            }
            (before, _) => differences.push(came_or_went("gateway", id, before.is_some())),
        });
        maps(&self.applications, &now.applications, |name, before, after| match (before, after) {
            (Some(before), Some(after)) => before.compare(name, after, &mut differences),
            (before, _) => differences.push(came_or_went("application", name, before.is_some())),
        });
        if differences.is_empty() { Ok(()) } else { Err(Stale::Differs(differences)) }
    }
}

/// Calls `f` for every key whose values differ.
fn maps<V: PartialEq>(
    before: &BTreeMap<String, V>,
    after: &BTreeMap<String, V>,
    mut f: impl FnMut(&str, Option<&V>, Option<&V>),
) {
    let keys: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    for key in keys {
        let (before, after) = (before.get(key), after.get(key));
        if before != after {
            f(key, before, after);
        }
    }
}

fn change(name: &str, before: Option<&str>, after: Option<&str>) -> String {
    let shown = |value: Option<&str>| match value {
        None | Some("") => "nothing".to_owned(),
        Some(value) => format!("`{value}`"),
    };
    format!("{name}: {} was planned, now it is {}", shown(before), shown(after))
}

fn came_or_went(what: &str, name: &str, went: bool) -> String {
    format!("{what} {name} {}", if went { "is not there any more" } else { "was not in the plan" })
}

impl Application {
    fn compare(&self, name: &str, now: &Self, differences: &mut Vec<String>) {
        let begun = |device: &Device| matches!(device.verdict.as_str(), "resume" | "done");
        // Once a device was begun, so were the things around it, and before these the application.
        let around = |verdict: &String| matches!(verdict.as_str(), "resume" | "done");
        if !now.devices.values().any(begun) && !now.belongings.values().any(around) {
            for (field, before, after) in [
                ("create", self.create.to_string(), now.create.to_string()),
                ("findings", list(&self.findings), list(&now.findings)),
            ] {
                if before != after {
                    differences.push(change(
                        &format!("application {name}: {field}"),
                        Some(&before),
                        Some(&after),
                    ));
                }
            }
        }
        maps(&self.belongings, &now.belongings, |item, before, after| match (before, after) {
            // What an earlier run began keeps to what was decided then.
            (_, Some(after)) if matches!(after.as_str(), "resume" | "done") => {}
            // Contacts that are as planned are not in a plan.
            (Some(_), None) if item.starts_with("contact ") => {}
            (before, after) => {
                let name = format!("application {name}: {item}");
                differences.push(change(&name, before.map(String::as_str), after.map(String::as_str)));
            }
        });
        maps(&self.devices, &now.devices, |id, before, after| match (before, after) {
            (Some(_), Some(after)) if begun(after) => {}
            (Some(before), Some(after)) => before.compare(id, after, differences),
            (before, _) => differences.push(came_or_went("device", id, before.is_some())),
        });
    }
}

impl Device {
    fn compare(&self, id: &str, now: &Self, differences: &mut Vec<String>) {
        let fields = |d: &Self| {
            [
                ("verdict", d.verdict.clone()),
                ("target_device", d.target_device.clone()),
                ("activation", d.activation.clone()),
                ("session", d.session.clone()),
                ("components", d.components.clone()),
                ("findings", list(&d.findings)),
            ]
        };
        for ((field, before), (_, after)) in fields(self).into_iter().zip(fields(now)) {
            if before != after {
                differences.push(change(&format!("device {id}: {field}"), Some(&before), Some(&after)));
            }
        }
    }
}

fn list(names: &BTreeSet<String>) -> String {
    names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// What a person would decide by: kinds from warnings up, not their words, which hold addresses and counts. Who hears a device
/// moves with its next uplink.
fn findings(all: &[Finding]) -> BTreeSet<String> {
    let decisive = all.iter().filter(|f| f.severity >= Severity::Warning && f.kind != Kind::RadioPath);
    decisive.map(|f| f.kind.name().to_owned()).collect()
}

fn gateway(plan: &GatewayPlan) -> (String, String) {
    let words = list(&findings(&plan.findings));
    let redirect = match plan.redirect {
        Redirect::Set => ", sent by CUPS",
        _ => "",
    };
    let delete = if plan.delete { ", deleted at the source" } else { "" };
    let all = format!("{} as {}{redirect}{delete} {words}", plan.verdict.name(), plan.target_id);
    (plan.id.clone(), all.trim_end().to_owned())
}

impl From<&ApplicationPlan> for Application {
    fn from(plan: &ApplicationPlan) -> Self {
        Self {
            create: plan.create,
            findings: findings(&plan.findings),
            belongings: plan
                .belongings
                .iter()
                .map(|i| (i.key.to_string(), i.verdict.name().to_owned()))
                .collect(),
            devices: plan.devices.iter().map(|d| (d.id.to_string(), d.into())).collect(),
        }
    }
}

impl From<&DevicePlan> for Device {
    fn from(plan: &DevicePlan) -> Self {
        let components: Vec<_> = plan.components.iter().map(ToString::to_string).collect();
        Self {
            verdict: plan.verdict.name().to_owned(),
            target_device: plan.target_id.clone(),
            activation: format!("{:?}", plan.activation).to_lowercase(),
            session: format!("{:?}", plan.carry).to_lowercase(),
            components: components.join(" "),
            findings: findings(&plan.findings),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{
            belonging::ItemKey,
            ids::{AppId, DeviceId},
        },
        plan::{
            Verdict, belongings,
            finding::Kind,
            session::{Activation, Carry},
        },
    };

    fn plan() -> Plan {
        let device = |id: &str| DevicePlan {
            id: DeviceId::unchecked(id),
            target_id: id.to_owned(),
            activation: Activation::Otaa,
            carry: Carry::Keep,
            components: Vec::new(),
            verdict: Verdict::Move,
            findings: vec![Finding::new(Kind::OutsidePrefixes, "DevAddr 260B0001")],
            calls: 30,
            was_begun: false,
            heard: Default::default(),
        };
        let application = ApplicationPlan {
            source: AppId::unchecked("meters"),
            target: AppId::unchecked("meters-2"),
            create: true,
            findings: Vec::new(),
            belongings: vec![belongings::ItemPlan {
                key: ItemKey {
                    target: "meters-2".into(),
                    sort: "webhook".into(),
                    device: String::new(),
                    id: "hook-1".into(),
                },
                called: String::new(),
                verdict: belongings::Verdict::Create,
                findings: Vec::new(),
            }],
            devices: vec![device("dev-1"), device("dev-2")],
        };
        Plan { applications: vec![application], ..Plan::default() }
    }

    fn decided(plan: &Plan) -> Decided {
        Decided::of(plan, [("clear.mode".to_owned(), "keys".to_owned())])
    }

    #[track_caller]
    fn differs(change: impl FnOnce(&mut Plan), what: &str) {
        let mut now = plan();
        change(&mut now);
        let Err(Stale::Differs(found)) = decided(&plan()).check(&decided(&now)) else {
            panic!("not seen: {what}")
        };
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains(what), "{found:?}");
    }

    #[test]
    fn every_decision_counts_and_is_named() {
        differs(
            |p| p.applications[0].devices[0].verdict = Verdict::Stop,
            "device dev-1: verdict: `move` was planned",
        );
        differs(|p| p.applications[0].devices[1].carry = Carry::Drop, "device dev-2: session");
        differs(|p| p.applications[0].devices[1].target_id = "x".into(), "device dev-2: target_device");
        differs(|p| p.applications[0].devices[1].findings.clear(), "device dev-2: findings");
        differs(|p| drop(p.applications[0].devices.pop()), "device dev-2 is not there any more");
        differs(|p| p.applications[0].create = false, "application meters → meters-2: create");
        differs(
            |p| p.applications[0].belongings[0].verdict = belongings::Verdict::Stop,
            "application meters → meters-2: webhook hook-1: `create` was planned, now it is `stop`",
        );
        differs(|p| p.applications.clear(), "application meters → meters-2 is not there");
    }

    #[test]
    fn traffic_and_what_was_begun_do_not_count() {
        let mut now = plan();
        now.applications[0].devices[0].findings[0].text = "DevAddr 260B0002".to_owned();
        now.applications[0].devices[0].calls = 7;
        now.applications[0].devices[1].verdict = Verdict::Resume("copying");
        now.applications[0].belongings[0].verdict = belongings::Verdict::Done;
        now.applications[0].create = false;
        assert_eq!(decided(&plan()).check(&decided(&now)), Ok(()));
    }

    #[test]
    fn a_setting_counts() {
        let other = Decided::of(&plan(), [("clear.mode".to_owned(), "delete".to_owned())]);
        let Err(Stale::Differs(found)) = decided(&plan()).check(&other) else { panic!("not seen") };
        assert_eq!(found, ["clear.mode: `keys` was planned, now it is `delete`"]);
    }

    #[test]
    fn a_file_is_read_as_it_was_written_or_refused() {
        let text = decided(&plan()).to_json();
        assert_eq!(Decided::from_json(&text), Ok(decided(&plan())));
        assert_eq!(Decided::from_json(&text.replace("keys", "mute")), Err(Stale::Edited));
        assert_eq!(Decided::from_json(&text.replace("\"v\": 3", "\"v\": 1")), Err(Stale::Version(1)));
        assert!(matches!(Decided::from_json("{}"), Err(Stale::Unreadable(_))));
        assert!(matches!(Decided::from_json("no"), Err(Stale::Unreadable(_))));
    }
}
