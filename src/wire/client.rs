//! Calls to one server.

use std::{fmt, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use prost_reflect::{DynamicMessage, MessageDescriptor, ReflectMessage as _, prost::Message as _};
use tokio::time::{Instant, timeout};
use zeroize::Zeroizing;

use super::{
    About, CallEvent, Endpoint, Error, Kind, MaskMemory, Observer, Rate, RetryPolicy, Side, Tls, Unobserved,
    WaitEvent, WaitReason,
    connection::Link,
    error::{Failure, spoken},
    grpc::{self, Refusal, Reply},
    redact::Redactor,
    retry::Tries,
    status::clean,
    throttle::{Limits, Pass, Throttle},
    ttn_v2,
};
use crate::{
    model::secret::{Secret, key_id},
    proto,
};

/// What all calls to a server have in common.
#[derive(Clone)]
pub struct Settings {
    /// Time for one attempt, connecting included.
    pub deadline: Duration,
    /// Time to connect: DNS, TCP, TLS and the first frame of HTTP/2 together.
    pub connect_timeout: Duration,
    /// Largest request and answer, in bytes. The Things Stack itself takes 16 MiB (`pkg/rpcserver`).
    pub max_message: usize,
    /// How often a call is tried.
    pub retry: RetryPolicy,
    /// A fixed rate for the calls of each method to this side, and of V2 for all together; the server's own limits are kept in any
    /// case.
    pub limit: Option<Rate>,
    /// For errors and events.
    pub side: Side,
    /// Told about attempts and waits.
    pub observer: Arc<dyn Observer>,
}

impl Settings {
    /// What suits a deployment across the internet.
    pub fn new(side: Side) -> Self {
        Self {
            deadline: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            max_message: 16 << 20,
            retry: RetryPolicy::default(),
            limit: None,
            side,
            observer: Arc::new(Unobserved),
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("side", &self.side).finish_non_exhaustive()
    }
}

/// When a call may be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// Reads, sets to a given state, deletes. A delete that is repeated may find nothing left: `NotFound` is success.
    Safe,
    /// Creates: only when no attempt can have been applied (never sent, or refused before it was handled).
    OnlyIfNotApplied,
    /// One attempt.
    Never,
}

/// How to make one call.
#[derive(Debug, Clone)]
pub struct Call {
    /// When it may be sent again.
    pub repeat: Repeat,
    /// What it is about.
    pub about: About,
    /// Time for one attempt, where it differs from the settings.
    pub deadline: Option<Duration>,
    /// Time for all attempts and waits together, where it is shorter than that of the settings.
    pub within: Option<Duration>,
    /// Metadata of this call alone.
    pub metadata: Vec<(&'static str, u64)>,
}

impl Call {
    /// A call that can be repeated.
    pub fn safe(about: About) -> Self {
        Self { repeat: Repeat::Safe, about, deadline: None, within: None, metadata: Vec::new() }
    }

    /// A create.
    pub fn create(about: About) -> Self {
        Self { repeat: Repeat::OnlyIfNotApplied, ..Self::safe(about) }
    }
}

/// What a server answered.
#[derive(Clone)]
pub struct Answer {
    /// The message.
    pub message: DynamicMessage,
    /// `x-total-count` of a list (`total` of V2): how many there are on all pages.
    pub total_count: Option<u64>,
    /// Warnings of the server (gRPC metadata `warning`, `x-warning` behind HTTP gateways).
    pub warnings: Vec<String>,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Answer({})", self.message.descriptor().name())
    }
}

/// Calls the methods of one server. Clones share the connection, the limits and what was learnt.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    link: Link,
    key: Option<Secret>,
    headers: HeaderMap,
    settings: Settings,
    throttle: Arc<Throttle>,
    masks: MaskMemory,
    dialect: Dialect,
}

/// How a server wants its keys, and what its errors mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    Tts,
    TtnV2,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({} {})", self.0.settings.side, self.0.link.endpoint)
    }
}

impl Client {
    /// A client that connects with its first call, keeps the connection alive and replaces it when it is gone.
    ///
    /// Reads the CA file: that, and a key that no header can carry, are the only errors.
    pub fn new(endpoint: Endpoint, api_key: Option<Secret>, settings: Settings) -> Result<Self, Error> {
        let throttle = Arc::new(Throttle::new(settings.limit, true));
        Self::build(endpoint, api_key, settings, throttle, Dialect::Tts)
    }

    /// A client of a server of The Things Network Stack V2, where an access key is metadata of its own.
    ///
    /// The errors are those of [`Client::new`].
    pub fn ttn_v2(endpoint: Endpoint, access_key: Option<Secret>, settings: Settings) -> Result<Self, Error> {
        let throttle = Arc::new(Throttle::new(settings.limit, false));
        Self::build(endpoint, access_key, settings, throttle, Dialect::TtnV2)
    }

    /// The client of another component of the same side: same settings, and the rate limit is shared.
    ///
    /// The API key is sent there too: only for servers of the same deployment.
    pub fn at(&self, endpoint: Endpoint) -> Result<Self, Error> {
        if endpoint == self.0.link.endpoint {
            return Ok(self.clone());
        }
        let Inner { key, settings, throttle, dialect, .. } = &*self.0;
        Self::build(endpoint, key.clone(), settings.clone(), throttle.clone(), *dialect)
    }

    fn build(
        endpoint: Endpoint,
        key: Option<Secret>,
        settings: Settings,
        throttle: Arc<Throttle>,
        dialect: Dialect,
    ) -> Result<Self, Error> {
        let key = key.map(|key| Secret::new(key.reveal().trim()));
        let fail = |failure| Error::new(failure, settings.side, &endpoint);
        let headers = headers(key.as_ref(), dialect).map_err(fail)?;
        let link = Link::new(endpoint.clone(), settings.connect_timeout).map_err(fail)?;
        let masks = MaskMemory::default();
        Ok(Self(Arc::new(Inner { link, key, headers, settings, throttle, masks, dialect })))
    }

    /// The server.
    pub fn endpoint(&self) -> &Endpoint {
        &self.0.link.endpoint
    }

    /// The ID of the API key of all calls.
    pub fn key_id(&self) -> Option<String> {
        key_id(self.0.key.as_ref()?.reveal()).map(str::to_owned)
    }

    /// The side of the server.
    pub fn side(&self) -> Side {
        self.0.settings.side
    }

    pub(super) fn masks(&self) -> &MaskMemory {
        &self.0.masks
    }

    /// What is to be said of an answer that a caller cannot use.
    pub fn refuse(&self, kind: Kind, text: &str, method: &'static str, call: &Call) -> Error {
        Error::new(Failure::after(kind, text), self.side(), self.endpoint()).of_call(
            method,
            &call.about,
            call.repeat,
            1,
        )
    }

    /// Connects, if there is no connection, and calls nothing: finds out about addresses and TLS.
    pub async fn connect(&self) -> Result<(), Error> {
        let connected = self.0.link.connection().await;
        connected.map(drop).map_err(|f| Error::new(f, self.side(), self.endpoint()))
    }

    /// Calls a unary method (`/ttn.lorawan.v3.NsEndDeviceRegistry/Get`), again where `call` allows it.
    pub async fn unary(
        &self,
        method: &'static str,
        request: DynamicMessage,
        call: Call,
    ) -> Result<Answer, Error> {
        let policy = self.0.settings.retry;
        let total = call.within.map_or(policy.total, |within| within.min(policy.total));
        let mut tries = Tries::new(RetryPolicy { total, ..policy }, call.repeat);
        let fail = |failure, tries: &Tries| {
            Error::new(failure, self.side(), self.endpoint()).of_call(
                method,
                &call.about,
                call.repeat,
                tries.made(),
            )
        };
        let (uri, output, body) = self.prepare(method, &request).map_err(|f| fail(f, &tries))?;
        let mut headers = self.0.headers.clone();
        headers.extend(
            call.metadata
                .iter()
                .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from(*value))),
        );
        let redactor = Redactor::new(self.0.key.as_ref(), &request);
        loop {
            let pass = self.wait_for_turn(method, &call.about, &tries).await.map_err(|f| fail(f, &tries))?;
            let started = Instant::now();
            let deadline = call.deadline.unwrap_or(self.0.settings.deadline);
            let request = grpc::request(uri.clone(), &headers, deadline, body.clone());
            let result = self.attempt(request, deadline).await;
            let result = self.digest(&pass, &output, &redactor, result);
            drop(pass);
            self.0.settings.observer.call(&CallEvent {
                side: self.side(),
                endpoint: self.endpoint(),
                method,
                about: &call.about,
                attempt: tries.made() + 1,
                elapsed: started.elapsed(),
                code: result.as_ref().map_or_else(|f| f.kind.name(), |_| "ok"),
            });
            let failure = match result {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            match tries.failed(&failure) {
                Some(wait) => self.wait(method, &call.about, WaitReason::BackOff, wait).await,
                None => return Err(fail(Failure { outcome: tries.outcome(), ..failure }, &tries)),
            }
        }
    }

    fn prepare(
        &self,
        method: &'static str,
        request: &DynamicMessage,
    ) -> Result<(Uri, MessageDescriptor, bytes::Bytes), Failure> {
        let odd = |text: String| Failure::before(Kind::Protocol, text);
        let descriptor =
            proto::method(method).ok_or_else(|| odd(format!("this program knows no {method}")))?;
        if descriptor.input() != request.descriptor() {
            return Err(odd(format!("{} is not the request of {method}", request.descriptor().name())));
        }
        let scheme = if self.endpoint().tls == Tls::Plaintext { "http" } else { "https" };
        let uri = format!("{scheme}://{}{method}", self.endpoint());
        let uri = uri.parse().map_err(|_| odd(format!("{uri} is not an address")))?;
        let (size, max) = (request.encoded_len(), self.0.settings.max_message);
        let body = grpc::framed(&request.encode_to_vec()).filter(|_| size <= max);
        let too_large = || {
            let text = format!("the request has {size} bytes, more than the limit of {max}");
            Failure::before(Kind::TooLarge, text)
        };
        Ok((uri, descriptor.output(), body.ok_or_else(too_large)?))
    }

    /// One attempt. Its deadline is kept here, whatever the server does with `grpc-timeout`.
    async fn attempt(
        &self,
        request: http::Request<super::connection::Body>,
        deadline: Duration,
    ) -> Result<Reply, Refusal> {
        let started = Instant::now();
        let late = || format!("no answer within {}", spoken(deadline));
        let connection = timeout(deadline, self.0.link.connection()).await.map_err(|_| {
            Failure::before(Kind::Unreachable, format!("no connection within {}", spoken(deadline)))
        })??;
        let left = deadline.saturating_sub(started.elapsed());
        let exchange = grpc::exchange(connection.clone(), request, self.0.settings.max_message);
        let result = timeout(left, exchange)
            .await
            .unwrap_or_else(|_| Err(Failure::after(Kind::Deadline, late()).into()));
        let late = result.as_ref().is_err_and(|refusal| refusal.failure.kind == Kind::Deadline);
        if late && connection.silent_since(started) {
            // Not one byte since: perhaps nobody is there any more. The next call finds out on a new connection.
            self.0.link.discard(&connection);
        }
        result
    }

    /// Learns the limits from an answer, reads its message, and takes the key out of the server's words.
    fn digest(
        &self,
        pass: &Pass<'_>,
        output: &MessageDescriptor,
        redactor: &Redactor<'_>,
        mut result: Result<Reply, Refusal>,
    ) -> Result<Answer, Failure> {
        if let (Dialect::TtnV2, Err(refusal)) = (self.0.dialect, &mut result) {
            ttn_v2::interpret(pass.method(), &mut refusal.failure);
        }
        let (limits, refused) = match &result {
            Ok(reply) => (Limits::from_headers(&reply.metadata), false),
            Err(refusal) => (refusal.limits, refusal.failure.kind == Kind::RateLimited),
        };
        self.0.throttle.learn(pass, &limits, refused);
        answer(output, redactor, result)
    }

    /// Waits for the fixed rate and for the server's bucket, or says that it would take too long.
    async fn wait_for_turn(
        &self,
        method: &'static str,
        about: &About,
        tries: &Tries,
    ) -> Result<Pass<'_>, Failure> {
        let tell = |reason, duration| self.tell_wait(method, about, reason, duration);
        self.0.throttle.turn(method, about, tries.left(), tell).await.map_err(|(reason, wait)| {
            let text = format!("{reason} would hold this call for {}", spoken(wait));
            Failure { outcome: tries.outcome(), ..Failure::before(Kind::RateLimited, text) }
        })
    }

    fn tell_wait(&self, method: &'static str, about: &About, reason: WaitReason, duration: Duration) {
        self.0.settings.observer.wait(&WaitEvent { side: self.side(), method, about, reason, duration });
    }

    async fn wait(&self, method: &'static str, about: &About, reason: WaitReason, duration: Duration) {
        if duration.is_zero() {
            return;
        }
        self.tell_wait(method, about, reason, duration);
        tokio::time::sleep(duration).await;
    }
}

/// The message of an answer, and the server's words without the secrets of the call.
pub(super) fn answer(
    output: &MessageDescriptor,
    redactor: &Redactor,
    result: Result<Reply, Refusal>,
) -> Result<Answer, Failure> {
    let reply = result.map_err(|refusal| redacted(*refusal.failure, redactor))?;
    let message = DynamicMessage::decode(output.clone(), reply.message)
        .map_err(|_| Failure::after(Kind::Protocol, format!("the answer is not a {}", output.name())))?;
    let warnings = ["warning", "x-warning"].into_iter().flat_map(|name| reply.metadata.get_all(name));
    let warnings = warnings.map(|w| redactor.clean(&clean(&String::from_utf8_lossy(w.as_bytes()))));
    let total = reply.metadata.get("x-total-count").or_else(|| reply.metadata.get("total"));
    let total_count = total.and_then(|t| t.to_str().ok()?.trim().parse().ok());
    Ok(Answer { message, total_count, warnings: warnings.collect() })
}

/// A failure without the secrets of its call.
fn redacted(mut failure: Failure, redactor: &Redactor<'_>) -> Failure {
    failure.message = redactor.clean(&failure.message);
    if let Some(status) = &mut failure.status {
        status.message = redactor.clean(&status.message);
        for detail in &mut status.errors {
            for text in [&mut detail.namespace, &mut detail.name, &mut detail.message_format] {
                *text = redactor.clean(text);
            }
            let text = serde_json::Value::from(detail.attributes.clone()).to_string();
            if redactor.clean(&text) != text {
                detail.attributes.clear();
            }
        }
    }
    failure
}

fn headers(key: Option<&Secret>, dialect: Dialect) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    let agent = concat!("stackferry/", env!("CARGO_PKG_VERSION"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static(agent));
    if let Some(key) = key {
        let (name, scheme) = match dialect {
            Dialect::Tts => (header::AUTHORIZATION, "Bearer "),
            Dialect::TtnV2 => (HeaderName::from_static("key"), ""),
        };
        let value = HeaderValue::from_str(&Zeroizing::new(format!("{scheme}{}", key.reveal())));
        let mut value = value.map_err(|_| {
            Failure::before(Kind::Unauthenticated, "the API key has characters that no API key has")
        })?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

#[cfg(test)]
mod unit {
    use super::*;
    use crate::wire::Outcome;

    #[test]
    fn a_key_is_not_in_the_debug_text_of_its_headers_or_client() {
        let key = Secret::new("NNSXS.CANARY");
        let headers = headers(Some(&key), Dialect::Tts).expect("valid");
        assert_eq!(
            headers.get("authorization").map(HeaderValue::as_bytes),
            Some(&b"Bearer NNSXS.CANARY"[..])
        );
        let endpoint = Endpoint { host: "localhost".into(), port: 1884, tls: Tls::Plaintext };
        let client = Client::new(endpoint, Some(key), Settings::new(Side::Source)).expect("no file to read");
        assert!(!format!("{headers:?} {client:?}").contains("CANARY"));
        assert_eq!(client.side(), Side::Source);
    }

    #[test]
    fn a_key_with_a_line_break_inside_is_refused_and_not_shown() {
        let failure = headers(Some(&Secret::new("NNSXS.CAN\nARY")), Dialect::Tts).expect_err("no header");
        assert!(!format!("{failure:?}").contains("CAN"));
        assert_eq!(failure.outcome, Outcome::NotApplied);
    }
}
