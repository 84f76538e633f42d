//! The plan as text: per application what is created, moved, left and refused; findings grouped by kind.

use std::{collections::BTreeMap, fmt::Write as _};

use super::terminal::style::{BAD, FAINT, GOOD, HEAD, WARN, paint};
use crate::plan::{
    ApplicationPlan, DevicePlan, Plan, Verdict as DeviceVerdict,
    belongings::{ItemPlan, SORTS, Verdict},
    failed::FailedApplication,
    finding::{Finding, Severity},
    session::{Activation, Carry},
};

/// Device IDs that are shown for one finding before the rest is counted.
const NAMES: usize = 4;

/// The whole plan.
pub fn text(plan: &Plan) -> String {
    let mut out = String::new();
    for application in &plan.applications {
        self::application(&mut out, application);
    }
    failed(&mut out, &plan.failed);
    super::gateways::plan(&mut out, &plan.gateways);
    let moving = plan.count(|v| matches!(v, DeviceVerdict::Move | DeviceVerdict::Resume(_)));
    let _ = writeln!(
        out,
        "{} to move, {} done, {} waiting, {} stopped; about {} calls",
        devices(moving),
        plan.count(|v| *v == DeviceVerdict::Done),
        plan.count(|v| *v == DeviceVerdict::Wait),
        plan.count(|v| *v == DeviceVerdict::Stop),
        plan.calls()
    );
    out
}

/// Applications that failed as a whole, with what to do about each.
pub(super) fn failed(out: &mut String, all: &[FailedApplication]) {
    for failed in all {
        let devices = match failed.devices {
            Some(0) => String::new(),
            Some(count) => format!("; {} not begun", devices(count)),
            None => "; its devices were not looked at".to_owned(),
        };
        let _ = writeln!(out, "  {} {failed}{devices}", paint(BAD, "x"));
        if let Some(fix) = &failed.fix {
            let _ = writeln!(out, "      {}", paint(FAINT, format!("→ {fix}")));
        }
    }
}

/// `1 device`, `5 devices`.
pub fn devices(count: usize) -> String {
    if count == 1 { "1 device".to_owned() } else { format!("{count} devices") }
}

fn application(out: &mut String, application: &ApplicationPlan) {
    let _ = writeln!(
        out,
        "{}",
        paint(HEAD, format!("application {} → {}", application.source, application.target))
    );
    let sign = |new: bool| if new { paint(GOOD, "+") } else { "=".to_owned() };
    let is = if application.create { "to be created" } else { "is there" };
    let _ = writeln!(out, "  {} application {} {is}", sign(application.create), application.target);
    belongings(out, &application.belongings);
    verdicts(out, &application.devices);
    findings(out, application);
    let _ = writeln!(out);
}

/// What the application has besides its devices: a line for each kind and what becomes of it.
fn belongings(out: &mut String, all: &[ItemPlan]) {
    type Which = fn(Verdict) -> bool;
    let lines: [(Which, String, &str); 6] = [
        (|v| v == Verdict::Create, paint(GOOD, "+"), "to be copied"),
        (|v| matches!(v, Verdict::Resume(_)), paint(WARN, "~"), "to go on with"),
        (|v| matches!(v, Verdict::Done | Verdict::Equal), "=".into(), "there, as at the source"),
        (|v| v == Verdict::Differs, paint(WARN, "!"), "there with other values, which stay"),
        (|v| v == Verdict::Leave, "-".into(), "left behind"),
        (|v| v == Verdict::Stop, paint(BAD, "x"), "not copied"),
    ];
    let sorts = SORTS.iter().map(|sort| (sort.name, sort.plural)).chain([("contact", "contacts")]);
    for (sort, plural) in sorts {
        for (which, sign, words) in &lines {
            let some: Vec<_> = all.iter().filter(|i| i.key.sort == sort && which(i.verdict)).collect();
            if some.is_empty() {
                continue;
            }
            let name = |item: &ItemPlan| match (item.key.device.as_str(), item.key.id.as_str()) {
                ("", _) if !item.called.is_empty() => item.called.clone(),
                ("", id) => id.to_owned(),
                (device, port) => format!("{device} on FPort {port}"),
            };
            let mut names: Vec<_> = some.iter().take(NAMES).map(|item| name(item)).collect();
            names.extend((some.len() > NAMES).then(|| format!("{} more", some.len() - NAMES)));
            let names = names.join(", ");
            let names = if names.is_empty() { names } else { format!(" ({names})") };
            let _ = writeln!(out, "  {sign} {plural} {words}: {}{names}", some.len());
        }
    }
}

fn verdicts(out: &mut String, all: &[DevicePlan]) {
    let of =
        |which: fn(&DeviceVerdict) -> bool| all.iter().filter(move |d| which(&d.verdict)).collect::<Vec<_>>();
    let moved = of(|v| *v == DeviceVerdict::Move);
    if !moved.is_empty() {
        let _ = writeln!(out, "  {} to move: {}: {}", paint(GOOD, "+"), devices(moved.len()), kinds(&moved));
        let sessions = sessions(&moved);
        if !sessions.is_empty() {
            let _ = writeln!(out, "      {sessions}");
        }
        renamed(out, &moved);
    }
    type Which = fn(&DeviceVerdict) -> bool;
    let rest: [(Which, String, &str); 4] = [
        (
            |v| matches!(v, DeviceVerdict::Resume(_)),
            paint(WARN, "~"),
            "to go on with, where an earlier run ended",
        ),
        (|v| *v == DeviceVerdict::Done, "=".into(), "done"),
        (|v| *v == DeviceVerdict::Wait, paint(WARN, "…"), "waiting"),
        (|v| *v == DeviceVerdict::Stop, paint(BAD, "x"), "not moved"),
    ];
    for (which, sign, words) in rest {
        let some = of(which);
        if !some.is_empty() {
            let _ = writeln!(out, "  {sign} {words}: {}", devices(some.len()));
        }
    }
}

/// Devices that are called otherwise on the target, the first of them by name.
fn renamed(out: &mut String, moved: &[&DevicePlan]) {
    let renamed: Vec<_> = moved.iter().filter(|d| d.target_id != d.id.as_str()).collect();
    if renamed.is_empty() {
        return;
    }
    let names: Vec<_> = renamed.iter().take(NAMES).map(|d| format!("{} → {}", d.id, d.target_id)).collect();
    let more = renamed.len().saturating_sub(NAMES);
    let tail = if more > 0 { format!(" and {more} more") } else { String::new() };
    let _ = writeln!(out, "      with another ID: {}: {}{tail}", renamed.len(), names.join(", "));
}

fn kinds(moved: &[&DevicePlan]) -> String {
    let mut parts = Vec::new();
    for activation in [Activation::Otaa, Activation::Abp, Activation::Multicast, Activation::Unknown] {
        let count = moved.iter().filter(|d| d.activation == activation).count();
        if count > 0 {
            let name =
                if activation == Activation::Unknown { "without NS record" } else { activation.name() };
            parts.push(format!("{count} {name}"));
        }
    }
    parts.join(", ")
}

fn sessions(moved: &[&DevicePlan]) -> String {
    let words = [
        (Carry::Keep, "session kept"),
        (Carry::Reset, "session kept with counters at zero"),
        (Carry::Drop, "session dropped (joins again)"),
        (Carry::Nothing, "no session"),
    ];
    let parts: Vec<_> = words
        .into_iter()
        .filter_map(|(carry, words)| {
            let count = moved.iter().filter(|d| d.carry == carry).count();
            (count > 0).then(|| format!("{words}: {count}"))
        })
        .collect();
    parts.join(", ")
}

fn findings(out: &mut String, application: &ApplicationPlan) {
    for finding in &application.findings {
        let _ = writeln!(out, "  {} {finding}", sign(finding.severity));
        fix(out, finding);
    }
    around(out, &application.belongings);
    let mut groups: BTreeMap<_, Vec<(&DevicePlan, &Finding)>> = BTreeMap::new();
    for device in &application.devices {
        for finding in &device.findings {
            groups
                .entry((std::cmp::Reverse(finding.severity), finding.kind))
                .or_default()
                .push((device, finding));
        }
    }
    for ((severity, kind), members) in groups {
        group(out, severity.0, kind.name(), &members);
    }
}

/// The findings about what the application has besides its devices: of each kind the first few.
fn around(out: &mut String, all: &[ItemPlan]) {
    let mut groups: BTreeMap<_, Vec<&Finding>> = BTreeMap::new();
    for (item, finding) in all.iter().flat_map(|item| item.findings.iter().map(move |f| (item, f))) {
        let key = (std::cmp::Reverse(finding.severity), finding.kind, &item.key.sort);
        groups.entry(key).or_default().push(finding);
    }
    for group in groups.values() {
        for finding in group.iter().take(NAMES) {
            let _ = writeln!(out, "  {} {finding}", sign(finding.severity));
        }
        if group.len() > NAMES {
            let _ = writeln!(out, "      {}", paint(FAINT, format!("and {} more", group.len() - NAMES)));
        }
        group.first().iter().for_each(|first| fix(out, first));
    }
}

fn group(out: &mut String, severity: Severity, kind: &str, members: &[(&DevicePlan, &Finding)]) {
    let Some((_, first)) = members.first() else { return };
    let mut names: Vec<_> = members.iter().map(|(d, _)| d.id.as_str()).collect();
    names.dedup();
    let _ = writeln!(out, "  {} {kind}: {}: {}", sign(severity), devices(names.len()), words(first, members));
    let more = names.len().saturating_sub(NAMES);
    let shown = names.iter().take(NAMES).copied().collect::<Vec<_>>().join(", ");
    let tail = if more > 0 { format!(" and {more} more") } else { String::new() };
    let _ = writeln!(out, "      {}", paint(FAINT, format!("{shown}{tail}")));
    fix(out, first);
}

/// The words of the first finding, and its paths where all of the group have the same.
fn words(first: &Finding, members: &[(&DevicePlan, &Finding)]) -> String {
    let at = first.component.map(|c| format!("{c}: ")).unwrap_or_default();
    let same = members.iter().all(|(_, f)| f.paths == first.paths);
    let paths = if same && !first.paths.is_empty() {
        format!(" ({})", first.paths.join(", "))
    } else {
        String::new()
    };
    let eg = if members.iter().all(|(_, f)| f.text == first.text) { "" } else { "such as " };
    format!("{eg}{at}{}{paths}", first.text)
}

pub(super) fn fix(out: &mut String, finding: &Finding) {
    if !finding.fix.is_empty() {
        let _ = writeln!(out, "      {}", paint(FAINT, format!("→ {}", finding.fix)));
    }
}

/// The sign before a finding.
pub fn sign(severity: Severity) -> String {
    match severity {
        Severity::Note => paint(FAINT, "·"),
        Severity::Warning => paint(WARN, "!"),
        Severity::Wait => paint(WARN, "…"),
        Severity::Stop => paint(BAD, "x"),
    }
}
