//! The state of every device, of what is around the devices, and of every gateway.

use std::{collections::BTreeMap, fmt::Write as _};

use comfy_table::{Table, presets};
use serde_json::{Value, json};

use super::plan::devices;
use crate::{engine::gateways::KEY, model::belonging::ItemKey};

/// What the journal holds.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// Devices by name.
    pub devices: Vec<Row>,
    /// What applications have besides their devices, by application.
    pub around: Vec<Around>,
    /// Gateways and their API keys.
    pub gateways: Vec<Around>,
}

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

/// Something around the devices, or a gateway.
#[derive(Debug, Clone)]
pub struct Around {
    /// At the source.
    pub application: String,
    /// Which.
    pub item: ItemKey,
    /// The word for where it stands.
    pub state: &'static str,
    /// True when it was on the target already, as it should be.
    pub there_before: bool,
    /// What the clear has made of it at the source: `paused`, `deleted` or nothing.
    pub at_source: &'static str,
    /// When something was last recorded.
    pub last: String,
}

/// The state of what is as it should be.
const DONE: &str = "done";

/// Rows that are shown before the rest is counted.
const ROWS: usize = 50;

/// Counts by state, then what is not done.
pub fn text(status: &Status) -> String {
    let Status { devices: rows, around, gateways } = status;
    let mut out = String::new();
    let _ = writeln!(out, "{} in the journal: {}", devices(rows.len()), counts(rows.iter().map(|r| r.state)));
    let open = rows.iter().filter(|r| r.state != DONE);
    let open = open.map(|r| {
        vec![
            r.application.clone(),
            r.device.clone(),
            r.target.clone(),
            r.state.into(),
            r.last.clone(),
            r.why.clone(),
        ]
    });
    table(&mut out, &["application", "device", "on the target", "state", "since", "why"], open.collect());
    let (keys, gateways): (Vec<_>, Vec<_>) = gateways.iter().partition(|i| i.item.sort == KEY);
    let around = around.iter().collect();
    for (what, all) in
        [("around the devices", around), ("gateways", gateways), ("API keys of gateways", keys)]
    {
        if all.is_empty() {
            continue;
        }
        let _ =
            writeln!(out, "{what}: {} in the journal: {}", all.len(), counts(all.iter().map(|i| i.state)));
        let at_source: Vec<_> = all.iter().map(|i| i.at_source).filter(|at| !at.is_empty()).collect();
        if !at_source.is_empty() {
            let _ = writeln!(out, "  at the source: {}", counts(at_source.into_iter()));
        }
        let open = all.iter().filter(|i| i.state != DONE);
        let open = open.map(|i| {
            let application = if i.item.target.is_empty() { String::new() } else { i.application.clone() };
            vec![application, i.item.to_string(), i.item.target.clone(), i.state.into(), i.last.clone()]
        });
        table(&mut out, &["application", "what", "to", "state", "since"], open.collect());
    }
    out
}

/// `10 done, 2 sealed`.
fn counts<'s>(states: impl Iterator<Item = &'s str>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for state in states {
        *counts.entry(state).or_default() += 1;
    }
    counts.iter().map(|(state, count)| format!("{count} {state}")).collect::<Vec<_>>().join(", ")
}

fn table(out: &mut String, header: &[&str], rows: Vec<Vec<String>>) {
    if rows.is_empty() {
        return;
    }
    let more = rows.len().saturating_sub(ROWS);
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header);
    table.add_rows(rows.into_iter().take(ROWS));
    let _ = writeln!(out, "{table}");
    if more > 0 {
        let _ = writeln!(out, "and {more} more");
    }
}

/// The same for programs.
pub fn json(status: &Status) -> Value {
    let devices = status.devices.iter().map(|r| {
        json!({
            "application": r.application,
            "device": r.device,
            "target_device": r.target,
            "state": r.state,
            "why": r.why,
            "last": r.last,
        })
    });
    let around = status.around.iter().map(|i| {
        json!({
            "application": i.application,
            "target_application": i.item.target,
            "kind": i.item.sort,
            "device": i.item.device,
            "id": i.item.id,
            "state": i.state,
            "there_before": i.there_before,
            "at_source": i.at_source,
            "last": i.last,
        })
    });
    let gateways = status.gateways.iter().map(|i| {
        json!({
            "kind": i.item.sort,
            "id": i.item.id,
            "state": i.state,
            "there_before": i.there_before,
            "at_source": i.at_source,
            "last": i.last,
        })
    });
    json!({
        "devices": devices.collect::<Vec<_>>(),
        "belongings": around.collect::<Vec<_>>(),
        "gateways": gateways.collect::<Vec<_>>(),
    })
}
