//! Devices of V2: nothing of one is lost without a word, and what is written is what the target takes.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::{
    map::{
        rules,
        ttn_v2::{
            Attributes, V2Device, cleared,
            generate::{device, same},
            records,
            tests::fleet,
        },
    },
    model::ids::{DevAddr, DeviceId, is_id},
    plan::{
        DevicePlan, Input, Verdict, devices,
        identity::{self, proposals, renames},
        sealed::{found_from_bytes, found_to_bytes},
        session::Carry,
        ttn_v2::{Changes, OLD_ID, same_device, versions},
    },
};

fn found(device: &V2Device) -> Found {
    Found { records: records(device, &[7; 16]), v2: Some(device.clone()), ..Found::default() }
}

fn with_plan(session: SessionMode) -> Wishes {
    Wishes { default_frequency_plan: Some(PLAN.to_owned()), ..wishes(session) }
}

/// A target that tells its MAC defaults.
fn told() -> TargetFacts {
    let mut defaults = proto::message("MACSettings");
    path::set(&mut defaults, "desired_rx2_frequency.value", Value::U64(869_525_000));
    path::set(&mut defaults, "desired_rx2_data_rate_index.value", Value::EnumNumber(3));
    path::set(&mut defaults, "desired_rx1_delay.value", Value::EnumNumber(5));
    let phy = versions(&fleet()[0], &Default::default()).1;
    TargetFacts { mac_defaults: [((PLAN.to_owned(), phy), (defaults.clone(), defaults))].into(), ..facts() }
}

fn plan_of(devices_: &[V2Device], facts: &TargetFacts, wishes: &Wishes) -> Vec<DevicePlan> {
    let input = |d: &V2Device| Input {
        id: DeviceId::unchecked(d.dev_id()),
        found: found(d),
        begun: None,
        holder: None,
    };
    devices(&devices_.iter().map(input).collect::<Vec<_>>(), &Default::default(), facts, wishes)
}

fn held(done: &Transformed, component: Component, at: &str) -> bool {
    done.copy
        .get(component)
        .is_some_and(|w| path::has(&w.message, at) && w.paths.iter().any(|p| path::covers(p, at)))
}

/// True when what is stored at a path of the V2 message is in the copy, or a finding says that it is not.
fn is_represented(device: &V2Device, done: &Transformed, at: &str) -> bool {
    let kept = matches!(done.carry, Carry::Keep | Carry::Reset);
    let named = |kinds: &[Kind]| done.findings.iter().any(|f| kinds.contains(&f.kind));
    let finding_has = |path: &str| done.findings.iter().any(|f| f.paths.iter().any(|p| p == path));
    let session = |component, path: &str| {
        (kept && held(done, component, path))
            || named(&[Kind::SessionDropped, Kind::MustRejoin, Kind::SessionIncomplete, Kind::NoKeys])
    };
    let no_key = |key: Option<_>| Option::<zeroize::Zeroizing<Vec<u8>>>::is_none(&key);
    match at {
        // The configuration names the target's application.
        "app_id" | "lorawan_device.app_id" => true,
        "dev_id" | "lorawan_device.dev_id" => {
            let is = &done.copy.is.as_ref().expect("an IS record").message;
            done.copy.id == device.dev_id()
                || attributes_of(is).get(OLD_ID) == Some(&device.dev_id())
                || finding_has("dev_id")
        }
        "lorawan_device.app_eui" => {
            held(done, Component::Is, "ids.join_eui") || device.app_eui() == Eui64([0; 8])
        }
        "lorawan_device.dev_eui" => {
            held(done, Component::Is, "ids.dev_eui") || has(&done.findings, Kind::JoinTemplate)
        }
        "lorawan_device.app_key" => {
            no_key(device.app_key()) || held(done, Component::Js, "root_keys.app_key.key")
        }
        "lorawan_device.dev_addr" => {
            device.dev_addr().is_none() || session(Component::Ns, "session.dev_addr")
        }
        "lorawan_device.nwk_s_key" => {
            no_key(device.nwk_s_key()) || session(Component::Ns, "session.keys.f_nwk_s_int_key.key")
        }
        "lorawan_device.app_s_key" => {
            no_key(device.app_s_key()) || session(Component::As, "session.keys.app_s_key.key")
        }
        "lorawan_device.f_cnt_up" => session(Component::Ns, "session.last_f_cnt_up") || finding_has(at),
        "lorawan_device.f_cnt_down" => session(Component::Ns, "session.last_n_f_cnt_down") || finding_has(at),
        "lorawan_device.disable_f_cnt_check" => held(done, Component::Ns, "mac_settings.resets_f_cnt.value"),
        "lorawan_device.uses32_bit_f_cnt" => {
            held(done, Component::Ns, "mac_settings.supports_32_bit_f_cnt.value")
        }
        "lorawan_device.activation_constraints" => {
            device.activation_constraints() == "local" || finding_has(at)
        }
        "lorawan_device.last_seen" => held(done, Component::Is, "last_seen_at"),
        "latitude" | "longitude" | "altitude" => held(done, Component::Is, "locations"),
        "attributes" => {
            let is = attributes_of(&done.copy.is.as_ref().expect("an IS record").message);
            let mapped = Attributes::of(&device.attributes());
            mapped.map.iter().all(|(k, v)| is.get(k) == Some(v))
                && (mapped.clashes.is_empty() || has(&done.findings, Kind::AttributeClash))
        }
        "description" => {
            let is = &done.copy.is.as_ref().expect("an IS record").message;
            path::string(is, "description") == device.description()
                || has(&done.findings, Kind::LongDescription)
        }
        other => finding_has(other),
    }
}

fn attributes_of(is: &DynamicMessage) -> BTreeMap<String, String> {
    let Some(Value::Map(map)) = path::get(is, "attributes").map(|v| v.into_owned()) else {
        return BTreeMap::new();
    };
    map.iter().map(|(k, v)| (path::key(k), v.as_str().unwrap_or_default().to_owned())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn nothing_of_a_device_is_lost_without_a_word(device in device(), mode in 0_usize..3, foreign_block: bool) {
        let mode = [SessionMode::Keep, SessionMode::Drop, SessionMode::Auto][mode];
        let mut facts = told();
        if foreign_block {
            facts.dev_addr_prefixes = foreign().dev_addr_prefixes;
        }
        let done = transform::device(&found(&device), &facts, &with_plan(mode));
        for at in path::stored(device.message()) {
            // The LoRaWAN half is the one member of a `oneof`.
            let at = at.strip_prefix("device.").unwrap_or(&at);
            prop_assert!(is_represented(&device, &done, at), "{} is lost: {:?}", at, done.findings);
        }
        prop_assert_eq!(!device.unknown_fields().is_empty(), has(&done.findings, Kind::UnknownFields));
        // And no key is in what is said of it.
        let shown = format!("{:?} {done:?}", found(&device)).to_lowercase();
        for key in [device.app_key(), device.nwk_s_key(), device.app_s_key()].into_iter().flatten() {
            let (text, list) = (hex::encode(key.as_slice()), format!("{:?}", key.as_slice()));
            prop_assert!(!shown.contains(&text));
            prop_assert!(!shown.contains(&list));
        }
    }

    #[test]
    fn what_is_written_breaks_no_rule_or_a_finding_stops_it(device in device(), keep: bool) {
        let mode = if keep { SessionMode::Keep } else { SessionMode::Drop };
        let done = transform::device(&found(&device), &told(), &with_plan(mode));
        for component in done.copy.components() {
            let message = &done.copy.get(component).expect("written").message;
            if rules::violation(message).is_some() {
                prop_assert!(done.weightiest().is_some(), "{}", component);
            }
        }
        let location = path::get(&done.copy.is.expect("an IS record").message, "locations").map(|v| v.into_owned());
        let nowhere = device.location().is_some_and(|(a, b, _)| a.is_nan() || b.is_nan());
        prop_assert!(!nowhere || (location.is_some() && has(&done.findings, Kind::InvalidField)));
    }

    #[test]
    fn a_seal_holds_the_device_exactly(device in device()) {
        let found = found(&device);
        let back = found_from_bytes(&found_to_bytes(&found)).expect("its own form");
        let (was, is) = (found.v2.expect("one"), back.v2.expect("one"));
        prop_assert!(same(was.message(), is.message()));
        prop_assert_eq!(was.unknown_fields(), is.unknown_fields());
    }

    #[test]
    fn renamed_devices_get_ids_of_their_own(ids in prop::collection::btree_set("[a-c](?:[_-]?[a-c]){1,2}|[ab][_-][ab-]{30,60}[ab]", 1..30)) {
        let auto = Wishes { id_rename: true, ..wishes(SessionMode::Drop) };
        let facts = TargetFacts { renames: renames(ids.iter().map(String::as_str), &auto), ..facts() };
        let target = |id: &String| {
            let mut found = Found::default();
            let mut record = proto::message("EndDevice");
            path::set(&mut record, "ids.device_id", text(id));
            found.records.is = Some(Record(record));
            identity::target_id(&found, &facts, &auto)
        };
        let targets: BTreeSet<_> = ids.iter().map(target).collect();
        prop_assert_eq!(targets.len(), ids.len());
        prop_assert!(targets.iter().all(|id| is_id(id)), "{:?}", targets);
        // One that the target takes as it is stays.
        prop_assert!(ids.iter().filter(|id| is_id(id)).all(|id| target(id) == *id));
        prop_assert!(renames(ids.iter().map(String::as_str), &wishes(SessionMode::Drop)).is_empty());
        prop_assert_eq!(proposals(ids.iter().map(String::as_str), &wishes(SessionMode::Drop)), facts.renames);
    }
}

#[test]
fn the_odd_devices_of_the_real_list_are_found_in_the_plan() {
    let plans = plan_of(&fleet(), &told(), &with_plan(SessionMode::Auto));
    let kinds = |id: &str| -> BTreeSet<Kind> {
        let plan = plans.iter().find(|p| p.id.as_str() == id).expect(id);
        plan.findings.iter().map(|f| f.kind).collect()
    };
    assert!(kinds("x1").contains(&Kind::BadId));
    assert!(kinds("roj-template").contains(&Kind::JoinTemplate));
    assert!(kinds("same-eui-1").contains(&Kind::DevEuiTwice));
    assert!(kinds("same-eui-2").contains(&Kind::DevEuiTwice));
    let of = |kind: Kind| plans.iter().filter(|p| p.findings.iter().any(|f| f.kind == kind)).count();
    let counts: Vec<_> = [
        Kind::BadId,
        Kind::IdClash,
        Kind::NoKeys,
        Kind::LongDescription,
        Kind::JoinTemplate,
        Kind::DevEuiTwice,
        Kind::MacState,
    ]
    .into_iter()
    .map(|kind| (kind.name(), of(kind)))
    .collect();
    insta::assert_debug_snapshot!(counts);
    let stopped: Vec<_> =
        plans.iter().filter(|p| p.verdict == Verdict::Stop).map(|p| p.id.to_string()).collect();
    insta::assert_debug_snapshot!(stopped);
}

#[test]
fn proposals_are_applied_only_when_the_configuration_says_so() {
    let fleet = fleet();
    let auto = Wishes { id_rename: true, ..with_plan(SessionMode::Drop) };
    let ids: Vec<_> = fleet.iter().map(V2Device::dev_id).collect();
    let facts = TargetFacts { renames: renames(ids.iter().map(String::as_str), &auto), ..told() };
    let plans = plan_of(&fleet, &facts, &auto);
    assert!(plans.iter().all(|p| is_id(&p.target_id)));
    let targets: BTreeSet<_> = plans.iter().map(|p| &p.target_id).collect();
    assert_eq!(targets.len(), fleet.len());
    let renamed: BTreeMap<_, _> = plans
        .iter()
        .filter(|p| p.target_id != p.id.as_str())
        .map(|p| (p.id.to_string(), p.target_id.clone()))
        .collect();
    insta::assert_debug_snapshot!(renamed);
    // Without it, the findings name the same IDs.
    let plans = plan_of(&fleet, &told(), &with_plan(SessionMode::Drop));
    for plan in
        plans.iter().filter(|p| p.findings.iter().any(|f| matches!(f.kind, Kind::BadId | Kind::IdClash)))
    {
        let Some(proposed) = facts.renames.get(plan.id.as_str()) else { continue };
        assert!(plan.findings.iter().any(|f| f.fix.contains(&format!("`{proposed}`"))), "{}", plan.id);
    }
}

#[test]
fn a_kept_session_has_a_mac_state_that_the_target_leaves_alone() {
    let joined = fleet().into_iter().find(|d| d.is_otaa() && d.has_session()).expect("one");
    let done = transform::device(&found(&joined), &told(), &with_plan(SessionMode::Keep));
    let ns = &done.copy.ns.as_ref().expect("an NS record").message;
    assert_eq!(path::number(ns, "mac_state.current_parameters.rx1_delay"), 1);
    assert_eq!(path::number(ns, "mac_state.current_parameters.rx2_frequency"), 869_525_000);
    assert_eq!(path::get(ns, "mac_state.current_parameters"), path::get(ns, "mac_state.desired_parameters"));
    assert_eq!(path::number(ns, "mac_state.device_class"), 0);
    assert!(done.copy.ns.as_ref().expect("one").paths.contains(&"mac_state".to_owned()));
    assert!(!has(&done.findings, Kind::SessionPlanChange));
    let untold = transform::device(&found(&joined), &facts(), &with_plan(SessionMode::Keep));
    assert!(has(&untold.findings, Kind::MacState));
    let without_plan = transform::device(&found(&joined), &told(), &wishes(SessionMode::Keep));
    assert!(without_plan.findings.iter().any(|f| f.kind == Kind::FrequencyPlan && f.blocks()));
}

#[test]
fn a_device_outside_the_block_must_rejoin_and_an_abp_one_is_warned_of() {
    let (fleet, mut facts) = (fleet(), told());
    facts.dev_addr_prefixes = foreign().dev_addr_prefixes;
    for device in fleet.iter().filter(|d| d.has_session() && !d.is_template()) {
        let done = transform::device(&found(device), &facts, &with_plan(SessionMode::Auto));
        let expected = if device.is_abp() { Kind::OutsidePrefixes } else { Kind::MustRejoin };
        assert!(has(&done.findings, expected), "{}", device.dev_id());
        assert_eq!(done.carry, if device.is_abp() { Carry::Keep } else { Carry::Drop });
    }
}

#[test]
fn versions_go_by_application_and_device() {
    let device = fleet().remove(0);
    let shape = |s: &str| glob::Pattern::new(s).expect("a shape");
    let mut wishes = with_plan(SessionMode::Drop);
    wishes.versions.mac = vec![(shape("other-app/*"), 1), (shape("fleet-v2/*"), 2), (shape("*"), 3)];
    let done = transform::device(&found(&device), &told(), &wishes);
    assert_eq!(path::number(&done.copy.ns.expect("an NS record").message, "lorawan_version"), 2);
    wishes.versions.mac = vec![(shape("*"), 4)];
    assert!(has(&transform::device(&found(&device), &told(), &wishes).findings, Kind::MacVersion));
}

#[test]
fn two_readings_differ_in_what_somebody_changed() {
    let device = fleet().into_iter().find(|d| d.is_otaa() && d.has_session()).expect("one");
    let changed = |change: &dyn Fn(&mut DynamicMessage)| {
        let mut message = device.message().clone();
        change(&mut message);
        let again = Found { records: records(&device, &[9; 16]), ..found(&V2Device::new(message)) };
        same_device(&found(&device), &again)
    };
    let set = |at: &str, value: Value| changed(&|m| path::set(m, at, value.clone()));
    assert!(changed(&|_| {}).is_none());
    assert!(set("lorawan_device.f_cnt_up", Value::U32(99)).is_none());
    assert!(set("lorawan_device.last_seen", Value::I64(99)).is_none());
    let session = Changes { session: true, ..Changes::default() };
    assert_eq!(set("lorawan_device.dev_addr", bytes(&DevAddr([1; 4]).0)), session);
    assert_eq!(set("lorawan_device.nwk_s_key", bytes(&[1; 16])), session);
    assert_eq!(set("lorawan_device.app_s_key", bytes(&[1; 16])), session);
    let root_key = Changes { root_key: true, ..Changes::default() };
    assert_eq!(set("lorawan_device.app_key", bytes(&[1; 16])), root_key);
    assert_eq!(set("lorawan_device.dev_eui", bytes(&[1; 8])), Changes { euis: true, ..Changes::default() });
    let other = Changes { other: true, ..Changes::default() };
    assert_eq!(set("description", text("new")), other);
    assert_eq!(set("lorawan_device.disable_f_cnt_check", Value::Bool(true)), other);
    assert_eq!(changed(&|m| *m = newer(m)), other);
    assert_eq!(
        changed(&|m| *m = cleared(m, true)),
        Changes { session: true, root_key: true, ..Changes::default() }
    );
}
