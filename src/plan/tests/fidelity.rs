//! S9: whatever is stored at the source is on the target, or somebody said why not.

use proptest::prelude::*;

use super::*;
use crate::map::{mask, replaced};
use crate::plan::{MUTE, finding::Severity, masks, session::Carry, transform::STARTED_AT};

/// Why a stored path is on the target, or need not be; `None` when it is lost without a word.
///
/// Written without a look at `plan::leftover`: only with what is written, what was found, and the table of replacements.
fn explained(
    found: &Found,
    done: &Transformed,
    written: &DynamicMessage,
    component: Component,
    at: &str,
) -> Option<&'static str> {
    let record = &found.records.get(component)?.0;
    let reported = done
        .findings
        .iter()
        .any(|f| f.component == Some(component) && f.paths.iter().any(|q| path::covers(q, at)));
    if done.copy.get(component).is_none() {
        return done.keep_at_source.contains(&component).then_some("stays at the source");
    }
    if path::get(written, at) == path::get(record, at) {
        return Some("written");
    }
    if reported {
        return Some("reported");
    }
    if path::covers("ids", at) {
        return Some("identifier");
    }
    let of_session = ["session", "mac_state"].iter().any(|p| path::covers(p, at));
    if of_session && done.carry != Carry::Keep {
        return Some("session decision");
    }
    let other = match component {
        Component::As => done.copy.ns.as_ref(),
        Component::Ns => done.copy.as_.as_ref(),
        _ => None,
    };
    if path::covers("session", at) && other.is_some_and(|w| path::has(&w.message, at)) {
        return Some("held by its owner");
    }
    if is_empty(record, at) && !at.contains(".mode.") {
        return Some("empty");
    }
    let row = replaced::find(component, at)?;
    let silent = row.treatment != replaced::Treatment::Reported;
    let key =
        at.rsplit_once('.').filter(|_| row.path == "*.encrypted_key").map(|(key, _)| format!("{key}.key"));
    let readable = |key: &String| path::has(record, key) || other.is_some_and(|w| path::has(&w.message, key));
    (silent && key.as_ref().is_none_or(readable)).then_some("replaced")
}

/// What the target holds of a component after the writes.
fn written(done: &Transformed, component: Component) -> DynamicMessage {
    let Some(write) = done.copy.get(component) else { return proto::message("EndDevice") };
    let mut paths = write.paths.clone();
    paths.extend([STARTED_AT.to_owned(), "ids".to_owned()]);
    path::project(&write.message, &paths)
}

fn lost(found: &Found, done: &Transformed) -> Vec<String> {
    let mut lost = Vec::new();
    for (component, record) in found.records.present() {
        let written = written(done, component);
        let unexplained = |p: &String| explained(found, done, &written, component, p).is_none();
        let all = path::stored(&record.0).into_iter().filter(unexplained);
        lost.extend(all.map(|p| format!("{component} {p}")));
    }
    lost
}

fn mode() -> impl Strategy<Value = SessionMode> {
    prop_oneof![Just(SessionMode::Keep), Just(SessionMode::Drop), Just(SessionMode::Auto)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]

    #[test]
    fn no_stored_path_of_a_device_is_lost_without_a_word(seed: u64, mode in mode(), rough: bool, inside: bool) {
        let mut found = generated(seed);
        if rough {
            roughen(&mut found, seed);
        }
        let facts = if inside { facts() } else { foreign() };
        let done = transform::device(&found, &facts, &wishes(mode));
        prop_assert_eq!(lost(&found, &done), Vec::<String>::new());
    }

    #[test]
    fn every_settable_path_of_a_complete_device_is_written(seed: u64) {
        let found = generated(seed);
        let done = transform(&found, SessionMode::Keep);
        for (component, record) in found.records.present() {
            let written = written(&done, component);
            for at in path::stored(&record.0) {
                let replaced = replaced::find(component, &at).is_some() && !path::covers(MUTE, &at);
                let pending = at.starts_with("pending_");
                if !replaced && !pending && !path::covers("ids", &at) && !path::covers("picture", &at) {
                    prop_assert_eq!(explained(&found, &done, &written, component, &at), Some("written"), "{} {}", component, at);
                }
            }
        }
    }

    #[test]
    fn a_mask_names_only_what_the_server_takes_and_nothing_twice(seed: u64, mode in mode(), rough: bool) {
        let mut found = generated(seed);
        if rough {
            roughen(&mut found, seed);
        }
        let done = transform(&found, mode);
        for component in done.copy.components() {
            let write = done.copy.get(component).expect("listed");
            let allowed = mask::allowed(owner::set_rpc(component));
            for at in &write.paths {
                let on_create = component == Component::Is && at.starts_with("ids.");
                prop_assert!(on_create || allowed.contains(&at.as_str()), "{component} {at}");
                prop_assert!(!["session", "session.keys", "mac_settings", STARTED_AT, "ids.dev_addr"].contains(&at.as_str()), "{at}");
                prop_assert!(!at.starts_with("mac_state.") && !at.starts_with("pending_"), "{at}");
                let twice = write.paths.iter().filter(|q| path::covers(q, at)).count();
                prop_assert_eq!(twice, 1, "{} {}", component, at);
                let empty_key = at.ends_with("_key.key") && !path::has(&write.message, at);
                prop_assert!(!empty_key, "{at} is named and empty: the server refuses it");
            }
        }
    }

    #[test]
    fn what_an_older_target_refuses_is_named_path_by_path(seed: u64, every in 2_u64..30) {
        let found = generated(seed);
        let plain = transform(&found, SessionMode::Keep);
        let mut rng = generate::Rng::new(seed);
        let mut older = facts();
        for component in Component::ALL {
            let refused: Vec<_> =
                owner::writable(component).into_iter().filter(|p| !p.starts_with("ids") && rng.chance(100 / every)).collect();
            older.refused_paths.insert(component, refused);
        }
        let done = transform::device(&found, &older, &wishes(SessionMode::Keep));
        let device = proto::descriptor("EndDevice");
        for component in done.copy.components() {
            let (before, after) = (plain.copy.get(component).expect("written"), done.copy.get(component).expect("written"));
            let named: Vec<_> = done.findings.iter().filter(|f| f.kind == Kind::UnsupportedPaths && f.component == Some(component)).flat_map(|f| f.paths.clone()).collect();
            for at in path::stored(&before.message) {
                if path::get(&after.message, &at) != path::get(&before.message, &at) {
                    prop_assert!(named.contains(&at), "{component} {at}");
                }
            }
            for at in &after.paths {
                let is_refused = |r: &String| path::covers(path::canonical(&device, r), path::canonical(&device, at));
                prop_assert!(!older.refused_paths[&component].iter().any(is_refused), "{at}");
            }
        }
    }

    #[test]
    fn unknown_fields_are_named_and_stop_the_device(seed: u64, inside: bool) {
        let base = generated(seed);
        for (component, record) in base.records.present() {
            let mut found = base.clone();
            let first = path::stored(&record.0).into_iter().find_map(|p| {
                let parent = p.rsplit_once('.')?.0;
                path::child(&record.0, parent).is_some().then(|| parent.to_owned())
            });
            let mut newer_record = record.0.clone();
            match first.filter(|_| inside) {
                Some(at) => {
                    let inner = path::child(&record.0, &at).expect("found");
                    path::set(&mut newer_record, &at, Value::Message(newer(&inner)));
                }
                None => newer_record = newer(&newer_record),
            }
            *found.records.slot(component) = Some(Record(newer_record));
            let done = transform(&found, SessionMode::Keep);
            let named = done.findings.iter().any(|f| {
                f.kind == Kind::UnknownFields && f.component == Some(component) && f.severity == Severity::Stop
            });
            prop_assert!(named, "{component}");
        }
    }
}

#[test]
fn dynamic_adr_with_the_networks_defaults_is_a_setting() {
    let mut found = generated(0);
    path::clear(ns(&mut found), "mac_settings");
    path::touch(ns(&mut found), "mac_settings.adr.mode.dynamic");
    let write = transform(&found, SessionMode::Keep).copy.ns.expect("an NS record");
    assert!(write.paths.contains(&"mac_settings.adr.mode.dynamic".to_owned()));
    assert!(path::has(&write.message, "mac_settings.adr.mode.dynamic"));
}

#[test]
fn the_muted_value_stops_the_device_and_is_never_copied() {
    let mut found = generated(0);
    path::clear(ns(&mut found), "mac_settings");
    path::set_wrapped(ns(&mut found), MUTE, Value::Bool(false));
    let done = transform(&found, SessionMode::Keep);
    let stop = done.weightiest().expect("somebody else may be moving it");
    assert_eq!((stop.kind, stop.severity), (Kind::MutedSource, Severity::Stop));
    assert!(stop.paths == [MUTE] && stop.fix.contains("unmute it at the source"), "{stop:?}");
    let allows = Wishes { allowed: vec![Kind::MutedSource], ..wishes(SessionMode::Keep) };
    let done = transform::device(&found, &facts(), &allows);
    assert!(has(&done.findings, Kind::MutedSource) && done.weightiest().is_none());
    let write = done.copy.ns.expect("an NS record");
    assert!(!path::has(&write.message, "mac_settings"));
    assert!(!write.paths.iter().any(|p| p.starts_with("mac_settings")));

    path::set_wrapped(ns(&mut found), MUTE, Value::Bool(true));
    let done = transform(&found, SessionMode::Keep);
    assert!(!has(&done.findings, Kind::MutedSource));
    let write = done.copy.ns.expect("an NS record");
    assert_eq!(path::wrapped_flag(&write.message, MUTE), Some(true));
    assert!(write.paths.contains(&format!("{MUTE}.value")));
}

#[test]
fn a_refused_part_of_the_mac_state_is_named() {
    let found = generated(0);
    let mut older = facts();
    older.refused_paths.insert(Component::Ns, vec!["mac_state.recent_uplinks".into()]);
    let done = transform::device(&found, &older, &wishes(SessionMode::Keep));
    let finding = done.findings.iter().find(|f| f.kind == Kind::UnsupportedPaths).expect("a finding");
    assert_eq!(finding.paths, ["mac_state.recent_uplinks"]);
    let write = done.copy.ns.expect("an NS record");
    assert!(!path::has(&write.message, "mac_state.recent_uplinks"));
    assert!(write.paths.contains(&"mac_state".to_owned()));
}

#[test]
fn keys_of_lorawan_1_0_are_named_only_where_there_are_any() {
    let mut found = generated(0);
    for key in ["s_nwk_s_int_key", "nwk_s_enc_key"] {
        path::clear(ns(&mut found), &format!("session.keys.{key}"));
    }
    let done = transform(&found, SessionMode::Keep);
    let paths = done.copy.ns.expect("an NS record").paths;
    assert!(paths.contains(&"session.keys.f_nwk_s_int_key.key".to_owned()));
    assert!(!paths.iter().any(|p| p.contains("s_nwk_s_int_key") && !p.contains("f_nwk")), "{paths:?}");
    assert!(!has(&done.findings, Kind::AppKeyUnreadable));
}

#[test]
fn counters_at_zero_are_written_and_so_verified() {
    let mut found = generated(0);
    for counter in ["last_f_cnt_up", "last_n_f_cnt_down", "last_conf_f_cnt_down"] {
        path::clear(ns(&mut found), &format!("session.{counter}"));
    }
    let paths = transform(&found, SessionMode::Keep).copy.ns.expect("an NS record").paths;
    assert!(paths.contains(&"session.last_n_f_cnt_down".to_owned()));
}

#[test]
fn the_euis_of_the_identity_record_are_read_back() {
    let paths = transform(&generated(0), SessionMode::Keep).copy.is.expect("an IS record").paths;
    assert!(paths.contains(&"ids.dev_eui".to_owned()) && paths.contains(&"ids.join_eui".to_owned()));
    let empty = proto::message("EndDevice");
    assert_eq!(masks::write_paths(Component::Is, &empty, Carry::Nothing), ["ids.dev_eui", "ids.join_eui"]);
}

#[test]
fn addresses_name_the_target_and_the_sources_network_is_not_taken_along() {
    let done = transform(&generated(0), SessionMode::Keep);
    let (is, js) = (done.copy.is.expect("IS").message, done.copy.js.expect("JS").message);
    for field in ["network_server_address", "application_server_address"] {
        assert_eq!(path::string(&is, field), "target.example");
        assert_eq!(path::string(&js, field), "target.example");
    }
    assert_eq!(path::string(&is, "join_server_address"), "target.example");
    for field in ["net_id", "application_server_id", "network_server_kek_label", "provisioner_id"] {
        assert!(!path::has(&js, field), "{field}");
        assert!(
            done.findings
                .iter()
                .any(|f| f.component == Some(Component::Js) && f.paths.contains(&field.to_owned())),
            "{field}"
        );
    }
}

#[test]
fn a_key_that_is_held_only_wrapped_is_named() {
    let mut found = generated(0);
    path::clear(js(&mut found), "root_keys.nwk_key");
    path::set(js(&mut found), "root_keys.nwk_key.encrypted_key", bytes(&[7; 24]));
    let done = transform(&found, SessionMode::Keep);
    let finding = done.findings.iter().find(|f| f.kind == Kind::LeftBehind).expect("a finding");
    assert_eq!(finding.paths, ["root_keys.nwk_key.encrypted_key"]);
    // Beside a key in the clear it is only another form of it.
    path::set(js(&mut found), "root_keys.nwk_key.key", bytes(&[7; 16]));
    assert!(!has(&transform(&found, SessionMode::Keep).findings, Kind::LeftBehind));
}

#[test]
fn attributes_of_the_configuration_say_what_they_replace() {
    let mut found = generated(0);
    path::clear(is(&mut found), "attributes");
    let mut wishes = wishes(SessionMode::Keep);
    wishes.attributes = [("site".to_owned(), "new".to_owned())].into();
    let done = transform::device(&found, &facts(), &wishes);
    assert!(!done.findings.iter().any(|f| f.paths == ["attributes.site"]));
    let map = done.copy.is.expect("IS").message;
    is(&mut found).clone_from(&map);
    wishes.attributes.insert("site".to_owned(), "newer".to_owned());
    let done = transform::device(&found, &facts(), &wishes);
    assert!(done.findings.iter().any(|f| f.paths == ["attributes.site"]));
}
