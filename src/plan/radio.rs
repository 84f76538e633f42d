//! Frequency plans, PHY versions and MAC defaults: does the device fit the target's radio configuration?

use prost_reflect::ReflectMessage as _;

use super::{
    facts::{TargetFacts, Wishes},
    finding::{Finding, Kind},
    session::Carry,
    transform::{Found, Write},
};
use crate::{
    map::{diff, path},
    model::device::{Component, Record},
};

/// The frequency plan on the target: mapped, else the same, else the default.
pub fn plan_for(record: &Record, wishes: &Wishes) -> Option<String> {
    let plan = path::string(&record.0, "frequency_plan_id");
    if plan.is_empty() {
        return wishes.default_frequency_plan.clone();
    }
    Some(wishes.frequency_plans.get(&plan).cloned().unwrap_or(plan))
}

/// Checks the NS record that is to be written against what the target said of itself.
pub fn check(found: &Found, write: &Write, carry: Carry, facts: &TargetFacts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let plan = path::string(&write.message, "frequency_plan_id");
    let phy = path::number(&write.message, "lorawan_phy_version") as i32;
    let Some(band) = facts.frequency_plans.get(&plan) else {
        return vec![no_plan(&plan, facts, found.v2.is_some())];
    };
    if facts.phy_versions.get(band).is_some_and(|versions| !versions.contains(&phy)) {
        findings.push(
            Finding::new(
                Kind::PhyVersion,
                format!("the target has no PHY version {} for band {band}", phy_name(phy)),
            )
            .at(Component::Ns)
            .paths(["lorawan_phy_version"])
            .fix(match found.v2 {
                Some(_) => "choose another in transform.phy-version",
                None => "choose a PHY version of the target's list at the source",
            }),
        );
    }
    if !matches!(carry, Carry::Keep | Carry::Reset) {
        return findings;
    }
    let was =
        found.records.ns.as_ref().map(|ns| path::string(&ns.0, "frequency_plan_id")).unwrap_or_default();
    // V2 does not say on which plan its devices are.
    if was != plan && found.v2.is_none() {
        findings.push(
            Finding::new(
                Kind::SessionPlanChange,
                format!("its session runs on {was} and would be moved to {plan}"),
            )
            .at(Component::Ns)
            .paths(["frequency_plan_id"])
            .fix("drop the session of this device, or keep its frequency plan"),
        );
    }
    findings.extend(defaults(write, &plan, phy, facts));
    findings
}

fn no_plan(plan: &str, facts: &TargetFacts, of_v2: bool) -> Finding {
    let text = if plan.is_empty() {
        "it has no frequency plan".to_owned()
    } else {
        format!("the target has no frequency plan {plan}")
    };
    let like: Vec<_> = facts
        .frequency_plans
        .keys()
        .filter(|p| p.split('_').next() == plan.split('_').next())
        .cloned()
        .collect();
    // V2 has none that could be mapped.
    let (map, to) = match of_v2 {
        true => ("say another in transform.frequency-plan.default", ": one of"),
        false => ("map it in transform.frequency-plan", " to one of"),
    };
    let fix = if like.is_empty() { map.to_owned() } else { format!("{map}{to} {}", like.join(", ")) };
    Finding::new(Kind::FrequencyPlan, text).at(Component::Ns).paths(["frequency_plan_id"]).fix(fix)
}

/// A kept session goes on with its own MAC state; the target will steer it to its own defaults where these differ.
/// What the device's own settings name does not follow the defaults.
fn defaults(write: &Write, plan: &str, phy: i32, facts: &TargetFacts) -> Option<Finding> {
    let (source, target) = facts.mac_defaults.get(&(plan.to_owned(), phy))?;
    let differences = diff::diff(source, target).into_iter().map(|d| format!("mac_settings.{}", d.path));
    let own = |p: &String| path::exists(&write.message.descriptor(), p) && path::has(&write.message, p);
    let paths: Vec<_> = differences.filter(|p| !own(p)).collect();
    (!paths.is_empty()).then(|| {
        Finding::new(Kind::DefaultsDiffer, "the MAC defaults of the two networks differ; the session is kept")
            .at(Component::Ns)
            .paths(paths)
            .fix("set these in the device's MAC settings where the device cannot follow a change")
    })
}

/// The name of a PHY version, or its number when this build does not know it.
fn phy_name(phy: i32) -> String {
    crate::proto::enumeration("PHYVersion")
        .get_value(phy)
        .map_or_else(|| phy.to_string(), |v| v.name().to_owned())
}
