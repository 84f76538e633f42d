//! A server that notes every byte that it gets: in the clear, and what it decrypts.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};
use tokio_rustls::TlsAcceptor;

use crate::world::search::{Search, Secret};

/// What a server does with a connection.
#[derive(Clone)]
pub enum Manner {
    /// Shakes hands, and goes on so.
    Tls(Arc<ServerConfig>, After),
    /// Goes on so without TLS.
    Plain(After),
    /// As Go's TLS servers: whatever does not begin like TLS is cut off without a word.
    OnlyTls,
    /// Reads the first bytes, then says these.
    Says(Vec<u8>),
    /// Says these before it reads anything.
    Greets(&'static [u8]),
    /// Reads the greeting and closes.
    HangsUp,
    /// Closes at once.
    ClosesAtOnce,
}

/// What it does above TLS.
#[derive(Clone)]
pub enum After {
    /// Passes calls on to this server.
    PassOn(SocketAddr),
    /// Sends clients to this address.
    Redirect(StatusCode, String),
    /// HTTP/1, as a portal or an old proxy.
    Http1,
    /// Nothing at all.
    Silence,
}

/// What a server got.
#[derive(Default)]
pub struct Got {
    pub connections: usize,
    pub handshakes: usize,
    clear: Vec<u8>,
    plain: Vec<u8>,
    authorizations: Vec<String>,
}

impl Got {
    /// True when any of it is the API key, or could be: headers are compressed, so no header may have come at all.
    pub fn has(&self, api_key: &str) -> bool {
        let key = Search::new(&[Secret::new("API key", api_key)]);
        let read = self.authorizations.iter().any(|text| text.contains(api_key));
        let bytes = !key.find(&self.clear).is_empty() || !key.find(&self.plain).is_empty();
        read || bytes || header_frames(&self.clear) + header_frames(&self.plain) > 0
    }

    /// True when the API key was read from the headers of a call.
    pub fn was_called_with(&self, api_key: &str) -> bool {
        self.authorizations.iter().any(|text| *text == format!("Bearer {api_key}"))
    }
}

/// HEADERS and CONTINUATION frames of HTTP/2 (RFC 9113 §6.2, §6.10) after its preface, anywhere in `bytes`.
fn header_frames(bytes: &[u8]) -> usize {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut count = 0;
    for at in bytes.windows(PREFACE.len()).enumerate().filter(|(_, w)| *w == PREFACE).map(|(at, _)| at) {
        let mut rest = &bytes[at + PREFACE.len()..];
        while let Some([a, b, c, kind, ..]) = rest.first_chunk::<9>() {
            count += usize::from(matches!(kind, 1 | 9));
            let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            rest = rest.get(9 + length..).unwrap_or_default();
        }
    }
    count
}

type Noted = Arc<Mutex<Got>>;

fn lock(got: &Noted) -> MutexGuard<'_, Got> {
    got.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A server on loopback; it ends with the runtime.
pub struct Server {
    pub addr: SocketAddr,
    got: Noted,
}

impl Server {
    pub fn start(runtime: &Runtime, manner: Manner) -> Self {
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0))).expect("loopback");
        let addr = listener.local_addr().expect("bound");
        let got = Noted::default();
        let noted = Arc::clone(&got);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                lock(&noted).connections += 1;
                tokio::spawn(serve(stream, manner.clone(), Arc::clone(&noted)));
            }
        });
        Self { addr, got }
    }

    pub fn got(&self) -> MutexGuard<'_, Got> {
        lock(&self.got)
    }
}

async fn serve(stream: TcpStream, manner: Manner, got: Noted) {
    let _ = stream.set_nodelay(true);
    let mut stream = Tap { stream, got: Arc::clone(&got), what: |got, bytes| got.clear.extend(bytes) };
    match manner {
        Manner::Tls(config, after) => {
            if let Ok(stream) = TlsAcceptor::from(config).accept(stream).await {
                lock(&got).handshakes += 1;
                let stream =
                    Tap { stream, got: Arc::clone(&got), what: |got, bytes| got.plain.extend(bytes) };
                go_on(stream, after, got).await;
            }
        }
        Manner::Plain(after) => go_on(stream, after, got).await,
        Manner::OnlyTls => {
            let mut first = [0];
            if stream.read(&mut first).await.is_ok() && first == [0x16] {
                // The alert of a server that likes no client: `handshake_failure`.
                let _ = stream.write_all(&[0x15, 3, 3, 0, 2, 2, 40]).await;
            }
        }
        Manner::Says(bytes) => {
            let _ = stream.read(&mut [0; 16 << 10]).await;
            let _ = stream.write_all(&bytes).await;
            drain(stream).await;
        }
        Manner::Greets(bytes) => {
            let _ = stream.write_all(bytes).await;
            drain(stream).await;
        }
        Manner::HangsUp => {
            let _ = stream.read(&mut [0; 16 << 10]).await;
        }
        Manner::ClosesAtOnce => {}
    }
}

async fn go_on<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(stream: S, after: After, got: Noted) {
    let answer = move |request: Request<Incoming>, after: After| {
        let key = request.headers().get(header::AUTHORIZATION);
        let key = key.map(|key| String::from_utf8_lossy(key.as_bytes()).into_owned());
        lock(&got).authorizations.extend(key);
        async move {
            Ok::<_, io::Error>(match after {
                After::PassOn(upstream) => pass_on(upstream, request).await,
                After::Redirect(status, to) => {
                    let response = Response::builder().status(status).header(header::LOCATION, to);
                    response.body(Body::empty()).expect("valid")
                }
                After::Http1 | After::Silence => Response::new(Body::from("hello")),
            })
        }
    };
    let service = {
        let after = after.clone();
        service_fn(move |request| answer(request, after.clone()))
    };
    match after {
        After::Silence => drain(stream).await,
        After::Http1 => {
            let mut stream = stream;
            let _ = stream.read(&mut [0; 16 << 10]).await;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
            drain(stream).await;
        }
        After::PassOn(_) | After::Redirect(..) => {
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        }
    }
}

/// Reads to the end, for a while.
async fn drain(mut stream: impl AsyncRead + Unpin) {
    let mut bytes = [0; 16 << 10];
    let all = async { while matches!(stream.read(&mut bytes).await, Ok(1..)) {} };
    let _ = tokio::time::timeout(Duration::from_mins(1), all).await;
}

async fn pass_on(upstream: SocketAddr, request: Request<Incoming>) -> Response<Body> {
    let stream = TcpStream::connect(upstream).await.expect("it listens");
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.expect("it speaks HTTP/2");
    tokio::spawn(connection);
    let (parts, body) = request.into_parts();
    let body = Full::new(body.collect().await.expect("a body").to_bytes());
    sender.send_request(Request::from_parts(parts, body)).await.expect("an answer").map(Body::new)
}

/// A stream that notes what is read from it.
struct Tap<S> {
    stream: S,
    got: Noted,
    what: fn(&mut Got, &[u8]),
}

impl<S: AsyncRead + Unpin> AsyncRead for Tap<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        (self.what)(&mut lock(&self.got), &buf.filled()[before..]);
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tap<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
