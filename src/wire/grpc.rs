//! gRPC over HTTP/2 for unary calls ("gRPC over HTTP2", PROTOCOL-HTTP2.md), with no trust in the server.
//!
//! Written on hyper rather than on tonic's client, which panics on `grpc-status-details-bin` that is not base64, does not
//! look at the content type, and does not tell whether a request was sent.

use std::{error::Error as _, time::Duration};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;

use super::{
    connection::{Body, Connection},
    error::{Failure, Kind, Outcome},
    status::{Code, Status, clean},
    throttle::Limits,
};

/// One byte of compression flag and four of length stand before each message.
const PREFIX: usize = 5;
/// `grpc-timeout` takes at most eight digits.
const MAX_TIMEOUT: u128 = 99_999_999;

/// An answer: the message, and headers and trailers together.
pub(super) struct Reply {
    pub message: Bytes,
    pub metadata: HeaderMap,
}

/// An attempt that failed, and what the server said about its limits all the same.
#[derive(Debug)]
pub(super) struct Refusal {
    pub failure: Box<Failure>,
    pub limits: Limits,
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self { failure: Box::new(failure), limits: Limits::default() }
    }
}

/// The message with its prefix.
pub(super) fn framed(message: &[u8]) -> Option<Bytes> {
    let length = u32::try_from(message.len()).ok()?;
    let mut out = BytesMut::with_capacity(PREFIX + message.len());
    out.put_u8(0);
    out.put_u32(length);
    out.put_slice(message);
    Some(out.freeze())
}

/// The request of a call. `uri` is `scheme://host:port/service/method`.
pub(super) fn request(uri: http::Uri, headers: &HeaderMap, deadline: Duration, body: Bytes) -> Request<Body> {
    let mut request = Request::new(Body::new(body));
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = uri;
    *request.version_mut() = http::Version::HTTP_2;
    *request.headers_mut() = headers.clone();
    let put = request.headers_mut();
    put.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    put.insert(header::TE, HeaderValue::from_static("trailers"));
    if let Ok(timeout) = HeaderValue::from_str(&format!("{}m", deadline.as_millis().clamp(1, MAX_TIMEOUT))) {
        put.insert(HeaderName::from_static("grpc-timeout"), timeout);
    }
    request
}

/// Sends a request and reads its answer: one message of at most `max` bytes and the status OK, or a reason.
pub(super) async fn exchange(
    mut connection: Connection,
    request: Request<Body>,
    max: usize,
) -> Result<Reply, Refusal> {
    let response = connection.sender.try_send_request(request).await.map_err(|mut e| {
        let sent = e.take_message().is_none();
        cut(&e.into_error(), sent)
    })?;
    receive(response, max, |e| cut(&e, true)).await
}

/// Reads an answer, from wherever it comes; `cut` says what it means when the body breaks off.
pub(super) async fn receive<B>(
    response: Response<B>,
    max: usize,
    cut: impl Fn(B::Error) -> Failure,
) -> Result<Reply, Refusal>
where
    B: hyper::body::Body<Data = Bytes> + Unpin,
{
    let limits = Limits::from_headers(response.headers());
    read(response, max, cut).await.map_err(|failure| {
        let emptied = limits.present() && limits.available.unwrap_or(0) == 0;
        let paced = failure.kind == Kind::RateLimited && emptied;
        // Refused for its rate, with the bucket's state: the rate limiter stands before the handlers
        // (`pkg/rpcserver`), so nothing was done.
        let outcome = if paced { Outcome::NotApplied } else { failure.outcome };
        Refusal { failure: Box::new(Failure { paced, outcome, ..failure }), limits }
    })
}

async fn read<B>(
    response: Response<B>,
    max: usize,
    cut: impl Fn(B::Error) -> Failure,
) -> Result<Reply, Failure>
where
    B: hyper::body::Body<Data = Bytes> + Unpin,
{
    let (head, mut body) = response.into_parts();
    let mut metadata = head.headers;
    // "Trailers-Only": a refusal without a body.
    if let Some(status) = Status::from_headers(&metadata) {
        return match status.code {
            Code::Ok => Err(protocol("the server answered without a message")),
            _ => Err(failed(status)),
        };
    }
    check_head(head.status, &metadata)?;
    let mut data = BytesMut::new();
    while let Some(frame) = body.frame().await {
        match frame.map_err(&cut)?.into_data() {
            Ok(bytes) => {
                data.put(bytes);
                check_length(&data, max)?;
            }
            Err(frame) => metadata.extend(frame.into_trailers().unwrap_or_default()),
        }
    }
    match Status::from_headers(&metadata) {
        None => Err(protocol("the answer ended without a status")),
        Some(status) if status.code != Code::Ok => Err(failed(status)),
        Some(_) if data.len() < PREFIX => Err(protocol("the server answered without a message")),
        Some(_) => {
            let length = data.get(1..PREFIX).map_or(0, |mut l| l.get_u32() as usize);
            data.advance(PREFIX);
            if data.len() != length {
                return Err(protocol("the message in the answer is cut short"));
            }
            Ok(Reply { message: data.freeze(), metadata })
        }
    }
}

/// Refuses what is no gRPC: pages of proxies, portals and other ports.
fn check_head(status: StatusCode, headers: &HeaderMap) -> Result<(), Failure> {
    let kind = match status {
        StatusCode::OK => {
            let content = headers.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
            if content.starts_with(b"application/grpc") {
                return Ok(());
            }
            let content = clean(&String::from_utf8_lossy(content));
            let what = if content.is_empty() { "something without a type" } else { &content };
            return Err(protocol(&format!("the server answered {what}, not gRPC")));
        }
        StatusCode::UNAUTHORIZED => Kind::Unauthenticated,
        StatusCode::FORBIDDEN => Kind::Denied { missing: Vec::new() },
        StatusCode::NOT_FOUND => Kind::Unimplemented,
        StatusCode::PAYLOAD_TOO_LARGE => Kind::TooLarge,
        StatusCode::TOO_MANY_REQUESTS => Kind::RateLimited,
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
            Kind::Unavailable
        }
        status if status.is_server_error() => Kind::Server,
        _ => Kind::Protocol,
    };
    Err(Failure::after(kind, format!("HTTP status {status} instead of a gRPC answer")))
}

fn check_length(data: &[u8], max: usize) -> Result<(), Failure> {
    let Some([flag, length @ ..]) = data.first_chunk::<PREFIX>() else { return Ok(()) };
    if *flag != 0 {
        return Err(protocol("the answer is not a plain gRPC message"));
    }
    let length = u32::from_be_bytes(*length) as usize;
    if length > max {
        let text = format!("the answer has {length} bytes, more than the limit of {max}");
        return Err(Failure::after(Kind::TooLarge, text));
    }
    if data.len() > PREFIX + length {
        return Err(protocol("the server answered with more than one message"));
    }
    Ok(())
}

fn protocol(text: &str) -> Failure {
    Failure::after(Kind::Protocol, text)
}

/// The connection or the stream ended before the answer did.
fn cut(error: &hyper::Error, sent: bool) -> Failure {
    let reason = error.source().and_then(|s| s.downcast_ref::<h2::Error>()).and_then(h2::Error::reason);
    // A refused stream was not processed at all (RFC 9113 §8.7).
    if !sent || reason == Some(h2::Reason::REFUSED_STREAM) {
        return Failure::before(Kind::Unreachable, format!("the connection ended before the call: {error}"));
    }
    let why = match reason {
        Some(reason) => format!("the server cut the call: {}", reason.description()),
        None if error.is_timeout() => "the server no longer answers on this connection".into(),
        None => format!("the connection was cut during the call: {error}"),
    };
    Failure::after(Kind::Unreachable, why)
}

/// A status that is not OK, as a kind.
fn failed(status: Status) -> Failure {
    use Outcome::{NotApplied, Unknown};
    let missing = || status.outermost().map(|d| d.strings("missing")).unwrap_or_default();
    let (kind, outcome) = match status.code {
        Code::InvalidArgument if status.is("pkg/rpcmiddleware/validator", "field_mask_paths") => {
            let paths = status.outermost().map(|d| d.strings("forbidden_paths")).unwrap_or_default();
            (Kind::ForbiddenPaths(paths), NotApplied)
        }
        Code::InvalidArgument | Code::OutOfRange => (Kind::Invalid { field: status.field() }, NotApplied),
        Code::NotFound => (Kind::NotFound, NotApplied),
        Code::AlreadyExists => (Kind::AlreadyExists, NotApplied),
        Code::PermissionDenied => (Kind::Denied { missing: missing() }, NotApplied),
        Code::Unauthenticated => (Kind::Unauthenticated, NotApplied),
        Code::FailedPrecondition => (Kind::FailedPrecondition, NotApplied),
        Code::Unimplemented => (Kind::Unimplemented, NotApplied),
        Code::ResourceExhausted => exhausted(&status),
        Code::DeadlineExceeded => (Kind::Deadline, Unknown),
        Code::Cancelled => (Kind::Cancelled, Unknown),
        Code::Unavailable => (Kind::Unavailable, Unknown),
        Code::Ok | Code::Unknown | Code::Aborted | Code::Internal | Code::DataLoss => (Kind::Server, Unknown),
    };
    Failure { kind, message: status.words(), outcome, status: Some(status), paced: false }
}

/// RESOURCE_EXHAUSTED means a rate (ours to wait for), a size (grpc-go: "received message larger than max") or some
/// other limit inside the server.
fn exhausted(status: &Status) -> (Kind, Outcome) {
    match status.outermost() {
        Some(d) if d.namespace == "pkg/ratelimit" => (Kind::RateLimited, Outcome::NotApplied),
        Some(_) => (Kind::Server, Outcome::Unknown),
        None if status.message.contains("message larger than max") => (Kind::TooLarge, Outcome::Unknown),
        None => (Kind::RateLimited, Outcome::Unknown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_an_answer_is_checked_before_it_is_read() {
        let kind = |data: &[u8]| check_length(data, 10).map_err(|f| f.kind);
        assert_eq!(kind(&[0, 0, 0]), Ok(()));
        assert_eq!(kind(&[0, 0, 0, 0, 2, 8, 1]), Ok(()));
        assert_eq!(kind(&[0, 0xff, 0xff, 0xff, 0xff]), Err(Kind::TooLarge));
        assert_eq!(kind(b"<html>"), Err(Kind::Protocol));
        assert_eq!(kind(&[0, 0, 0, 0, 1, 8, 1]), Err(Kind::Protocol));
    }

    #[test]
    fn a_resource_that_is_exhausted_is_told_apart() {
        let of = |errors: &[_], message: &str| {
            let mut headers = crate::wire::status::tests::headers(Code::ResourceExhausted, errors);
            headers.insert("grpc-message", message.parse().expect("valid"));
            let failure = failed(Status::from_headers(&headers).expect("has a status"));
            (failure.kind, failure.outcome)
        };
        let none = serde_json::json!({});
        let rate = ("pkg/ratelimit", "rate_limit_exceeded", "", none.clone());
        assert_eq!(of(&[rate], ""), (Kind::RateLimited, Outcome::NotApplied));
        let pool = ("pkg/workerpool", "pool_full", "", none);
        assert_eq!(of(&[pool], ""), (Kind::Server, Outcome::Unknown));
        let size = "grpc: received message larger than max (5 vs. 4)";
        assert_eq!(of(&[], size).0, Kind::TooLarge);
        assert_eq!(of(&[], "slow down"), (Kind::RateLimited, Outcome::Unknown));
    }

    #[test]
    fn the_deadline_fits_its_header() {
        let uri = || http::Uri::from_static("http://h:1/s/m");
        let of = |d| {
            let request = request(uri(), &HeaderMap::new(), d, Bytes::new());
            request.headers().get("grpc-timeout").expect("present").to_str().expect("text").to_owned()
        };
        assert_eq!(of(Duration::from_millis(1500)), "1500m");
        assert_eq!(of(Duration::ZERO), "1m");
        assert_eq!(of(Duration::MAX), "99999999m");
    }
}
