//! The embedded server against recorded conversations with a real one, over gRPC.
//!
//! `STACKFERRY_CONFORMANCE` names another directory of recordings.

pub mod client;
mod compare;
mod message;
mod pinned;
mod recording;
mod rename;
mod seed;
mod v2;

use std::{
    collections::BTreeMap,
    env, fs,
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use serde_json::Value as Json;
use stackferry::{
    proto,
    rehearsal::{Tts, serve},
};
use tonic::transport::{Channel, Endpoint};

use client::Answer;
use recording::{Recording, Step};

/// A key that no server knows.
const UNKNOWN_KEY: &str =
    "NNSXS.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

fn recordings() -> Vec<Recording> {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/tts-v3.32.1");
    let folder = env::var_os("STACKFERRY_CONFORMANCE").map_or(default, PathBuf::from);
    let entries = fs::read_dir(&folder).expect("the folder of recordings is readable");
    let files = entries.map(|entry| entry.expect("an entry").path());
    let mut files: Vec<_> = files.filter(|file| file.extension().is_some_and(|e| e == "jsonl")).collect();
    files.sort();
    assert!(!files.is_empty(), "no recordings in {}", folder.display());
    files.iter().map(|file| Recording::read(file)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn conformance() {
    let mut disagreements = Vec::new();
    for recording in recordings() {
        disagreements.extend(replay(&recording).await);
    }
    assert!(disagreements.is_empty(), "{}", disagreements.join("\n"));
}

/// The rules do not depend on the names in the recordings.
#[tokio::test(flavor = "multi_thread")]
async fn conformance_with_other_ids() {
    let mut disagreements = Vec::new();
    for recording in recordings() {
        disagreements.extend(replay(&rename::renamed(&recording)).await);
    }
    assert!(disagreements.is_empty(), "{}", disagreements.join("\n"));
}

/// Replays one recording against a fresh server and answers what differs.
async fn replay(recording: &Recording) -> Vec<String> {
    let tts = Tts::new(recording.settings()).expect("memory");
    seed::seed(&tts, recording);
    let served =
        serve(Arc::clone(&tts), SocketAddr::from(([127, 0, 0, 1], 0)), None).await.expect("a free port");
    let endpoint = Endpoint::from_shared(format!("http://{}", served.addr)).expect("an address");
    let channel = endpoint.connect().await.expect("loopback");
    let mut replay = Replay { tts, channel, generated: BTreeMap::new(), keys: BTreeMap::new() };
    let (mut agree, mut out) = (0, Vec::new());
    for step in &recording.steps {
        let differences = replay.step(recording, step).await;
        if differences.is_empty() {
            agree += 1;
            continue;
        }
        let head = format!("{} step {} {}", recording.name, step.n(), step.rpc());
        out.extend(differences.iter().map(|difference| format!("{head}: {difference}")));
    }
    // Shown whether or not the test fails.
    let summary = format!("{}: {agree} of {} steps agree", recording.name, recording.steps.len());
    writeln!(std::io::stderr(), "{summary}").expect("standard error is open");
    served.stop().await;
    out
}

struct Replay {
    tts: Arc<Tts>,
    channel: Channel,
    /// Recorded IDs and keys that this server generated otherwise.
    generated: BTreeMap<String, String>,
    /// Tokens by the name or ID under which the conversation made them.
    keys: BTreeMap<String, String>,
}

impl Replay {
    async fn step(&mut self, recording: &Recording, step: &Step) -> Vec<String> {
        let Some(method) = proto::method(step.path()) else { return vec!["no such method".to_owned()] };
        let recorded = self.translated(&step.0);
        let request = match message::parse(&method.input(), &recorded["req"]) {
            Ok(request) => request,
            Err(error) => return vec![format!("the request cannot be read: {error}")],
        };
        let bearer = match step.0["as"].as_str() {
            None => Vec::new(),
            Some("admin") => client::bearer(&self.tts.settings().api_key),
            Some("bad") => client::bearer(UNKNOWN_KEY),
            Some(name) => match self.keys.get(name) {
                Some(token) => client::bearer(token),
                None => return vec![format!("who is {name}?")],
            },
        };
        let start = Instant::now();
        let mut answer;
        let mut sent = 0;
        loop {
            answer = client::call(&self.channel, &method, step.path(), request.clone(), &bearer).await;
            sent += 1;
            // A bucket fills while time passes: a slow machine has to call more often to empty it.
            let slow = answer.code == tonic::Code::Ok && step.code() == "RESOURCE_EXHAUSTED";
            if sent >= step.repeat() && !(slow && sent < step.repeat() + 20) {
                break;
            }
        }
        self.learn(step, &answer);
        let recorded = Step(self.translated(&recorded));
        compare::differences(recording, &recorded, &method, &answer, start.elapsed())
    }

    /// IDs and keys that were recorded, as this server has them.
    fn translated(&self, json: &Json) -> Json {
        match json {
            Json::String(text) => Json::String(self.generated.get(text).unwrap_or(text).clone()),
            Json::Array(list) => Json::Array(list.iter().map(|v| self.translated(v)).collect()),
            Json::Object(map) => {
                Json::Object(map.iter().map(|(k, v)| (k.clone(), self.translated(v))).collect())
            }
            other => other.clone(),
        }
    }

    /// Notes what this server generated in place of what was recorded.
    fn learn(&mut self, step: &Step, answer: &Answer) {
        let Some(message) = answer.message.as_ref().filter(|_| step.rpc().ends_with("/CreateAPIKey")) else {
            return;
        };
        for field in ["id", "key"] {
            let here = stackferry::map::path::string(message, field);
            if let Some(recorded) = step.text(&format!("/res/{field}")) {
                self.generated.insert(recorded.to_owned(), here.clone());
            }
        }
        let token = stackferry::map::path::string(message, "key");
        for name in ["/res/id", "/res/name", "/res/key"].iter().filter_map(|at| step.text(at)) {
            self.keys.insert(name.to_owned(), token.clone());
        }
    }
}
