//! No secret leaves (S7): everything that the binary prints in any test, and every byte of its files outside the seal, is
//! searched for every secret of the fleet and of the two deployments, in every form in which software writes bytes
//! (`tests/world/canaries.rs`). Here is what makes it talk.

mod fields;
mod key_files;
mod lint;
mod mistakes;
mod parrot;
mod planted;
mod process;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Write as _,
    fs,
    process::Stdio,
    time::Duration,
};

use prost_reflect::{DynamicMessage, MapKey, Value};
use stackferry::{
    map::path,
    model::{
        device::{Component, Record},
        ids::AppId,
    },
    plan::{
        belongings::rights,
        facts::{IdFrom, SessionMode, TargetFacts, Wishes},
        sealed, transform,
    },
    proto,
    rehearsal::{Fault, Settings, load, store::Table},
};
use tonic::Code;

use crate::world::{APP, LOSSES, Ran, World, dev, fixture, search::Found};

/// The fixture, with secrets long enough to be told from chance, and one of each kind that it lacks.
fn fleet() -> World {
    let keyed = |id: &str, secret: &str| Settings {
        api_key: format!("NNSXS.{id:A<39}.{secret:Z<52}"),
        ..Settings::default()
    };
    let world = World::with(keyed("SOURCE", "SOURCESECRET7Q"), keyed("TARGET", "TARGETSECRET5K"));
    let (devices, application) = (fixture("tts-fleet-100.jsonl"), fixture("tts-fleet-application.json"));
    load(&world.source.tts, Some(&devices), Some(&application)).expect("the fixture loads");
    for n in 0..100 {
        let long = |what: &str| format!("{what}{:0>18}", (n as u64 + 7) * 9_876_543_210_987);
        let payloads = "session.queued_application_downlinks";
        let ns = world.source.record(Table::Ns, APP, &dev(n)).expect("in the fixture");
        if let Some(Value::List(mut queue)) = path::get(&ns, payloads).map(|v| v.into_owned()) {
            for item in queue.iter_mut().filter_map(Value::as_message_mut) {
                path::set(item, "frm_payload", Value::Bytes(long("payload ").into_bytes().into()));
            }
            world.source.edit(Table::Ns, APP, &dev(n), |ns| path::set(ns, payloads, Value::List(queue)));
        }
        world.source.edit(Table::Is, APP, &dev(n), |is| {
            if path::has(is, "claim_authentication_code") {
                path::set(is, "claim_authentication_code.value", Value::String(long("Claim")));
            }
        });
    }
    let text = |text: &str| Value::String(text.to_owned());
    let put = |table, key: &str, name, fields: &[(&str, Value)]| {
        let mut message: DynamicMessage = proto::message(name);
        for (at, value) in fields {
            path::set(&mut message, at, value.clone());
        }
        world.source.tts.store().put(table, key, message).expect("memory");
    };
    let headers =
        HashMap::from([(MapKey::String("Authorization".into()), text("Bearer webhook-header-secret"))]);
    let app = ("ids.application_ids.application_id", text(APP));
    let hook = [
        app.clone(),
        ("ids.webhook_id", text("hook-main")),
        ("base_url", text("http://127.0.0.1:9/hook")),
        ("format", text("json")),
        ("downlink_api_key", text("NNSXS.WEBHOOKDOWNLINKKEY.SECRET")),
        ("headers", Value::Map(headers)),
    ];
    put(Table::Webhooks, &format!("{APP}.hook-main"), "ApplicationWebhook", &hook);
    let broker = [
        app,
        ("ids.pub_sub_id", text("mqtt-main")),
        ("format", text("json")),
        ("mqtt.server_url", text("mqtts://127.0.0.1:9")),
        ("mqtt.password", text("pubsub-password-secret")),
    ];
    put(Table::PubSubs, &format!("{APP}.mqtt-main"), "ApplicationPubSub", &broker);
    let rights = rights::value(["RIGHT_APPLICATION_INFO"]);
    let key =
        [("id", text("APIKEYID")), ("key", text("NNSXS.APPLICATIONKEY.SECRETSECRET")), ("rights", rights)];
    put(Table::ApiKeys, &format!("app:{APP}/APIKEYID"), "APIKey", &key);
    world
}

/// Runs a command with everything on that makes programs talk. [`Ran::of`] searches what it says.
fn loud(world: &World, verb: &str, arguments: &[&str]) -> Ran {
    let mut command = world.command(verb);
    command.args(arguments).env("RUST_BACKTRACE", "full").env("RUST_LOG", "trace");
    Ran::of(command.output().expect("it starts"))
}

/// Searches the files of the world's folder now, not only at its end, and says which there are.
#[track_caller]
fn search_files(world: &World) -> Vec<String> {
    assert_eq!(world.canaries().find_in_files(world.dir.path()), [""; 0]);
    let entries = fs::read_dir(world.dir.path()).expect("the folder");
    entries.map(|entry| entry.expect("the folder").file_name().to_string_lossy().into_owned()).collect()
}

const JSON: &[&str] = &["--output", "json"];
const CLEAR: &str = "[clear]\nmode = \"keys\"\nwhen = \"verified\"\n";

#[test]
fn no_command_prints_a_secret_and_no_file_holds_one() {
    let world = fleet();
    let more = format!(
        "{LOSSES}session = \"keep\"\n{CLEAR}api-keys = \"expire\"\n[integrations]\nkeys-file = \"new.csv\"\n"
    );
    world.config_whole(APP, &format!("copy = [\"formatters\", \"api-keys\"]\n{more}"));
    assert!(world.canaries().count() > 240, "{}", world.canaries().count());
    let hear = |verb: &str, arguments: &[&str], says: &str| {
        // The first of the forms is the one that does it; a rehearsal does it each time.
        let forms = [&["-vv"][..], &["--output", "json", "-vvv"], &[], JSON];
        for form in &forms[..if verb == "rehearse" { 2 } else { 4 }] {
            loud(&world, verb, &[arguments, *form].concat()).expect(0).says(says);
        }
    };
    hear("plan", &[], "fleet-lab");
    hear("rehearse", &[], "rehearsal");
    hear("run", &["--yes"], "");
    hear("status", &[], "");
    hear("verify", &[], "");
    assert_eq!(world.target.count(Table::Ns, APP), 100, "it was a real move");
    let new_key =
        world.target.tts.store().iter(Table::ApiKeys).map(|(_, key)| path::string(key, "key")).next();
    let held = fs::read_to_string(world.dir.path().join("new.csv")).expect("the keys that were asked for");
    assert!(new_key.is_some_and(|key| held.contains(&key)), "in the one file that the user names");
    let names = search_files(&world);
    assert!(names.contains(&"test.journal".to_owned()), "{names:?}");
}

#[test]
fn a_killed_run_leaves_no_secret_in_any_file() {
    let world = fleet();
    world.config(&format!("{LOSSES}session = \"keep\"\n{CLEAR}"));
    let mut run = world.command("run");
    let mut run = run.arg("--yes").stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    while world.target.count(Table::Ns, APP) < 40 {
        std::thread::sleep(Duration::from_millis(5));
    }
    run.kill().expect("it runs");
    run.wait().expect("it ends");
    let names = search_files(&world);
    for needed in ["test.journal", "test.journal-wal"] {
        assert!(names.contains(&needed.to_owned()), "{names:?}");
    }
    loud(&world, "run", &["--yes", "-vv", "--output", "json"]).expect(0);
}

#[test]
fn a_failing_run_prints_none() {
    for (code, method) in [
        (Code::InvalidArgument, "JsEndDeviceRegistry/Set"),
        (Code::PermissionDenied, "AsEndDeviceRegistry/Set"),
        (Code::Internal, "NsEndDeviceRegistry/Set"),
        (Code::Unauthenticated, "EndDeviceRegistry/Create"),
    ] {
        let world = fleet();
        let file = world.config(&format!("{LOSSES}session = \"keep\"\n"));
        select(&file, &[1, 2, 5]);
        world.target.tts.on_call(move |call| call.method.ends_with(method).then_some(Fault::Status(code)));
        let form = if method.starts_with('J') { JSON } else { &["-vv"] };
        let ran = loud(&world, "run", &[&["--yes"], form].concat());
        assert_ne!(ran.code, Some(0));
    }
}

fn select(file: &std::path::Path, numbers: &[usize]) {
    let ids = numbers.iter().fold(String::new(), |mut ids, n| {
        write!(ids, "\"{}\", ", dev(*n)).expect("memory");
        ids
    });
    let text = fs::read_to_string(file).expect("written");
    let target = "target = \"fleet-lab\"";
    fs::write(file, text.replace(target, &format!("{target}\ndevices = {{ ids = [{ids}] }}")))
        .expect("a file");
}

/// A key that a command holds is no mistake of the file; it stays out of the journal all the same.
#[test]
fn a_key_in_a_command_stays_out_of_the_journal() {
    let world = fleet();
    let file = world.config(&format!("{LOSSES}session = \"keep\"\n"));
    select(&file, &[1, 2]);
    let key = &world.source.tts.settings().api_key;
    let command = format!("api-key = {{ command = [\"printf\", \"%s\", \"{key}\"] }}");
    let text = fs::read_to_string(&file).expect("written");
    fs::write(&file, text.replacen("api-key = { env = \"SOURCE_KEY\" }", &command, 1)).expect("a file");
    loud(&world, "run", &["--yes", "-vv"]).expect(0);
    search_files(&world);
}

fn wishes() -> Wishes {
    Wishes {
        copy: Default::default(),
        people: Default::default(),
        paused: false,
        target_app: AppId::unchecked(APP.to_owned()),
        session: SessionMode::Keep,
        abp_reset: BTreeSet::new(),
        frequency_plans: BTreeMap::new(),
        default_frequency_plan: None,
        id_prefix: String::new(),
        id_rename: false,
        versions: Default::default(),
        id_from: IdFrom::Id,
        attributes: BTreeMap::new(),
        allowed: Vec::new(),
    }
}

/// Panic texts, errors and logs are made by `Debug`.
#[test]
fn nothing_that_holds_keys_shows_them_in_debug() {
    let world = fleet();
    for n in 0..20 {
        let mut found = transform::Found::default();
        for component in Component::ALL {
            *found.records.slot(component) =
                world.source.record(Table::of(component), APP, &dev(n)).map(Record);
        }
        let planned = transform::device(&found, &TargetFacts::default(), &wishes());
        let sealed = sealed::found_from_bytes(&sealed::found_to_bytes(&found)).expect("sealed");
        let text = format!("{found:?} {found:#?} {planned:?} {planned:#?} {sealed:?} {:?}", world.source.tts);
        assert!(text.contains(&dev(n)), "something is shown");
        assert_eq!(world.canaries().find(text.as_bytes()), Found::new());
    }
}
