//! `status`: where every device stands, from the journal alone, also while a run works.

use std::{collections::BTreeMap, path::Path};

use super::{Exit, Failure, load_offline};
use crate::{
    journal::View,
    report::{self, Terminal},
    step::{Event, State},
};

pub(super) fn run(path: &Path, terminal: &Terminal) -> Result<Exit, Failure> {
    let config = load_offline(path, terminal)?;
    if !View::is_there(&config.journal.path)? {
        terminal.data(&format!("nothing was begun: there is no journal {}", config.journal.path.display()));
        terminal.json(&report::json::line("status", serde_json::json!({ "devices": [] })));
        return Ok(Exit::Done);
    }
    let view = View::open(&config.journal.path)?;
    let mut devices = BTreeMap::new();
    for key in view.devices()? {
        if key.device.as_str().is_empty() {
            continue;
        }
        let mut state = State::default();
        let mut last = None;
        for entry in view.events(&key)? {
            let event: Event =
                serde_json::from_slice(&entry.body).map_err(|e| damaged(&key.to_string(), &e))?;
            state = state.apply(&event).map_err(|e| damaged(&key.to_string(), &e))?;
            last = Some(entry.at);
        }
        devices.insert((key.application, key.device), (state, last));
    }
    let rows: Vec<_> = devices
        .into_iter()
        .map(|((app, device), (state, last))| report::status::Row {
            application: app.to_string(),
            device: device.to_string(),
            target: state.recipe().map(|r| r.target_id.clone()).unwrap_or_default(),
            state: state.name(),
            why: state.undo().map(|(_, why)| why.to_owned()).unwrap_or_default(),
            last: last.map(|at| at.strftime("%Y-%m-%d %H:%M:%SZ").to_string()).unwrap_or_default(),
        })
        .collect();
    terminal.data(&report::status::text(&rows));
    terminal.json(&report::json::line("status", report::status::json(&rows)));
    Ok(Exit::Done)
}

fn damaged(device: &str, why: &dyn std::fmt::Display) -> Failure {
    Failure::new(Exit::Journal, format!("{device}: the journal holds what it should not: {why}"), None)
}
