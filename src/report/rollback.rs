//! What a rollback would do: said before it is done.

use std::{collections::BTreeMap, fmt::Write as _};

use serde_json::{Value, json};

use super::{
    plan::devices,
    terminal::style::{BAD, FAINT, GOOD, HEAD, WARN, paint},
};
use crate::engine::{event::Outcome, rollback::Return};

/// Names shown of each group.
const NAMES: usize = 4;

/// What comes back, what of it does not, and what stays on the target.
pub fn text(returns: &[Return]) -> String {
    if returns.is_empty() {
        return "nothing to bring back: no run of this journal has begun any of these devices\n".to_owned();
    }
    let mut out = String::new();
    let _ = writeln!(out, "{}", paint(HEAD, "rollback"));
    let back = returns.iter().filter(|r| r.outlook.is_ok()).count();
    if back > 0 {
        let _ = writeln!(out, "  {} {} to bring back to the source", paint(GOOD, "-"), devices(back));
    }
    let mut lost: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut kept: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for one in returns {
        match &one.outlook {
            Ok(findings) => {
                for finding in findings {
                    lost.entry(finding.to_string()).or_default().push(one.device.to_string());
                }
            }
            Err(why) => kept.entry(words(why)).or_default().push(one.device.to_string()),
        }
    }
    for (what, names) in &lost {
        let _ = writeln!(out, "  {} cannot be undone: {}: {what}", paint(WARN, "!"), devices(names.len()));
        listing(&mut out, names);
    }
    for (why, names) in &kept {
        let _ = writeln!(out, "  {} {} cannot come back now: {why}", paint(BAD, "x"), devices(names.len()));
        listing(&mut out, names);
    }
    if back > 0 {
        let _ = writeln!(
            out,
            "    what was deleted at the source gets a new time of creation where it keeps one; names, keys, sessions and counters come back"
        );
    }
    out
}

fn words(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Refused(findings) => findings.iter().map(with_fix).collect::<Vec<_>>().join("; "),
        Outcome::Blocked(finding) => with_fix(finding),
        Outcome::Waiting(why) | Outcome::Stopped(why) => why.clone(),
        Outcome::Done | Outcome::Already | Outcome::RolledBack => "nothing is left to do".to_owned(),
    }
}

fn with_fix(finding: &crate::plan::finding::Finding) -> String {
    if finding.fix.is_empty() { finding.to_string() } else { format!("{finding}; {}", finding.fix) }
}

fn listing(out: &mut String, names: &[String]) {
    let shown = names.iter().take(NAMES).cloned().collect::<Vec<_>>().join(", ");
    let more = names.len().saturating_sub(NAMES);
    let tail = if more > 0 { format!(" and {more} more") } else { String::new() };
    let _ = writeln!(out, "      {}", paint(FAINT, format!("{shown}{tail}")));
}

/// The same for programs.
pub fn json(returns: &[Return]) -> Value {
    let one = |r: &Return| {
        let mut out = json!({
            "application": r.device.app.as_str(),
            "device": r.device.device.as_str(),
            "state": r.state,
        });
        match &r.outlook {
            Ok(findings) => out["findings"] = super::json::findings(findings).into(),
            Err(why) => out["stays"] = json!(words(why)),
        }
        out
    };
    json!({ "devices": returns.iter().map(one).collect::<Vec<_>>() })
}
