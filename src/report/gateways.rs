//! Gateways in plans, summaries and rollbacks.

use std::{collections::BTreeMap, fmt::Write as _};

use serde_json::{Value, json};

use super::{
    json::{findings, outcome},
    plan::{fix, sign},
    terminal::style::{BAD, FAINT, GOOD, HEAD, WARN, paint},
};
use crate::{
    engine::{
        event::Outcome,
        gateways::{GatewayReturn, Registered},
    },
    model::gateway::GatewayKey,
    plan::{
        belongings::Verdict,
        finding::Finding,
        gateways::{
            GatewayPlan, GatewaysPlan,
            redirect::Redirect,
            settings::{Settings, UDP_PORT},
        },
    },
};

/// Names in one line.
const NAMES: usize = 4;

/// What becomes of the gateways: a line for each kind of end, then the findings.
pub(super) fn plan(out: &mut String, plan: &GatewaysPlan) {
    if plan.gateways.is_empty() && plan.findings.is_empty() {
        return;
    }
    let _ = writeln!(out, "{}", paint(HEAD, "gateways"));
    type Which = fn(&GatewayPlan) -> bool;
    let lines: [(Which, String, &str); 8] = [
        (|g| g.verdict == Verdict::Create, paint(GOOD, "+"), "to be registered"),
        (|g| matches!(g.verdict, Verdict::Resume(_)), paint(WARN, "~"), "to go on with"),
        (|g| matches!(g.verdict, Verdict::Done | Verdict::Equal), "=".into(), "there"),
        (|g| g.verdict == Verdict::Differs, paint(WARN, "!"), "there with other values, which stay"),
        (|g| g.verdict == Verdict::Stop, paint(BAD, "x"), "not registered"),
        (|g| g.redirect == Redirect::Set, paint(GOOD, "+"), "to be sent to the target by the source's CUPS"),
        (|g| g.redirect == Redirect::There, "=".into(), "sent to the target by the source's CUPS"),
        (|g| g.delete, paint(WARN, "-"), "to be deleted at the source once the target has them connected"),
    ];
    for (which, sign, words) in lines {
        let some: Vec<_> = plan.gateways.iter().filter(|g| which(g)).collect();
        if some.is_empty() {
            continue;
        }
        let name = |g: &&GatewayPlan| {
            if g.id == g.target_id { g.id.clone() } else { format!("{} as {}", g.id, g.target_id) }
        };
        let names = short(some.iter().map(name).collect());
        let _ = writeln!(out, "  {sign} {words}: {} ({names})", some.len());
    }
    let made = |kind: GatewayKey| {
        let new = |g: &&GatewayPlan| g.verdict == Verdict::Create && g.keys.contains(&kind);
        plan.gateways.iter().filter(new).count()
    };
    for (word, kind) in GatewayKey::ALL {
        if made(kind) > 0 {
            let _ = writeln!(out, "  {} API keys for {word} to be made: {}", paint(GOOD, "+"), made(kind));
        }
    }
    for finding in &plan.findings {
        let _ = writeln!(out, "  {} {finding}", sign(finding.severity));
        fix(out, finding);
    }
    grouped(out, &plan.gateways);
    let _ = writeln!(out);
}

/// The findings of gateways; one that many share is said once.
fn grouped(out: &mut String, gateways: &[GatewayPlan]) {
    let mut groups: Vec<(Finding, Vec<String>)> = Vec::new();
    for gateway in gateways {
        for finding in &gateway.findings {
            let mut shared = finding.clone();
            let own = format!("gateway {}: ", gateway.id);
            shared.text = finding.text.strip_prefix(&own).unwrap_or(&finding.text).to_owned();
            match groups.iter_mut().find(|(known, _)| *known == shared) {
                Some((_, names)) => names.push(gateway.id.clone()),
                None => groups.push((shared, vec![gateway.id.clone()])),
            }
        }
    }
    groups.sort_by_key(|(finding, _)| std::cmp::Reverse(finding.severity));
    for (mut finding, names) in groups {
        finding.text = match names.as_slice() {
            [one] => format!("gateway {one}: {}", finding.text),
            all => format!("{} gateways ({}): {}", all.len(), short(names.clone()), finding.text),
        };
        let _ = writeln!(out, "  {} {finding}", sign(finding.severity));
        fix(out, &finding);
    }
}

fn short(names: Vec<String>) -> String {
    let more = names.len().saturating_sub(NAMES);
    let shown = names.into_iter().take(NAMES).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

/// The same for programs.
pub(super) fn plan_json(plan: &GatewaysPlan) -> Vec<Value> {
    let one = |g: &GatewayPlan| {
        json!({
            "gateway": g.id,
            "target_gateway": g.target_id,
            "eui": g.eui.map(|eui| eui.to_string()),
            "verdict": g.verdict.name(),
            "api_keys": g.keys.iter().map(|key| key.word()).collect::<Vec<_>>(),
            "cups_redirect": g.redirect.name(),
            "delete_at_source": g.delete,
            "findings": findings(&g.findings),
        })
    };
    plan.gateways.iter().map(one).collect()
}

/// What became of them, and what has to be changed in their own settings: that alone moves them.
pub(super) fn summary(out: &mut String, gateways: &Registered) {
    let count = |which: fn(&Outcome) -> bool| gateways.outcomes.iter().filter(|(_, o)| which(o)).count();
    let lines: [(String, usize, &str); 4] = [
        (paint(GOOD, "+"), count(|o| *o == Outcome::Done), "registered"),
        (
            paint(GOOD, "-"),
            count(|o| *o == Outcome::RolledBack),
            "taken back: their IDs stay taken on the target",
        ),
        ("=".to_owned(), count(|o| *o == Outcome::Already), "there before"),
        (
            paint(GOOD, "-"),
            gateways.cleared.iter().filter(|(_, o)| *o == Outcome::Done).count(),
            "deleted at the source",
        ),
    ];
    for (sign, count, words) in lines.into_iter().filter(|(_, count, _)| *count > 0) {
        let _ = writeln!(out, "  {sign} gateways: {count} {words}");
    }
    waiting(out, gateways);
    for (id, outcome) in gateways.outcomes.iter().chain(&gateways.cleared) {
        let (why, fix) = match outcome {
            Outcome::Done | Outcome::Already | Outcome::RolledBack | Outcome::Waiting(_) => continue,
            Outcome::Stopped(why) => (format!("gateway {id} in the middle: {why}"), String::new()),
            Outcome::Refused(all) => {
                all.first().map_or_else(Default::default, |f| (f.to_string(), f.fix.clone()))
            }
            Outcome::Blocked(finding) => (finding.to_string(), finding.fix.clone()),
        };
        let _ = writeln!(out, "  {} {why}", paint(BAD, "x"));
        if !fix.is_empty() {
            let _ = writeln!(out, "      {}", paint(FAINT, format!("→ {fix}")));
        }
    }
    settings(out, &gateways.settings);
}

/// Those that wait, together where they wait for the same.
fn waiting(out: &mut String, gateways: &Registered) {
    let mut groups: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (id, outcome) in gateways.outcomes.iter().chain(&gateways.cleared) {
        if let Outcome::Waiting(what) = outcome {
            groups.entry(what).or_default().push(id.clone());
        }
    }
    for (what, names) in groups {
        let count = names.len();
        let _ = writeln!(out, "  {} gateways: {count} waiting ({}): {what}", paint(WARN, "…"), short(names));
    }
}

/// The addresses are those of the target, and the same for all; what differs has a line for each.
fn settings(out: &mut String, all: &[(String, Settings)]) {
    let Some((_, first)) = all.first() else { return };
    let _ = writeln!(out, "  to connect these gateways to the target, change their own settings:");
    let lines = [
        format!(
            "Semtech UDP: server_address {}, serv_port_up {UDP_PORT}, serv_port_down {UDP_PORT}",
            first.host
        ),
        format!("Basics Station, LNS: tc.uri {}, tc.key the key for lns", first.lns_uri()),
        format!("Basics Station, CUPS: cups.uri {}, cups.key the key for cups", first.cups_uri()),
        format!("tc.trust, cups.trust: {}", first.trust()),
    ];
    for line in lines {
        let _ = writeln!(out, "      {line}");
    }
    if all.iter().any(|(_, s)| !s.keys.is_empty()) {
        let _ = writeln!(
            out,
            "      a key file holds one line: Authorization: Bearer KEY; the keys are in {}",
            first.keys_file
        );
    }
    for (_, one) in all {
        let eui = one.eui.map(|eui| format!("EUI {eui}")).unwrap_or_else(|| "no EUI".to_owned());
        let keys: Vec<_> = one.keys.iter().map(|(kind, id)| format!("{} key {id}", kind.word())).collect();
        let keys = if keys.is_empty() { "no new API key".to_owned() } else { keys.join(", ") };
        let udp = if one.authenticated { "; not by UDP: it must authenticate" } else { "" };
        let sent = if one.redirected { "; the source's CUPS sends it, when it asks next" } else { "" };
        let _ = writeln!(out, "      {}: {eui}; {keys}{udp}{sent}", one.id);
    }
}

/// The same for programs.
pub(super) fn summary_json(gateways: &Registered) -> Vec<Value> {
    let settings =
        |id: &String| gateways.settings.iter().find(|(of, _)| of == id).map(|(_, s)| settings_json(s));
    let one = |(id, ended): &(String, Outcome)| {
        let mut body = outcome(ended);
        body["gateway"] = json!(id);
        body["settings"] = settings(id).unwrap_or(Value::Null);
        let cleared = gateways.cleared.iter().find(|(of, _)| of == id);
        body["at_source"] = cleared.map_or(Value::Null, |(_, cleared)| outcome(cleared));
        body
    };
    gateways.outcomes.iter().map(one).collect()
}

fn settings_json(settings: &Settings) -> Value {
    let key = |kind: GatewayKey| json!({ "id": settings.key(kind), "file": settings.key(kind).map(|_| &settings.keys_file) });
    let udp =
        json!({ "server_address": settings.host, "serv_port_up": UDP_PORT, "serv_port_down": UDP_PORT });
    json!({
        "target_gateway": settings.id,
        "eui": settings.eui.map(|eui| eui.to_string()),
        "sent_by_cups": settings.redirected,
        "semtech_udp": if settings.authenticated { Value::Null } else { udp },
        "basics_station_lns": { "uri": settings.lns_uri(), "trust": settings.trust(), "key": key(GatewayKey::Lns) },
        "basics_station_cups": { "uri": settings.cups_uri(), "trust": settings.trust(), "key": key(GatewayKey::Cups) },
    })
}

/// What a rollback would do about them.
pub fn rollback(returns: &[GatewayReturn]) -> String {
    let mut out = String::new();
    type Which = fn(&GatewayReturn) -> bool;
    let at_source: [(Which, &str); 2] = [
        (
            |r| r.restored,
            "gateways to be restored at the source, if it still does so, and with their EUIs, if nobody has taken these",
        ),
        (|r| r.redirected && !r.restored, "gateways that the source's CUPS is to send to the target no more"),
    ];
    for (which, words) in at_source {
        let some: Vec<_> = returns.iter().filter(|r| which(r)).map(|r| r.id.clone()).collect();
        if !some.is_empty() {
            let _ = writeln!(out, "  {} {words}: {} ({})", paint(GOOD, "+"), some.len(), short(some.clone()));
        }
    }
    let goes = |r: &&GatewayReturn| r.made && r.stays.is_none();
    let going: Vec<_> = returns.iter().filter(goes).map(|r| r.target_id.clone()).collect();
    if !going.is_empty() {
        let _ = writeln!(
            out,
            "  {} gateways to be deleted on the target, with their API keys: {} ({}); their IDs stay taken there, their EUIs do not",
            paint(GOOD, "-"),
            going.len(),
            short(going.clone())
        );
    }
    for finding in returns.iter().filter_map(|r| r.stays.as_ref()) {
        let _ = writeln!(out, "  {} {finding}", paint(BAD, "x"));
        fix(&mut out, finding);
    }
    out
}

/// The same for programs.
pub fn rollback_json(returns: &[GatewayReturn]) -> Vec<Value> {
    let one = |r: &GatewayReturn| {
        let stays = r.stays.as_ref().map(|f| findings(std::slice::from_ref(f)));
        json!({
            "gateway": r.id,
            "target_gateway": r.target_id,
            "stays": stays,
            "restored_at_source": r.restored,
            "sent_by_cups_no_more": r.redirected,
        })
    };
    returns.iter().map(one).collect()
}
