//! What the source gets when a device returns: its own records, with what the device has become on the target since.
//!
//! The source's record as it is now, or as it was sealed last where it was cleared, is the base: names, settings and keys
//! are never taken from the target, where they were transformed. Session, MAC state, counters and nonces are the newer of
//! both sides (S4).

use std::collections::BTreeSet;

use prost_reflect::{DynamicMessage, Value};

use super::{
    MUTE, compare,
    facts::{IdFrom, SessionMode, TargetFacts, Wishes},
    finding::{Finding, Kind, Severity},
    relay, session,
    transform::{self, Copy, Found},
};
use crate::{
    map::{mask, owner, path, replaced},
    model::{
        device::{Component, Record, Records},
        ids::{AppId, DeviceId},
    },
};

/// What is known of both sides when a device is to return.
#[derive(Debug, Clone, Copy)]
pub struct Sides<'a> {
    /// What was written to the target.
    pub written: &'a Copy,
    /// The last sealed snapshot of the source.
    pub sealed: &'a Found,
    /// The source as it is now.
    pub now: &'a Found,
    /// The target's records as they are now.
    pub there: &'a Records,
    /// Components of the source that were cleared, or may have been.
    pub cleared: &'a BTreeSet<Component>,
    /// Those of them that surely were, and that no rollback has restored.
    pub gone: &'a BTreeSet<Component>,
}

/// What is written to the source.
#[derive(Debug, Clone)]
pub struct Back {
    /// The records, by component; only the paths that change where the source has a record.
    pub copy: Copy,
    /// The components to which something is written.
    pub restore: BTreeSet<Component>,
    /// What does not come back, or has to be looked at.
    pub findings: Vec<Finding>,
}

/// So many downlinks and join-accepts a target whose record is gone may have sent since it was written, without a device taking
/// one for a repetition; a device takes steps of up to 16384 (LoRaWAN 1.0.2 §4.3.1.5).
pub const UNKNOWN: u32 = 1000;

/// Puts what was written in the place of the target's records that somebody has removed: with counters that are surely ahead.
/// `None` when they are there.
pub fn as_written(written: &Copy, there: &mut Records) -> Option<Finding> {
    if there.ns.is_some() {
        return None;
    }
    let counters = [
        (Component::Ns, "session.last_n_f_cnt_down"),
        (Component::Ns, "session.last_conf_f_cnt_down"),
        (Component::As, compare::A_F_CNT_DOWN),
        (Component::Js, "last_join_nonce"),
    ];
    for component in [Component::Ns, Component::As, Component::Js] {
        let slot = there.slot(component);
        let Some(write) = written.get(component).filter(|_| slot.is_none()) else { continue };
        let mut message = write.message.clone();
        for (_, at) in counters.iter().filter(|(of, _)| *of == component) {
            if !path::has(&message, parent(at)) {
                continue;
            }
            let ahead = u32::try_from(path::number(&message, at)).unwrap_or(u32::MAX).saturating_add(UNKNOWN);
            path::set(&mut message, at, Value::U32(ahead));
        }
        *slot = Some(Record(message));
    }
    let text = format!(
        "the target's record is gone, and not by us: it comes back as it was written there, with downlink counters {UNKNOWN} ahead; \
         a session that it has joined there since is lost, and it has to join again"
    );
    let mut finding = Finding::new(Kind::ChangedMeanwhile, text).at(Component::Ns);
    finding.severity = Severity::Warning;
    Some(finding.fix("see that nobody has moved it elsewhere: it would be live twice"))
}

/// What must be there for the counter to be set: nonces always may be.
fn parent(at: &str) -> &str {
    match at.split_once('.') {
        Some((parent, _)) => parent,
        None => "root_keys",
    }
}

/// Decides what the source gets. `source` is what the source said of itself.
///
/// # Errors
/// Why the device cannot return now: it stays on the target.
pub fn decide(
    sides: &Sides<'_>,
    source: &TargetFacts,
    app: &AppId,
    id: &DeviceId,
) -> Result<Back, Box<Finding>> {
    waits_for_uplink(sides.there)?;
    nobody_interfered(sides)?;
    let (merged, mut findings) = merge(sides, source)?;
    let transformed = transform::device(&merged, source, &as_it_was(app));
    if let Some(finding) = transformed.weightiest() {
        return Err(Box::new(finding.clone()));
    }
    let mut copy = transformed.copy;
    copy.id = id.as_str().to_owned();
    as_the_source_had_it(&mut copy, &merged);
    let mut restore = BTreeSet::new();
    for component in Component::ALL {
        let Some(write) = copy.slot(component) else { continue };
        let now = sides.now.records.get(component);
        if sides.cleared.contains(&component) {
            // Not live before the target's record is gone; the last step unmutes it.
            if component == Component::Ns {
                write.mute();
            }
        } else {
            write.paths.retain(|p| compare::is_moving(component, p));
            if !now.is_some_and(|now| compare::is_behind(component, write, now, false)) {
                *copy.slot(component) = None;
                continue;
            }
        }
        restore.insert(component);
    }
    let told = transformed.findings.into_iter().filter(|f| f.component.is_some_and(|c| is_loss(f, c, sides)));
    findings.extend(told);
    match sides.cleared.iter().find(|c| !restore.contains(c)) {
        Some(c) => Err(Box::new(blocked("the sealed snapshot holds no record to restore", *c))),
        None => Ok(Back { copy, restore, findings }),
    }
}

/// A device whose join was accepted uses its new session from now on, and no path takes it to the Application Server.
pub(super) fn waits_for_uplink(there: &Records) -> Result<(), Box<Finding>> {
    let Some(ns) = &there.ns else { return Ok(()) };
    let sent =
        path::has(&ns.0, "pending_session") && !path::has(&ns.0, "pending_mac_state.queued_join_accept");
    if !sent {
        return Ok(());
    }
    let finding =
        Finding::new(Kind::PendingSession, "the device has joined the target and not sent an uplink yet")
            .at(Component::Ns)
            .fix("run again after its next uplink");
    Err(Box::new(finding))
}

/// What somebody else did to the source since is neither overwritten nor made up for.
fn nobody_interfered(sides: &Sides<'_>) -> Result<(), Box<Finding>> {
    for component in Component::ALL {
        let (sealed, now) = (sides.sealed.records.get(component), sides.now.records.get(component));
        let text = match (sealed, now) {
            (Some(_), None) if !sides.cleared.contains(&component) => {
                "the source's record is gone, and not by us"
            }
            (_, Some(_)) if sides.gone.contains(&component) => {
                "somebody has registered it at the source anew"
            }
            (None, Some(_)) => "a record has appeared at the source",
            _ => continue,
        };
        return Err(Box::new(blocked(text, component)));
    }
    Ok(())
}

fn blocked(text: &str, component: Component) -> Finding {
    Finding::new(Kind::ChangedMeanwhile, text)
        .at(component)
        .fix("see who works on this device at the source, set it right by hand, then run again")
}

/// What a rollback asks of the transformation: nothing but the same device.
fn as_it_was(app: &AppId) -> Wishes {
    Wishes {
        copy: Default::default(),
        people: Default::default(),
        paused: false,
        target_app: app.clone(),
        session: SessionMode::Keep,
        abp_reset: BTreeSet::new(),
        frequency_plans: Default::default(),
        default_frequency_plan: None,
        id_prefix: String::new(),
        id_rename: false,
        versions: Default::default(),
        id_from: IdFrom::Id,
        attributes: Default::default(),
        allowed: Kind::ALL.to_vec(),
    }
}

/// What a target gets of its own, or cannot be given, the source had: servers, labels, network.
fn as_the_source_had_it(copy: &mut Copy, merged: &Found) {
    for (component, record) in merged.records.present() {
        let Some(write) = copy.slot(component) else { continue };
        let allowed = mask::allowed(owner::set_rpc(component));
        for stored in path::stored(&record.0) {
            // A picture is refused once its bytes are gone with the record (docs/servers.md, `picture`).
            let lost = path::covers(MUTE, &stored) || path::covers("picture", &stored);
            let replaced = replaced::find(component, &stored).is_some() && !lost;
            let cover = mask::cover(allowed, &stored).filter(|_| owner::is_writable(component, &stored));
            let Some(cover) = cover.filter(|_| replaced) else { continue };
            path::apply(&mut write.message, &record.0, &[&stored]);
            if !write.paths.iter().any(|p| path::covers(p, cover)) {
                write.paths.push(cover.to_owned());
            }
        }
    }
}

/// What a record that is made anew cannot have: worth saying only where it was cleared.
fn is_loss(finding: &Finding, component: Component, sides: &Sides<'_>) -> bool {
    let lost = matches!(
        finding.kind,
        Kind::Picture
            | Kind::QueuedDownlinks
            | Kind::LeftBehind
            | Kind::UnknownFields
            | Kind::UnsupportedPaths
    );
    lost && sides.cleared.contains(&component)
}

/// The source's records with what the device has become.
fn merge(sides: &Sides<'_>, source: &TargetFacts) -> Result<(Found, Vec<Finding>), Box<Finding>> {
    let mut base = Found { records: Records::default(), ..sides.sealed.clone() };
    for component in Component::ALL {
        let record = sides.now.records.get(component).or(sides.sealed.records.get(component));
        *base.records.slot(component) = record.cloned();
    }
    let mut findings = Vec::new();
    if let (Some(js), Some(there)) = (&mut base.records.js, &sides.there.js) {
        nonces(&mut js.0, &there.0);
    }
    let (Some(written), Some(there)) = (&sides.written.ns, &sides.there.ns) else {
        application_counter(&mut base.records, sides.there);
        return Ok((base, findings));
    };
    let lives = compare::lives(written, there);
    let theirs = compare::session_of(&there.0);
    let Some(ns) = &mut base.records.ns else { return Ok((base, findings)) };
    let names = relay::back(sides.written, sides.sealed);
    if theirs.is_none() {
        // Its session was dropped and it has not joined since: the source's is the newest.
    } else if theirs == compare::session_of(&ns.0) {
        same_session(&mut ns.0, &there.0, lives);
        if lives {
            relay::rename_state(&mut ns.0, &names);
        }
        application_counter(&mut base.records, sides.there);
    } else if lives && !share_a_session(sides.there) {
        let text =
            "the target's Network Server and Application Server hold different sessions: it has just joined";
        let mut finding = Finding::new(Kind::SessionMismatch, text).fix("run again after its next uplink");
        finding.severity = Severity::Wait;
        return Err(Box::new(finding));
    } else if lives {
        findings.extend(foreign(there, ns, source));
        another_session(&mut base.records, sides.there);
        if let Some(ns) = &mut base.records.ns {
            relay::rename_state(&mut ns.0, &names);
        }
    } else {
        let text = "the target holds another session than was written, and the device did not join";
        return Err(Box::new(blocked(text, Component::Ns)));
    }
    Ok((base, findings))
}

/// True when NS and AS know the session by one key ID: else one of them was read before the uplink that made it.
fn share_a_session(there: &Records) -> bool {
    let id = |record: &Option<Record>| record.as_ref().map(|r| path::bytes(&r.0, session::KEY_ID));
    there.as_.is_none() || id(&there.ns) == id(&there.as_)
}

/// Nonces that were used on either side are used.
fn nonces(js: &mut DynamicMessage, there: &DynamicMessage) {
    for counter in compare::NONCES {
        raise(js, there, counter);
    }
    add_used_nonces(js, there);
}

/// Takes over the DevNonces that `from` lists and `into` does not: behind its own, in the order of their use.
pub fn add_used_nonces(into: &mut DynamicMessage, from: &DynamicMessage) {
    let ours = compare::used_nonces(into);
    let mut used = list(into, compare::USED_NONCES);
    let new = |n: &Value| n.as_u32().is_some_and(|n| !ours.contains(&n));
    used.extend(list(from, compare::USED_NONCES).into_iter().filter(new));
    if !used.is_empty() {
        path::set(into, compare::USED_NONCES, Value::List(used));
    }
}

fn list(message: &DynamicMessage, at: &str) -> Vec<Value> {
    path::get(message, at).and_then(|v| v.as_list().map(<[Value]>::to_vec)).unwrap_or_default()
}

/// Takes a counter over where it is higher.
fn raise(into: &mut DynamicMessage, from: &DynamicMessage, at: &str) {
    if path::number(from, at) > path::number(into, at)
        && let Some(value) = path::get(from, at)
    {
        path::set(into, at, value.into_owned());
    }
}

/// The session went on where it was heard: counters are the higher of both, the MAC state is the target's if it was heard
/// or sent to there. A device that may reset its FCntUp has the target's, if it lives there.
fn same_session(ns: &mut DynamicMessage, there: &DynamicMessage, lives: bool) {
    if lives {
        path::apply(ns, there, compare::STATE);
    }
    for counter in compare::COUNTERS {
        let downlink = compare::DOWNLINK_COUNTERS.contains(counter);
        if lives && !downlink && path::flag(ns, "mac_settings.resets_f_cnt") {
            path::apply(ns, there, &[*counter]);
        } else {
            raise(ns, there, counter);
        }
    }
}

/// AFCntDown of a session that both Application Servers have.
fn application_counter(records: &mut Records, there: &Records) {
    if let (Some(ours), Some(theirs)) = (&mut records.as_, &there.as_)
        && compare::application_session(&ours.0) == compare::application_session(&theirs.0)
    {
        raise(&mut ours.0, &theirs.0, compare::A_F_CNT_DOWN);
    }
}

/// The device has joined the target: its session there is the only one that it knows.
fn another_session(records: &mut Records, there: &Records) {
    if let (Some(ns), Some(theirs)) = (&mut records.ns, &there.ns) {
        path::apply(&mut ns.0, &theirs.0, &["session"]);
        path::apply(&mut ns.0, &theirs.0, compare::STATE);
    }
    if let Some(theirs) = &there.as_ {
        let ours = records.as_.get_or_insert_with(|| Record(path::project(&theirs.0, &["ids"])));
        path::apply(&mut ours.0, &theirs.0, &["session"]);
    }
}

/// What to know of a session that comes from another network.
fn foreign(there: &Record, ns: &Record, source: &TargetFacts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(addr) = there.session_addr().filter(|a| !source.owns(*a)) {
        let text = format!(
            "it has joined the target: its DevAddr {addr} is not of the source's blocks ({}), so that the source hears it \
             only through gateways of its own until it joins again",
            source.prefixes()
        );
        findings.push(Finding::new(Kind::OutsidePrefixes, text).at(Component::Ns));
    }
    let plan = |r: &Record| path::string(&r.0, "frequency_plan_id");
    if plan(there) != plan(ns) {
        let text = format!(
            "its session was made under frequency plan {}, the source's is {}: it may have to join again",
            plan(there),
            plan(ns)
        );
        let mut finding = Finding::new(Kind::SessionPlanChange, text).at(Component::Ns);
        finding.severity = Severity::Warning;
        findings.push(finding);
    }
    findings
}
