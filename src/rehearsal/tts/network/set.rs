//! Writing a device: the checks in their order, and what the server adds by itself.
//!
//! Checks see the request where its mask sets a field, and the stored device elsewhere. The real server makes those that
//! need the stored device after all others: [`Writing`] keeps that order, as it decides which error a client gets.

use std::sync::LazyLock;

use prost_reflect::{DynamicMessage, Value};
use serde_json::json;
use tonic::Code;

use super::{
    super::{
        Ctx, devices,
        failure::{Failure, Kind},
        fields,
        registries::{self, implicit},
    },
    SESSION_KEYS, phy, rules, sent_device,
    state::{is_mac_1_1, new_state},
};
use crate::{
    map::{mask, path},
    proto,
    rehearsal::store::{Table, device_key},
};

const NS: &str = "pkg/networkserver";
const FIELD_VALUE: Kind =
    Kind::new(Code::InvalidArgument, NS, "field_value", "invalid value of field `{field}`");
const NOT_ZERO: Kind = Kind::new(Code::InvalidArgument, NS, "field_not_zero", "field `{name}` is not zero");
const IS_ZERO: Kind = Kind::new(Code::InvalidArgument, NS, "field_is_zero", "field `{name}` is zero");
const FIELD_BOUND: Kind = Kind::new(
    Code::InvalidArgument,
    "pkg/ttnpb",
    "field_bound",
    "`{field}` should be between `{min}` and `{max}`",
);
const INVALID_DEVICE: Kind =
    Kind::new(Code::InvalidArgument, "pkg/networkserver/redis", "invalid_device", "device is invalid");

/// The error of a field that does not fit.
pub(super) fn invalid(field: &str) -> Failure {
    FIELD_VALUE.with(json!({"field": field}))
}

/// A device that is being written.
pub(super) struct Writing<'a> {
    /// The device of the request.
    pub device: DynamicMessage,
    /// Paths of the mask.
    paths: &'a [String],
    /// Paths that the server adds by itself.
    extra: Vec<String>,
    pub stored: Option<&'a DynamicMessage>,
    /// Fields of the stored device that must be absent (true) or present.
    zero: Vec<(String, bool)>,
    /// The first failure that only the stored device shows.
    deferred: Option<Failure>,
}

impl<'a> Writing<'a> {
    /// True when the request, or the server by itself, sets a field (`HasSetField`).
    pub(super) fn sets(&self, path: &str) -> bool {
        fields::has(self.paths, path) || fields::has(&self.extra, path)
    }

    pub(super) fn sets_any<S: AsRef<str>>(&self, paths: &[S]) -> bool {
        paths.iter().any(|path| self.sets(path.as_ref()))
    }

    /// Lets the server set fields by itself.
    pub(super) fn add(&mut self, paths: &[&str]) {
        for path in paths {
            if !self.sets(path) {
                self.extra.push((*path).to_owned());
            }
        }
    }

    fn all_sets(&self) -> Vec<String> {
        [self.paths, &self.extra].concat()
    }

    /// Where a field is looked up: in the request if it sets it, in the stored device if there is one.
    pub(super) fn at(&self, path: &str) -> Option<&DynamicMessage> {
        if self.sets(path) { Some(&self.device) } else { self.stored }
    }

    /// True when nothing is at `path`, wherever it is looked up.
    pub(super) fn is_zero(&self, path: &str) -> bool {
        fields::is_zero(self.at(path), path)
    }

    pub(super) fn flag(&self, path: &str) -> bool {
        self.at(path).is_some_and(|device| path::flag(device, path))
    }

    pub(super) fn number(&self, path: &str) -> u64 {
        self.at(path).map_or(0, |device| path::number(device, path))
    }

    fn bytes(&self, path: &str) -> Vec<u8> {
        self.at(path).map(|device| path::bytes(device, path)).unwrap_or_default()
    }

    /// Fails at once when the request sets every field that a check looks at, and after all other checks if not.
    pub(super) fn check<S: AsRef<str>>(
        &mut self,
        looks_at: &[S],
        result: Result<(), Failure>,
    ) -> Result<(), Failure> {
        if looks_at.iter().all(|path| self.sets(path.as_ref())) {
            return result;
        }
        if self.deferred.is_none() {
            self.deferred = result.err();
        }
        Ok(())
    }

    /// A field must be absent (`ValidateFieldIsZero`).
    pub(super) fn must_be_zero(&mut self, path: &str) -> Result<(), Failure> {
        self.must_be(path, true)
    }

    /// A field must be there (`ValidateFieldIsNotZero`).
    pub(super) fn must_not_be_zero(&mut self, path: &str) -> Result<(), Failure> {
        self.must_be(path, false)
    }

    fn must_be(&mut self, path: &str, zero: bool) -> Result<(), Failure> {
        if !self.sets(path) {
            if !self.zero.iter().any(|(seen, _)| seen == path) {
                self.zero.push((path.to_owned(), zero));
            }
            return Ok(());
        }
        if fields::is_zero(Some(&self.device), path) == zero {
            return Ok(());
        }
        let cause = if zero { NOT_ZERO } else { IS_ZERO };
        Err(invalid(path).because(cause.with(json!({"name": path}))))
    }

    /// What only the stored device shows.
    fn deferred(&mut self) -> Result<(), Failure> {
        for (path, zero) in &self.zero {
            if fields::is_zero(self.stored, path) != *zero {
                return Err(invalid(path));
            }
        }
        self.deferred.take().map_or(Ok(()), Err)
    }
}

/// The deepest settable paths below a field of the device, sorted.
pub(super) fn leaves_below(prefix: &str) -> Vec<&'static str> {
    static LEAVES: LazyLock<Vec<&str>> = LazyLock::new(|| {
        let mut leaves = mask::leaves("NsEndDeviceRegistry/Set");
        leaves.sort_unstable();
        leaves
    });
    LEAVES.iter().copied().filter(|leaf| leaf.starts_with(prefix)).collect()
}

/// `NsEndDeviceRegistry/Set`.
pub(super) fn set(ctx: &mut Ctx<'_>, request: &DynamicMessage) -> Result<DynamicMessage, Failure> {
    let device = sent_device(request);
    let paths = mask::of(request);
    let (application, device_id) = devices::ids_at(&device, "ids");
    require(ctx, &application, &paths)?;
    let key = device_key(&application, &device_id);
    let stored = ctx.store.get(Table::Ns, &key).cloned();
    let mut writing = Writing {
        device,
        paths: &paths,
        extra: Vec::new(),
        stored: stored.as_ref(),
        zero: Vec::new(),
        deferred: None,
    };
    add_identifiers(&mut writing);
    check_versions(&writing)?;
    check_dev_addr(&mut writing)?;
    rules::implications(&mut writing)?;
    phy::check(&mut writing)?;
    rules::monotonic_adr(&mut writing)?;
    wrap_keys(&mut writing)?;
    let has_session = rules::session(&mut writing)?;
    let pending = rules::pending(&mut writing)?;
    writing.deferred()?;
    if has_session {
        complete_session(&mut writing, ctx.now.timestamp())?;
    }
    if pending.session {
        complete_pending(&mut writing, pending.join_accept);
    }
    check_immutable(&writing)?;
    let sets = writing.all_sets();
    let record = write(ctx, &key, &writing.device, stored.clone(), &sets)?;
    fields::filter(&record, &implicit(&paths))
}

fn require(ctx: &Ctx<'_>, application: &str, paths: &[String]) -> Result<(), Failure> {
    let mut keys = vec![
        "pending_mac_state.queued_join_accept.keys.app_s_key.encrypted_key".to_owned(),
        "pending_mac_state.queued_join_accept.keys.app_s_key.kek_label".to_owned(),
        "pending_mac_state.queued_join_accept.keys.app_s_key.key".to_owned(),
    ];
    for owner in ["pending_mac_state.queued_join_accept.keys", "pending_session.keys", "session.keys"] {
        keys.push(format!("{owner}.session_key_id"));
        keys.extend(SESSION_KEYS.map(|key| format!("{owner}.{key}.key")));
    }
    let mut rights = vec!["APPLICATION_DEVICES_WRITE"];
    if fields::has_any(paths, &keys) {
        rights.push("APPLICATION_DEVICES_WRITE_KEYS");
    }
    ctx.require_application(application, &rights)
}

/// Identifiers are set also when the mask does not name them.
fn add_identifiers(writing: &mut Writing<'_>) {
    writing.add(&["ids.application_ids", "ids.device_id"]);
    for at in ["ids.join_eui", "ids.dev_eui", "ids.dev_addr"] {
        if path::has(&writing.device, at) {
            writing.add(&[at]);
        }
    }
}

/// Frequency plan and versions may not be set to nothing.
fn check_versions(writing: &Writing<'_>) -> Result<(), Failure> {
    if writing.sets("frequency_plan_id") && path::string(&writing.device, "frequency_plan_id").is_empty() {
        return Err(invalid("frequency_plan_id"));
    }
    let checks = [
        ("", "lorawan_phy_version", "PHYVersion"),
        ("", "lorawan_version", "MACVersion"),
        ("mac_state", "mac_state.lorawan_version", "MACVersion"),
        ("pending_mac_state", "pending_mac_state.lorawan_version", "MACVersion"),
    ];
    for (parent, at, name) in checks {
        let there = parent.is_empty() || path::has(&writing.device, parent);
        if writing.sets(at) && there {
            let value = path::number(&writing.device, at);
            let max = proto::enumeration(name).values().map(|v| v.number()).max().unwrap_or_default();
            if !(1..=u64::try_from(max).unwrap_or_default()).contains(&value) {
                let cause = FIELD_BOUND.with(json!({"field": name, "min": 1, "max": max, "value": value}));
                return Err(invalid(at).because(cause));
            }
        }
    }
    Ok(())
}

/// `ids.dev_addr` is the session's, or taken from it.
fn check_dev_addr(writing: &mut Writing<'_>) -> Result<(), Failure> {
    let at = "session.dev_addr";
    if writing.sets("ids.dev_addr") {
        let claimed = path::get(&writing.device, "ids.dev_addr");
        let session = writing.at(at).and_then(|device| path::child(device, "session"));
        let fits = match (claimed, session) {
            (None, session) => session.is_none(),
            (Some(claimed), Some(session)) => {
                claimed.as_bytes().is_some_and(|claimed| *claimed == path::bytes(&session, "dev_addr"))
            }
            (Some(_), None) => false,
        };
        let result = if fits { Ok(()) } else { Err(invalid(at)) };
        return writing.check(&[at], result);
    }
    if writing.sets(at) {
        match path::get(&writing.device, at).map(std::borrow::Cow::into_owned) {
            Some(dev_addr) => path::set(&mut writing.device, "ids.dev_addr", dev_addr),
            None => path::clear(&mut writing.device, "ids.dev_addr"),
        }
        writing.add(&["ids.dev_addr"]);
    }
    Ok(())
}

fn key_is_zero(device: &DynamicMessage, at: &str) -> bool {
    path::bytes(device, &format!("{at}.key")).iter().all(|b| *b == 0)
        && path::string(device, &format!("{at}.kek_label")).is_empty()
        && path::bytes(device, &format!("{at}.encrypted_key")).is_empty()
}

/// Keys that are set must be keys; they are stored as they are, without what else their envelope held.
fn wrap_keys(writing: &mut Writing<'_>) -> Result<(), Failure> {
    if path::has(&writing.device, "session") {
        check_zeros(writing, "session.dev_addr")?;
        for key in SESSION_KEYS {
            let at = format!("session.keys.{key}");
            let optional = key != "f_nwk_s_int_key" && !path::has(&writing.device, &at);
            if writing.sets(&format!("{at}.key")) && !optional && key_is_zero(&writing.device, &at) {
                return Err(invalid(&format!("{at}.key")));
            }
        }
        wrap(writing, "session.keys");
    }
    if path::has(&writing.device, "pending_session") {
        check_zeros(writing, "pending_session.dev_addr")?;
        check_pending_keys(writing, "pending_session.keys")?;
        wrap(writing, "pending_session.keys");
    }
    let accept = "pending_mac_state.queued_join_accept";
    if path::has(&writing.device, accept) {
        check_pending_keys(writing, &format!("{accept}.keys"))?;
        check_zeros(writing, &format!("{accept}.payload"))?;
        check_zeros(writing, &format!("{accept}.dev_addr"))?;
        wrap(writing, &format!("{accept}.keys"));
    }
    Ok(())
}

fn check_zeros(writing: &Writing<'_>, at: &str) -> Result<(), Failure> {
    let zero = path::bytes(&writing.device, at).iter().all(|b| *b == 0);
    if writing.sets(at) && zero { Err(invalid(at)) } else { Ok(()) }
}

fn check_pending_keys(writing: &Writing<'_>, at: &str) -> Result<(), Failure> {
    for key in SESSION_KEYS {
        let key = format!("{at}.{key}");
        if writing.sets(&format!("{key}.key")) && key_is_zero(&writing.device, &key) {
            return Err(invalid(&format!("{key}.key")));
        }
    }
    let id = format!("{at}.session_key_id");
    let missing = path::bytes(&writing.device, &id).is_empty();
    if writing.sets(&id) && missing { Err(invalid(&id)) } else { Ok(()) }
}

fn wrap(writing: &mut Writing<'_>, at: &str) {
    for key in SESSION_KEYS {
        let envelope = format!("{at}.{key}");
        if writing.sets(&format!("{envelope}.key")) && path::has(&writing.device, &format!("{envelope}.key"))
        {
            registries::plain_key(&mut writing.device, &envelope);
            writing.add(&[&format!("{envelope}.encrypted_key"), &format!("{envelope}.kek_label")]);
        }
    }
}

/// True when a session key is not set, wherever it is looked up (`setKeyIsZero`).
pub(super) fn looked_up_key_is_zero(writing: &Writing<'_>, at: &str) -> bool {
    writing.bytes(&format!("{at}.key")).iter().all(|b| *b == 0)
        && writing.bytes(&format!("{at}.encrypted_key")).is_empty()
}

/// True when two session keys are the same, wherever they are looked up (`setKeyEqual`).
pub(super) fn keys_are_equal(writing: &Writing<'_>, a: &str, b: &str) -> bool {
    ["key", "encrypted_key", "kek_label"].iter().all(|part| {
        let value = |owner: &str| {
            let at = format!("{owner}.{part}");
            writing.at(&at).and_then(|device| path::get(device, &at).map(std::borrow::Cow::into_owned))
        };
        value(a) == value(b)
    })
}

/// A session gets a MAC state if there is none, the keys that 1.0.x derives from the first, and its start.
fn complete_session(writing: &mut Writing<'_>, now: Value) -> Result<(), Failure> {
    let stored_state = writing.stored.and_then(|device| path::child(device, "mac_state"));
    let mut version = stored_state.as_ref().map_or(0, |state| path::number(state, "lorawan_version"));
    if stored_state.is_none() && !writing.sets("mac_state") {
        let mut state = new_state(&writing.device)?;
        let sets = writing.all_sets();
        let below: Vec<_> = sets.iter().filter_map(|p| p.strip_prefix("mac_state.")).collect();
        if !below.is_empty() {
            let sent = path::child(&writing.device, "mac_state");
            fields::set(&mut state, sent.as_ref(), &below)?;
        }
        version = path::number(&state, "lorawan_version");
        path::set(&mut writing.device, "mac_state", Value::Message(state));
        writing.add(&["mac_state"]);
    } else if writing.sets("mac_state.lorawan_version") {
        version = path::number(&writing.device, "mac_state.lorawan_version");
    }
    if writing.sets("session.keys.f_nwk_s_int_key.key") && !is_mac_1_1(version) {
        copy_first_key(writing, "session.keys");
    }
    let started =
        |device: Option<&DynamicMessage>| device.is_some_and(|d| path::has(d, "session.started_at"));
    let key_id = |device: Option<&DynamicMessage>| {
        device.map(|d| path::bytes(d, "session.keys.session_key_id")).unwrap_or_default()
    };
    let unset = writing.sets("session.started_at") && !started(Some(&writing.device));
    // The server asks for a path that does not exist: only a mask with the whole session has it.
    let another =
        writing.sets("session.session_key_id") && key_id(Some(&writing.device)) != key_id(writing.stored);
    if unset || another || !started(writing.stored) {
        path::set(&mut writing.device, "session.started_at", now);
        writing.add(&["session.started_at"]);
    }
    Ok(())
}

fn complete_pending(writing: &mut Writing<'_>, join_accept: bool) {
    let at = "pending_mac_state.lorawan_version";
    if is_mac_1_1(writing.number(at)) {
        return;
    }
    if writing.sets("pending_session.keys.f_nwk_s_int_key.key") {
        copy_first_key(writing, "pending_session.keys");
    }
    let accept = "pending_mac_state.queued_join_accept.keys";
    if join_accept && writing.sets(&format!("{accept}.f_nwk_s_int_key.key")) {
        copy_first_key(writing, accept);
    }
}

/// In 1.0.x there is one network session key.
fn copy_first_key(writing: &mut Writing<'_>, at: &str) {
    let Some(first) = path::child(&writing.device, &format!("{at}.f_nwk_s_int_key")) else { return };
    for key in ["nwk_s_enc_key", "s_nwk_s_int_key"] {
        let envelope = format!("{at}.{key}");
        path::set(&mut writing.device, &envelope, Value::Message(first.clone()));
        writing.add(&[
            &format!("{envelope}.encrypted_key"),
            &format!("{envelope}.kek_label"),
            &format!("{envelope}.key"),
        ]);
    }
}

fn check_immutable(writing: &Writing<'_>) -> Result<(), Failure> {
    let Some(stored) = writing.stored else { return Ok(()) };
    for at in ["multicast", "supports_join"] {
        if writing.sets(at) && path::flag(&writing.device, at) != path::flag(stored, at) {
            return Err(invalid(at));
        }
    }
    Ok(())
}

fn write(
    ctx: &mut Ctx<'_>,
    key: &str,
    device: &DynamicMessage,
    stored: Option<DynamicMessage>,
    sets: &[String],
) -> Result<DynamicMessage, Failure> {
    match &stored {
        Some(stored) => registries::check_same_ids(sets, device, stored, "pkg/networkserver/redis")?,
        None => registries::check_euis_free(ctx, Table::Ns, device)?,
    }
    let new = stored.is_none();
    let mut record = stored.unwrap_or_else(|| proto::message("EndDevice"));
    fields::set(&mut record, Some(device), sets)?;
    path::set(&mut record, "updated_at", ctx.now.timestamp());
    if new {
        path::set(&mut record, "created_at", ctx.now.timestamp());
    }
    for (session, state) in [("session", "mac_state"), ("pending_session", "pending_mac_state")] {
        if path::has(&record, session) && !path::has(&record, state) {
            return Err(INVALID_DEVICE.failure());
        }
    }
    registries::check_record(&record)?;
    ctx.store.put(Table::Ns, key, record.clone())?;
    Ok(record)
}
