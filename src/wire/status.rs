//! What a server says when it refuses: `grpc-status`, `grpc-message` and the `google.rpc.Status` in
//! `grpc-status-details-bin`, decoded into the errors of The Things Stack.
//!
//! Everything here comes from a server and may be garbage: nothing panics, and what cannot be read is left out.

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use http::HeaderMap;
use prost_reflect::{DynamicMessage, prost::Message as _};
use serde_json::{Map, Value};
pub use tonic::Code;

use crate::{map::path, proto};

/// Longest text of a server that is kept, in characters.
const MAX_TEXT: usize = 600;
/// Deepest chain of causes that is followed.
const MAX_CAUSES: usize = 32;

/// `google.rpc.Status` (googleapis `google/rpc/status.proto`).
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

/// One error of The Things Stack (`ttn.lorawan.v3.ErrorDetails`).
#[derive(Debug, Clone, PartialEq)]
pub struct Detail {
    /// Package that defined the error, such as `pkg/networkserver`.
    pub namespace: String,
    /// Name of the error in its package, such as `field_value`.
    pub name: String,
    /// Text with `{attributes}` to fill in.
    pub message_format: String,
    /// The attributes, as JSON.
    pub attributes: Map<String, Value>,
    /// gRPC status code of this error; a cause may have another one than the call. `Unknown` where not given.
    pub code: Code,
}

impl Detail {
    /// The text with its attributes filled in; attributes that are not there stay as they are written.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let mut rest = self.message_format.as_str();
        while let Some((before, after)) = rest.split_once('{') {
            out.push_str(before);
            match after.split_once('}') {
                Some((name, tail)) if self.attributes.contains_key(name) => {
                    out.push_str(&plain(self.attributes.get(name)));
                    rest = tail;
                }
                _ => {
                    out.push('{');
                    rest = after;
                }
            }
        }
        out + rest
    }

    /// The strings in attribute `name`: a list, or one string.
    pub fn strings(&self, name: &str) -> Vec<String> {
        match self.attributes.get(name) {
            Some(Value::Array(list)) => list.iter().filter_map(|v| v.as_str().map(clean)).collect(),
            Some(Value::String(one)) => vec![clean(one)],
            _ => Vec::new(),
        }
    }

    fn is_validation(&self) -> bool {
        self.namespace == "pkg/errors" && self.name == "validation"
    }
}

/// The status of a call that did not succeed.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// gRPC status code.
    pub code: Code,
    /// `grpc-message`, control characters removed.
    pub message: String,
    /// The errors: what the call reports first, then each one's cause. Empty when the server is no The Things Stack.
    pub errors: Vec<Detail>,
}

impl Status {
    /// The status in the headers or trailers of an answer; `None` when they hold no `grpc-status`.
    pub(super) fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let code = Code::from_bytes(headers.get("grpc-status")?.as_bytes());
        let message = headers.get("grpc-message").map(|m| clean(&percent_decoded(m.as_bytes())));
        let details = headers.get("grpc-status-details-bin").map(|d| details(d.as_bytes()));
        Some(Self { code, message: message.unwrap_or_default(), errors: details.unwrap_or_default() })
    }

    /// The error that the call reports.
    pub fn outermost(&self) -> Option<&Detail> {
        self.errors.first()
    }

    /// The error that all others come from: validation errors name the field there.
    pub fn deepest(&self) -> Option<&Detail> {
        self.errors.last()
    }

    /// True when the call reports this error; causes are asked with [`Status::caused_by`].
    pub fn is(&self, namespace: &str, name: &str) -> bool {
        self.outermost().is_some_and(|d| d.namespace == namespace && d.name == name)
    }

    /// True when this error is reported or is a cause of it.
    pub fn caused_by(&self, namespace: &str, name: &str) -> bool {
        self.errors.iter().any(|d| d.namespace == namespace && d.name == name)
    }

    /// The field that the error is about, as a path from the request (`end_device.ids.dev_eui`).
    ///
    /// Validation errors nest one level for each message, and each names its own field only; other errors name the
    /// whole path themselves (`pkg/networkserver:field_value`), and their causes speak of types rather than of fields.
    pub fn field(&self) -> Option<String> {
        let nested: Vec<_> =
            self.errors.iter().take_while(|d| d.is_validation()).flat_map(|d| d.strings("field")).collect();
        if !nested.is_empty() {
            return Some(nested.join("."));
        }
        self.errors.iter().find_map(|d| d.strings("field").into_iter().next())
    }

    /// The server's own words: of validation errors the reason at the deepest field, of others every text once.
    pub fn words(&self) -> String {
        let text = match (self.deepest(), self.field()) {
            (Some(deepest), Some(field)) if deepest.is_validation() => {
                format!("invalid `{field}`: {}", plain(deepest.attributes.get("reason")))
            }
            (Some(_), _) => {
                let mut texts: Vec<String> = Vec::new();
                for text in self.errors.iter().map(Detail::text).filter(|t| !t.is_empty()) {
                    if !texts.contains(&text) {
                        texts.push(text);
                    }
                }
                texts.join(": ")
            }
            (None, _) => self.message.clone(),
        };
        match self.outermost() {
            Some(d) => clean(&format!("{text} ({}:{})", d.namespace, d.name)),
            None if text.is_empty() => format!("status {:?}", self.code),
            None => clean(&text),
        }
    }
}

/// Server text that is safe to show: one line, no control characters, of bounded length.
pub(super) fn clean(text: &str) -> String {
    let mut out: String =
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_TEXT + 1).collect();
    if out.chars().count() > MAX_TEXT {
        out.pop();
        out.push('…');
    }
    out.trim().to_owned()
}

fn plain(value: Option<&Value>) -> String {
    match value {
        Some(Value::String(text)) => text.clone(),
        // Numbers in a Struct are doubles: 20.0 is a count.
        Some(Value::Number(n)) => match n.as_f64() {
            Some(f) if f.fract() == 0.0 && f.abs() < 1e15 => format!("{f:.0}"),
            _ => n.to_string(),
        },
        Some(other) => other.to_string(),
        None => String::new(),
    }
}

/// `grpc-message` is percent-encoded UTF-8 (gRPC over HTTP/2, "Status-Message"); what is not stays as it is.
fn percent_decoded(bytes: &[u8]) -> String {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let [first, tail @ ..] = rest {
        let mut byte = [0];
        match tail {
            [a, b, after @ ..] if *first == b'%' && hex::decode_to_slice([*a, *b], &mut byte).is_ok() => {
                out.extend(byte);
                rest = after;
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn details(header: &[u8]) -> Vec<Detail> {
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &STANDARD,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    let Ok(bytes) = LENIENT.decode(header) else { return Vec::new() };
    let Ok(status) = RpcStatus::decode(bytes.as_slice()) else { return Vec::new() };
    let ours = status.details.iter().find(|any| any.type_url.ends_with("/ttn.lorawan.v3.ErrorDetails"));
    let decode = |any: &prost_types::Any| {
        DynamicMessage::decode(proto::descriptor("ErrorDetails"), any.value.as_slice()).ok()
    };
    let mut next = ours.and_then(decode);
    let mut out = Vec::new();
    while let Some(message) = next.take().filter(|_| out.len() < MAX_CAUSES) {
        next = path::child(&message, "cause");
        out.push(detail(&message));
    }
    out
}

fn detail(message: &DynamicMessage) -> Detail {
    let text = |name| clean(&path::string(message, name));
    let attributes = path::child(message, "attributes").and_then(|a| serde_json::to_value(a).ok());
    Detail {
        namespace: text("namespace"),
        name: text("name"),
        message_format: text("message_format"),
        attributes: match attributes {
            Some(Value::Object(map)) => map,
            _ => Map::new(),
        },
        code: Code::from(i32::try_from(path::number(message, "code")).unwrap_or_default()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The headers of a refused call, as the server of The Things Stack writes them; `errors` from the outermost on.
    pub fn headers(code: Code, errors: &[(&str, &str, &str, Value)]) -> HeaderMap {
        let mut cause = None;
        for (namespace, name, format, attributes) in errors.iter().rev() {
            let json = serde_json::json!({
                "namespace": namespace, "name": name, "message_format": format,
                "attributes": attributes, "cause": cause.take(), "code": code as i32,
            });
            cause = Some(json);
        }
        let details = cause.map(|json| {
            let message = DynamicMessage::deserialize(proto::descriptor("ErrorDetails"), json).expect("fits");
            prost_types::Any {
                type_url: "type.googleapis.com/ttn.lorawan.v3.ErrorDetails".into(),
                value: message.encode_to_vec(),
            }
        });
        let message = "see details%0A".to_owned();
        let status =
            RpcStatus { code: code as i32, message: message.clone(), details: details.into_iter().collect() };
        let mut headers = HeaderMap::new();
        headers.insert("grpc-status", (code as i32).into());
        headers.insert("grpc-message", message.parse().expect("valid"));
        let encoded = base64::engine::general_purpose::STANDARD_NO_PAD.encode(status.encode_to_vec());
        headers.insert("grpc-status-details-bin", encoded.parse().expect("valid"));
        headers
    }

    fn validation(field: &str, reason: &str) -> (&'static str, &'static str, &'static str, Value) {
        let attributes = serde_json::json!({"field": field, "reason": reason});
        ("pkg/errors", "validation", "invalid `{field}`: {reason}", attributes)
    }

    #[test]
    fn nested_validation_errors_name_the_whole_path_and_the_deepest_reason() {
        let nested = "embedded message failed validation";
        let errors = [
            validation("end_device", nested),
            validation("ids", nested),
            validation("device_id", "too short"),
        ];
        let status = Status::from_headers(&headers(Code::InvalidArgument, &errors)).expect("has a status");
        assert_eq!(status.field().as_deref(), Some("end_device.ids.device_id"));
        assert_eq!(status.words(), "invalid `end_device.ids.device_id`: too short (pkg/errors:validation)");
        assert_eq!(status.deepest().map(|d| d.strings("field")), Some(vec!["device_id".to_owned()]));
    }

    #[test]
    fn an_error_with_a_cause_of_another_kind_keeps_its_own_field() {
        let errors = [
            (
                "pkg/networkserver",
                "field_value",
                "invalid value of field `{field}`",
                serde_json::json!({"field": "lorawan_version"}),
            ),
            (
                "pkg/ttnpb",
                "field_bound",
                "`{field}` should be between `{min}` and `{max}`",
                serde_json::json!({"field": "MACVersion", "min": 1.0, "max": 6.0}),
            ),
        ];
        let status = Status::from_headers(&headers(Code::InvalidArgument, &errors)).expect("has a status");
        assert_eq!(status.field().as_deref(), Some("lorawan_version"));
        assert_eq!(
            status.words(),
            "invalid value of field `lorawan_version`: `MACVersion` should be between `1` and `6` (pkg/networkserver:field_value)"
        );
        assert!(status.is("pkg/networkserver", "field_value"));
        assert!(!status.is("pkg/ttnpb", "field_bound"));
        assert!(status.caused_by("pkg/ttnpb", "field_bound"));
    }

    #[test]
    fn the_text_of_a_server_cannot_drive_a_terminal_or_fill_it() {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-status", 13.into());
        headers.insert("grpc-message", "%1B[2Jgone%0Abad %zz %".parse().expect("valid"));
        let status = Status::from_headers(&headers).expect("has a status");
        assert_eq!(status.message, "[2Jgone bad %zz %");
        assert_eq!(clean(&"x".repeat(10_000)).chars().count(), MAX_TEXT + 1);
    }

    #[test]
    fn a_bottomless_chain_of_causes_ends() {
        let errors = vec![validation("a", "b"); 90];
        let status = Status::from_headers(&headers(Code::InvalidArgument, &errors)).expect("has a status");
        assert!(status.errors.len() <= MAX_CAUSES);
        assert_eq!(status.code, Code::InvalidArgument);
    }

    #[test]
    fn attributes_that_are_missing_stay_visible_in_the_text() {
        let detail = Detail {
            namespace: String::new(),
            name: String::new(),
            message_format: "{a} and {b} {".into(),
            attributes: Map::from_iter([("a".into(), Value::from(2.5))]),
            code: Code::Unknown,
        };
        assert_eq!(detail.text(), "2.5 and {b} {");
    }

    proptest! {
        #[test]
        fn garbage_never_panics(status: Vec<u8>, message: Vec<u8>, garbage: Vec<u8>, layers: u8) {
            let any = prost_types::Any { type_url: "x/ttn.lorawan.v3.ErrorDetails".into(), value: garbage.clone() };
            let inside = RpcStatus { details: vec![any], ..RpcStatus::default() }.encode_to_vec();
            let encode = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes).into_bytes();
            let details = match layers % 3 {
                0 => garbage,
                1 => encode(&garbage),
                _ => encode(&inside),
            };
            let mut headers = HeaderMap::new();
            for (name, value) in
                [("grpc-status", status), ("grpc-message", message), ("grpc-status-details-bin", details)]
            {
                if let Ok(value) = http::HeaderValue::from_bytes(&value) {
                    headers.insert(name, value);
                }
            }
            if let Some(status) = Status::from_headers(&headers) {
                prop_assert!(status.words().chars().all(|c| !c.is_control()));
            }
        }
    }
}
