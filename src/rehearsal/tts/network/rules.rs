//! What fields of a device must be together: implications between them, and sessions that are whole.

use super::{
    super::{failure::Failure, fields},
    SESSION_KEYS,
    set::{Writing, invalid, keys_are_equal, leaves_below, looked_up_key_is_zero},
    state::is_mac_1_1,
};
use crate::map::path;

/// MAC versions whose ABP devices need a DevEUI: 1.0.4 and 1.1, by number.
const ABP_NEEDS_DEV_EUI: [u64; 2] = [4, 6];

const LEGACY_ADR: [&str; 3] =
    ["mac_settings.adr_margin", "mac_settings.use_adr.value", "mac_settings.use_adr"];

type Result = std::result::Result<(), Failure>;

fn fits(ok: bool, field: &str) -> Result {
    if ok { Ok(()) } else { Err(invalid(field)) }
}

/// The implications between fields, in the order in which the server checks them.
pub(super) fn implications(writing: &mut Writing<'_>) -> Result {
    // Only devices that join have something pending, or a session key ID.
    let mut joined = leaves_below("pending_mac_state.");
    joined.extend(leaves_below("pending_session."));
    joined.push("session.keys.session_key_id");
    if_absent_then_absent(writing, "supports_join", &joined)?;
    if_absent_then_present(
        writing,
        "supports_join",
        &["session.dev_addr", "session.keys.f_nwk_s_int_key.key"],
    )?;
    abp_dev_eui(writing)?;
    ping_slot(writing, "supports_join", false)?;
    let silent = multicast_absent();
    if_present_then_absent(writing, "multicast", &silent)?;
    adr_is_of_one_kind(writing)?;
    if_present_then_present(writing, "supports_join", &["ids.dev_eui", "ids.join_eui"])?;
    multicast_parameters(writing)?;
    multicast_class(writing)?;
    ping_slot(writing, "multicast", true)
}

fn if_absent_then_absent(writing: &mut Writing<'_>, left: &str, right: &[&str]) -> Result {
    if writing.sets(left) {
        if !path_is_zero(writing, left) {
            return Ok(());
        }
        for path in right {
            writing.must_be_zero(path)?;
        }
    }
    for path in right {
        if writing.sets(path) && !path_is_zero(writing, path) {
            writing.must_not_be_zero(left)?;
        }
    }
    Ok(())
}

fn if_absent_then_present(writing: &mut Writing<'_>, left: &str, right: &[&str]) -> Result {
    if writing.sets(left) {
        if !path_is_zero(writing, left) {
            return Ok(());
        }
        for path in right {
            writing.must_not_be_zero(path)?;
        }
    }
    for path in right {
        if writing.sets(path) && path_is_zero(writing, path) {
            writing.must_not_be_zero(left)?;
        }
    }
    Ok(())
}

fn if_present_then_absent<S: AsRef<str>>(writing: &mut Writing<'_>, left: &str, right: &[S]) -> Result {
    if writing.sets(left) {
        if path_is_zero(writing, left) {
            return Ok(());
        }
        for path in right {
            writing.must_be_zero(path.as_ref())?;
        }
    }
    for path in right {
        if writing.sets(path.as_ref()) && !path_is_zero(writing, path.as_ref()) {
            writing.must_be_zero(left)?;
        }
    }
    Ok(())
}

fn if_present_then_present(writing: &mut Writing<'_>, left: &str, right: &[&str]) -> Result {
    if writing.sets(left) {
        if path_is_zero(writing, left) {
            return Ok(());
        }
        for path in right {
            writing.must_not_be_zero(path)?;
        }
    }
    for path in right {
        if writing.sets(path) && path_is_zero(writing, path) {
            writing.must_be_zero(left)?;
        }
    }
    Ok(())
}

/// True when the request sets a field to nothing.
fn path_is_zero(writing: &Writing<'_>, at: &str) -> bool {
    fields::is_zero(Some(&writing.device), at)
}

/// A check that holds where `left` is absent (or present): made when the request sets one of the fields involved.
fn conditional(
    writing: &mut Writing<'_>,
    left: &str,
    left_present: bool,
    looks_at: &[String],
    check: impl Fn(&Writing<'_>) -> Result,
) -> Result {
    if writing.sets(left) {
        if path_is_zero(writing, left) == left_present {
            return Ok(());
        }
        let result = check(writing);
        writing.check(looks_at, result)?;
    }
    if writing.sets_any(looks_at) {
        let applies = writing.is_zero(left) != left_present;
        let result = if applies { check(writing) } else { Ok(()) };
        let all: Vec<_> = std::iter::once(left.to_owned()).chain(looks_at.iter().cloned()).collect();
        writing.check(&all, result)?;
    }
    Ok(())
}

fn owned(paths: &[&str]) -> Vec<String> {
    paths.iter().map(|path| (*path).to_owned()).collect()
}

fn abp_dev_eui(writing: &mut Writing<'_>) -> Result {
    let looks_at = owned(&["ids.dev_eui", "lorawan_version", "multicast"]);
    conditional(writing, "supports_join", false, &looks_at, |writing| {
        let eui = writing.at("ids.dev_eui").map(|d| path::bytes(d, "ids.dev_eui")).unwrap_or_default();
        if eui.iter().any(|b| *b != 0) {
            return Ok(());
        }
        let version = writing.number("lorawan_version");
        fits(version != 0, "lorawan_version")?;
        fits(!ABP_NEEDS_DEV_EUI.contains(&version) || writing.flag("multicast"), "ids.dev_eui")
    })
}

fn ping_slot(writing: &mut Writing<'_>, left: &str, left_present: bool) -> Result {
    let periodicity = "mac_settings.ping_slot_periodicity.value";
    let looks_at = owned(&[periodicity, "supports_class_b"]);
    conditional(writing, left, left_present, &looks_at, |writing| {
        let set = writing.at(periodicity).is_some_and(|d| path::has(d, "mac_settings.ping_slot_periodicity"));
        fits(!writing.flag("supports_class_b") || set, periodicity)
    })
}

/// What a multicast group cannot have, as it never sends.
fn multicast_absent() -> Vec<String> {
    let mut paths = Vec::new();
    for prefix in [
        "mac_settings.desired_relay.",
        "mac_settings.relay.",
        "mac_state.current_parameters.relay.",
        "mac_state.desired_parameters.relay.",
    ] {
        paths.extend(owned(&leaves_below(prefix)));
    }
    paths.extend(owned(&[
        "mac_settings.schedule_downlinks.value",
        "mac_state.last_adr_change_f_cnt_up",
        "mac_state.last_confirmed_downlink_at",
        "mac_state.last_dev_status_f_cnt_up",
        "mac_state.pending_application_downlink",
        "mac_state.pending_requests",
        "mac_state.queued_responses",
        "mac_state.recent_mac_command_identifiers",
        "mac_state.recent_uplinks",
        "mac_state.rejected_adr_data_rate_indexes",
        "mac_state.rejected_adr_tx_power_indexes",
        "mac_state.rejected_data_rate_ranges",
        "mac_state.rejected_frequencies",
        "mac_state.rx_windows_available",
        "session.last_conf_f_cnt_down",
        "session.last_f_cnt_up",
        "supports_join",
    ]));
    paths
}

/// ADR settings are of the old kind or of the new.
fn adr_is_of_one_kind(writing: &mut Writing<'_>) -> Result {
    let mut new = owned(&leaves_below("mac_settings.adr."));
    new.extend(owned(&["mac_settings.adr.mode", "mac_settings.adr"]));
    for left in &new {
        if_present_then_absent(writing, left, &LEGACY_ADR)?;
    }
    for left in LEGACY_ADR {
        if_present_then_absent(writing, left, &["mac_settings.adr"])?;
    }
    Ok(())
}

/// A multicast group negotiates nothing: it has the parameters that it should have.
fn multicast_parameters(writing: &mut Writing<'_>) -> Result {
    let prefix = "mac_state.current_parameters.";
    for current in leaves_below(prefix).into_iter().filter(|p| !p.contains(".relay.")) {
        let desired = current.replace("current_parameters", "desired_parameters");
        let looks_at = [current.to_owned(), desired.clone()];
        conditional(writing, "multicast", true, &looks_at, |writing| {
            let value =
                |at: &str| writing.at(at).and_then(|d| path::get(d, at).map(std::borrow::Cow::into_owned));
            fits(value(current) == value(&desired), &desired)
        })?;
    }
    Ok(())
}

fn multicast_class(writing: &mut Writing<'_>) -> Result {
    let looks_at = owned(&["supports_class_b", "supports_class_c"]);
    conditional(writing, "multicast", true, &looks_at, |writing| {
        fits(writing.flag("supports_class_b") || writing.flag("supports_class_c"), "supports_class_b")
    })
}

/// The highest of a dynamic ADR setting is not below the lowest.
pub(super) fn monotonic_adr(writing: &mut Writing<'_>) -> Result {
    let dynamic = "mac_settings.adr.mode.dynamic";
    let mut pairs = vec![
        (format!("{dynamic}.min_data_rate_index.value"), format!("{dynamic}.max_data_rate_index.value")),
        (format!("{dynamic}.min_tx_power_index"), format!("{dynamic}.max_tx_power_index")),
        (format!("{dynamic}.min_nb_trans"), format!("{dynamic}.max_nb_trans")),
    ];
    for index in 0..16 {
        let base = format!("{dynamic}.overrides.data_rate_{index}");
        pairs.push((format!("{base}.min_nb_trans"), format!("{base}.max_nb_trans")));
    }
    let looks_at: Vec<_> = pairs.iter().flat_map(|(min, max)| [min.clone(), max.clone()]).collect();
    if !writing.sets_any(&looks_at) {
        return Ok(());
    }
    let value = |writing: &Writing<'_>, at: &str| {
        let wrapper = at.strip_suffix(".value").unwrap_or(at);
        let device = writing.at(at).filter(|d| path::has(d, wrapper))?;
        Some(path::number(device, &format!("{wrapper}.value")))
    };
    let wrong = pairs.iter().find(|(min, max)| {
        matches!((value(writing, min), value(writing, max)), (Some(min), Some(max)) if max < min)
    });
    let result = wrong.map_or(Ok(()), |(_, max)| Err(invalid(max)));
    writing.check(&looks_at, result)
}

fn with_key_parts(owner: &str, parts: &[&str]) -> Vec<String> {
    SESSION_KEYS
        .iter()
        .flat_map(|key| parts.iter().map(move |part| format!("{owner}.{key}.{part}")))
        .collect()
}

/// True when one of these fields comes with its parent, wherever it is looked up.
fn any_present(writing: &Writing<'_>, looks_at: &[String], parent: &str) -> bool {
    let prefix = format!("{parent}.");
    looks_at
        .iter()
        .filter(|at| at.starts_with(&prefix))
        .any(|at| writing.at(at).is_some_and(|device| path::has(device, parent)))
}

/// A session must be whole. Answers whether the device has one.
pub(super) fn session(writing: &mut Writing<'_>) -> std::result::Result<bool, Failure> {
    let mut looks_at = owned(&["lorawan_version", "multicast", "supports_join"]);
    let of_state =
        leaves_below("mac_state.").into_iter().filter(|p| !p.starts_with("mac_state.queued_join_accept"));
    looks_at.extend(of_state.map(str::to_owned));
    looks_at.extend(with_key_parts("session.keys", &["encrypted_key", "kek_label", "key"]));
    looks_at.extend(owned(&[
        "session.dev_addr",
        "session.keys.session_key_id",
        "session.last_conf_f_cnt_down",
        "session.last_f_cnt_up",
        "session.last_n_f_cnt_down",
        "session.started_at",
    ]));
    if !writing.sets_any(&looks_at) {
        return Ok(false);
    }
    let has_state = any_present(writing, &looks_at, "mac_state");
    let has_session = any_present(writing, &looks_at, "session");
    let result = check_session(writing, has_state, has_session);
    writing.check(&looks_at, result)?;
    Ok(has_session)
}

fn check_session(writing: &Writing<'_>, has_state: bool, has_session: bool) -> Result {
    let multicast = writing.flag("multicast");
    if !has_state && !has_session && !multicast {
        return Ok(());
    }
    fits(has_session, "session")?;
    fits(has_state || !writing.sets("mac_state"), "mac_state")?;
    let mut version = writing.number("lorawan_version");
    if has_state {
        if multicast && let Some(device) = writing.at("mac_state.device_class") {
            fits(path::number(device, "mac_state.device_class") != 0, "mac_state.device_class")?;
        }
        if let Some(device) = writing.at("mac_state.lorawan_version") {
            fits(path::has(device, "mac_state"), "mac_state.lorawan_version")?;
            version = path::number(device, "mac_state.lorawan_version");
        }
    }
    let in_session = |at: &str| writing.at(at).is_some_and(|device| path::has(device, "session"));
    fits(in_session("session.dev_addr"), "session.dev_addr")?;
    let first = "session.keys.f_nwk_s_int_key";
    fits(!looked_up_key_is_zero(writing, first), &format!("{first}.key"))?;
    for other in ["session.keys.nwk_s_enc_key", "session.keys.s_nwk_s_int_key"] {
        let field = format!("{other}.key");
        if is_mac_1_1(version) {
            fits(!looked_up_key_is_zero(writing, other), &field)?;
        } else {
            fits(!writing.sets(&field) || keys_are_equal(writing, first, other), &field)?;
        }
    }
    let id = "session.keys.session_key_id";
    fits(!writing.flag("supports_join") || in_session(id), id)
}

/// What a device has pending.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub session: bool,
    pub join_accept: bool,
}

/// A pending session must be whole, and so must a queued join-accept.
pub(super) fn pending(writing: &mut Writing<'_>) -> std::result::Result<Pending, Failure> {
    let mut looks_at = owned(&leaves_below("pending_mac_state."));
    let accept = "pending_mac_state.queued_join_accept";
    looks_at.extend(with_key_parts(&format!("{accept}.keys"), &["encrypted_key"]));
    looks_at.extend(with_key_parts("pending_session.keys", &["encrypted_key", "key"]));
    looks_at.extend(owned(&["pending_session.dev_addr", "pending_session.keys.session_key_id"]));
    if !writing.sets_any(&looks_at) {
        return Ok(Pending::default());
    }
    let has_state = any_present(writing, &looks_at, "pending_mac_state");
    let pending = Pending {
        session: any_present(writing, &looks_at, "pending_session"),
        join_accept: any_present(writing, &looks_at, accept),
    };
    let result = check_pending(writing, has_state, &pending);
    writing.check(&looks_at, result)?;
    Ok(pending)
}

fn check_pending(writing: &Writing<'_>, has_state: bool, pending: &Pending) -> Result {
    if !has_state && !pending.session {
        return Ok(());
    }
    fits(has_state, "pending_mac_state")?;
    let within = |at: &str, parent: &str| writing.at(at).is_some_and(|device| path::has(device, parent));
    let at = "pending_mac_state.lorawan_version";
    fits(within(at, "pending_mac_state"), at)?;
    let separate = is_mac_1_1(writing.number(at));
    if pending.session {
        fits(within("pending_session.dev_addr", "pending_session"), "pending_session.dev_addr")?;
        check_pending_keys(writing, "pending_session", separate)?;
    } else {
        fits(pending.join_accept, "pending_mac_state.queued_join_accept")?;
    }
    if pending.join_accept {
        let accept = "pending_mac_state.queued_join_accept";
        check_pending_keys(writing, accept, separate)?;
        for part in ["payload", "request.dev_addr"] {
            let at = format!("{accept}.{part}");
            fits(within(&at, accept), &at)?;
        }
    }
    Ok(())
}

fn check_pending_keys(writing: &Writing<'_>, owner: &str, separate: bool) -> Result {
    let key = |name: &str| format!("{owner}.keys.{name}");
    for name in SESSION_KEYS {
        fits(!looked_up_key_is_zero(writing, &key(name)), &format!("{}.key", key(name)))?;
    }
    if !separate {
        for name in ["nwk_s_enc_key", "s_nwk_s_int_key"] {
            let equal = keys_are_equal(writing, &key("f_nwk_s_int_key"), &key(name));
            fits(equal, &format!("{}.key", key(name)))?;
        }
    }
    let id = key("session_key_id");
    fits(writing.at(&id).is_some_and(|device| path::has(device, owner)), &id)
}
