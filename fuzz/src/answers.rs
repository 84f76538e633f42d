//! What servers answer.

use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use prost_reflect::{DynamicMessage, ReflectMessage as _, Value};
use stackferry::{
    map::{diff, json, path, rules, unknown},
    model::secret::Secret,
    proto, wire,
};

use super::records;

const METHODS: &[(&str, &str)] = &[
    ("/ttn.lorawan.v3.EndDeviceRegistry/Get", "GetEndDeviceRequest"),
    ("/ttn.lorawan.v3.NsEndDeviceRegistry/Set", "SetEndDeviceRequest"),
    ("/ttn.lorawan.v3.EndDeviceRegistry/List", "ListEndDevicesRequest"),
    ("/ttn.lorawan.v3.ApplicationRegistry/Get", "GetApplicationRequest"),
    ("/ttn.lorawan.v3.Ns/GetDeviceAddressPrefixes", "google.protobuf.Empty"),
    ("/ttn.lorawan.v3.Configuration/ListFrequencyPlans", "ListFrequencyPlansRequest"),
    ("/ttn.lorawan.v3.Configuration/GetPhyVersions", "GetPhyVersionsRequest"),
    ("/ttn.lorawan.v3.ApplicationWebhookRegistry/List", "ListApplicationWebhooksRequest"),
];

const API_KEY: &str = "NNSXS.CANARYCANARYCANARY.CANARYCANARYCANARYCANARY";
const ROOT_KEY: &str = "CA11A7CA11A7CA11A7CA11A7CA11A701";

/// An answer as text: `<number of the method> <HTTP status> <raw or framed>`, then headers, and trailers with a `~` before
/// them, an empty line, and the body. The value `@status` or `@error` of a header stands for the body as a
/// `google.rpc.Status`, or as the error in one. It becomes a message or an error that says what is wrong, and tells
/// nothing of what was sent.
pub fn answers(data: &[u8]) {
    let Some(given) = Given::read(data) else { return };
    let (method, name) = METHODS[given.method % METHODS.len()];
    let mut request = proto::message(name);
    if path::exists(&request.descriptor(), "end_device.root_keys.app_key.key") {
        let key = (0..16).map(|i| u8::from_str_radix(&ROOT_KEY[2 * i..2 * i + 2], 16).expect("hex"));
        path::set(
            &mut request,
            "end_device.root_keys.app_key.key",
            Value::Bytes(key.collect::<Vec<_>>().into()),
        );
    }
    let sends_root_key = path::has(&request, "end_device.root_keys");
    let key = Secret::new(API_KEY);
    let judged = wire::judge(method, &request, Some(&key), given.head, given.pieces, given.trailers);
    assert!(judged.wait.as_secs() <= 60, "an answer holds us for {:?}", judged.wait);
    match judged.result {
        Ok(answer) => {
            let shown = format!("{:?} {:?}", answer.warnings, answer.total_count);
            secret_stays(&shown, sends_root_key);
            understood(&answer.message);
        }
        Err(error) => {
            let status = error.status().map(|status| (status.words(), status.field()));
            let shown = format!("{error} {:?} {:?} {status:?}", error.message(), error.hint());
            secret_stays(&shown, sends_root_key);
            assert!(shown.len() < 64 << 10, "an error of {} bytes", shown.len());
            assert!(
                !error.to_string().contains(|c: char| c.is_control() && c != '\n'),
                "it drives the terminal"
            );
            let _ = stackferry::plan::refused(stackferry::plan::finding::Kind::IdTaken, &error);
        }
    }
}

fn secret_stays(shown: &str, root_key: bool) {
    assert!(!shown.contains(API_KEY), "the API key is shown: {shown}");
    assert!(!root_key || !shown.contains(ROOT_KEY), "a key is shown: {shown}");
}

fn understood(message: &DynamicMessage) {
    let _ =
        (unknown::find(message), rules::violations(message), path::stored(message), json::to_json(message));
    assert!(diff::diff(message, message).is_empty());
    if message.descriptor().name() == "EndDevice" {
        records::message(message);
    }
}

struct Given {
    method: usize,
    head: Response<()>,
    pieces: Vec<Bytes>,
    trailers: Option<HeaderMap>,
}

impl Given {
    fn read(data: &[u8]) -> Option<Self> {
        let split = data.windows(2).position(|pair| pair == b"\n\n")?;
        let (head, body) = (String::from_utf8_lossy(&data[..split]), &data[split + 2..]);
        let mut lines = head.lines();
        let mut first = lines.next()?.split(' ');
        let method = first.next()?.parse().ok()?;
        let status: u16 = first.next()?.parse().ok()?;
        let framed = first.next() == Some("framed");
        let mut response = Response::new(());
        *response.status_mut() = http::StatusCode::from_u16(status).ok()?;
        let (mut trailers, mut any) = (HeaderMap::new(), false);
        for line in lines.take(32) {
            let (name, value) = line.split_once(": ")?;
            let into = match name.strip_prefix('~') {
                Some(_) => {
                    any = true;
                    &mut trailers
                }
                None => response.headers_mut(),
            };
            let name = HeaderName::from_bytes(name.trim_start_matches('~').as_bytes()).ok()?;
            into.append(name, HeaderValue::from_bytes(&filled(value, body)).ok()?);
        }
        let mut sent = Vec::new();
        if framed {
            sent.push(0);
            sent.extend(u32::try_from(body.len()).ok()?.to_be_bytes());
        }
        sent.extend(body);
        let pieces = sent.chunks(7).map(Bytes::copy_from_slice).collect();
        Some(Self { method, head: response, pieces, trailers: any.then_some(trailers) })
    }
}

/// The value of a header.
fn filled(value: &str, body: &[u8]) -> Vec<u8> {
    match value {
        "@status" => BASE64_STANDARD_NO_PAD.encode(body).into_bytes(),
        "@error" => {
            let any = prost_types::Any {
                type_url: "type.googleapis.com/ttn.lorawan.v3.ErrorDetails".into(),
                value: body.to_vec(),
            };
            let mut status = Vec::new();
            prost::encoding::message::encode(3, &any, &mut status);
            BASE64_STANDARD_NO_PAD.encode(status).into_bytes()
        }
        other => other.as_bytes().to_vec(),
    }
}
