//! One HTTP/2 connection to an endpoint: made when it is needed, kept alive, replaced when it is gone.
//!
//! A connection counts as made only when the server has sent its HTTP/2 SETTINGS (RFC 9113 §3.4: each side must, without
//! being asked). So whatever stands in for a server (a half-open connection, an HTTP/1 proxy, a TLS port spoken to in
//! plaintext) is found before any request is sent, and a create that was never sent can be sent again.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::Notify,
    time::{Instant, timeout_at},
};
use tokio_rustls::TlsConnector;

use super::{
    Endpoint,
    error::{Failure, Kind, spoken},
    hint::TlsProblem,
    throttle::lock,
    tls,
};

/// The Things Stack takes one ping a minute without complaint (`pkg/rpcserver`: MinTime 1 m, with or without streams)
/// and cuts a client that sends more.
const PING_INTERVAL: Duration = Duration::from_secs(75);
/// A ping that is not answered for this long ends the connection.
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Errors name forbidden paths one by one, in a header: more than hyper's 16 kB.
const MAX_HEADERS: u32 = 1 << 20;
/// Length of an HTTP/2 frame header (RFC 9113 §4.1).
const FRAME_HEADER: usize = 9;

/// The request body: one gRPC message.
pub(super) type Body = Full<Bytes>;

/// A connection that has spoken HTTP/2.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    pub sender: SendRequest<Body>,
    heard: Arc<Heard>,
}

impl Connection {
    /// True when nothing was received since `then`: the other side may be gone without a word.
    pub fn silent_since(&self, then: Instant) -> bool {
        lock(&self.heard.state).last.is_none_or(|last| last < then)
    }
}

/// The way to one endpoint.
#[derive(Debug)]
pub(super) struct Link {
    pub endpoint: Endpoint,
    tls: Option<(TlsSettings, ServerName<'static>)>,
    timeout: Duration,
    slot: tokio::sync::Mutex<Slot>,
}

#[derive(Clone)]
struct TlsSettings(Arc<ClientConfig>);

impl std::fmt::Debug for TlsSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsSettings")
    }
}

#[derive(Debug, Default)]
struct Slot {
    connection: Option<Connection>,
    failed: Option<(Instant, Failure)>,
}

impl Link {
    /// Reads the CA file; connects nothing.
    pub fn new(endpoint: Endpoint, timeout: Duration) -> Result<Self, Failure> {
        let config = tls::config(&endpoint.tls)?;
        let name = ServerName::try_from(endpoint.host.clone())
            .map_err(|_| Failure::before(Kind::Unreachable, "the host name is not valid"))?;
        let tls = config.map(|config| (TlsSettings(config), name));
        Ok(Self { endpoint, tls, timeout, slot: tokio::sync::Mutex::default() })
    }

    /// The connection, made if there is none. Callers that wait while one of them fails to connect share its failure.
    pub async fn connection(&self) -> Result<Connection, Failure> {
        let asked = Instant::now();
        let mut slot = self.slot.lock().await;
        if let Some(connection) = slot.connection.as_ref().filter(|c| !c.sender.is_closed()) {
            return Ok(connection.clone());
        }
        slot.connection = None;
        if let Some((at, failure)) = &slot.failed
            && *at >= asked
        {
            return Err(failure.clone());
        }
        match self.connect().await {
            Ok(connection) => {
                slot.failed = None;
                slot.connection = Some(connection.clone());
                Ok(connection)
            }
            Err(failure) => {
                slot.failed = Some((Instant::now(), failure.clone()));
                Err(failure)
            }
        }
    }

    /// Lets go of this connection, if it is still the one in use; calls under way on it go on.
    pub fn discard(&self, connection: &Connection) {
        // Whoever holds the lock is replacing the connection already.
        let Ok(mut slot) = self.slot.try_lock() else { return };
        if slot.connection.as_ref().is_some_and(|c| Arc::ptr_eq(&c.heard, &connection.heard)) {
            slot.connection = None;
        }
    }

    async fn connect(&self) -> Result<Connection, Failure> {
        let until = Instant::now() + self.timeout;
        let late = |what: &str| {
            Failure::before(Kind::Unreachable, format!("{what} within {}", spoken(self.timeout)))
        };
        let stream = self.dial(until).await?;
        match &self.tls {
            None => {
                let opened = timeout_at(until, open(stream)).await;
                match opened.map_err(|_| late("the server did not answer in HTTP/2"))? {
                    Ok(connection) => Ok(connection),
                    Err(stranger) => Err(self.explain_plaintext(stranger).await),
                }
            }
            Some((settings, name)) => {
                let connector = TlsConnector::from(settings.0.clone());
                let stream = timeout_at(until, connector.connect(name.clone(), stream))
                    .await
                    .map_err(|_| late("the server did not answer the TLS handshake"))?
                    .map_err(|e| tls::handshake_failure(&e))?;
                let opened = timeout_at(until, open(stream)).await;
                opened.map_err(|_| late("the server did not answer in HTTP/2"))?.map_err(not_http2)
            }
        }
    }

    /// TCP, to each address of the host in turn; an address that swallows packets does not use up the others' time.
    async fn dial(&self, until: Instant) -> Result<TcpStream, Failure> {
        let Endpoint { host, port, .. } = &self.endpoint;
        let found = timeout_at(until, tokio::net::lookup_host((host.as_str(), *port))).await;
        let addresses: Vec<SocketAddr> = match found {
            Ok(Ok(addresses)) => addresses.collect(),
            Ok(Err(e)) => {
                return Err(Failure::before(Kind::Unreachable, format!("cannot resolve `{host}`: {e}")));
            }
            Err(_) => {
                let text = format!("cannot resolve `{host}` within {}", spoken(self.timeout));
                return Err(Failure::before(Kind::Unreachable, text));
            }
        };
        let mut last = format!("`{host}` has no address");
        for (index, address) in addresses.iter().enumerate() {
            let share =
                until.duration_since(Instant::now()) / u32::try_from(addresses.len() - index).unwrap_or(1);
            last = match tokio::time::timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    // Small requests must not wait for more data; a failure here costs time only.
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Ok(Err(e)) => format!("cannot connect to {address}: {e}"),
                Err(_) => format!("no connection to {address} within {}", spoken(share)),
            };
        }
        Err(Failure::before(Kind::Unreachable, last))
    }

    /// Why a server did not answer plaintext HTTP/2. Go's TLS servers, that of The Things Stack among them, close such
    /// a connection without a word: one TLS handshake tells whether it is one.
    async fn explain_plaintext(&self, stranger: Stranger) -> Failure {
        let head = &stranger.head;
        let is_tls = head.starts_with(&[0x15, 0x03]) || (head.is_empty() && self.speaks_tls().await);
        if is_tls { tls::problem(TlsProblem::ServerIsTls, "") } else { not_http2(stranger) }
    }

    async fn speaks_tls(&self) -> bool {
        let until = Instant::now() + self.timeout.min(Duration::from_secs(3));
        let (Ok(config), Ok(name)) =
            (tls::with_roots(RootCertStore::empty()), ServerName::try_from(self.endpoint.host.clone()))
        else {
            return false;
        };
        let Ok(stream) = self.dial(until).await else { return false };
        match timeout_at(until, TlsConnector::from(config).connect(name, stream)).await {
            // No root is trusted, so a TLS server fails at its certificate.
            Ok(Err(e)) => matches!(
                e.get_ref().and_then(|e| e.downcast_ref()),
                Some(rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_))
            ),
            Ok(Ok(_)) => true,
            Err(_) => false,
        }
    }
}

/// A server that did not speak HTTP/2.
struct Stranger {
    /// The first bytes that it sent.
    head: Vec<u8>,
    /// The alert by which TLS ended after the handshake: with TLS 1.3 the server looks at client certificates only then.
    alert: Option<String>,
}

fn not_http2(stranger: Stranger) -> Failure {
    let what = match (stranger.head.as_slice(), stranger.alert) {
        (_, Some(alert)) => return tls::problem(TlsProblem::Refused, &alert),
        ([], None) => {
            let text = "the server closed the connection before it spoke HTTP/2";
            return Failure::before(Kind::Unreachable, text);
        }
        (head, None) if head.starts_with(b"HTTP/1") => "the server answers in HTTP/1, not gRPC",
        _ => "the server does not speak HTTP/2 on this port",
    };
    Failure::before(Kind::Protocol, what)
}

/// Speaks HTTP/2 on a stream.
async fn open<S>(stream: S) -> Result<Connection, Stranger>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let heard = Arc::new(Heard::default());
    let io = TokioIo::new(Listened { stream, heard: heard.clone() });
    let handshake = Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true)
        .max_header_list_size(MAX_HEADERS)
        .handshake(io);
    let Ok((sender, driver)) = handshake.await else { return Err(heard.stranger()) };
    tokio::spawn(async move {
        if let Err(error) = driver.await {
            tracing::debug!(%error, "a connection ended");
        }
    });
    heard.first.notified().await;
    // A SETTINGS frame: type 4 on stream 0.
    let stranger = heard.stranger();
    match stranger.head.as_slice() {
        [0, _, _, 4, _, 0, 0, 0, 0] => Ok(Connection { sender, heard }),
        _ => Err(stranger),
    }
}

/// What was received on a connection.
#[derive(Debug, Default)]
struct Heard {
    state: Mutex<HeardState>,
    /// Told once the head is complete, or the stream ended before.
    first: Notify,
}

#[derive(Debug, Default)]
struct HeardState {
    head: Vec<u8>,
    last: Option<Instant>,
    alert: Option<String>,
}

impl Heard {
    fn stranger(&self) -> Stranger {
        let state = lock(&self.state);
        Stranger { head: state.head.clone(), alert: state.alert.clone() }
    }

    fn note(&self, bytes: &[u8], result: &io::Result<()>, ended: bool) {
        let mut state = lock(&self.state);
        if let Err(error) = result {
            state.alert = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()).map(tls::refusal);
        }
        if !bytes.is_empty() {
            state.last = Some(Instant::now());
        }
        let missing = FRAME_HEADER - state.head.len();
        state.head.extend(bytes.iter().take(missing));
        // SETTINGS are never so long that their first byte is not 0: anything else is told at once.
        let foreign = state.head.first().is_some_and(|b| *b != 0);
        if ended || (missing > 0 && (foreign || state.head.len() == FRAME_HEADER)) {
            self.first.notify_one();
        }
    }
}

/// A stream that notes what it receives.
struct Listened<S> {
    stream: S,
    heard: Arc<Heard>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Listened<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (before, room) = (buf.filled().len(), buf.remaining());
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if let Poll::Ready(result) = &polled {
            let bytes = buf.filled().get(before..).unwrap_or_default();
            self.heard.note(bytes, result, result.is_err() || (bytes.is_empty() && room > 0));
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Listened<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl<S> Drop for Listened<S> {
    /// The driver may end without another read (a write failed): whoever waits must not wait for ever.
    fn drop(&mut self) {
        self.heard.first.notify_one();
    }
}
