//! The embedded V2 against a recorded conversation with real discovery and handler servers, over TLS.

use std::{fs, io::Write as _, net::SocketAddr, path::Path, sync::Arc, time::Instant};

use prost_reflect::Value;
use serde_json::{Value as Json, json};
use stackferry::{
    map::path,
    proto,
    rehearsal::{AccessKey, ServedTtnV2, TtnV2, V2Application, V2Settings, serve_ttn_v2},
};
use tonic::transport::Channel;

use super::{
    client, compare, message, pinned,
    recording::{Recording, Step},
    rename,
};

fn recorded() -> Recording {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/ttn-v2/handler.jsonl");
    assert!(fs::exists(&file).expect("a folder"), "the recording is there");
    Recording::read(&file)
}

#[tokio::test(flavor = "multi_thread")]
async fn conformance_of_v2() {
    let disagreements = replay(&recorded()).await;
    assert!(disagreements.is_empty(), "{}", disagreements.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn conformance_of_v2_with_other_ids() {
    let renamed = rename::renamed(&recorded());
    assert_ne!(application(&renamed), application(&recorded()));
    let disagreements = replay(&renamed).await;
    assert!(disagreements.is_empty(), "{}", disagreements.join("\n"));
}

/// The application that the conversation is about.
fn application(recording: &Recording) -> String {
    let step = recording.steps.iter().find(|step| step.is_ok()).expect("a step that worked");
    step.text("/req/app_id").expect("its application").to_owned()
}

async fn replay(recording: &Recording) -> Vec<String> {
    let v2 = seeded(recording);
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let served = serve_ttn_v2(Arc::clone(&v2), any, any, true).await.expect("free ports");
    let discovery_certificate = served.discovery_certificate.clone().expect("it speaks TLS");
    let discovery = pinned::connect(served.discovery, &discovery_certificate).await.expect("loopback");
    let handler = pinned::connect(served.handler, &served.certificate).await.expect("loopback");
    let (mut agree, mut out) = (0, Vec::new());
    for step in &recording.steps {
        let channel = if step.path().starts_with("/discovery.") { &discovery } else { &handler };
        let differences = replay_step(recording, &own(step, &served), channel).await;
        if differences.is_empty() {
            agree += 1;
        }
        let head = format!("{} step {} {}", recording.name, step.n(), step.rpc());
        out.extend(differences.iter().map(|difference| format!("{head}: {difference}")));
    }
    let summary = format!("ttn-v2 {}: {agree} of {} steps agree", recording.name, recording.steps.len());
    writeln!(std::io::stderr(), "{summary}").expect("standard error is open");
    served.stop().await;
    out
}

/// What the server held before: the application, and the devices that the conversation did not make.
fn seeded(recording: &Recording) -> Arc<TtnV2> {
    let id = application(recording);
    let key = |name: &str, rights: &[&str]| AccessKey::new(&access_key(name), rights);
    let keys = vec![
        key("full", &["devices", "settings"]),
        key("devices", &["messages", "devices"]),
        key("settings", &["settings"]),
    ];
    let settings = V2Settings { applications: vec![V2Application::new(&id, keys)], ..V2Settings::default() };
    let v2 = TtnV2::new(settings).expect("memory");
    let answered = |rpc: &'static str| recording.steps.iter().filter(move |s| s.rpc() == rpc && s.is_ok());
    let functions = answered("ApplicationManager/GetApplication").next().expect("it was read");
    v2.load_application(functions.0["res"].to_string().as_bytes(), &id).expect("an application");
    let made: Vec<_> =
        answered("ApplicationManager/SetDevice").filter_map(|s| s.text("/req/dev_id")).collect();
    let longest = answered("ApplicationManager/GetDevicesForApplication")
        .filter_map(|step| step.0["res"]["devices"].as_array())
        .max_by_key(|list| list.len())
        .expect("a list");
    let before = longest.iter().filter(|device| !made.iter().any(|id| device["dev_id"] == *id));
    let list = json!({"devices": before.collect::<Vec<_>>()});
    v2.load_devices(list.to_string().as_bytes(), &id).expect("a listing");

    // The words of that handler's own announcement.
    let announced = &answered("Discovery/GetByAppID").next().expect("it was found").0["res"];
    v2.announce_otherwise(|announcement| {
        for (field, text) in announced.as_object().expect("a message") {
            path::set(announcement, field, Value::String(text.as_str().expect("a text").to_owned()));
        }
    });
    v2
}

fn access_key(name: &str) -> String {
    format!("ttn-account-v2.{name:A<43}")
}

/// The step with what is this server's own: its address and certificate.
fn own(step: &Step, served: &ServedTtnV2) -> Step {
    let mut step = step.clone();
    if step.rpc() == "Discovery/GetByAppID" && step.is_ok() {
        let res = &mut step.0["res"];
        res["net_address"] = Json::String(format!("localhost:{}", served.handler.port()));
        res["certificate"] = Json::String(served.certificate.clone());
        // Of a new key each time: only that it is there is compared.
        assert_eq!(res["public_key"], "(PEM)");
    }
    step
}

async fn replay_step(recording: &Recording, step: &Step, channel: &Channel) -> Vec<String> {
    let Some(method) = proto::method(step.path()) else { return vec!["no such method".to_owned()] };
    let request = match message::parse(&method.input(), &step.0["req"]) {
        Ok(request) => request,
        Err(error) => return vec![format!("the request cannot be read: {error}")],
    };
    let mut metadata: Vec<(String, String)> =
        step.0["as"].as_str().map(|name| ("key".to_owned(), access_key(name))).into_iter().collect();
    for (name, value) in step.0["meta"].as_object().into_iter().flatten() {
        metadata.push((name.clone(), value.as_str().expect("a text").to_owned()));
    }
    let start = Instant::now();
    let mut answer = client::call(channel, &method, step.path(), request, &metadata).await;
    if let Some(message) = answer.message.as_mut().filter(|message| path::has(message, "public_key")) {
        let pem = path::string(message, "public_key");
        assert!(pem.starts_with("-----BEGIN PUBLIC KEY-----"), "{pem}");
        path::set(message, "public_key", Value::String("(PEM)".into()));
    }
    compare::differences(recording, step, &method, &answer, start.elapsed())
}

/// The certificate is CA and leaf in one, as those of V2: what makes webpki refuse it.
#[tokio::test(flavor = "multi_thread")]
async fn webpki_refuses_the_certificates_of_v2_as_it_does_the_real_ones() {
    let v2 = seeded(&recorded());
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let served = serve_ttn_v2(v2, any, any, true).await.expect("free ports");
    let why = pinned::trusting(served.handler, &served.certificate).await.expect_err("refused");
    assert!(why.contains("CaUsedAsEndEntity"), "{why}");
    let other = served.discovery_certificate.clone().expect("it speaks TLS");
    assert_ne!(other, served.certificate);
    pinned::connect(served.handler, &other).await.expect_err("another certificate");
    served.stop().await;
}

/// Discovery and handler are two servers, and discovery may speak plaintext.
#[tokio::test(flavor = "multi_thread")]
async fn each_server_of_v2_has_its_own_services() {
    let recording = recorded();
    let v2 = seeded(&recording);
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let served = serve_ttn_v2(v2, any, any, false).await.expect("free ports");
    assert_eq!(served.discovery_certificate, None);
    let address = format!("http://{}", served.discovery);
    let plain = Channel::from_shared(address).expect("an address").connect().await.expect("loopback");
    let handler = pinned::connect(served.handler, &served.certificate).await.expect("loopback");
    let mut codes = Vec::new();
    for (channel, at) in [(&plain, 0), (&handler, 0), (&plain, 3), (&handler, 3)] {
        let step = &recording.steps[at];
        let method = proto::method(step.path()).expect("a method");
        let request = message::parse(&method.input(), &step.0["req"]).expect("a request");
        let metadata = [("key".to_owned(), access_key("full"))];
        codes.push(client::call(channel, &method, step.path(), request, &metadata).await.code);
    }
    use tonic::Code::{Ok, Unimplemented};
    assert_eq!(codes, [Ok, Unimplemented, Unimplemented, Ok]);
    served.stop().await;
}
