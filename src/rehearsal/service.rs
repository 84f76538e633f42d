//! The gRPC side of the embedded stack: one service for every method of the descriptor pool.

use std::{
    convert::Infallible,
    future::{self, Future},
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use futures_util::stream;
use http_body_util::BodyExt as _;
use prost_reflect::DynamicMessage;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};
use tokio_stream::{StreamExt as _, wrappers::TcpListenerStream};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{
    Status,
    metadata::{MetadataKey, MetadataMap},
    service::Routes,
    transport::{
        Certificate, Identity, Server, ServerTlsConfig,
        server::{Connected, TlsConnectInfo},
    },
};

use super::tts::{CallInfo, Failure, Fault, Reply, Tts};
use crate::{proto, wire::codec::DynamicCodec};

/// Certificates of a server, in PEM.
#[derive(Clone)]
pub struct ServerTls {
    /// Its certificate with the chain.
    pub certificate: String,
    /// Its private key.
    pub key: String,
    /// Who signs the certificates that clients must show; `None` to ask for none.
    pub client_ca: Option<String>,
}

impl std::fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerTls").field("client_ca", &self.client_ca.is_some()).finish_non_exhaustive()
    }
}

/// A running server. It stops when this is dropped: the port is closed and every connection is cut.
#[derive(Debug)]
pub struct Served {
    /// Where it listens.
    pub addr: SocketAddr,
    stop: CancellationToken,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl Served {
    /// Stops and waits until the port is free.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            // Stopping has no other way to fail than a panic of the server, which its callers have seen.
            task.await.ok();
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Serves `tts` on `listen`; port 0 takes a free one.
///
/// # Errors
/// When the port cannot be had or the certificates cannot be used.
pub async fn serve(tts: Arc<Tts>, listen: SocketAddr, tls: Option<ServerTls>) -> io::Result<Served> {
    let listener = TcpListener::bind(listen).await?;
    let addr = listener.local_addr()?;
    let mut server = Server::builder().tcp_nodelay(true);
    if let Some(tls) = tls {
        let mut config = ServerTlsConfig::new().identity(Identity::from_pem(tls.certificate, tls.key));
        if let Some(ca) = tls.client_ca {
            config = config.client_ca_root(Certificate::from_pem(ca));
        }
        server = server.tls_config(config).map_err(io::Error::other)?;
    }
    let stop = CancellationToken::new();
    let connections = stop.clone();
    let incoming = TcpListenerStream::new(listener)
        .map(move |stream| stream.map(|stream| Connection::new(stream, connections.child_token())));
    let router = axum::Router::new().fallback_service(Service(tts));
    let serving = server.add_routes(Routes::from(router));
    let stopped = stop.clone().cancelled_owned();
    let task = tokio::spawn(async move {
        if let Err(error) = serving.serve_with_incoming_shutdown(incoming, stopped).await {
            tracing::error!(%error, "the embedded server stopped");
        }
    });
    Ok(Served { addr, stop, task: Some(task) })
}

/// A TCP connection that a fault can cut.
struct Connection {
    stream: TcpStream,
    cut: Cut,
    is_cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Connection {
    fn new(stream: TcpStream, cut: CancellationToken) -> Self {
        // Without it small answers wait for acknowledgements; a connection that has it not works all the same.
        stream.set_nodelay(true).ok();
        let is_cut = Box::pin(cut.clone().cancelled_owned());
        Self { stream, cut: Cut { token: cut, reset: Arc::default() }, is_cut }
    }

    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.is_cut.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionReset.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.cut.token.is_cancelled() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.cut.reset.load(Ordering::SeqCst) {
            // Closing discards what waits and sends RST. Should it fail, the connection ends with FIN: cut all the same.
            self.stream.set_zero_linger().ok();
        }
    }
}

/// What a request knows of its connection.
#[derive(Clone)]
struct Cut {
    token: CancellationToken,
    reset: Arc<AtomicBool>,
}

impl Cut {
    /// Cuts the connection; the call ends with it.
    async fn now<T>(&self) -> T {
        self.token.cancel();
        future::pending().await
    }

    /// As [`Cut::now`], with RST.
    async fn reset<T>(&self) -> T {
        self.reset.store(true, Ordering::SeqCst);
        self.now().await
    }
}

impl Connected for Connection {
    type ConnectInfo = Cut;

    fn connect_info(&self) -> Cut {
        self.cut.clone()
    }
}

/// Every method of every service.
#[derive(Clone)]
struct Service(Arc<Tts>);

impl tower::Service<http::Request<Body>> for Service {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let tts = Arc::clone(&self.0);
        Box::pin(async move { Ok(answer(tts, request).await) })
    }
}

async fn answer(tts: Arc<Tts>, request: http::Request<Body>) -> http::Response<Body> {
    let path = request.uri().path().to_owned();
    let method = proto::method(&path).filter(|m| !m.is_client_streaming() && !m.is_server_streaming());
    let Some(method) = method else {
        return Status::unimplemented(format!("unknown method {path}")).into_http();
    };
    let extensions = request.extensions();
    let cut = extensions
        .get::<Cut>()
        .or_else(|| extensions.get::<TlsConnectInfo<Cut>>().map(TlsConnectInfo::get_ref));
    let Some(cut) = cut.cloned() else { return Status::internal("no connection").into_http() };
    let size = tts.settings().max_message_size;
    let codec = DynamicCodec::new(method.input()).max_size(size);
    let mut grpc = tonic::server::Grpc::new(codec).max_decoding_message_size(size);
    let replied = Replied { tts: Arc::clone(&tts), call: Arc::default() };
    let note = Note { call: Arc::clone(&replied.call), torn: Arc::default() };
    let response = grpc.unary(Unary { tts, path, cut: cut.clone(), note: note.clone() }, request).await;
    if note.torn.load(Ordering::SeqCst) {
        return torn(response, cut).await;
    }
    response.map(|body| {
        // The body owns the note: it is dropped when the transport has taken all of it.
        let noted = body.map_frame(move |frame| {
            let _ = &replied;
            frame
        });
        Body::new(noted)
    })
}

/// Time for half an answer to leave before its connection is cut.
const FLUSH: Duration = Duration::from_millis(5);

/// The first half of an answer, and then no connection any more.
async fn torn(response: http::Response<tonic::body::Body>, cut: Cut) -> http::Response<Body> {
    let (head, body) = response.into_parts();
    let whole = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let half = Ok::<_, Infallible>(whole.slice(..whole.len() / 2));
    let end = async move {
        tokio::time::sleep(FLUSH).await;
        cut.now().await
    };
    let frames = stream::StreamExt::chain(stream::iter([half]), stream::once(end));
    http::Response::from_parts(head, Body::from_stream(frames))
}

/// What is learnt of a call while it is served.
#[derive(Clone)]
struct Note {
    call: Arc<OnceLock<CallInfo>>,
    /// Its answer is to be cut in the middle.
    torn: Arc<AtomicBool>,
}

/// Tells the hooks of an answer when it is dropped.
struct Replied {
    tts: Arc<Tts>,
    call: Arc<OnceLock<CallInfo>>,
}

impl Drop for Replied {
    fn drop(&mut self) {
        if let Some(call) = self.call.get() {
            self.tts.replied(call);
        }
    }
}

struct Unary {
    tts: Arc<Tts>,
    path: String,
    cut: Cut,
    note: Note,
}

impl tonic::server::UnaryService<DynamicMessage> for Unary {
    type Response = DynamicMessage;
    type Future = Pin<Box<dyn Future<Output = Result<tonic::Response<DynamicMessage>, Status>> + Send>>;

    fn call(&mut self, request: tonic::Request<DynamicMessage>) -> Self::Future {
        let (tts, path) = (Arc::clone(&self.tts), self.path.clone());
        let (cut, note) = (self.cut.clone(), self.note.clone());
        Box::pin(async move { unary(tts, &path, cut, note, request).await })
    }
}

async fn unary(
    tts: Arc<Tts>,
    path: &str,
    cut: Cut,
    note: Note,
    request: tonic::Request<DynamicMessage>,
) -> Result<tonic::Response<DynamicMessage>, Status> {
    let (metadata, _, message) = request.into_parts();
    let bearer = bearer(&metadata);
    let call = tts.announce(path, &message);
    let fault = tts.fault(&call);
    match &fault {
        Some(Fault::Status(code)) => {
            return Err(refused(tts.refuse(call, *code, None), &note, &[]));
        }
        Some(Fault::Error(code, namespace, name)) => {
            return Err(refused(tts.refuse(call, *code, Some((namespace, name))), &note, &[]));
        }
        Some(Fault::RateLimited(headers)) => {
            return Err(refused(tts.refuse_for_rate(call), &note, headers));
        }
        Some(Fault::Delay(time)) => tokio::time::sleep(*time).await,
        Some(Fault::CutBefore) => return cut.now().await,
        Some(Fault::Reset) => return cut.reset().await,
        _ => {}
    }
    let (call, outcome) = match fault {
        Some(Fault::Late(time)) => late(tts, time, call, message, bearer).await?,
        _ => tts.apply(call, message, bearer.as_deref()),
    };
    match fault {
        Some(Fault::CutAfter) => return cut.now().await,
        Some(Fault::CutWithin) => note.torn.store(true, Ordering::SeqCst),
        Some(Fault::StatusAfter(code)) => return Err(Status::new(code, "the answer was lost")),
        _ => {}
    }
    let more = if let Some(Fault::Headers(headers)) = fault { headers } else { Vec::new() };
    // Only one call is made with this cell.
    note.call.set(call).ok();
    match outcome {
        Ok(reply) => {
            let mut response = tonic::Response::new(reply.message);
            add(response.metadata_mut(), reply.headers.iter().chain(&more));
            Ok(response)
        }
        Err(failure) => {
            let mut status = failure.status();
            add(status.metadata_mut(), failure.headers().iter().chain(&more));
            Err(status)
        }
    }
}

/// Applies a call later, in a task of its own: a client that goes away does not end it.
async fn late(
    tts: Arc<Tts>,
    time: Duration,
    call: CallInfo,
    message: DynamicMessage,
    bearer: Option<String>,
) -> Result<(CallInfo, Result<Reply, Failure>), Status> {
    let applied = tokio::spawn(async move {
        tokio::time::sleep(time).await;
        tts.apply(call, message, bearer.as_deref())
    });
    applied.await.map_err(|_| Status::internal("the embedded server stopped"))
}

fn refused((call, failure): (CallInfo, Failure), note: &Note, headers: &[(String, String)]) -> Status {
    note.call.set(call).ok();
    let mut status = failure.status();
    add(status.metadata_mut(), headers.iter());
    status
}

fn bearer(metadata: &MetadataMap) -> Option<String> {
    let (kind, token) = metadata.get("authorization")?.to_str().ok()?.split_once(' ')?;
    kind.eq_ignore_ascii_case("bearer").then(|| token.to_owned())
}

fn add<'h>(metadata: &mut MetadataMap, headers: impl Iterator<Item = &'h (String, String)>) {
    for (name, value) in headers {
        let parsed = MetadataKey::from_bytes(name.as_bytes()).ok().zip(value.parse().ok());
        if let Some((name, value)) = parsed {
            metadata.append(name, value);
        }
    }
}
