//! JSON lines on stdout: one object an event, each with the version of the format.

use serde_json::{Value, json};

use crate::{
    engine::event::{Event, Outcome, Summary},
    plan::{DevicePlan, Plan, belongings::ItemPlan, failed::FailedApplication, finding::Finding},
};

/// Version of the format. Fields may be added without a change; a change of meaning raises it.
pub const VERSION: u32 = 1;

/// The line for an event, or `None` for what only `-v` and `-vv` show.
pub fn event(event: &Event, verbose: u8) -> Option<Value> {
    let (name, body) = match event {
        Event::Note(text) => ("note", json!({ "text": text })),
        Event::Planned(plan) => ("planned", self::plan(plan)),
        Event::Started { devices } => ("started", json!({ "devices": devices })),
        Event::Application { app, created } => {
            ("application", json!({ "application": app.as_str(), "created": created }))
        }
        Event::Step { device, step, .. } => (
            "step",
            json!({ "application": device.app.as_str(), "device": device.device.as_str(), "step": step }),
        ),
        Event::Ended { device, outcome } => {
            let mut body = self::outcome(outcome);
            body["application"] = json!(device.app.as_str());
            body["device"] = json!(device.device.as_str());
            ("ended", body)
        }
        Event::Call(call) if verbose > 1 => ("call", json!({ "text": call })),
        Event::Wait(wait) if verbose > 0 => ("wait", json!({ "text": wait })),
        Event::Call(_) | Event::Wait(_) => return None,
        Event::Draining => ("draining", json!({})),
        Event::TooManyFailures(count) => ("too-many-failures", json!({ "failures": count })),
    };
    Some(line(name, body))
}

/// The closing line of a run.
pub fn summary(summary: &Summary, exit_code: u8) -> Value {
    let count = |which: fn(&Outcome) -> bool| summary.count(which);
    line(
        "summary",
        json!({
            "exit_code": exit_code,
            "done": count(|o| *o == Outcome::Done),
            "already": count(|o| *o == Outcome::Already),
            "rolled_back": count(|o| *o == Outcome::RolledBack),
            "waiting": count(|o| matches!(o, Outcome::Waiting(_))),
            "refused": count(|o| matches!(o, Outcome::Refused(_))),
            "stopped": count(|o| matches!(o, Outcome::Stopped(_))),
            "blocked": count(|o| matches!(o, Outcome::Blocked(_))),
            "not_begun": summary.not_begun,
            "applications_failed": failed(&summary.failed),
            "stopped_by": summary.stopped_by.as_ref().map(|a| a.as_str()),
            "interrupted": summary.interrupted,
            "locked": summary.locked,
            "belongings": summary.belongings.iter().map(|(name, outcome)| {
                let mut body = self::outcome(outcome);
                body["name"] = json!(name);
                body
            }).collect::<Vec<_>>(),
            "api_keys": summary.new_keys.as_ref().map(|(file, keys)| json!({ "file": file, "count": keys })),
            "gateways": super::gateways::summary_json(&summary.gateways),
            "applications_created": summary.created.iter().map(|a| a.as_str()).collect::<Vec<_>>(),
            "applications_removed": summary.removed.iter().map(|a| a.as_str()).collect::<Vec<_>>(),
            "records": {
                "created": summary.tally.created,
                "verified": summary.tally.verified,
                "cleared": summary.tally.cleared,
                "restored": summary.tally.restored,
                "removed": summary.tally.removed,
            },
            "calls": summary.tally.calls,
            "calls_by_method": summary.tally.methods.iter().map(|((side, method), calls)| {
                json!({ "side": side.to_string(), "method": method.trim_start_matches('/'), "calls": calls })
            }).collect::<Vec<_>>(),
            "waits": summary.tally.waits.iter().map(|((side, reason), time)| {
                json!({ "side": side.to_string(), "reason": reason.to_string(), "seconds": time.as_secs_f64() })
            }).collect::<Vec<_>>(),
        }),
    )
}

/// A line with its version and event name in front.
pub fn line(name: &str, body: Value) -> Value {
    let mut out = json!({ "v": VERSION, "event": name });
    if let (Value::Object(out), Value::Object(body)) = (&mut out, body) {
        out.extend(body);
    }
    out
}

pub(super) fn outcome(outcome: &Outcome) -> Value {
    match outcome {
        Outcome::Done => json!({ "outcome": "done" }),
        Outcome::Already => json!({ "outcome": "already" }),
        Outcome::RolledBack => json!({ "outcome": "rolled-back" }),
        Outcome::Waiting(what) => json!({ "outcome": "waiting", "why": what }),
        Outcome::Refused(findings) => json!({ "outcome": "refused", "findings": self::findings(findings) }),
        Outcome::Stopped(why) => json!({ "outcome": "stopped", "why": why }),
        Outcome::Blocked(finding) => {
            json!({ "outcome": "blocked", "findings": findings(std::slice::from_ref(finding)) })
        }
    }
}

/// The plan with all devices.
pub fn plan(plan: &Plan) -> Value {
    let applications: Vec<_> = plan
        .applications
        .iter()
        .map(|a| {
            json!({
                "source": a.source.as_str(),
                "target": a.target.as_str(),
                "create": a.create,
                "findings": findings(&a.findings),
                "belongings": a.belongings.iter().map(belonging).collect::<Vec<_>>(),
                "devices": a.devices.iter().map(device).collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({
        "applications": applications,
        "applications_failed": failed(&plan.failed),
        "gateways": super::gateways::plan_json(&plan.gateways),
        "gateway_findings": findings(&plan.gateways.findings),
        "calls": plan.calls(),
    })
}

pub(super) fn failed(failed: &[FailedApplication]) -> Vec<Value> {
    let all = failed.iter().map(|f| {
        json!({
            "source": f.source.as_str(),
            "target": f.target.as_str(),
            "why": f.why,
            "fix": f.fix,
            "devices": f.devices,
        })
    });
    all.collect()
}

fn belonging(item: &ItemPlan) -> Value {
    json!({
        "kind": item.key.sort,
        "device": item.key.device,
        "id": item.key.id,
        "name": item.called,
        "verdict": item.verdict.name(),
        "findings": findings(&item.findings),
    })
}

fn device(device: &DevicePlan) -> Value {
    json!({
        "device": device.id.as_str(),
        "target_device": device.target_id,
        "verdict": device.verdict.name(),
        "activation": device.activation,
        "session": device.carry,
        "components": device.components,
        "findings": findings(&device.findings),
        "calls": device.calls,
        "heard_by": device.heard.gateways,
        "heard_by_packet_broker": device.heard.broker,
    })
}

pub(super) fn findings(findings: &[Finding]) -> Vec<Value> {
    findings
        .iter()
        .map(|f| {
            json!({
                "kind": f.kind.name(),
                "severity": format!("{:?}", f.severity).to_ascii_lowercase(),
                "component": f.component,
                "paths": f.paths,
                "text": f.text,
                "fix": f.fix,
            })
        })
        .collect()
}
