//! Errors as The Things Stack answers them: a gRPC status with `ttn.lorawan.v3.ErrorDetails` (`pkg/errors`).

use std::fmt;

use prost_reflect::{
    DynamicMessage,
    prost::{self, Message as _},
};
use serde_json::{Map, Value as Json, json};
use tonic::{Code, Status, metadata::MetadataMap};

use crate::{map::rules::Violation, proto, rehearsal::service};

/// A kind of error that the stack defines: what its code calls a definition.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    code: Code,
    namespace: &'static str,
    name: &'static str,
    format: &'static str,
}

impl Kind {
    /// A definition; `format` names attributes in braces.
    pub const fn new(code: Code, namespace: &'static str, name: &'static str, format: &'static str) -> Self {
        Self { code, namespace, name, format }
    }

    /// The error without attributes.
    pub fn failure(&self) -> Failure {
        self.with(json!({}))
    }

    /// The error with attributes: a JSON object.
    pub fn with(&self, attributes: Json) -> Failure {
        let attributes = match attributes {
            Json::Object(map) => map,
            _ => Map::new(),
        };
        Failure(Box::new(Detail {
            kind: Some(*self),
            code: self.code,
            text: String::new(),
            attributes,
            cause: None,
            headers: Vec::new(),
        }))
    }
}

/// Why a call failed, and the headers of the answer. Attributes are public: identifiers, field names and limits, never keys.
#[derive(Clone)]
pub struct Failure(Box<Detail>);

#[derive(Clone)]
struct Detail {
    kind: Option<Kind>,
    /// Of errors without a definition.
    code: Code,
    /// For errors without a definition, which the stack answers as `UNKNOWN` with their text.
    text: String,
    attributes: Map<String, Json>,
    cause: Option<Failure>,
    headers: Vec<(String, String)>,
}

const VALIDATION: Kind =
    Kind::new(Code::InvalidArgument, "pkg/errors", "validation", "invalid `{field}`: {reason}");

impl Failure {
    /// An error of Go's own, without a definition.
    pub fn plain(text: impl Into<String>) -> Self {
        Self(Box::new(Detail {
            kind: None,
            code: Code::Unknown,
            text: text.into(),
            attributes: Map::new(),
            cause: None,
            headers: Vec::new(),
        }))
    }

    /// A status and a text without details: not of this stack's making.
    pub fn bare(code: Code, text: impl Into<String>) -> Self {
        let mut failure = Self::plain(text);
        failure.0.code = code;
        failure
    }

    /// A status chosen by a test, with or without namespace and name.
    pub fn injected(code: Code, definition: Option<(&'static str, &'static str)>) -> Self {
        let (namespace, name) = definition.unwrap_or(("rehearsal", "injected"));
        Kind::new(code, namespace, name, "injected failure").failure()
    }

    /// A broken validation rule, nested as deep as the field (`pkg/errors/conversion.go`).
    pub fn invalid(violation: &Violation) -> Self {
        let links = violation.chain().iter().rev();
        let nested = links.fold(None, |cause: Option<Self>, link| {
            let this = VALIDATION.with(json!({
                "field": link.field, "reason": link.reason, "name": format!("{}ValidationError", link.message),
            }));
            Some(match cause {
                Some(cause) => this.because(cause),
                None => this,
            })
        });
        nested.unwrap_or_else(|| VALIDATION.failure())
    }

    /// The same error with a cause.
    #[must_use]
    pub fn because(mut self, cause: Self) -> Self {
        self.0.cause = Some(cause);
        self
    }

    /// The gRPC status code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// `namespace:name`; empty for errors without a definition.
    pub fn full_name(&self) -> String {
        self.0.kind.map(|kind| format!("{}:{}", kind.namespace, kind.name)).unwrap_or_default()
    }

    /// True for the error of this definition.
    pub fn is(&self, kind: &Kind) -> bool {
        self.0.kind.is_some_and(|own| own.namespace == kind.namespace && own.name == kind.name)
    }

    /// Response headers that go with the answer, such as `x-rate-limit-reset`.
    pub fn headers(&self) -> &[(String, String)] {
        &self.0.headers
    }

    /// The same error with more response headers.
    #[must_use]
    pub fn with_headers(mut self, headers: Vec<(String, String)>) -> Self {
        self.0.headers.extend(headers);
        self
    }

    /// What caused it.
    pub fn cause(&self) -> Option<&Self> {
        self.0.cause.as_ref()
    }

    /// The message of the status: `error:<namespace>:<name> (<text>)`.
    pub fn message(&self) -> String {
        let Some(kind) = self.0.kind else { return self.0.text.clone() };
        let mut text = kind.format.to_owned();
        for (name, value) in &self.0.attributes {
            let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            text = text.replace(&format!("{{{name}}}"), &shown);
        }
        format!("error:{} ({text})", self.full_name())
    }

    /// The status with its details.
    pub fn status(&self) -> Status {
        let Some(details) = self.details() else {
            return Status::new(self.code(), self.message());
        };
        let rpc = RpcStatus {
            code: self.code() as i32,
            message: self.message(),
            details: vec![prost_types::Any {
                type_url: format!("type.googleapis.com/{}.ErrorDetails", proto::PACKAGE),
                value: details.encode_to_vec(),
            }],
        };
        Status::with_details_and_metadata(
            self.code(),
            self.message(),
            rpc.encode_to_vec().into(),
            MetadataMap::new(),
        )
    }

    /// The status with its details and headers.
    pub(super) fn into_status(self) -> Status {
        let mut status = self.status();
        service::add(status.metadata_mut(), self.headers());
        status
    }

    fn details(&self) -> Option<DynamicMessage> {
        let json = self.details_json()?;
        DynamicMessage::deserialize(proto::descriptor("ErrorDetails"), json).ok()
    }

    fn details_json(&self) -> Option<Json> {
        let kind = self.0.kind?;
        let mut details = json!({
            "namespace": kind.namespace,
            "name": kind.name,
            "message_format": kind.format,
            "correlation_id": hex::encode(super::random::<16>()),
            "code": kind.code as i32,
        });
        if !self.0.attributes.is_empty() {
            details["attributes"] = Json::Object(self.0.attributes.clone());
        }
        if let Some(cause) = self.cause().and_then(Self::details_json) {
            details["cause"] = cause;
        }
        Some(details)
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message())?;
        match self.cause() {
            Some(cause) => write!(f, ": {cause:?}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message())
    }
}

impl std::error::Error for Failure {}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::plain(format!("state file cannot be written: {error}"))
    }
}

/// `google.rpc.Status`, as `grpc-status-details-bin` carries it.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

#[cfg(test)]
mod tests {
    use prost_reflect::Value;

    use super::*;
    use crate::map::{path, rules};

    #[test]
    fn a_violation_nests_as_deep_as_its_field() {
        let mut device = proto::message("EndDevice");
        path::set(&mut device, "ids.device_id", Value::String("x".into()));
        let failure = Failure::invalid(&rules::violation(&device).expect("short"));
        assert_eq!(
            failure.message(),
            "error:pkg/errors:validation (invalid `ids`: embedded message failed validation)"
        );
        let cause = failure.cause().expect("one level down");
        assert_eq!(cause.full_name(), "pkg/errors:validation");
        assert!(cause.cause().is_none());
    }

    #[test]
    fn the_details_carry_attributes_and_causes() {
        const OUTER: Kind = Kind::new(Code::NotFound, "pkg/a", "outer", "`{what}` is missing");
        const INNER: Kind = Kind::new(Code::Internal, "pkg/b", "inner", "inner");
        let failure = OUTER.with(json!({"what": "x", "count": 2})).because(INNER.failure());
        let details = failure.details().expect("defined");
        assert_eq!(path::string(&details, "namespace"), "pkg/a");
        assert_eq!(path::string(&details, "cause.name"), "inner");
        assert_eq!(failure.status().message(), "error:pkg/a:outer (`x` is missing)");
        assert!(!failure.status().details().is_empty());
    }
}
