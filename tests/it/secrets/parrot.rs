//! A server that repeats what it is told.

use std::{net::SocketAddr, sync::Arc};

use axum::{body::Body, extract::Request, response::Response};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::wrappers::TcpListenerStream;

/// A server, or something in front of it, that refuses what it is told and repeats it word for word.
pub struct Parrot {
    pub addr: SocketAddr,
    _runtime: tokio::runtime::Runtime,
}

impl Parrot {
    /// In front of `upstream`; calls of methods that end so are refused, all others are passed on.
    pub fn new(
        upstream: SocketAddr,
        refused: &'static str,
        words: impl Fn(&str, &[u8]) -> String + Send + Sync + 'static,
    ) -> Self {
        let words = Arc::new(words);
        let router = axum::Router::new().fallback(move |request: Request| {
            let words = Arc::clone(&words);
            async move {
                if !request.uri().path().ends_with(refused) {
                    return pass_on(upstream, request).await;
                }
                let key =
                    request.headers().get("authorization").expect("a key").to_str().expect("text").to_owned();
                let body = request.into_body().collect().await.expect("a body").to_bytes();
                tonic::Status::invalid_argument(words(&key, &body)).into_http()
            }
        });
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0))).expect("loopback");
        let addr = listener.local_addr().expect("bound");
        let server = tonic::transport::Server::builder().add_routes(tonic::service::Routes::from(router));
        runtime.spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Self { addr, _runtime: runtime }
    }
}

async fn pass_on(upstream: SocketAddr, request: Request) -> Response {
    let stream = TcpStream::connect(upstream).await.expect("it listens");
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.expect("it speaks HTTP/2");
    tokio::spawn(connection);
    let (parts, body) = request.into_parts();
    let body = Full::new(body.collect().await.expect("a body").to_bytes());
    sender.send_request(Request::from_parts(parts, body)).await.expect("an answer").map(Body::new)
}
