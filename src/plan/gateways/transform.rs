//! What is written to the target of a gateway, and what of it has no place there.

use std::collections::BTreeMap;

use prost_reflect::{DynamicMessage, Value};

use super::{
    CONTACTS, Decided, Facts, Found, Wishes, compare, copied, eui, is_left,
    redirect::{self, REDIRECT, Redirect},
    settable,
};
use crate::{
    map::{path as at, rules, unknown},
    model::{gateway::GatewayKey, ids::is_id},
    plan::{
        finding::{Finding, Kind, Severity},
        transform::Write,
    },
};

/// How an API key of The Things Stack begins (`pkg/auth`).
const API_KEY: &[u8] = b"NNSXS.";

/// Decides what is written to the target. Every stored path is in the write, in a finding, or left to the server. What CUPS
/// has noted of a gateway in its attributes is the server's, too.
pub fn transform(found: &Found, facts: &Facts, wishes: &Wishes) -> Decided {
    let target_id = format!("{}{}", wishes.prefix, found.id);
    let mut findings = common(found);
    let mut copy = at::project(&found.message, &copied(&found.message));
    compare::without_notes(&mut copy);
    let redirect = redirect::decide(found, facts, wishes);
    let mut lns_secret = secrets(found, &mut copy, wishes, &mut findings);
    if redirect == Redirect::Set && !lns_secret {
        // The target's CUPS hands out nothing else that its LNS would take.
        lns_secret = true;
        if at::has(&copy, "lbs_lns_secret") {
            let text = "its LNS secret is replaced by the new LNS API key, for the target's CUPS to hand out";
            let mut finding = Finding::new(Kind::Replaced, text).paths(["lbs_lns_secret"]);
            finding.severity = Severity::Note;
            findings.push(finding);
            at::clear(&mut copy, "lbs_lns_secret");
        }
    }
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
    Decided { target_id, write: Write { message: copy, paths }, lns_secret, redirect, findings }
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
pub(in crate::plan) fn account(message: &DynamicMessage, contact: &str) -> Option<(String, String)> {
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
