//! No secret leaves (S7): everything that the binary prints, and every byte of its files outside the seal, is searched
//! for every secret of the fleet and of the two deployments, in every form in which software writes bytes.

mod parrot;
mod search;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt::Write as _,
    fs,
    process::Stdio,
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use prost_reflect::{DynamicMessage, MapKey, Value};
use stackferry::{
    map::path,
    model::{
        device::{Component, Record},
        ids::AppId,
    },
    plan::{
        facts::{IdFrom, SessionMode, TargetFacts, Wishes},
        sealed, transform,
    },
    proto,
    rehearsal::{
        Fault, Settings, load,
        store::{Table, device_key},
    },
};
use tonic::Code;

use self::parrot::Parrot;
use self::search::{Found, Search, Secret};
use crate::world::{APP, LOSSES, Ran, World, dev, fixture};

/// The last names of fields that hold a secret, and the messages above a `value` that is one.
const FIELDS: &[&str] = &[
    "key",
    "encrypted_key",
    "frm_payload",
    "raw_payload",
    "downlink_api_key",
    "headers",
    "password",
    "tls_client_key",
    "secret_access_key",
    "session_token",
    "lbs_lns_secret",
    "target_cups_key",
    "claim_authentication_code",
];

fn collect(value: &Value, name: &str, is_secret: bool, out: &mut Vec<Secret>) {
    match value {
        Value::Message(message) => {
            for (field, value) in message.fields() {
                let is_secret = FIELDS.contains(&field.name()) || (is_secret && field.name() == "value");
                collect(value, &format!("{name}.{}", field.name()), is_secret, out);
            }
        }
        Value::List(items) => items.iter().for_each(|item| collect(item, name, is_secret, out)),
        Value::Map(items) => items.values().for_each(|item| collect(item, name, is_secret, out)),
        Value::Bytes(bytes) if is_secret => out.push(Secret::new(name, bytes.to_vec())),
        Value::String(text) if is_secret => out.push(Secret::new(name, text.as_bytes())),
        _ => {}
    }
}

/// Every secret of both deployments, and their API keys.
fn secrets(world: &World) -> Vec<Secret> {
    let mut out = Vec::new();
    for (name, side) in [("source", &world.source), ("target", &world.target)] {
        for (table, entries) in side.tts.store().tables() {
            for (key, message) in entries {
                let name = format!("{name} {table:?} {key}");
                collect(&Value::Message(message.clone()), &name, false, &mut out);
            }
        }
        let api_key = side.tts.settings().api_key.clone();
        let last = api_key.rsplit('.').next().expect("a part").to_owned();
        out.push(Secret::new(format!("{name} API key, but for its end"), &api_key[..60]));
        out.push(Secret::new(format!("{name} API key"), api_key));
        out.push(Secret::new(format!("{name} API key's secret"), last));
    }
    let mut seen = HashSet::new();
    out.retain(|secret| seen.insert(secret.bytes.clone()));
    out
}

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
    let key = [("id", text("APIKEYID")), ("key", text("NNSXS.APPLICATIONKEY.SECRETSECRET"))];
    put(Table::ApiKeys, &format!("app:{APP}/APIKEYID"), "APIKey", &key);
    world
}

/// Runs a command with everything on that makes programs talk.
fn loud(world: &World, verb: &str, arguments: &[&str]) -> Ran {
    let mut command = world.command(verb);
    command.args(arguments).env("RUST_BACKTRACE", "full").env("RUST_LOG", "trace");
    Ran::of(command.output().expect("it starts"))
}

#[track_caller]
fn search_output(search: &Search, what: &str, ran: &Ran) {
    search.expect_none(&format!("stdout of {what}"), ran.out.as_bytes());
    search.expect_none(&format!("stderr of {what}"), ran.err.as_bytes());
}

/// The files of the world's folder by name, without the key file; what that holds is a secret, too.
fn files(world: &World) -> (Vec<(String, Vec<u8>)>, Vec<Secret>) {
    let (mut files, mut keys) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(world.dir.path()).expect("the folder") {
        let entry = entry.expect("the folder");
        let (name, bytes) =
            (entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path()).expect("a file"));
        if name.ends_with(".key") {
            let text = String::from_utf8_lossy(&bytes).trim().to_owned();
            keys.extend(hex::decode(&text).ok().map(|raw| Secret::new("seal key", raw)));
            keys.extend(BASE64_STANDARD.decode(&text).ok().map(|raw| Secret::new("seal key", raw)));
            keys.push(Secret::new("seal key file", text));
        } else {
            files.push((name, bytes));
        }
    }
    (files, keys)
}

#[track_caller]
fn search_files(search: &Search, world: &World) -> Vec<String> {
    let (files, keys) = files(world);
    assert!(!keys.is_empty(), "the seal has a key");
    let seal = Search::new(&keys);
    for (name, bytes) in &files {
        search.expect_none(name, bytes);
        seal.expect_none(name, bytes);
    }
    files.into_iter().map(|(name, _)| name).collect()
}

const JSON: &[&str] = &["--output", "json"];
const CLEAR: &str = "[clear]\nmode = \"keys\"\nwhen = \"verified\"\n";

#[test]
fn no_command_prints_a_secret_and_no_file_holds_one() {
    let world = fleet();
    world.config(&format!("{LOSSES}session = \"keep\"\n{CLEAR}"));
    let secrets = secrets(&world);
    assert!(secrets.len() > 200, "{}", secrets.len());
    let search = Search::new(&secrets);
    let mut printed = 0;
    let mut hear = |verb: &str, arguments: &[&str], says: &str| {
        // The first of the forms is the one that does it; a rehearsal does it each time.
        let forms = [&["-vv"][..], &["--output", "json", "-vv"], &[], JSON];
        for form in &forms[..if verb == "rehearse" { 2 } else { 4 }] {
            let ran = loud(&world, verb, &[arguments, *form].concat()).expect(0).says(says);
            search_output(&search, &format!("{verb} {form:?}"), &ran);
            printed += ran.out.len() + ran.err.len();
        }
    };
    hear("plan", &[], "fleet-lab");
    hear("rehearse", &[], "rehearsal");
    hear("run", &["--yes"], "");
    hear("status", &[], "");
    hear("verify", &[], "");
    assert_eq!(world.target.count(Table::Ns, APP), 100, "it was a real move");
    let names = search_files(&search, &world);
    assert!(names.contains(&"test.journal".to_owned()), "{names:?}");
    println!(
        "{} secrets, {} patterns, {printed} bytes printed, files {names:?}",
        secrets.len(),
        search.patterns.len()
    );
}

#[test]
fn a_killed_run_leaves_no_secret_in_any_file() {
    let world = fleet();
    world.config(&format!("{LOSSES}session = \"keep\"\n{CLEAR}"));
    let search = Search::new(&secrets(&world));
    let mut run = world.command("run");
    let mut run = run.arg("--yes").stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    while world.target.count(Table::Ns, APP) < 40 {
        std::thread::sleep(Duration::from_millis(5));
    }
    run.kill().expect("it runs");
    run.wait().expect("it ends");
    let names = search_files(&search, &world);
    for needed in ["test.journal", "test.journal-wal"] {
        assert!(names.contains(&needed.to_owned()), "{names:?}");
    }
    let ran = loud(&world, "run", &["--yes", "-vv", "--output", "json"]).expect(0);
    search_output(&search, "the resumed run", &ran);
    search_files(&search, &world);
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
        let search = Search::new(&secrets(&world));
        world.target.tts.on_call(move |call| call.method.ends_with(method).then_some(Fault::Status(code)));
        let form = if method.starts_with('J') { JSON } else { &["-vv"] };
        let ran = loud(&world, "run", &[&["--yes"], form].concat());
        assert_ne!(ran.code, Some(0));
        search_output(&search, &format!("run with {code:?} from {method}"), &ran);
        search_files(&search, &world);
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

/// Runs three devices against a target that repeats what `words` makes of API key and request.
fn run_against_parrot(words: impl Fn(&str, &[u8]) -> String + Send + Sync + 'static) {
    let world = fleet();
    let file = world.config(&format!("{LOSSES}session = \"keep\"\n"));
    select(&file, &[1, 2, 5]);
    let search = Search::new(&secrets(&world));
    let parrot = Parrot::new(world.target.addr(), "AsEndDeviceRegistry/Set", words);
    let text = fs::read_to_string(&file).expect("written");
    fs::write(&file, text.replace(&world.target.addr().to_string(), &parrot.addr.to_string()))
        .expect("a file");
    for form in [&["-vv"][..], &["--output", "json", "-vv"]] {
        let ran = loud(&world, "run", &[&["--yes"], form].concat()).says("the parrot says");
        assert_ne!(ran.code, Some(0));
        search_files(&search, &world);
        search_output(&search, &format!("run {form:?}"), &ran);
    }
}

#[test]
fn a_server_that_repeats_the_api_key_is_not_quoted() {
    run_against_parrot(|key, _| format!("the parrot says {key}"));
}

#[test]
fn a_server_that_repeats_the_api_key_at_great_length_is_not_quoted() {
    run_against_parrot(|key, _| format!("the parrot says {}{key}", "x".repeat(500)));
}

#[test]
fn a_server_that_repeats_a_device_key_is_not_quoted() {
    let known = Search::new(&secrets(&fleet()));
    let raw: Vec<_> = known.patterns.into_iter().filter(|p| p.1 == "raw").map(|p| p.2).collect();
    run_against_parrot(move |_, body| {
        let told = raw.iter().filter(|key| body.windows(key.len()).any(|w| w == **key));
        told.fold("the parrot says".to_owned(), |text, key| format!("{text} {}", hex::encode_upper(key)))
    });
}

#[test]
fn a_key_in_place_of_a_command_is_not_repeated() {
    refuses_literal("api-key = { env = \"SOURCE_KEY\" }", |key| {
        format!("api-key = {{ command = [\"{key}\"] }}")
    });
}

/// Puts a literal key into the configuration, which is refused and not shown.
fn refuses_literal(from: &str, to: impl Fn(&str) -> String) {
    let key = format!("NNSXS.{:A<39}.{:Q<52}", "LITERALKEY", "LITERALSECRET");
    let search =
        Search::new(&[Secret::new("literal key", key.as_str()), Secret::new("its secret", &key[46..])]);
    let world = World::empty();
    let file = world.config("");
    let text = fs::read_to_string(&file).expect("written");
    assert!(text.contains(from), "{from}");
    fs::write(&file, text.replacen(from, &to(&key), 1)).expect("a file");
    for (verb, form) in [("plan", &[][..]), ("run", &["--yes", "-vv"]), ("plan", JSON), ("status", &[])] {
        let ran = loud(&world, verb, form);
        let place = to("KEY");
        assert!(verb == "status" || ran.code != Some(0), "{place}: is taken");
        search_output(&search, &format!("{verb} with {place}"), &ran);
    }
}

#[test]
fn a_key_in_the_configuration_is_not_repeated() {
    let api_key = "api-key = { env = \"SOURCE_KEY\" }";
    refuses_literal(api_key, |key| format!("api-key = \"{key}\""));
    refuses_literal(api_key, |key| format!("api-key = '{key}'"));
    refuses_literal(api_key, |key| format!("api-key = \"{key}"));
    refuses_literal(api_key, |key| format!("api-key = {key}"));
    refuses_literal(api_key, |key| format!("api_key = \"{key}\""));
    refuses_literal(api_key, |key| format!("token = \"{key}\""));
    refuses_literal(api_key, |key| format!("api-key = {{ literal = \"{key}\" }}"));
    refuses_literal(api_key, |key| format!("api-key = {{ env = \"{key}\" }}"));
    refuses_literal(api_key, |key| format!("api-key = {{ file = \"{key}\" }}"));
    refuses_literal(api_key, |key| format!("api-key = {{ command = [\"false\", \"{key}\"] }}"));
    refuses_literal(api_key, |key| format!("api-key = [\"{key}\"]"));
    refuses_literal(api_key, |key| format!("# was {key}\napi-key = 1"));
    refuses_literal("path = \"test", |key| format!("seal-key = \"{key}\"\npath = \"test"));
    refuses_literal("source = \"fleet-lab\"", |key| format!("source = \"{key}\""));
    refuses_literal("address = \"", |key| format!("address = \"{key}@"));
    refuses_literal("owner = {", |key| format!("owner = {{ api-key = \"{key}\", "));
}

/// A file of devices with a mistake: what is wrong is said, and what stands there is not.
#[test]
fn a_broken_device_file_does_not_show_its_keys() {
    let fleet = fs::read_to_string(fixture("tts-fleet-100.jsonl")).expect("the fixture");
    let line = fleet.lines().nth(1).expect("a device");
    let key = "A8A8FC5456A9C539D1AD973669948FA3";
    let quoted = format!("\"{key}\"");
    assert!(line.contains(&quoted));
    let search = Search::new(&[Secret::new("the key", &key[1..30])]);
    for (from, to) in [
        (quoted.as_str(), format!("\"{key}Z\"")),
        (&quoted, format!("\"{}\"", &key[..31])),
        (&quoted, key.to_owned()),
        (&quoted, format!("{{\"{key}\": 1}}")),
        (&quoted, format!("[{quoted}]")),
        (&quoted, format!("\"{key}")),
        ("\"last_join_nonce\": 4", format!("\"last_join_nonce\": {quoted}")),
        ("\"supports_join\": true", format!("\"supports_join\": {quoted}")),
        ("\"MAC_V1_0_3\"", quoted.clone()),
        ("\"2024-03-05T06:07:08Z\"", quoted.clone()),
    ] {
        let world = World::empty();
        let file = world.config(LOSSES);
        assert!(line.contains(from), "{from}");
        fs::write(world.dir.path().join("broken.jsonl"), line.replacen(from, &to, 1)).expect("a file");
        let text = fs::read_to_string(&file).expect("written");
        let (_, rest) = text.split_once("[target.tts]").expect("a target");
        let source = "[source.rehearsal]\ndevices = \"broken.jsonl\"\n[target.tts]";
        fs::write(&file, format!("{source}{rest}")).expect("a file");
        for form in [&["-vv"], JSON] {
            let ran = loud(&world, "plan", form).says("the embedded source");
            search_output(
                &search,
                &format!("plan with {} for {}", to.replace(key, "KEY"), from.replace(key, "KEY")),
                &ran,
            );
            assert_ne!(ran.code, Some(0));
        }
    }
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
    let search = Search::new(&secrets(&world));
    let ran = loud(&world, "run", &["--yes", "-vv"]).expect(0);
    search_output(&search, "run", &ran);
    fs::remove_file(&file).expect("the configuration is the user's own");
    search_files(&search, &world);
}

fn wishes() -> Wishes {
    Wishes {
        target_app: AppId::unchecked(APP.to_owned()),
        session: SessionMode::Keep,
        abp_reset: BTreeSet::new(),
        frequency_plans: BTreeMap::new(),
        default_frequency_plan: None,
        id_prefix: String::new(),
        id_from: IdFrom::Id,
        attributes: BTreeMap::new(),
        allowed: Vec::new(),
    }
}

/// Panic texts, errors and logs are made by `Debug`.
#[test]
fn nothing_that_holds_keys_shows_them_in_debug() {
    let world = fleet();
    let search = Search::new(&secrets(&world));
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
        search.expect_none("Debug", text.as_bytes());
    }
}

/// One key is leaked on purpose: it is also the ID of its device, which everything prints and the journal holds in the
/// clear.
#[test]
fn a_leaked_canary_is_caught_in_output_and_journal() {
    let world = fleet();
    let js = world.source.record(Table::Js, APP, &dev(1)).expect("in the fixture");
    let canary = hex::encode(path::bytes(&js, "root_keys.app_key.key"));
    for table in [Table::Is, Table::Js, Table::As, Table::Ns] {
        let mut record = world.source.record(table, APP, &dev(1)).expect("in the fixture");
        path::set(&mut record, "ids.device_id", Value::String(canary.clone()));
        world.source.remove(table, APP, &dev(1));
        world.source.tts.store().put(table, &device_key(APP, &canary), record).expect("memory");
    }
    let file = world.config(&format!("{LOSSES}session = \"keep\"\n"));
    select(&file, &[2, 4]);
    let text =
        fs::read_to_string(&file).expect("written").replace("ids = [", &format!("ids = [\"{canary}\", "));
    let search = Search::new(&secrets(&world));
    fs::write(file, text).expect("a file");
    let key = format!("source Js {APP}.{canary}.root_keys.app_key.key");
    let caught: Found = [(key, "hex")].into();
    let ran = loud(&world, "run", &["--yes", "-v"]).expect(0);
    assert_eq!(search.find(ran.err.as_bytes()), caught);
    let json = loud(&world, "status", JSON).expect(0);
    assert_eq!(search.find(json.out.as_bytes()), caught);
    let (files, _) = files(&world);
    let journal = files.iter().filter(|(name, _)| name.starts_with("test.journal"));
    assert_eq!(journal.flat_map(|(_, bytes)| search.find(bytes)).collect::<Found>(), caught);
}
