//! The planner of belongings: nothing is dropped without a word, what is planned is valid, and what was written is equal.

use proptest::prelude::*;

use super::{sort::short, *};
use crate::{
    map::{generate, mask},
    plan::facts::{IdFrom, SessionMode, Versions},
};

/// Long after these tests.
const LATER: i64 = 9_000_000_000;

fn wishes(allowed: &[Kind]) -> Wishes {
    Wishes {
        target_app: AppId::unchecked("acme"),
        session: SessionMode::Auto,
        abp_reset: Default::default(),
        frequency_plans: Default::default(),
        default_frequency_plan: None,
        id_prefix: String::new(),
        id_from: IdFrom::Id,
        id_rename: false,
        versions: Versions::default(),
        attributes: Default::default(),
        allowed: allowed.to_vec(),
        copy: Default::default(),
        people: Default::default(),
        paused: false,
    }
}

fn found(sort: &'static Sort, mut message: DynamicMessage) -> Found {
    let (device, id) = match sort.ids {
        Ids::Named(_) => ("", "some-1"),
        Ids::Port => ("", "199"),
        Ids::PortOfDevice => ("dev-1", "199"),
        Ids::Application => ("", ""),
        Ids::Account => ("", "user alice"),
        Ids::Key => ("", "OLDID"),
    };
    if sort.ids == Ids::Key {
        path::set(&mut message, "id", Value::String(id.into()));
    } else if sort.ids != Ids::Application {
        sort.ids.write(&mut message, "ids.", &AppId::unchecked("meters"), device, id);
    }
    let target_name = match sort.ids {
        Ids::PortOfDevice => "acme-dev-1",
        Ids::Account => "user alice-nl",
        _ => "",
    };
    let key = ItemKey { target: "acme".into(), sort: sort.name.into(), device: device.into(), id: id.into() };
    Found { key, sort, target_name: target_name.into(), message }
}

/// A valid one in which everything is set.
fn full(sort: &'static Sort, seed: u64) -> Found {
    let leaves =
        if sort.fields.is_empty() { mask::leaves(short(sort.set.rpc)) } else { sort.fields.to_vec() };
    let leaves = leaves.into_iter().filter(|p| !sort.is_left(p));
    let mut message = generate::valid(sort.message, leaves, seed);
    for at in ["base_url", "provider.nats.server_url", "provider.mqtt.server_url"] {
        if path::has(&message, at) {
            path::set(
                &mut message,
                at,
                Value::String("https://user:hidden@example.com/in?token=hidden".into()),
            );
        }
    }
    for (at, text) in [
        ("region", "eu-west-1"),
        ("endpoint_address", "aws.example.com"),
        ("access_key.access_key_id", "AKIAIOSFODNN7EXAMPLE"),
        ("assume_role.arn", "arn:aws:iam::123456789012:role/stack"),
        ("assume_role.external_id", "stack"),
        ("deployment.default.stack_name", "stack"),
    ] {
        if path::has(&message, "provider.aws_iot") {
            path::set(&mut message, &format!("provider.aws_iot.{at}"), Value::String(text.into()));
        }
    }
    for at in ["kek.encrypted_key", "kek.kek_label", "provider.mqtt.client_id"] {
        if path::has(&message, at) {
            path::clear(&mut message, at);
        }
    }
    if sort.ids == Ids::Key {
        path::clear(&mut message, "expires_at");
        path::set(&mut message, "expires_at.seconds", Value::I64(LATER));
    }
    if path::has(&message, "home_net_id") {
        path::set(&mut message, "home_net_id", Value::Bytes(vec![0, 0, 0x13].into()));
    }
    found(sort, message)
}

/// What a server holds after the write.
fn stored(found: &Found, write: &Write) -> DynamicMessage {
    let mut there = path::project(&write.message, &write.paths);
    if !matches!(found.sort.ids, Ids::Application | Ids::Key) {
        let (device, id) = found.sort.names_there(&found.key, &found.target_name);
        found.sort.ids.write(&mut there, "ids.", &AppId::unchecked("acme"), device, id);
    }
    there
}

#[test]
fn each_kind_has_its_calls_and_a_name_of_its_own() {
    let names: BTreeSet<_> = SORTS.iter().map(|sort| sort.name).collect();
    assert_eq!(names.len(), SORTS.len());
    for sort in SORTS {
        for method in [Some(sort.get), Some(sort.set), Some(sort.delete), sort.list].into_iter().flatten() {
            let known = proto::method(method.rpc).unwrap_or_else(|| panic!("{}", method.rpc));
            assert_eq!(known.input().name(), method.request, "{}", method.rpc);
        }
        assert_eq!(sort.whole().is_empty(), !sort.fields.is_empty(), "{}", sort.name);
        assert_eq!(Sort::by_name(sort.name).map(|s| s.name), Some(sort.name));
    }
}

#[test]
fn an_api_key_of_the_source_is_never_written() {
    let hook = full(&webhook::WEBHOOK, 1);
    let secret = path::string(&hook.message, "downlink_api_key");
    let decided = transform(&hook, &Facts::default(), &wishes(&[]));
    assert!(decided.wants_key && !secret.is_empty());
    assert!(!path::has(&decided.write.message, "downlink_api_key"));
    let copied = stored(&hook, &with_key(hook.sort, decided.write.clone(), Some(&secret)));
    let (verdict, findings) = there(&hook, &decided, &copied);
    assert_eq!(verdict, Verdict::Differs, "the source's key is no key there");
    assert_eq!(findings[0].paths, ["downlink_api_key"]);
}

#[test]
fn without_the_right_to_make_a_key_the_webhook_stops_unless_that_is_allowed() {
    let hook = full(&webhook::WEBHOOK, 1);
    let rights = webhook::WEBHOOK.rights.iter().map(|r| (*r).to_owned()).collect();
    let facts = Facts { rights: Some(rights), ..Facts::default() };
    let decided = transform(&hook, &facts, &wishes(&[]));
    assert!(decided.blocked() && decided.findings[0].kind == Kind::DownlinkKey);
    let decided = transform(&hook, &facts, &wishes(&[Kind::DownlinkKey]));
    assert!(!decided.blocked() && !decided.wants_key);
}

#[test]
fn what_the_target_cannot_take_stops_that_one() {
    let none = Facts::default();
    let kind = |decided: Decided| decided.findings.iter().find(|f| f.blocks()).map(|f| f.kind);
    let mut hook = full(&webhook::WEBHOOK, 2);
    path::set(&mut hook.message, "base_url", Value::String("no address".into()));
    assert_eq!(kind(transform(&hook, &none, &wishes(&[]))), Some(Kind::InvalidField));

    let mut mqtt = full(&pubsub::PUBSUB, 1);
    path::set(&mut mqtt.message, "provider.mqtt.server_url", Value::String("mqtt://a".into()));
    path::set(&mut mqtt.message, "provider.mqtt.client_id", Value::String("me".into()));
    assert_eq!(kind(transform(&mqtt, &none, &wishes(&[]))), Some(Kind::SharedClientId));
    assert_eq!(kind(transform(&mqtt, &none, &wishes(&[Kind::SharedClientId]))), None);
    let off = Facts { disabled: vec!["mqtt"], ..Facts::default() };
    assert_eq!(kind(transform(&mqtt, &off, &wishes(Kind::ALL))), Some(Kind::UnsupportedProvider));

    let package = full(&package::DEVICE, 1);
    let others = Facts { packages: Some(["other".to_owned()].into()), ..Facts::default() };
    assert_eq!(kind(transform(&package, &others, &wishes(&[]))), Some(Kind::UnknownPackage));

    let mut settings = full(&settings::SETTINGS, 1);
    path::clear(&mut settings.message, "kek.key");
    path::set(&mut settings.message, "kek.encrypted_key", Value::Bytes(vec![1; 16].into()));
    assert_eq!(kind(transform(&settings, &none, &wishes(&[]))), Some(Kind::SecretUnreadable));
    let without = transform(&settings, &none, &wishes(&[Kind::SecretUnreadable]));
    assert!(
        !without.blocked() && !without.write.paths.iter().any(|p| p.starts_with("kek")),
        "{:?}",
        without.write.paths
    );
}

#[test]
fn a_collaborator_has_the_rights_of_the_source_and_the_name_of_the_target() {
    let mut alice = full(&collaborator::COLLABORATOR, 1);
    path::set(
        &mut alice.message,
        "rights",
        rights::value(["RIGHT_APPLICATION_INFO", "RIGHT_APPLICATION_LINK"]),
    );
    let decided = transform(&alice, &Facts::default(), &wishes(&[]));
    assert!(decided.findings.is_empty(), "{:?}", decided.findings);
    assert_eq!(collaborator::name(&decided.write.message), "user alice-nl");
    assert_eq!(rights::names(&decided.write.message), rights::names(&alice.message));
    let owner = collaborator::owner("user alice-nl");
    let (verdict, findings) = there(&alice, &decided, &owner);
    assert_eq!((verdict, findings[0].kind), (Verdict::Differs, Kind::IntegrationDiffers));

    let few = Facts { rights: Some(["RIGHT_APPLICATION_INFO".to_owned()].into()), ..Facts::default() };
    let decided = transform(&alice, &few, &wishes(Kind::ALL));
    assert!(decided.blocked() && decided.findings.iter().all(|f| f.kind == Kind::Rights));

    // A right of a newer server, which this version has no name for.
    path::set(&mut alice.message, "rights", Value::List(vec![Value::EnumNumber(9999)]));
    let decided = transform(&alice, &Facts::default(), &wishes(&[]));
    assert!(decided.blocked() && decided.findings[0].kind == Kind::InvalidField, "{:?}", decided.findings);
}

#[test]
fn one_whom_nobody_has_mapped_stops_or_stays_behind() {
    let alice = Found { target_name: String::new(), ..full(&collaborator::COLLABORATOR, 1) };
    let decided = transform(&alice, &Facts::default(), &wishes(&[]));
    assert!(decided.blocked() && decided.findings[0].fix.contains("users = { \"alice\" = "));
    let decided = transform(&alice, &Facts::default(), &wishes(&[Kind::UnmappedPerson]));
    assert!(!decided.blocked() && decided.left());
    let people = collaborator::People {
        users: [("alice".into(), "alice-nl".into())].into(),
        organizations: [("acme".into(), "acme-eu".into())].into(),
    };
    assert_eq!(people.there("user alice"), "user alice-nl");
    assert_eq!(people.there("organization acme"), "organization acme-eu");
    assert_eq!(
        (people.there("organization alice"), people.there("user acme")),
        (String::new(), String::new())
    );
}

fn api_key(id: &str, name: &str, some: &[&str], expires: Option<i64>) -> Found {
    let mut key = empty(&api_key::API_KEY);
    path::set(&mut key, "id", Value::String(id.into()));
    path::set(&mut key, "name", Value::String(name.into()));
    path::set(&mut key, "rights", rights::value(some.iter().copied()));
    if let Some(time) = expires {
        path::set(&mut key, "expires_at.seconds", Value::I64(time));
    }
    let item =
        ItemKey { target: "acme".into(), sort: "api-key".into(), device: String::new(), id: id.into() };
    Found { key: item, sort: &api_key::API_KEY, target_name: String::new(), message: key }
}

const INFO: &str = "RIGHT_APPLICATION_INFO";
const NOW: i64 = 2_000_000_000;

#[test]
fn an_api_key_has_the_name_rights_and_expiry_of_the_source_and_never_more() {
    let facts = Facts { rights: Some([INFO.to_owned()].into()), now: NOW, ..Facts::default() };
    let kinds = |found: &Found, facts: &Facts| {
        let decided = transform(found, facts, &wishes(Kind::ALL));
        (decided.blocked(), decided.left(), decided.findings.iter().map(|f| f.kind).collect::<Vec<_>>())
    };
    let may = [INFO, "RIGHT_APPLICATION_SETTINGS_API_KEYS"].map(str::to_owned);
    let able = Facts { rights: Some(may.into()), ..facts.clone() };
    let key = api_key("OLD", "bridge", &[INFO], Some(LATER));
    let decided = transform(&key, &able, &wishes(&[]));
    assert!(decided.wants_key && decided.findings.is_empty(), "{:?}", decided.findings);
    assert_eq!(decided.write.paths, ["name", "rights", "expires_at"]);
    assert_eq!(path::string(&decided.write.message, "id"), "", "the server chooses it");
    assert_eq!(kinds(&key, &facts), (true, false, vec![Kind::Rights]), "it may make none");
    let more = api_key("OLD", "bridge", &[INFO, "RIGHT_APPLICATION_DELETE"], None);
    assert_eq!(kinds(&more, &able), (true, false, vec![Kind::Rights]), "not with less, either");
    let mut newer = api_key("OLD", "bridge", &[], None);
    path::set(&mut newer.message, "rights", Value::List(vec![Value::EnumNumber(9999)]));
    assert_eq!(kinds(&newer, &able), (true, false, vec![Kind::InvalidField]));
    let nameless = transform(&api_key("OLD", "", &[INFO], None), &able, &wishes(&[]));
    assert!(nameless.write.paths.iter().any(|p| p == "name"), "the name under which it is made must go");

    // What stays behind, whatever else could be said of it.
    let left = (false, true, vec![Kind::KeyLeft]);
    assert_eq!(kinds(&api_key("OLD", "x", &["RIGHT_APPLICATION_DELETE"], Some(NOW)), &able), left);
    let in_use = Facts { keys_in_use: ["OLD".to_owned()].into(), ..able.clone() };
    assert_eq!(kinds(&more, &in_use), left);
    let down = api_key("OLD", "any", &[KEY_RIGHT], None);
    assert_ne!(kinds(&down, &able), left);
    let handed_out = Facts { downlink_keys: ["OLD".to_owned()].into(), ..able.clone() };
    assert_eq!(kinds(&down, &handed_out), left);
    assert_eq!(kinds(&api_key("OLD", "hook-1 down 01234abc", &[KEY_RIGHT], None), &able), left);
    assert_eq!(kinds(&key, &handed_out), (false, false, vec![]), "it can do more than downlinks");
}

#[test]
fn a_key_of_the_target_stands_for_one_of_the_source() {
    let facts = Facts { now: NOW, ..Facts::default() };
    let there: std::collections::BTreeMap<_, _> = [
        api_key("NEW1", "bridge", &[INFO], None),
        api_key("NEW2", "grafana", &[KEY_RIGHT], None),
        api_key("NEW3", "old", &[INFO], Some(NOW)),
    ]
    .map(|found| (found.key, found.message))
    .into();
    let mut founds = [
        api_key("OLD1", "bridge", &[INFO], None),
        api_key("OLD2", "bridge", &[INFO], None),
        api_key("OLD3", "grafana", &[INFO], None),
        api_key("OLD4", "old", &[INFO], None),
        api_key("OLD5", "", &[INFO], None),
    ];
    api_key::pair(&mut founds, &there, &facts);
    let names: Vec<_> = founds.iter().map(|f| f.target_name.as_str()).collect();
    assert_eq!(names, ["NEW1", "", "NEW2", "", ""], "each for one, and none that has expired");
    let verdict = |found: &Found, id: &str| {
        let key = ItemKey { id: id.into(), ..found.key.clone() };
        super::there(found, &transform(found, &facts, &wishes(&[])), &there[&key]).0
    };
    assert_eq!(verdict(&founds[0], "NEW1"), Verdict::Equal);
    assert_eq!(verdict(&founds[2], "NEW2"), Verdict::Differs);
}

#[test]
fn what_is_ended_has_its_time_again() {
    let sort = &api_key::API_KEY;
    for expires in [None, Some(LATER)] {
        let was = as_it_was(sort, &api_key("OLD", "bridge", &[INFO], expires).message);
        let ended = pausing(sort, &was, NOW);
        assert_eq!(ended.paths, ["expires_at"]);
        assert_eq!(rights::names(&ended.message), [INFO], "a key without rights would be deleted");
        let mut there = api_key("OLD", "bridge", &[INFO], expires).message;
        assert!(!is_paused(sort, &was, &there, NOW));
        path::apply(&mut there, &ended.message, &ended.paths);
        assert!(is_paused(sort, &was, &there, NOW) && is_paused(sort, &was, &there, NOW + 9));
        assert!(api_key::expiry(&there).is_some_and(|at| at > NOW), "no server takes a time that is past");
        let mut other = there.clone();
        path::set(&mut other, "name", Value::String("another".into()));
        assert!(!is_paused(sort, &was, &other, NOW), "it was edited");
        let again = unpausing(sort, &was);
        path::apply(&mut there, &again.message, &again.paths);
        assert_eq!(differences(sort, &was, &there), Vec::<String>::new());
    }
    // One that ends by itself before it could be is not given more time.
    let ends = api_key("OLD", "bridge", &[INFO], Some(NOW + 5));
    assert!(is_paused(sort, &as_it_was(sort, &ends.message), &ends.message, NOW));
}

#[test]
fn an_older_target_is_told_only_what_it_knows() {
    let hook = full(&webhook::WEBHOOK, 3);
    let facts =
        Facts { refused: [("webhook", vec!["uplink_normalized".to_owned()])].into(), ..Facts::default() };
    let stopped = transform(&hook, &facts, &wishes(&[]));
    assert!(stopped.findings.iter().any(|f| f.blocks() && f.kind == Kind::UnsupportedPaths));
    let allowed = transform(&hook, &facts, &wishes(&[Kind::UnsupportedPaths]));
    assert!(!allowed.blocked() && !allowed.write.paths.contains(&"uplink_normalized".to_owned()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn nothing_is_dropped_without_a_word(seed: u64, index in 0..SORTS.len(), allow: bool, old: bool) {
        let sort = SORTS[index];
        let found = found(sort, generate::message(&proto::descriptor(sort.message), seed));
        let refused = if old { sort.whole().into_iter().take(1).collect() } else { Vec::new() };
        let facts = Facts { refused: [(sort.name, refused)].into(), ..Facts::default() };
        let decided = transform(&found, &facts, &wishes(if allow { Kind::ALL } else { &[] }));
        let written = path::stored(&decided.write.message);
        let said: Vec<_> = decided.findings.iter().flat_map(|f| f.paths.clone()).collect();
        for path in path::stored(&found.message) {
            let is_key = sort.key == Some(path.as_str()) && decided.wants_key;
            let said = said.iter().any(|s| path::covers(s, &path) || path::covers(&path, s));
            prop_assert!(written.contains(&path) || said || sort.is_left(&path) || is_key, "{path} of {}", sort.name);
        }
    }

    #[test]
    fn what_is_valid_is_planned_written_and_equal_then(seed: u64, index in 0..SORTS.len()) {
        let sort = SORTS[index];
        let found = full(sort, seed);
        let decided = transform(&found, &Facts::default(), &wishes(&[]));
        prop_assert!(!decided.blocked(), "{:?}", decided.findings);
        prop_assert_eq!(rules::violation(&decided.write.message), None);
        let key = decided.wants_key.then_some("NNSXS.NEW.KEY");
        let write = with_key(sort, decided.write.clone(), key);
        let after = stored(&found, &write);
        prop_assert_eq!(differences(sort, &write, &after), Vec::<String>::new());
        prop_assert_eq!(there(&found, &decided, &after), (Verdict::Equal, vec![]));
        // Any other value is seen.
        let head = &write.paths[usize::try_from(seed % write.paths.len() as u64).expect("small")];
        let mut other = after.clone();
        path::clear(&mut other, head);
        prop_assert!(!differences(sort, &write, &other).is_empty(), "{head} of {}", sort.name);
        prop_assert_eq!(there(&found, &decided, &other).0, Verdict::Differs);
        // Nothing that may be a secret is in what people see.
        let shown = format!("{:?} {:?} {:?}", found, decided, there(&found, &decided, &other));
        prop_assert!(!shown.contains("hidden"), "{shown}");
    }

    #[test]
    fn what_goes_back_is_what_was_found(seed: u64, index in 0..SORTS.len()) {
        let sort = SORTS[index];
        let found = full(sort, seed);
        let write = as_it_was(sort, &found.message);
        prop_assert_eq!(differences(sort, &write, &found.message), Vec::<String>::new());
    }
}
