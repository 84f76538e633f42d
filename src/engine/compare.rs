//! Is what a server holds what it should hold? With what traffic may have changed since.

use prost_reflect::DynamicMessage;

use crate::{
    map::{
        diff::{self, Difference},
        path,
    },
    model::device::{Component, Record},
    plan::transform::Write,
};

/// What a live or muted device changes by itself, by component.
fn moving(component: Component) -> &'static [&'static str] {
    match component {
        Component::Is => &["updated_at", "last_seen_at", "activated_at"],
        Component::Js => &[
            "updated_at",
            "used_dev_nonces",
            "last_dev_nonce",
            "last_join_nonce",
            "last_rj_count_0",
            "last_rj_count_1",
        ],
        Component::As => &["updated_at", "pending_session", "session.last_a_f_cnt_down"],
        Component::Ns => &[
            "updated_at",
            "session.last_f_cnt_up",
            "session.last_n_f_cnt_down",
            "session.last_conf_f_cnt_down",
            "session.queued_application_downlinks",
            "mac_state",
            "pending_session",
            "pending_mac_state",
            "queued_application_downlinks",
            "battery_percentage",
            "downlink_margin",
            "power_state",
            "last_dev_status_received_at",
        ],
    }
}

/// How a record on the target stands to what was written.
#[derive(Debug, PartialEq, Eq)]
pub enum Standing {
    /// Equal in every path that was written.
    Equal,
    /// Equal but for what traffic changes, and traffic there was: the device lives there.
    MovedOn,
    /// Different; the paths.
    Different(Vec<String>),
}

/// Compares a record that was read back with what was written.
pub fn standing(component: Component, write: &Write, read: &Record) -> Standing {
    let differences = differences(&write.message, &read.0, &write.paths);
    if differences.is_empty() {
        return Standing::Equal;
    }
    if component == Component::Ns && lives(write, read) {
        let still: Vec<_> = write.paths.iter().filter(|p| !is_session(p)).cloned().collect();
        let differences = self::differences(&write.message, &read.0, &still);
        if differences.is_empty() {
            return Standing::MovedOn;
        }
        return Standing::Different(names(&differences));
    }
    Standing::Different(names(&differences))
}

/// True when the device has sent or joined since the record was written: a higher FCntUp in the same session, or a
/// session that was not written.
pub fn lives(write: &Write, read: &Record) -> bool {
    if path::has(&read.0, "pending_session") {
        return true;
    }
    let written = session_of(&write.message);
    match session_of(&read.0) {
        None => false,
        session if session != written => true,
        Some(_) => {
            let count = |m: &DynamicMessage| path::number(m, "session.last_f_cnt_up");
            count(&read.0) > count(&write.message)
        }
    }
}

/// What tells one session from another.
fn session_of(message: &DynamicMessage) -> Option<(Vec<u8>, Vec<u8>, Vec<u8>)> {
    path::has(message, "session.dev_addr").then(|| {
        (
            path::bytes(message, "session.dev_addr"),
            path::bytes(message, "session.keys.session_key_id"),
            path::bytes(message, "session.keys.f_nwk_s_int_key.key"),
        )
    })
}

/// True when traffic changes this path by itself.
pub fn is_moving(component: Component, path: &str) -> bool {
    component == Component::Ns && is_session(path)
        || moving(component)
            .iter()
            .any(|p| path == *p || path.strip_prefix(p).is_some_and(|r| r.starts_with('.')))
}

fn is_session(path: &str) -> bool {
    ["session", "mac_state", "pending_session", "pending_mac_state", "ids.dev_addr"]
        .iter()
        .any(|p| path == *p || path.strip_prefix(p).is_some_and(|rest| rest.starts_with('.')))
        || moving(Component::Ns).contains(&path)
}

/// Compares a record of the source with its sealed snapshot: the paths that somebody changed while it was muted.
pub fn changed_while_muted(
    component: Component,
    sealed: Option<&Record>,
    now: Option<&Record>,
) -> Vec<String> {
    match (sealed, now) {
        (None, None) => Vec::new(),
        (Some(sealed), Some(now)) => {
            let (mut left, mut right) = (sealed.0.clone(), now.0.clone());
            for path in moving(component) {
                path::clear(&mut left, path);
                path::clear(&mut right, path);
            }
            names(&diff::diff(&left, &right))
        }
        (Some(_), None) => vec![format!("the {component} record is gone")],
        (None, Some(_)) => vec![format!("a {component} record has appeared")],
    }
}

fn differences(written: &DynamicMessage, read: &DynamicMessage, paths: &[String]) -> Vec<Difference> {
    diff::diff(&path::project(written, paths), &path::project(read, paths))
}

fn names(differences: &[Difference]) -> Vec<String> {
    differences.iter().map(|d| d.path.clone()).collect()
}
