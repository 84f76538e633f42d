//! A server that repeats what it is told.

use std::{
    fs,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{body::Body, extract::Request, response::Response};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::wrappers::TcpListenerStream;

use super::{fleet, loud, select};
use crate::world::{LOSSES, canaries, search};

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

/// Runs three devices against a target that repeats what `words` makes of API key and request.
fn run_against_parrot(words: impl Fn(&str, &[u8]) -> String + Send + Sync + 'static) {
    let world = fleet();
    let file = world.config(&format!("{LOSSES}session = \"keep\"\n"));
    select(&file, &[1, 2, 5]);
    let parrot = Parrot::new(world.target.addr(), "AsEndDeviceRegistry/Set", words);
    let text = fs::read_to_string(&file).expect("written");
    fs::write(&file, text.replace(&world.target.addr().to_string(), &parrot.addr.to_string()))
        .expect("a file");
    let talk = [&["-vv"][..], &["--output", "json", "-vv"]];
    for form in talk {
        let ran = loud(&world, "run", &[&["--yes"], form].concat());
        let said = |text: &str| ran.out.contains(text) || ran.err.contains(text);
        assert!(said("the parrot says") || said("[not shown: the server repeats a secret]"), "{}", ran.err);
        assert_ne!(ran.code, Some(0));
    }
}

#[test]
fn a_server_that_repeats_the_api_key_is_not_quoted() {
    run_against_parrot(|key, _| format!("the parrot says {key}"));
}

#[test]
fn a_server_that_repeats_the_api_key_at_great_length_is_not_quoted() {
    run_against_parrot(|key, _| format!("the parrot says {}{key}", "x".repeat(500)));
}

#[test]
fn a_server_that_repeats_a_device_key_is_not_quoted() {
    repeats_keys(|| "HEX");
}

/// Each call is told another form: Go prints `%x`, `%v` and `%q`, JSON has base64, LoRaWAN is little-endian.
#[test]
fn a_server_that_repeats_a_device_key_in_any_form_is_not_quoted() {
    for nth in 0..3 {
        let names: Vec<_> = search::forms(&[0xAA; 16]).into_iter().map(|(name, _)| name).collect();
        let next = AtomicUsize::new(nth);
        let name = move || names[next.fetch_add(3, Ordering::Relaxed) % names.len()];
        repeats_keys(name);
    }
}

fn repeats_keys(name: impl Fn() -> &'static str + Send + Sync + 'static) {
    let keys = canaries::of_fixture();
    run_against_parrot(move |_, body| {
        let told = keys.iter().filter(|key| body.windows(key.len()).any(|w| w == **key));
        let name = name();
        told.fold("the parrot says".to_owned(), |text, key| {
            let form = search::forms(key).into_iter().find(|form| form.0 == name).map(|form| form.1);
            format!("{text} {}", String::from_utf8_lossy(&form.unwrap_or_default()))
        })
    });
}

#[test]
fn a_server_that_repeats_the_request_in_base64_is_not_quoted() {
    run_against_parrot(|_, body| format!("the parrot says {}", BASE64_STANDARD.encode(body)));
}
