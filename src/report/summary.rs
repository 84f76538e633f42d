//! The closing words of a run: what happened, what did not and why, and what to do next.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use super::{
    plan::devices,
    terminal::style::{BAD, FAINT, GOOD, HEAD, WARN, paint},
};
use crate::engine::event::{DeviceName, Outcome, Summary};

/// Waits that are told.
const WORTH_TELLING: Duration = Duration::from_secs(1);
/// Things around the devices that are told one by one.
const SHOWN: usize = 20;

/// The summary. `again` is the command that goes on.
pub fn text(summary: &Summary, elapsed: Duration, again: &str) -> String {
    let mut out = String::new();
    let count = |which: fn(&Outcome) -> bool| summary.count(which);
    let done = count(|o| *o == Outcome::Done);
    let already = count(|o| *o == Outcome::Already);
    let _ = writeln!(out, "{}", paint(HEAD, "summary"));
    for app in &summary.created {
        let _ = writeln!(out, "  {} application {app} created", paint(GOOD, "+"));
    }
    line(&mut out, paint(GOOD, "+"), done, "moved");
    line(&mut out, paint(GOOD, "-"), count(|o| *o == Outcome::RolledBack), "brought back to the source");
    for app in &summary.removed {
        let _ = writeln!(out, "  {} application {app} removed: its ID stays taken", paint(GOOD, "-"));
    }
    line(&mut out, "=".to_owned(), already, "done before");
    let tally = &summary.tally;
    let _ = writeln!(
        out,
        "    records: {} created on the target, {} read back equal, {} cleared at the source",
        tally.created, tally.verified, tally.cleared
    );
    if tally.restored + tally.removed > 0 {
        let _ = writeln!(
            out,
            "    way back: {} restored at the source, {} removed from the target",
            tally.restored, tally.removed
        );
    }
    waiting(&mut out, summary);
    refused(&mut out, summary);
    stopped(&mut out, summary);
    belongings(&mut out, summary);
    super::gateways::summary(&mut out, &summary.gateways);
    super::plan::failed(&mut out, &summary.failed);
    not_begun(&mut out, summary);
    let _ = writeln!(out, "    {} calls in {}", tally.calls, seconds(elapsed));
    for ((side, reason), time) in tally.waits.iter().filter(|(_, time)| **time >= WORTH_TELLING) {
        let _ = writeln!(out, "    held back {} at the {side}: {reason}", seconds(*time));
    }
    if let Some(next) = next(summary, again) {
        let _ = writeln!(out, "  {next}");
    }
    out
}

/// Devices that were not begun, but those of applications that failed, where it is said.
fn not_begun(out: &mut String, summary: &Summary) {
    let said: usize = summary.failed.iter().filter_map(|failed| failed.devices).sum();
    let rest = summary.not_begun.saturating_sub(said);
    if rest == 0 {
        return;
    }
    let why = match &summary.stopped_by {
        _ if summary.interrupted => "interrupted".to_owned(),
        Some(app) => format!("application {app} failed (rollout.on-failure)"),
        None => "too many failures (rollout.max-failures)".to_owned(),
    };
    let _ = writeln!(out, "  {} {} not begun: {why}", paint(WARN, "…"), devices(rest));
}

fn line(out: &mut String, sign: String, count: usize, words: &str) {
    if count > 0 {
        let _ = writeln!(out, "  {sign} {} {words}", devices(count));
    }
}

fn waiting(out: &mut String, summary: &Summary) {
    let groups = grouped(summary, |o| match o {
        Outcome::Waiting(what) => Some((what.clone(), String::new())),
        _ => None,
    });
    for ((what, _), names) in groups {
        let _ = writeln!(out, "  {} {} waiting: {what}", paint(WARN, "…"), devices(names.len()));
        listing(out, &names);
    }
}

fn refused(out: &mut String, summary: &Summary) {
    let groups = grouped(summary, |o| match o {
        Outcome::Refused(findings) => findings.first().map(|f| {
            let fix = if f.fix.is_empty() { String::new() } else { format!("\n      → {}", f.fix) };
            (f.kind.name().to_owned(), format!("{f}{fix}"))
        }),
        _ => None,
    });
    let mut by_kind: BTreeMap<String, Vec<(String, Vec<String>)>> = BTreeMap::new();
    for ((kind, text), names) in groups {
        by_kind.entry(kind).or_default().push((text, names));
    }
    for (kind, texts) in by_kind {
        let count = texts.iter().map(|(_, names)| names.len()).sum();
        let _ = writeln!(out, "  {} {} not moved: {kind}", paint(BAD, "x"), devices(count));
        for (text, names) in texts.iter().take(8) {
            let _ = writeln!(out, "      {text}");
            listing(out, names);
        }
        if texts.len() > 8 {
            let _ = writeln!(out, "      {}", paint(FAINT, format!("and {} more", texts.len() - 8)));
        }
    }
}

fn stopped(out: &mut String, summary: &Summary) {
    let groups = grouped(summary, |o| match o {
        Outcome::Stopped(why) => Some(("in the middle".to_owned(), why.clone())),
        Outcome::Blocked(finding) => Some(("needs a look".to_owned(), finding.to_string())),
        _ => None,
    });
    for ((what, why), names) in groups {
        let _ = writeln!(out, "  {} {} {what}: {why}", paint(BAD, "x"), devices(names.len()));
        listing(out, &names);
    }
}

/// What became of webhooks and the like: counts, then those that did not go well.
fn belongings(out: &mut String, summary: &Summary) {
    let count = |which: fn(&Outcome) -> bool| summary.belongings.iter().filter(|(_, o)| which(o)).count();
    let lines: [(String, usize, &str); 3] = [
        (paint(GOOD, "+"), count(|o| *o == Outcome::Done), "copied"),
        (paint(GOOD, "-"), count(|o| *o == Outcome::RolledBack), "taken back"),
        ("=".to_owned(), count(|o| *o == Outcome::Already), "there before"),
    ];
    for (sign, count, words) in lines.into_iter().filter(|(_, count, _)| *count > 0) {
        let _ = writeln!(out, "  {sign} around the devices: {count} {words}");
    }
    if let Some((file, keys)) = &summary.new_keys {
        let _ = writeln!(out, "    new API keys of applications: {keys}, in {}", file.display());
    }
    let mut shown = 0;
    let bad = |o: &Outcome| !matches!(o, Outcome::Done | Outcome::Already | Outcome::RolledBack);
    for (name, outcome) in summary.belongings.iter().filter(|(_, o)| bad(o)) {
        shown += 1;
        if shown <= SHOWN {
            belonging(out, name, outcome);
        }
    }
    if shown > SHOWN {
        let _ =
            writeln!(out, "      {}", paint(FAINT, format!("and {} more around the devices", shown - SHOWN)));
    }
}

fn belonging(out: &mut String, name: &str, outcome: &Outcome) {
    let (sign, why, fix) = match outcome {
        Outcome::Done | Outcome::Already | Outcome::RolledBack => return,
        Outcome::Waiting(what) => (paint(WARN, "…"), format!("{name} waits: {what}"), ""),
        Outcome::Stopped(why) => (paint(BAD, "x"), format!("{name} in the middle: {why}"), ""),
        Outcome::Refused(findings) => {
            let first = findings.first().map_or(("", String::new()), |f| (f.fix.as_str(), f.to_string()));
            (paint(BAD, "x"), format!("{name} not copied: {}", first.1), first.0)
        }
        Outcome::Blocked(finding) => {
            (paint(BAD, "x"), format!("{name} needs a look: {finding}"), finding.fix.as_str())
        }
    };
    let _ = writeln!(out, "  {sign} {why}");
    if !fix.is_empty() {
        let _ = writeln!(out, "      {}", paint(FAINT, format!("→ {fix}")));
    }
}

type Groups = BTreeMap<(String, String), Vec<String>>;

fn grouped(summary: &Summary, key: impl Fn(&Outcome) -> Option<(String, String)>) -> Groups {
    let mut groups = Groups::new();
    for (name, outcome) in &summary.devices {
        if let Some(key) = key(outcome) {
            groups.entry(key).or_default().push(DeviceName::to_string(name));
        }
    }
    groups
}

fn listing(out: &mut String, names: &[String]) {
    let shown = names.iter().take(4).cloned().collect::<Vec<_>>().join(", ");
    let more = names.len().saturating_sub(4);
    let tail = if more > 0 { format!(" and {more} more") } else { String::new() };
    let _ = writeln!(out, "      {}", paint(FAINT, format!("{shown}{tail}")));
}

fn next(summary: &Summary, again: &str) -> Option<String> {
    let all = || {
        summary
            .devices
            .iter()
            .map(|(_, o)| o)
            .chain(summary.belongings.iter().map(|(_, o)| o))
            .chain(summary.gateways.outcomes.iter().chain(&summary.gateways.cleared).map(|(_, o)| o))
    };
    let ended = |o: &Outcome| {
        matches!(o, Outcome::Done | Outcome::Already | Outcome::RolledBack | Outcome::Refused(_))
    };
    let unfinished = summary.not_begun > 0 || !summary.failed.is_empty() || !all().all(ended);
    let refused = all().any(|o| matches!(o, Outcome::Refused(_)));
    match (unfinished, refused) {
        (true, _) => Some(format!("to go on: {again}")),
        (false, true) => Some(format!("after setting these right: {again}")),
        (false, false) => None,
    }
}

/// `0.8 s`, `12 s`, `3 min 05 s`.
pub fn seconds(elapsed: Duration) -> String {
    let all = elapsed.as_secs();
    match all {
        0..10 => format!("{:.1} s", elapsed.as_secs_f64()),
        10..120 => format!("{all} s"),
        _ => format!("{} min {:02} s", all / 60, all % 60),
    }
}
