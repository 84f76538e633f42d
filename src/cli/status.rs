//! `status`: where every device and everything around it stands, from the journal alone, also while a run works.

use std::{collections::BTreeMap, path::Path};

use super::{Exit, Failure, load_offline};
use crate::{
    engine::gateways,
    journal::{DeviceKey, View},
    report::{
        self, Terminal,
        status::{Around, Row, Status},
    },
    step::{
        Event, State,
        belonging::{ItemEvent, ItemState},
    },
};

pub(super) fn run(path: &Path, terminal: &Terminal) -> Result<Exit, Failure> {
    let config = load_offline(path, terminal)?;
    if !View::is_there(&config.journal.path)? {
        terminal.data(&format!("nothing was begun: there is no journal {}", config.journal.path.display()));
        terminal.json(&report::json::line("status", report::status::json(&Status::default())));
        return Ok(Exit::Done);
    }
    let view = View::open(&config.journal.path)?;
    let mut status = Status::default();
    for key in view.devices()? {
        if !key.device.as_str().is_empty() {
            status.devices.push(device(&view, &key)?);
        } else if gateways::are_in(&key.application) {
            status.gateways.extend(around(&view, &key)?);
        } else {
            status.around.extend(around(&view, &key)?);
        }
    }
    status.devices.sort_by(|a, b| (&a.application, &a.device).cmp(&(&b.application, &b.device)));
    status.around.sort_by(|a, b| (&a.application, &a.item).cmp(&(&b.application, &b.item)));
    terminal.data(&report::status::text(&status));
    terminal.json(&report::json::line("status", report::status::json(&status)));
    Ok(Exit::Done)
}

fn device(view: &View, key: &DeviceKey) -> Result<Row, Failure> {
    let mut state = State::default();
    let mut last = None;
    for entry in view.events(key)? {
        let event: Event = serde_json::from_slice(&entry.body).map_err(|e| damaged(key, &e))?;
        state = state.apply(&event).map_err(|e| damaged(key, &e))?;
        last = Some(entry.at);
    }
    Ok(Row {
        application: key.application.to_string(),
        device: key.device.to_string(),
        target: state.recipe().map(|r| r.target_id.clone()).unwrap_or_default(),
        state: state.name(),
        why: state.undo().map(|(_, why)| why.to_owned()).unwrap_or_default(),
        last: last.map(time).unwrap_or_default(),
    })
}

/// What is recorded under an application: not of devices, and not what was undone.
fn around(view: &View, key: &DeviceKey) -> Result<Vec<Around>, Failure> {
    let mut items: BTreeMap<_, (ItemState, _)> = BTreeMap::new();
    for entry in view.events(key)? {
        let event: ItemEvent = serde_json::from_slice(&entry.body).map_err(|e| damaged(key, &e))?;
        let (state, last) = items.entry(event.item().clone()).or_insert((ItemState::default(), entry.at));
        *state = state.apply(&event).map_err(|e| damaged(key, &e))?;
        *last = entry.at;
    }
    let known = items.into_iter().filter(|(_, (state, _))| state.seal().is_some());
    let rows = known.map(|(item, (state, last))| Around {
        application: key.application.to_string(),
        // What is but an API key of a gateway is there once that was made.
        state: if item.sort == gateways::KEY && state.key().is_some() { "done" } else { state.name() },
        there_before: state.is_matched(),
        at_source: state.at_source(),
        item,
        last: time(last),
    });
    Ok(rows.collect())
}

fn time(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

fn damaged(key: &DeviceKey, why: &dyn std::fmt::Display) -> Failure {
    Failure::new(Exit::Journal, format!("{key}: the journal holds what it should not: {why}"), None)
}
