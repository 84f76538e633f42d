//! The gRPC side of the embedded stacks: one service for every method of the descriptor pool.

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

use super::{
    calls::{CallInfo, Calls, Fault, Reply},
    tts::Tts,
};
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

/// What the transport needs of an embedded stack. A call is announced, then refused by a fault or applied, then replied to.
pub(super) trait Stack: Send + Sync + 'static {
    /// Its hooks and the list of its calls.
    fn calls(&self) -> &Calls;

    /// Largest message in both directions, in bytes.
    fn max_message_size(&self) -> usize;

    /// Numbers a call.
    fn announce(&self, path: &str, request: &DynamicMessage) -> CallInfo;

    /// The refusal that a fault asks for, in this stack's words; `None` for faults of the transport.
    fn injected(&self, fault: &Fault) -> Option<Status>;

    /// Applies a call, notes how it ended and tells the hooks ([`Calls::finish`]).
    fn apply(
        &self,
        call: &mut CallInfo,
        request: DynamicMessage,
        metadata: &MetadataMap,
    ) -> impl Future<Output = Result<Reply, Status>> + Send;
}

/// How a stack is served.
pub(super) struct Door {
    /// Certificates, or plaintext.
    pub tls: Option<ServerTls>,
    /// The services that are there: a package with its dot, or more.
    pub services: &'static str,
    /// Connections are closed after this time (GOAWAY); `None`: never.
    pub connection_age: Option<Duration>,
}

/// Serves `tts` on `listen`; port 0 takes a free one.
///
/// # Errors
/// When the port cannot be had or the certificates cannot be used.
pub async fn serve(tts: Arc<Tts>, listen: SocketAddr, tls: Option<ServerTls>) -> io::Result<Served> {
    let door = Door { tls, services: "ttn.lorawan.v3.", connection_age: None };
    serve_listener(tts, door, TcpListener::bind(listen).await?)
}

/// Serves a stack on a port that was had before.
///
/// # Errors
/// When the certificates cannot be used.
pub(super) fn serve_listener<S: Stack>(
    stack: Arc<S>,
    door: Door,
    listener: TcpListener,
) -> io::Result<Served> {
    let addr = listener.local_addr()?;
    let mut server = Server::builder().tcp_nodelay(true);
    if let Some(age) = door.connection_age {
        server = server.max_connection_age(age);
    }
    if let Some(tls) = door.tls {
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
    let router = axum::Router::new().fallback_service(Service { stack, services: door.services });
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

/// Every method of the services that are there.
struct Service<S> {
    stack: Arc<S>,
    services: &'static str,
}

impl<S> Clone for Service<S> {
    fn clone(&self) -> Self {
        Self { stack: Arc::clone(&self.stack), services: self.services }
    }
}

impl<S: Stack> tower::Service<http::Request<Body>> for Service<S> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move { Ok(answer(service, request).await) })
    }
}

async fn answer<S: Stack>(service: Service<S>, request: http::Request<Body>) -> http::Response<Body> {
    let Service { stack, services } = service;
    let path = request.uri().path().to_owned();
    let is_there = path.strip_prefix('/').is_some_and(|path| path.starts_with(services));
    let method =
        proto::method(&path).filter(|m| is_there && !m.is_client_streaming() && !m.is_server_streaming());
    let Some(method) = method else {
        return Status::unimplemented(format!("unknown method {path}")).into_http();
    };
    let extensions = request.extensions();
    let cut = extensions
        .get::<Cut>()
        .or_else(|| extensions.get::<TlsConnectInfo<Cut>>().map(TlsConnectInfo::get_ref));
    let Some(cut) = cut.cloned() else { return Status::internal("no connection").into_http() };
    let size = stack.max_message_size();
    let codec = DynamicCodec::new(method.input()).max_size(size);
    let mut grpc = tonic::server::Grpc::new(codec).max_decoding_message_size(size);
    let replied = Replied { stack: Arc::clone(&stack), call: Arc::default() };
    let note = Note { call: Arc::clone(&replied.call), torn: Arc::default() };
    let response = grpc.unary(Unary { stack, path, cut: cut.clone(), note: note.clone() }, request).await;
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
struct Replied<S: Stack> {
    stack: Arc<S>,
    call: Arc<OnceLock<CallInfo>>,
}

impl<S: Stack> Drop for Replied<S> {
    fn drop(&mut self) {
        if let Some(call) = self.call.get() {
            self.stack.calls().replied(call);
        }
    }
}

struct Unary<S> {
    stack: Arc<S>,
    path: String,
    cut: Cut,
    note: Note,
}

impl<S: Stack> tonic::server::UnaryService<DynamicMessage> for Unary<S> {
    type Response = DynamicMessage;
    type Future = Pin<Box<dyn Future<Output = Result<tonic::Response<DynamicMessage>, Status>> + Send>>;

    fn call(&mut self, request: tonic::Request<DynamicMessage>) -> Self::Future {
        let (stack, path) = (Arc::clone(&self.stack), self.path.clone());
        let (cut, note) = (self.cut.clone(), self.note.clone());
        Box::pin(async move { unary(stack, &path, cut, note, request).await })
    }
}

async fn unary<S: Stack>(
    stack: Arc<S>,
    path: &str,
    cut: Cut,
    note: Note,
    request: tonic::Request<DynamicMessage>,
) -> Result<tonic::Response<DynamicMessage>, Status> {
    let (metadata, _, message) = request.into_parts();
    let mut call = stack.announce(path, &message);
    let fault = stack.calls().fault(&call);
    if let Some(status) = fault.as_ref().and_then(|fault| stack.injected(fault)) {
        stack.calls().finish(&mut call, status.code());
        note.call.set(call).ok();
        return Err(status);
    }
    match &fault {
        Some(Fault::Delay(time)) => tokio::time::sleep(*time).await,
        Some(Fault::CutBefore) => return cut.now().await,
        Some(Fault::Reset) => return cut.reset().await,
        _ => {}
    }
    let outcome = match fault {
        Some(Fault::Late(time)) => {
            let outcome;
            (call, outcome) = late(stack, time, call, message, metadata).await?;
            outcome
        }
        _ => stack.apply(&mut call, message, &metadata).await,
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
            add(response.metadata_mut(), &reply.headers);
            add(response.metadata_mut(), &more);
            Ok(response)
        }
        Err(mut status) => {
            add(status.metadata_mut(), &more);
            Err(status)
        }
    }
}

/// Applies a call later, in a task of its own: a client that goes away does not end it.
async fn late<S: Stack>(
    stack: Arc<S>,
    time: Duration,
    mut call: CallInfo,
    message: DynamicMessage,
    metadata: MetadataMap,
) -> Result<(CallInfo, Result<Reply, Status>), Status> {
    let applied = tokio::spawn(async move {
        tokio::time::sleep(time).await;
        let outcome = stack.apply(&mut call, message, &metadata).await;
        (call, outcome)
    });
    applied.await.map_err(|_| Status::internal("the embedded server stopped"))
}

/// Adds headers; those that HTTP does not allow are left out.
pub(super) fn add(metadata: &mut MetadataMap, headers: &[(String, String)]) {
    for (name, value) in headers {
        let parsed = MetadataKey::from_bytes(name.as_bytes()).ok().zip(value.parse().ok());
        if let Some((name, value)) = parsed {
            metadata.append(name, value);
        }
    }
}
