//! The state of every device as a table.

use std::{collections::BTreeMap, fmt::Write as _};

use comfy_table::{Table, presets};
use serde_json::{Value, json};

use super::plan::devices;

/// A device of the journal.
#[derive(Debug, Clone)]
pub struct Row {
    /// At the source.
    pub application: String,
    /// At the source.
    pub device: String,
    /// ID on the target, once decided.
    pub target: String,
    /// The word for where it stands.
    pub state: &'static str,
    /// Why it is being undone.
    pub why: String,
    /// When something was last recorded.
    pub last: String,
}

/// Rows that are shown before the rest is counted.
const ROWS: usize = 50;

/// Counts by state, then the devices that are not done.
pub fn text(rows: &[Row]) -> String {
    let mut out = String::new();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for row in rows {
        *counts.entry(row.state).or_default() += 1;
    }
    let words: Vec<_> = counts.iter().map(|(state, count)| format!("{count} {state}")).collect();
    let _ = writeln!(out, "{} in the journal: {}", devices(rows.len()), words.join(", "));
    let open: Vec<_> = rows.iter().filter(|r| r.state != "done").collect();
    if open.is_empty() {
        return out;
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["application", "device", "on the target", "state", "since", "why"]);
    for row in open.iter().take(ROWS) {
        table.add_row([&row.application, &row.device, &row.target, row.state, &row.last, &row.why]);
    }
    let _ = writeln!(out, "{table}");
    if open.len() > ROWS {
        let _ = writeln!(out, "and {} more", open.len() - ROWS);
    }
    out
}

/// The same for programs.
pub fn json(rows: &[Row]) -> Value {
    let devices: Vec<_> = rows
        .iter()
        .map(|r| {
            json!({
                "application": r.application,
                "device": r.device,
                "target_device": r.target,
                "state": r.state,
                "why": r.why,
                "last": r.last,
            })
        })
        .collect();
    json!({ "devices": devices })
}
