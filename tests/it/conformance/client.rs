//! A gRPC client for any method.

use std::collections::BTreeMap;

use prost_reflect::{
    DynamicMessage, MethodDescriptor,
    prost::{self, Message as _},
};
use stackferry::{proto, wire::codec::DynamicCodec};
use tonic::{
    Code, Status,
    metadata::{KeyAndValueRef, MetadataKey, MetadataMap},
    transport::Channel,
};

/// An answer of the server: a message or a status.
#[derive(Debug)]
pub struct Answer {
    pub code: Code,
    pub message: Option<DynamicMessage>,
    /// `ttn.lorawan.v3.ErrorDetails`.
    pub details: Vec<DynamicMessage>,
    pub text: String,
    pub headers: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

/// The metadata of a bearer.
pub fn bearer(token: &str) -> Vec<(String, String)> {
    vec![("authorization".to_owned(), format!("Bearer {token}"))]
}

/// Calls a method with request metadata.
pub async fn call(
    channel: &Channel,
    method: &MethodDescriptor,
    path: &str,
    request: DynamicMessage,
    metadata: &[(String, String)],
) -> Answer {
    let mut grpc = tonic::client::Grpc::new(channel.clone()).max_decoding_message_size(16 << 20);
    grpc.ready().await.expect("the server takes calls");
    let mut request = tonic::Request::new(request);
    for (name, value) in metadata {
        let name = MetadataKey::from_bytes(name.as_bytes()).expect("a header");
        request.metadata_mut().insert(name, value.parse().expect("a header"));
    }
    let path = path.parse().expect("a path");
    match grpc.unary(request, path, DynamicCodec::new(method.output())).await {
        Ok(response) => {
            let (metadata, message, _) = response.into_parts();
            let headers = headers(&metadata);
            Answer {
                code: Code::Ok,
                message: Some(message),
                details: Vec::new(),
                text: String::new(),
                headers,
            }
        }
        Err(status) => refused(&status),
    }
}

fn refused(status: &Status) -> Answer {
    let rpc = RpcStatus::decode(status.details()).unwrap_or_default();
    if !status.details().is_empty() {
        assert_eq!((rpc.code, rpc.message.as_str()), (status.code() as i32, status.message()));
    }
    let name = format!("type.googleapis.com/{}.ErrorDetails", proto::PACKAGE);
    let details = rpc.details.iter().filter(|any| any.type_url == name);
    let decode = |any: &prost_types::Any| {
        DynamicMessage::decode(proto::descriptor("ErrorDetails"), any.value.as_slice()).expect("details")
    };
    Answer {
        code: status.code(),
        message: None,
        details: details.map(decode).collect(),
        text: status.message().to_owned(),
        headers: headers(status.metadata()),
    }
}

fn headers(metadata: &MetadataMap) -> BTreeMap<String, String> {
    let text = metadata.iter().filter_map(|entry| match entry {
        KeyAndValueRef::Ascii(name, value) => Some((name.to_string(), value.to_str().ok()?.to_owned())),
        KeyAndValueRef::Binary(..) => None,
    });
    text.collect()
}
