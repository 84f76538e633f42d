//! What an answer has to have in common with the recorded one.

use std::time::Duration;

use prost_reflect::{DynamicMessage, MethodDescriptor};
use serde_json::Value as Json;
use stackferry::{map::path, model::ids::DevAddr, proto};
use tonic::Code;

use super::{
    client::Answer,
    message::{self, Held},
    recording::{Recording, Step},
};

/// Differences between the recorded and the given answer; none when they agree.
pub fn differences(
    recording: &Recording,
    step: &Step,
    method: &MethodDescriptor,
    answer: &Answer,
    elapsed: Duration,
) -> Vec<String> {
    let code = code_name(answer.code);
    if code != step.code() {
        return vec![format!("{} instead of {}: {}", code, step.code(), answer.text)];
    }
    let mut out = Vec::new();
    headers(step, answer, elapsed, &mut out);
    match &answer.message {
        Some(given) if step.rpc() == "Ns/GenerateDevAddr" => generated_address(recording, given, &mut out),
        Some(given) => match message::parse(&method.output(), &step.0["res"]) {
            Ok(recorded) => messages(step, &recorded, given, &mut out),
            Err(error) => out.push(format!("the recorded answer cannot be read: {error}")),
        },
        None => details(step, answer, &mut out),
    }
    out
}

fn code_name(code: Code) -> String {
    let mut name = String::new();
    for c in format!("{code:?}").chars() {
        if c.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(c.to_ascii_uppercase());
    }
    name
}

fn generated_address(recording: &Recording, given: &DynamicMessage, out: &mut Vec<String>) {
    let prefixes = recording.settings().dev_addr_prefixes;
    let address = DevAddr::from_bytes(&path::bytes(given, "dev_addr"));
    if !address.is_some_and(|address| prefixes.iter().any(|p| p.contains(address))) {
        out.push("the address is in none of the blocks".to_owned());
    }
}

fn headers(step: &Step, answer: &Answer, elapsed: Duration, out: &mut Vec<String>) {
    let recorded = step.0["headers"].as_object();
    for (name, value) in recorded.into_iter().flatten() {
        let value = value.as_str().unwrap_or_default();
        let given = answer.headers.get(name).map(String::as_str);
        let close = || {
            let given: i64 = given?.parse().ok()?;
            let value: i64 = value.parse().ok()?;
            // What was used up comes back with time.
            let passed = i64::try_from(elapsed.as_secs()).ok()? + 1;
            let tolerance = match name.as_str() {
                "x-rate-limit-available" if step.repeat() > 1 => 2 * passed,
                "x-rate-limit-reset" | "x-rate-limit-retry" => passed,
                _ => return None,
            };
            Some((given - value).abs() <= tolerance)
        };
        if given != Some(value) && close() != Some(true) {
            out.push(format!("header {name} is {given:?} instead of {value}"));
        }
    }
    if recorded.is_none_or(|headers| !headers.contains_key("x-total-count"))
        && let Some(total) = answer.headers.get("x-total-count").filter(|_| step.0["headers"].is_object())
    {
        out.push(format!("there is an x-total-count of {total}"));
    }
}

fn messages(step: &Step, recorded: &DynamicMessage, given: &DynamicMessage, out: &mut Vec<String>) {
    let (recorded, given) = (message::flatten(recorded), message::flatten(given));
    let request = step.0["req"].to_string();
    let known = |held: &Held| {
        let second = held.value.split('.').next().unwrap_or_default().parse().unwrap_or_default();
        let text = jiff::Timestamp::from_second(second).map(|t| t.to_string()).unwrap_or_default();
        request.contains(text.trim_end_matches('Z'))
    };
    for held in &recorded {
        let same = given.iter().find(|other| other.at == held.at);
        match same {
            None => out.push(format!("{} is missing: {}", held.at, held.value)),
            Some(other) if other.value == held.value => {}
            Some(_) if held.is_time && !known(held) => {}
            Some(other) => out.push(format!("{} is {} instead of {}", held.at, other.value, held.value)),
        }
    }
    for held in given.iter().filter(|held| !recorded.iter().any(|other| other.at == held.at)) {
        out.push(format!("{} is there: {}", held.at, held.value));
    }
}

fn details(step: &Step, answer: &Answer, out: &mut Vec<String>) {
    let ours = format!("{}.ErrorDetails", proto::PACKAGE);
    let recorded = step.0["details"].as_array().into_iter().flatten();
    let recorded: Vec<_> = recorded.filter(|d| d["type"].as_str().is_none_or(|t| t == ours)).collect();
    if recorded.len() != answer.details.len() {
        out.push(format!("{} details instead of {}", answer.details.len(), recorded.len()));
    }
    for (recorded, given) in recorded.into_iter().zip(&answer.details) {
        detail(recorded, given, "", out);
    }
    let text = step.0["message"].as_str().unwrap_or_default();
    if answer.details.is_empty() && text != answer.text {
        out.push(format!("the error is “{}” instead of “{text}”", answer.text));
    }
}

fn detail(recorded: &Json, given: &DynamicMessage, at: &str, out: &mut Vec<String>) {
    for field in ["namespace", "name"] {
        let (recorded, given) = (recorded[field].as_str().unwrap_or_default(), path::string(given, field));
        if recorded != given {
            out.push(format!("{at}{field} is {given} instead of {recorded}"));
        }
    }
    let code = recorded["code"].as_u64().unwrap_or_default();
    if code != path::number(given, "code") {
        out.push(format!("{at}code is {} instead of {code}", path::number(given, "code")));
    }
    let parsed = recorded
        .get("attributes")
        .and_then(|a| message::parse(&proto::descriptor("google.protobuf.Struct"), a).ok());
    let attributes = parsed.map(|a| message::flatten(&a)).unwrap_or_default();
    let ours = path::child(given, "attributes").map(|a| message::flatten(&a)).unwrap_or_default();
    for missing in attributes.difference(&ours) {
        out.push(format!("{at}attribute {} is not {}", missing.at, missing.value));
    }
    for more in ours.difference(&attributes) {
        out.push(format!("{at}attribute {} is {}", more.at, more.value));
    }
    match (recorded.get("cause"), path::child(given, "cause")) {
        (None, None) => {}
        (Some(recorded), Some(given)) => detail(recorded, &given, &format!("{at}cause."), out),
        (Some(cause), None) => out.push(format!("{at}cause is missing: {cause}")),
        (None, Some(cause)) => out.push(format!("{at}cause is there: {}", path::string(&cause, "name"))),
    }
}
