//! A gRPC server that answers by a script.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, server::conn::http2::Builder, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost_reflect::{DynamicMessage, prost::Message as _};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Notify,
};
use tokio_rustls::TlsAcceptor;

use super::{listener, lock, plaintext};
use crate::wire::{Code, Endpoint, grpc, status};

/// What the server got.
pub struct Seen {
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// What it does.
pub enum Reply {
    /// Answers with this message and these headers.
    Message(DynamicMessage, Vec<(&'static str, String)>),
    /// Refuses: header and trailers in two frames, as grpc-go does when a handler has set headers.
    Refused(HeaderMap, Vec<(&'static str, String)>),
    /// Anything: HTTP status, headers, body, trailers.
    Raw(u16, Vec<(&'static str, String)>, Vec<u8>, HeaderMap),
    /// Never answers.
    Hang,
    /// Ends the stream.
    Reset(h2::Reason),
    /// Ends the connection.
    Cut,
    /// Answers, and ends the connection with GOAWAY.
    GoAway(DynamicMessage),
}

impl Reply {
    pub fn refused(code: Code, namespace: &str, name: &str, attributes: serde_json::Value) -> Self {
        let headers = status::tests::headers(code, &[(namespace, name, "refused", attributes)]);
        Self::Refused(headers, Vec::new())
    }

    pub fn rate_limited(headers: &[(&'static str, &str)]) -> Self {
        let error = [("pkg/ratelimit", "rate_limit_exceeded", "slow down", serde_json::json!({}))];
        let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        Self::Refused(status::tests::headers(Code::ResourceExhausted, &error), headers)
    }
}

type Script = dyn Fn(usize, &Seen) -> Reply + Send + Sync;

/// A running server; it ends with the test's runtime.
pub struct Server {
    pub endpoint: Endpoint,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
}

impl Server {
    /// Plaintext; the script is given the number of the call, from 0.
    pub async fn start(script: impl Fn(usize, &Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::serve(None, script).await
    }

    pub async fn serve(
        tls: Option<TlsAcceptor>,
        script: impl Fn(usize, &Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let (listener, port) = listener().await;
        let script: Arc<Script> = Arc::new(script);
        let server = Self { endpoint: plaintext(port), seen: Arc::default(), connections: Arc::default() };
        let (seen, connections) = (server.seen.clone(), server.connections.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // Else GOAWAY would wait for the client's delayed acknowledgement.
                stream.set_nodelay(true).expect("a socket");
                connections.fetch_add(1, Ordering::SeqCst);
                let (script, seen, tls) = (script.clone(), seen.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => connection(stream, script, seen).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                connection(stream, script, seen).await;
                            }
                        }
                    }
                });
            }
        });
        server
    }

    pub fn calls(&self) -> usize {
        lock(&self.seen).len()
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Looks at each call that came.
    pub fn each<T>(&self, look: impl Fn(&Seen) -> T) -> Vec<T> {
        lock(&self.seen).iter().map(look).collect()
    }
}

type Out = UnsyncBoxBody<Bytes, Infallible>;

async fn connection<S>(stream: S, script: Arc<Script>, seen: Arc<Mutex<Vec<Seen>>>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (cut, leave) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (cutter, leaver) = (cut.clone(), leave.clone());
    let service = service_fn(move |request: Request<Incoming>| {
        let (script, seen, cut, leave) = (script.clone(), seen.clone(), cutter.clone(), leaver.clone());
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
            let call = Seen { path: head.uri.path().to_owned(), headers: head.headers, body };
            let reply = {
                let mut seen = lock(&seen);
                let reply = script(seen.len(), &call);
                seen.push(call);
                reply
            };
            answer(reply, &cut, &leave).await
        }
    });
    let serving = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    tokio::select! {
        _ = serving.as_mut() => return,
        () = cut.notified() => return,
        () = leave.notified() => serving.as_mut().graceful_shutdown(),
    }
    let _ = serving.await;
}

async fn answer(reply: Reply, cut: &Notify, leave: &Notify) -> Result<Response<Out>, h2::Error> {
    match reply {
        Reply::Message(message, headers) => Ok(message_response(&message, headers)),
        Reply::GoAway(message) => {
            leave.notify_one();
            Ok(message_response(&message, Vec::new()))
        }
        Reply::Refused(trailers, mut headers) => {
            headers.push(("content-type", "application/grpc".into()));
            Ok(response(200, headers, Vec::new(), trailers))
        }
        Reply::Raw(http, headers, body, trailers) => Ok(response(http, headers, body, trailers)),
        Reply::Hang => std::future::pending().await,
        Reply::Reset(reason) => Err(reason.into()),
        Reply::Cut => {
            cut.notify_one();
            std::future::pending().await
        }
    }
}

pub fn ok_trailers() -> HeaderMap {
    HeaderMap::from_iter([(
        http::HeaderName::from_static("grpc-status"),
        http::HeaderValue::from_static("0"),
    )])
}

fn message_response(message: &DynamicMessage, mut headers: Vec<(&'static str, String)>) -> Response<Out> {
    headers.push(("content-type", "application/grpc+proto".into()));
    let body = grpc::framed(&message.encode_to_vec()).expect("small");
    response(200, headers, body.to_vec(), ok_trailers())
}

fn response(
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    trailers: HeaderMap,
) -> Response<Out> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(name, value);
    }
    let trailers = async move { (!trailers.is_empty()).then_some(Ok(trailers)) };
    let body = Full::new(Bytes::from(body)).with_trailers(trailers);
    response.body(UnsyncBoxBody::new(body)).expect("valid")
}
