//! S1: nothing is taken from a device before the other side holds everything of it.

use std::borrow::Cow;

use prost_reflect::{DynamicMessage, Value};

use super::{Kept, Promise, Side, State};
use crate::{map::path, model::device::Component};

/// Fields that are the other deployment's own, and why. A path stands for everything below it.
const REPLACED: &[(&str, &str)] = &[
    ("ids.application_ids", "the target application may have another ID"),
    ("ids.device_id", "the target may need another device ID"),
    ("created_at", "each registry sets its own"),
    ("updated_at", "each registry sets its own"),
    ("network_server_address", "the target's own Network Server"),
    ("application_server_address", "the target's own Application Server"),
    ("join_server_address", "the target's own Join Server"),
    ("net_id", "the target's own network"),
    ("application_server_id", "the target's own Application Server"),
    ("network_server_kek_label", "a key of the source's Network Server"),
    ("application_server_kek_label", "a key of the source's Application Server"),
    ("provisioner_id", "a provisioner of the source"),
    ("mac_settings.schedule_downlinks", "the mute itself, never copied"),
];

/// Fields that traffic changes at any moment, on the live side as on the muted one.
const TRAFFIC: &[&str] = &[
    "activated_at",
    "last_seen_at",
    "last_dev_status_received_at",
    "power_state",
    "battery_percentage",
    "downlink_margin",
    "ids.dev_addr",
    "pending_session",
    "pending_mac_state",
    "session.started_at",
    "session.queued_application_downlinks",
    "mac_state.current_parameters.adr_data_rate_index",
    "mac_state.current_parameters.adr_tx_power_index",
    "mac_state.current_parameters.adr_nb_trans",
    "mac_state.desired_parameters",
    "mac_state.last_confirmed_downlink_at",
    "mac_state.last_network_initiated_downlink_at",
    "mac_state.last_downlink_at",
    "mac_state.last_dev_status_f_cnt_up",
    "mac_state.last_adr_change_f_cnt_up",
    "mac_state.pending_application_downlink",
    "mac_state.pending_join_request",
    "mac_state.pending_relay_downlink",
    "mac_state.pending_requests",
    "mac_state.queued_join_accept",
    "mac_state.queued_responses",
    "mac_state.recent_uplinks",
    "mac_state.recent_downlinks",
    "mac_state.recent_mac_command_identifiers",
    "mac_state.rejected_",
    "mac_state.rx_windows_available",
];

/// Counters and nonces: S4 watches them.
const COUNTERS: &[&str] = &[
    "session.last_f_cnt_up",
    "session.last_n_f_cnt_down",
    "session.last_a_f_cnt_down",
    "session.last_conf_f_cnt_down",
    "last_join_nonce",
    "last_dev_nonce",
    "used_dev_nonces",
    "last_rj_count_0",
    "last_rj_count_1",
];

/// All that a V2 has room for, of what a The Things Stack holds.
const V2_HOLDS: &[&str] = &[
    "ids",
    "supports_join",
    "root_keys.app_key.key",
    "session.dev_addr",
    "session.keys.f_nwk_s_int_key",
    "session.keys.app_s_key",
    "mac_settings.supports_32_bit_f_cnt",
    "mac_settings.resets_f_cnt",
];

impl State {
    /// `lost` was taken from the device at `side`: the other side must hold all that the device held.
    pub(super) fn check_complete(&mut self, side: Side, component: Component, key: &str, lost: &str) {
        let missing = self.missing_at_the_other_side(side, key);
        let other = side.other();
        for what in missing {
            let what = format!("{component} lost {lost} while the {other} {what}");
            self.breach(Promise::S1, side, key, what);
        }
    }

    fn missing_at_the_other_side(&self, side: Side, key: &str) -> Vec<String> {
        let held = |c: Component| self.side(side).held.get(&(c, key.to_owned()));
        let Some(other_key) = self.counterpart(side, key) else {
            return vec!["has no record of it".to_owned()];
        };
        let other = self.side(side.other());
        let session = self.session_goes_on(side, key, &other_key);
        let mut missing = Vec::new();
        if let Err(what) = &session {
            missing.push((*what).to_owned());
        }
        for component in Component::ALL {
            let Some(want) = held(component) else { continue };
            let Some(got) = other.get(component, &other_key) else {
                missing.push(format!("has no {component} record of it"));
                continue;
            };
            let has_room = |at: &str| !got.facts.is_v2 || V2_HOLDS.iter().any(|path| under(at, path));
            let differing = path::stored(&want.message).into_iter().filter(|at| {
                has_room(at)
                    && !self.excused(component, at, matches!(session, Ok(true)))
                    && !same(path::get(&want.message, at), path::get(&got.message, at))
            });
            missing.extend(differing.map(|at| format!("{component} holds another `{at}`")));
        }
        missing
    }

    /// The key of the same device at the other side: by its EUIs, or by its session where it has none.
    fn counterpart(&self, side: Side, key: &str) -> Option<String> {
        let held = |c: Component| self.side(side).held.get(&(c, key.to_owned()));
        let euis = Component::ALL.into_iter().find_map(|c| held(c).map(|kept| kept.facts.euis))?;
        let session = held(Component::Ns).and_then(|ns| ns.facts.session);
        let other = self.side(side.other());
        let mut records = other.now.iter();
        match euis.dev_eui {
            Some(_) => records.find(|(_, kept)| kept.facts.euis == euis),
            None => records.find(|(_, kept)| session.is_some() && kept.facts.session == session),
        }
        .map(|((_, key), _)| key.clone())
    }

    /// Whether the session that the device held goes on at the other side. A device that can join there may have
    /// dropped it, or have joined since; but half a session, or none for a device that cannot join, is a loss.
    fn session_goes_on(&self, side: Side, key: &str, other_key: &str) -> Result<bool, &'static str> {
        let held = |c: Component| self.side(side).held.get(&(c, key.to_owned())).map(AsRef::as_ref);
        let other = self.side(side.other());
        let Some(ns) = held(Component::Ns).filter(|ns| ns.facts.session.is_some()) else { return Ok(false) };
        let got = other.get(Component::Ns, other_key);
        if got.is_some_and(|got| got.facts.session == ns.facts.session) {
            return Ok(true);
        }
        // Where V2 is left the other side is still muted: no join there can have brought it another session.
        if ns.facts.is_v2 && got.is_some_and(|got| got.facts.session.is_some() && !got.facts.may_send) {
            return Err("holds another session than the one it is in");
        }
        let roots = |kept: Option<&Kept>| kept.map(|kept| kept.facts.roots.clone()).unwrap_or_default();
        let kept_roots = roots(held(Component::Js));
        if kept_roots.is_empty() || !kept_roots.is_subset(&roots(other.get(Component::Js, other_key))) {
            return Err("does not hold its session");
        }
        let part = |at: &str| {
            let want = path::bytes(&ns.message, at);
            !want.is_empty() && got.is_some_and(|got| path::bytes(&got.message, at) == want)
        };
        if part("session.keys.session_key_id") || part("session.keys.f_nwk_s_int_key.key") {
            return Err("holds its session with other keys");
        }
        Ok(false)
    }

    fn excused(&self, component: Component, at: &str, session_goes_on: bool) -> bool {
        let of_session = under(at, "session") || under(at, "mac_state");
        // The Join Server keeps session keys for the AS; no registry call reads or writes them.
        (of_session && (component == Component::Js || !session_goes_on))
            || REPLACED.iter().any(|(path, _)| under(at, path))
            || TRAFFIC.iter().chain(COUNTERS).any(|path| under(at, path))
            || self.terms.replaced.iter().any(|path| under(at, path))
    }
}

/// True when `at` is `path`, or below it. A path that ends in `_` stands for all that begin so.
fn under(at: &str, path: &str) -> bool {
    at.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.') || path.ends_with('_'))
}

fn same(want: Option<Cow<'_, Value>>, got: Option<Cow<'_, Value>>) -> bool {
    match (want.as_deref(), got.as_deref()) {
        // A parent that is set but empty says nothing.
        (Some(Value::Message(want)), None) => is_empty(want),
        (want, got) => want == got,
    }
}

fn is_empty(message: &DynamicMessage) -> bool {
    message.fields().next().is_none()
}
