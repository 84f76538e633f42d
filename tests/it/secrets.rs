//! No secret leaves (S7): everything that the binary prints, and every byte of its files outside the seal, is searched
//! for every secret of the fleet and of the two deployments, in every form in which software writes bytes.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fmt::Write as _,
    fs,
    net::SocketAddr,
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use axum::{body::Body, extract::Request, response::Response};
use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD},
};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost_reflect::{DynamicMessage, MapKey, Value, bytes::Bytes};
use stackferry::{
    map::path,
    proto,
    rehearsal::{Fault, Settings, load, store::Table},
};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Code;

use crate::world::{APP, LOSSES, Ran, World, dev, fixture};

/// Shorter ones would be found by chance.
const SHORTEST: usize = 8;
/// How many bytes of a pattern the index looks at.
const HEAD: usize = 6;

/// A secret and what it is. The name may be printed.
struct Secret {
    name: String,
    bytes: Vec<u8>,
}

impl Secret {
    fn new(name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        Self { name: name.into(), bytes: bytes.into() }
    }
}

/// Where a secret was found: its name, and the form.
type Found = BTreeSet<(String, &'static str)>;

/// The forms of many secrets, found in one pass.
struct Search {
    patterns: Vec<(String, &'static str, Vec<u8>)>,
    by_head: HashMap<[u8; HEAD], Vec<usize>>,
    /// Which first two bytes any pattern has: most positions end here.
    starts: Vec<bool>,
}

impl Search {
    fn new(secrets: &[Secret]) -> Self {
        let mut search = Self { patterns: Vec::new(), by_head: HashMap::new(), starts: vec![false; 1 << 16] };
        for secret in secrets {
            assert!(secret.bytes.len() >= SHORTEST, "{} is too short to be searched for", secret.name);
            for (form, pattern) in forms(&secret.bytes) {
                let head = *pattern.first_chunk::<HEAD>().expect("long enough");
                search.starts[usize::from(u16::from_be_bytes([head[0], head[1]]))] = true;
                search.by_head.entry(head).or_default().push(search.patterns.len());
                search.patterns.push((secret.name.clone(), form, pattern));
            }
        }
        search
    }

    /// Every secret in `text`: as it stands, without white space (wrapped lines, pretty lists), and without anything
    /// but letters and digits (`04:02:94`, `[0x04, 0x02]`).
    fn find(&self, text: &[u8]) -> Found {
        let tight: Vec<_> = text.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect();
        let bare: Vec<_> = text.iter().copied().filter(u8::is_ascii_alphanumeric).collect();
        let mut found = Found::new();
        for view in [text, &tight, &bare] {
            for (at, head) in view.windows(HEAD).enumerate() {
                if !self.starts[usize::from(u16::from_be_bytes([head[0], head[1]]))] {
                    continue;
                }
                let Some(here) = self.by_head.get(head) else { continue };
                for (name, form, pattern) in here.iter().map(|i| &self.patterns[*i]) {
                    if view[at..].starts_with(pattern) {
                        found.insert((name.clone(), form));
                    }
                }
            }
        }
        found
    }

    #[track_caller]
    fn expect_none(&self, place: &str, text: &[u8]) {
        let found = self.find(text);
        assert!(found.is_empty(), "{place} holds {found:?}");
    }
}

fn forms(bytes: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let list =
        |each: fn(&u8) -> String, by: &str| bytes.iter().map(each).collect::<Vec<_>>().join(by).into_bytes();
    let debug = format!("{:?}", Bytes::copy_from_slice(bytes));
    let mut forms = vec![
        ("raw", bytes.to_vec()),
        ("hex", hex::encode(bytes).into_bytes()),
        ("HEX", hex::encode_upper(bytes).into_bytes()),
        ("0x list", list(|b| format!("0x{b:02x}"), "")),
        ("decimal list", list(u8::to_string, ",")),
        ("escaped", debug.trim_start_matches("b\"").trim_end_matches('"').as_bytes().to_vec()),
    ];
    // Base64 of something longer that holds the secret: it begins at the first, second or third byte of a group. The
    // characters that depend on its neighbours are left out; padding is among them.
    for shift in 0..3 {
        let shifted = [&vec![0; shift], bytes].concat();
        let (from, to) = ((shift * 8).div_ceil(6), shifted.len() * 8 / 6);
        let (plain, url) = (BASE64_STANDARD_NO_PAD.encode(&shifted), BASE64_URL_SAFE_NO_PAD.encode(&shifted));
        forms.push(("base64", plain.as_bytes()[from..to].to_vec()));
        if plain != url {
            forms.push(("base64url", url.as_bytes()[from..to].to_vec()));
        }
    }
    forms
}

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
        for form in [&[][..], &["-vv"], JSON, &["--output", "json", "-vv"]] {
            let ran = loud(&world, verb, &[arguments, form].concat()).expect(0).says(says);
            search_output(&search, &format!("{verb} {form:?}"), &ran);
            printed += ran.out.len() + ran.err.len();
        }
    };
    hear("plan", &[], "dev-00007");
    hear("rehearse", &[], "dev-00007");
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
    for code in [Code::InvalidArgument, Code::PermissionDenied, Code::Internal, Code::Unauthenticated] {
        for method in ["JsEndDeviceRegistry/Set", "NsEndDeviceRegistry/Set", "EndDeviceRegistry/Create"] {
            let world = fleet();
            let file = world.config(&format!("{LOSSES}session = \"keep\"\n"));
            select(&file, &[1, 2, 5]);
            let search = Search::new(&secrets(&world));
            world
                .target
                .tts
                .on_call(move |call| call.method.ends_with(method).then_some(Fault::Status(code)));
            let form = if method.starts_with('J') { JSON } else { &["-vv"] };
            let ran = loud(&world, "run", &[&["--yes"], form].concat());
            assert_ne!(ran.code, Some(0));
            search_output(&search, &format!("run with {code:?} from {method}"), &ran);
            search_files(&search, &world);
        }
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
