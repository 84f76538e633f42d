//! API keys of an application: others with the same names, rights and expiry, whose secrets are in one file.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    time::{SystemTime, UNIX_EPOCH},
};

use prost_reflect::{DynamicMessage, Value};
use stackferry::{
    map::path,
    plan::belongings::{api_key::expiry, rights},
    proto,
    rehearsal::{Fault, store::Table},
};

use super::{
    crash::run_and_kill,
    scene::{TARGET, config_of, writes},
};
use crate::world::{APP, Ran, Side, World};

const INFO: &str = "RIGHT_APPLICATION_INFO";
const READ: &str = "RIGHT_APPLICATION_TRAFFIC_READ";
const LATER: i64 = 9_000_000_000;
const COPY: &str = "copy = [\"api-keys\"]";
const FILE: &str = "[integrations]\nkeys-file = \"new-keys.csv\"";

fn id(name: &str) -> String {
    format!("{name:A<39}")
}

fn secret(name: &str) -> String {
    format!("NNSXS.{}.{name:Z<52}", id(name))
}

/// Puts an API key into an application of a side.
fn put(side: &Side, app: &str, of: &str, name: &str, some: &[&str], expires: Option<i64>) {
    let mut key = proto::message("APIKey");
    for (at, text) in [("id", id(of)), ("key", secret(of)), ("name", name.to_owned())] {
        path::set(&mut key, at, Value::String(text));
    }
    path::set(&mut key, "rights", rights::value(some.iter().copied()));
    if let Some(time) = expires {
        path::set(&mut key, "expires_at.seconds", Value::I64(time));
    }
    side.tts.store().put(Table::ApiKeys, &format!("app:{app}/{}", id(of)), key).expect("memory");
}

/// The API keys of an application by ID.
fn keys(side: &Side, app: &str) -> BTreeMap<String, DynamicMessage> {
    let store = side.tts.store();
    let prefix = format!("app:{app}/");
    let all = store.iter(Table::ApiKeys).filter(|(key, _)| key.starts_with(&prefix));
    all.map(|(_, key)| (path::string(key, "id"), key.clone())).collect()
}

/// Name, rights and expiry.
fn seen(key: &DynamicMessage) -> (String, Vec<String>, Option<i64>) {
    (path::string(key, "name"), rights::names(key), expiry(key))
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs().try_into().expect("soon")
}

/// A command that reads the source with an API key of its application.
fn with_own_key(world: &World, verb: &str, arguments: &[&str]) -> Ran {
    let mut command = world.command(verb);
    Ran::of(command.args(arguments).env("SOURCE_KEY", secret("MINE")).output().expect("it starts"))
}

#[test]
fn others_with_the_same_names_and_rights_go_to_the_file_alone_and_the_old_ones_end() {
    let world = World::some(&[1]);
    put(&world.source, APP, "ONE", "bridge, the \"old\"", &[INFO, READ], Some(LATER));
    put(&world.source, APP, "TWO", "bridge, the \"old\"", &[INFO], None);
    put(&world.source, APP, "NAMELESS", "", &[READ], None);
    put(&world.source, APP, "PAST", "past", &[INFO], Some(1_000_000_000));
    put(&world.source, APP, "MINE", "migration", &["RIGHT_APPLICATION_ALL"], None);
    put(&world.source, APP, "HOOK", "hook-1 down 01234567", &["RIGHT_APPLICATION_TRAFFIC_DOWN_WRITE"], None);
    let before = keys(&world.source, APP);
    let more = format!("{FILE}\n[clear]\nmode = \"keys\"\nwhen = \"verified\"\napi-keys = \"expire\"");
    config_of(&world, &[1], COPY, &more);
    let plan = with_own_key(&world, "plan", &[]).expect(0);
    let nameless = id("NAMELESS");
    let line = format!("+ API keys to be copied: 3 ({nameless}, bridge, the \"old\", bridge, the \"old\")");
    let plan = plan.says(&line).says("- API keys left behind: 3 (").says("(past): it has expired");
    let plan = plan
        .says("(migration): it is one with which stackferry works")
        .says("(hook-1 down 01234567): it is for");
    assert!(!plan.said().contains("API keys are not copied"), "{}", plan.said());
    with_own_key(&world, "rehearse", &[]).expect(0).says("around the devices: 3 copied");
    let file = world.dir.path().join("new-keys.csv");
    assert!(writes(&world) == (0, 0) && !file.exists(), "a rehearsal leaves nothing");

    let ran = with_own_key(&world, "run", &["--yes"]).expect(0).says("around the devices: 3 copied");
    ran.says("new API keys of applications: 3, in ");
    let made = keys(&world.target, TARGET);
    assert_eq!(fs::metadata(&file).expect("it is there").permissions().mode() & 0o777, 0o600);
    let held = fs::read_to_string(&file).expect("text");
    let mut rows = csv::Reader::from_reader(held.as_bytes());
    let rows: Vec<_> = rows.records().map(|row| row.expect("a row")).collect();
    assert_eq!((rows.len(), made.len()), (3, 3));
    for row in &rows {
        let (old, new) = (&before[&row[1]], &made[&row[2]]);
        assert_eq!(seen(old), seen(new));
        assert_eq!((&row[0], &row[3]), (TARGET, path::string(old, "name").as_str()));
        assert_eq!(row[6], path::string(new, "key"));
        assert_eq!(row[4], rights::names(old).join(" "));
        assert_eq!(&row[5] == "2255-03-14T16:00:00Z", expiry(old).is_some(), "{}", &row[5]);
    }
    // Those that were copied are of no use any more in a minute; nothing else was touched.
    for (id, now_there) in keys(&world.source, APP) {
        let copied = rows.iter().any(|row| row[1] == id);
        assert_eq!(path::string(&now_there, "key"), path::string(&before[&id], "key"));
        assert_eq!(copied, expiry(&now_there) != expiry(&before[&id]), "{id}");
        assert!(!copied || expiry(&now_there).is_some_and(|at| at <= now() + 60));
    }
    let done = writes(&world);
    fs::remove_file(&file).expect("ours");
    with_own_key(&world, "run", &["--yes"]).expect(0).says("around the devices: 3 there before");
    assert_eq!(writes(&world), done, "S6");
    assert!(fs::read_to_string(&file).expect("made anew from the journal") == held);
    world.call("verify", &[]).expect(0).says("around the devices: 3 as written");
    let edited = made.keys().next().expect("one").clone();
    let place = format!("app:{TARGET}/{edited}");
    let narrow = |some: &[&str]| {
        let mut key = world.target.tts.store().get(Table::ApiKeys, &place).cloned().expect("made");
        path::set(&mut key, "rights", rights::value(some.iter().copied()));
        world.target.tts.store().put(Table::ApiKeys, &place, key).expect("memory");
    };
    narrow(&["RIGHT_APPLICATION_LINK"]);
    world.call("verify", &[]).expect(3).says("rights");
    world.call("rollback", &["--yes"]).expect(3).says("it was edited on the target since it was written");
    assert_eq!(keys(&world.target, TARGET).keys().collect::<Vec<_>>(), [&edited]);
    let (_, own, _) = seen(&made[&edited]);
    narrow(&own.iter().map(String::as_str).collect::<Vec<_>>());
    world.call("rollback", &["--yes"]).expect(0).says("acme removed");
    assert!(keys(&world.target, TARGET).is_empty());
    let back = keys(&world.source, APP);
    assert!(back.iter().all(|(id, key)| seen(key) == seen(&before[id]) && path::has(key, "key")));
    assert_eq!(back.len(), before.len());
    fs::remove_file(&file).expect("what is left is searched for keys");
}

/// What is there is not made, what the server refuses stops alone, and a key whose secret was lost on the way is made anew.
#[test]
fn what_is_there_stays_and_a_lost_secret_is_made_anew() {
    let world = World::some(&[1]);
    put(&world.source, APP, "ONE", "bridge", &[INFO], None);
    put(&world.source, APP, "TWO", "bridge", &[INFO], None);
    put(&world.source, APP, "GRAFANA", "grafana", &[READ], None);
    let mut app = proto::message("Application");
    path::set(&mut app, "ids.application_id", Value::String(TARGET.into()));
    world.target.tts.store().put(Table::Applications, TARGET, app).expect("memory");
    put(&world.target, TARGET, "THERE", "bridge", &[INFO], None);
    put(&world.target, TARGET, "OTHER", "grafana", &[READ, INFO], None);
    let before = keys(&world.target, TARGET);
    config_of(&world, &[1], COPY, FILE);
    let plan = world.call("plan", &[]).expect(0).says("+ API keys to be copied: 1 (bridge)");
    plan.says("= API keys there, as at the source: 1 (bridge)")
        .says("! API keys there with other values, which stay: 1 (grafana)")
        .says("none is made, and the secret of that one is not known here");
    let lost = |method: &'static str, fault: fn() -> Fault| {
        world.target.tts.unhook();
        world.target.tts.on_call(move |call| call.method.ends_with(method).then(fault));
    };
    lost("ApplicationAccess/CreateAPIKey", || Fault::CutAfter);
    world.run().expect(3).says("1 device moved");
    assert_eq!(keys(&world.target, TARGET).len(), 3, "one of which nobody knows the secret");
    lost("ApplicationAccess/UpdateAPIKey", || Fault::Status(tonic::Code::PermissionDenied));
    world.run().expect(3).says("api-key TWO").says("not copied: rights");
    assert_eq!(keys(&world.target, TARGET).len(), 2, "what cannot be made whole goes again");
    lost("ApplicationAccess/UpdateAPIKey", || Fault::CutAfter);
    world.run().expect(0).says("new API keys of applications: 1, in ");
    world.target.tts.unhook();
    let after = keys(&world.target, TARGET);
    assert!(after.len() == 3 && before.iter().all(|(id, key)| after[id] == *key));
    let new = after.values().find(|key| !before.contains_key(&path::string(key, "id"))).expect("made");
    assert_eq!(seen(new), ("bridge".to_owned(), vec![INFO.to_owned()], None));
    let held = fs::read_to_string(world.dir.path().join("new-keys.csv")).expect("there");
    assert!(
        held.contains(&path::string(new, "key")) && held.lines().count() == 3,
        "a table of all that stand for one"
    );
    let done = writes(&world);
    world.run().expect(0);
    assert_eq!(writes(&world), done, "S6");
    // A key that came to the source later is not taken for one that was made.
    put(&world.source, APP, "LATE", "bridge", &[INFO], None);
    world.call("plan", &[]).expect(0).says("+ API keys to be copied: 1 (bridge)");
    fs::remove_file(world.dir.path().join("new-keys.csv")).expect("ours");
}

#[test]
fn a_kill_at_any_call_resumes_to_the_same_end_there_and_back() {
    let world = World::some(&[1]);
    put(&world.source, APP, "ONE", "bridge", &[INFO], Some(LATER));
    let more = format!("{FILE}\n[clear]\nmode = \"keys\"\nwhen = \"verified\"\napi-keys = \"expire\"");
    config_of(&world, &[1], COPY, &more);
    let before = keys(&world.source, APP);
    let file = world.dir.path().join("new-keys.csv");
    for (n, applied) in [(1, true), (2, false), (3, true)] {
        assert!(run_and_kill(&world, "run", n, applied), "made, named, ended at the source");
        world.run().expect(0);
        let made: Vec<_> = keys(&world.target, TARGET).into_values().collect();
        assert_eq!(made.iter().map(seen).collect::<Vec<_>>(), before.values().map(seen).collect::<Vec<_>>());
        let held = fs::read_to_string(&file).expect("there");
        assert!(held.lines().count() == 2 && held.contains(&path::string(&made[0], "key")), "after call {n}");
        assert!(run_and_kill(&world, "rollback", n.min(2), !applied), "its time, and the copy");
        if n == 3 {
            // Somebody who has changed his mind.
            world.run().expect(0);
            assert_eq!(keys(&world.target, TARGET).len(), 1);
        }
        world.call("rollback", &["--yes"]).expect(0);
        assert!(keys(&world.target, TARGET).is_empty());
        assert_eq!(
            keys(&world.source, APP).values().map(seen).collect::<Vec<_>>(),
            [seen(&before[&id("ONE")])]
        );
    }
    fs::remove_file(&file).expect("ours");
}
