//! What a call makes of an answer that did not come from a connection: for tests with answers that no server should give.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use futures_util::{FutureExt as _, stream};
use http::{HeaderMap, Response};
use http_body_util::StreamBody;
use hyper::body::Frame;
use prost_reflect::DynamicMessage;

use super::{
    About, Answer, Call, Endpoint, Error, Side,
    client::{self, Settings},
    error::Failure,
    grpc,
    redact::Redactor,
    throttle::{self, Limits},
};
use crate::{model::secret::Secret, proto, wire::Kind};

/// What became of an answer.
#[derive(Debug)]
pub struct Judged {
    /// What the caller gets.
    pub result: Result<Answer, Error>,
    /// How long the next call of the same kind is held back for what the answer says of the server's limits.
    pub wait: Duration,
}

/// Judges an answer as [`super::Client`] would on its only attempt: its head, the pieces of its body, its trailers.
///
/// `request` and `api_key` are what the server was sent, and must not be in what it says.
pub fn judge(
    method: &'static str,
    request: &DynamicMessage,
    api_key: Option<&Secret>,
    head: Response<()>,
    pieces: Vec<Bytes>,
    trailers: Option<HeaderMap>,
) -> Judged {
    let call = Call::safe(About::device("app", "device"));
    let endpoint = Endpoint { host: "localhost".into(), port: super::TLS_PORT, tls: super::Tls::System };
    let fail = |failure: Failure| {
        Error::new(failure, Side::Source, &endpoint).of_call(method, &call.about, call.repeat, 1)
    };
    let Some(descriptor) = proto::method(method) else {
        let failure = Failure::before(Kind::Protocol, format!("this program knows no {method}"));
        return Judged { result: Err(fail(failure)), wait: Duration::ZERO };
    };
    let frames = pieces.into_iter().map(Frame::data).chain(trailers.map(Frame::trailers));
    let response = head.map(|()| StreamBody::new(stream::iter(frames.map(Ok::<_, Infallible>))));
    let max = Settings::new(Side::Source).max_message;
    let received = grpc::receive(response, max, |never| match never {}).now_or_never();
    let received =
        received.unwrap_or_else(|| Err(Failure::after(Kind::Protocol, "the answer does not end").into()));
    let (limits, refused) = match &received {
        Ok(reply) => (Limits::from_headers(&reply.metadata), false),
        Err(refusal) => (refusal.limits, refusal.failure.kind == Kind::RateLimited),
    };
    let wait = throttle::wait_after(method, &call.about, &limits, refused);
    let redactor = Redactor::new(api_key, request);
    Judged { result: client::answer(&descriptor.output(), &redactor, received).map_err(fail), wait }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: &str = "/ttn.lorawan.v3.EndDeviceRegistry/Get";

    fn judged(message: &[u8], available: &str) -> Judged {
        let head = Response::builder()
            .header("content-type", "application/grpc")
            .header("x-rate-limit-limit", "60")
            .header("x-rate-limit-available", available)
            .body(())
            .expect("valid");
        let body = grpc::framed(message).expect("small");
        let pieces = body.chunks(2).map(Bytes::copy_from_slice).collect();
        let trailers = HeaderMap::from_iter([("grpc-status".parse().expect("a name"), 0.into())]);
        judge(GET, &proto::message("GetEndDeviceRequest"), None, head, pieces, Some(trailers))
    }

    #[test]
    fn an_answer_is_judged_as_a_call_would() {
        let judged_well = judged(&[0x12, 0], "5");
        assert!(judged_well.result.is_ok_and(|answer| answer.warnings.is_empty()));
        assert_eq!(judged_well.wait, Duration::ZERO);
        let judged_ill = judged(&[0xff], "0");
        assert_eq!(judged_ill.result.map(drop).expect_err("no device").kind(), &Kind::Protocol);
        assert!((Duration::from_secs(1)..Duration::from_millis(1100)).contains(&judged_ill.wait));
    }
}
