//! Servers that are no servers: nothing hangs, nothing panics, and the error says what is there.

use http::HeaderMap;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    server::{Reply, Server, ok_trailers},
    *,
};

fn grpc_type() -> Vec<(&'static str, String)> {
    vec![("content-type", "application/grpc".into())]
}

async fn raw_error(
    http: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    trailers: HeaderMap,
) -> Error {
    let server =
        Server::start(move |_, _| Reply::Raw(http, headers.clone(), body.clone(), trailers.clone())).await;
    let settings = Settings { max_message: 1000, ..settings() };
    create(&client_with(server.endpoint.clone(), settings)).await.expect_err("no answer")
}

#[tokio::test]
async fn a_web_page_is_not_an_answer() {
    let html = || vec![("content-type", "text/html; charset=utf-8".into())];
    let error = raw_error(200, html(), b"<html>Sign in</html>".to_vec(), HeaderMap::new()).await;
    assert_eq!(*error.kind(), Kind::Protocol);
    assert_eq!(error.message(), "the server answered text/html; charset=utf-8, not gRPC");
    assert!(error.hint().is_some_and(|h| h.contains("not the Console's")));
    for (http, kind) in [
        (401, Kind::Unauthenticated),
        (404, Kind::Unimplemented),
        (429, Kind::RateLimited),
        (500, Kind::Server),
        (503, Kind::Unavailable),
        (302, Kind::Protocol),
    ] {
        let error = raw_error(http, html(), Vec::new(), HeaderMap::new()).await;
        assert_eq!((error.kind(), error.outcome()), (&kind, Outcome::Unknown));
    }
}

#[tokio::test]
async fn answers_without_sense_are_protocol_errors() {
    let framed = |flag: u8, length: u32, body: &[u8]| [&[flag][..], &length.to_be_bytes(), body].concat();
    for (body, trailers) in [
        (Vec::new(), ok_trailers()),
        (Vec::new(), HeaderMap::new()),
        (framed(0, 0, b""), HeaderMap::new()),
        (framed(1, 1, b"x"), ok_trailers()),
        (framed(0, 9, b"x"), ok_trailers()),
        (framed(0, 1, b"xy"), ok_trailers()),
        (framed(0, 3, &[0xff, 0xff, 0xff]), ok_trailers()),
        (vec![0, 0], ok_trailers()),
    ] {
        let text = format!("{body:?}");
        let error = raw_error(200, grpc_type(), body, trailers).await;
        assert_eq!((error.kind(), error.outcome()), (&Kind::Protocol, Outcome::Unknown), "{text} {error}");
    }
    let empty = raw_error(200, vec![], vec![], ok_trailers()).await;
    assert_eq!(empty.message(), "the server answered something without a type, not gRPC");
}

#[tokio::test]
async fn a_huge_answer_is_refused_by_its_length() {
    let error = raw_error(200, grpc_type(), vec![0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3], ok_trailers()).await;
    assert_eq!(*error.kind(), Kind::TooLarge);
    assert_eq!(error.message(), "the answer has 4294967295 bytes, more than the limit of 1000");
}

#[tokio::test]
async fn a_request_that_is_too_large_is_not_sent() {
    let server = Server::start(|_, _| Reply::Message(device("meter-1"), vec![])).await;
    let client = client_with(server.endpoint.clone(), Settings { max_message: 3, ..settings() });
    let error = get(&client).await.expect_err("too large");
    assert_eq!((error.kind(), error.outcome(), error.attempts()), (&Kind::TooLarge, Outcome::NotApplied, 0));
    assert_eq!(server.calls(), 0);
}

#[tokio::test]
async fn garbage_in_the_status_is_survived() {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "not a number".parse().expect("valid"));
    trailers.insert("grpc-status-details-bin", "!!! not base64 !!!".parse().expect("valid"));
    let error = raw_error(200, grpc_type(), Vec::new(), trailers).await;
    assert_eq!(*error.kind(), Kind::Server);
    assert_eq!(error.status().map(|s| (s.code, s.errors.len())), Some((Code::Unknown, 0)));
}

#[tokio::test]
async fn a_server_that_echoes_the_key_does_not_get_it_into_the_error() {
    let server = Server::start(|_, seen| {
        let echo = seen.headers.get("authorization").expect("sent").clone();
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", 16.into());
        trailers.insert("grpc-message", echo);
        Reply::Refused(trailers, vec![])
    })
    .await;
    let plain = get(&client(server.endpoint.clone())).await.expect_err("refused");
    assert_eq!(plain.message(), "Bearer [redacted]");
    let server = Server::start(|_, _| {
        Reply::refused(
            Code::Unauthenticated,
            "pkg/auth",
            "token",
            serde_json::json!({"deep": {"token": [KEY]}}),
        )
    })
    .await;
    let typed = get(&client(server.endpoint.clone())).await.expect_err("refused");
    assert!(typed.is("pkg/auth", "token"));
    for error in [plain, typed] {
        assert!(!format!("{error} {error:?} {:?}", error.hint()).contains("CANARY"));
    }
}

/// A TCP server that writes `greeting` to whoever comes and then, if so told, closes.
async fn tcp(greeting: &'static [u8], close: bool) -> Endpoint {
    let (listener, port) = listener().await;
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut first = [0; 4096];
            let _ = stream.read(&mut first).await;
            let _ = stream.write_all(greeting).await;
            if close {
                let _ = stream.shutdown().await;
            }
            open.push(stream);
        }
    });
    plaintext(port)
}

async fn connect_error(endpoint: Endpoint) -> Error {
    let settings = Settings { connect_timeout: Duration::from_millis(100), ..settings() };
    client_with(endpoint, settings).connect().await.expect_err("no server")
}

#[tokio::test]
async fn whatever_answers_in_place_of_http2_is_named() {
    let page = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n";
    for (greeting, close, kind, message) in [
        (&page[..], true, Kind::Protocol, "the server answers in HTTP/1, not gRPC"),
        (page, false, Kind::Protocol, "the server answers in HTTP/1, not gRPC"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", false, Kind::Protocol, "the server does not speak HTTP/2 on this port"),
        (b"", true, Kind::Unreachable, "the server closed the connection before it spoke HTTP/2"),
        // A half-open connection: TCP accepts, then silence.
        (b"", false, Kind::Unreachable, "the server did not answer in HTTP/2 within 100 ms"),
        (b"\0\0", false, Kind::Unreachable, "the server did not answer in HTTP/2 within 100 ms"),
    ] {
        let error = connect_error(tcp(greeting, close).await).await;
        assert_eq!((error.kind(), error.message()), (&kind, message));
        assert_eq!(error.outcome(), Outcome::NotApplied);
        assert!(error.to_string().starts_with("target 127.0.0.1:"), "{error}");
    }
}

#[tokio::test]
async fn a_create_to_a_silent_address_is_known_not_to_be_applied() {
    let endpoint = tcp(b"", false).await;
    let settings = Settings { deadline: Duration::from_millis(60), ..settings() };
    let error = create(&client_with(endpoint, settings)).await.expect_err("silence");
    assert_eq!((error.kind(), error.outcome()), (&Kind::Unreachable, Outcome::NotApplied));
    assert_eq!(error.message(), "no connection within 60 ms");
}

#[tokio::test]
async fn callers_that_wait_for_one_connection_share_its_failure() {
    let endpoint = tcp(b"", false).await;
    let settings =
        Settings { connect_timeout: Duration::from_millis(100), retry: RetryPolicy::never(), ..settings() };
    let client = client_with(endpoint, settings);
    let started = std::time::Instant::now();
    let calls: Vec<_> = (0..10)
        .map(|_| {
            tokio::spawn({
                let client = client.clone();
                async move { get(&client).await }
            })
        })
        .collect();
    for call in calls {
        assert_eq!(*call.await.expect("no panic").expect_err("silence").kind(), Kind::Unreachable);
    }
    assert!(started.elapsed() < Duration::from_millis(500), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_host_that_does_not_exist_is_named() {
    let endpoint = Endpoint { host: "no-such-host.invalid".into(), port: 1, tls: Tls::Plaintext };
    let error = connect_error(endpoint).await;
    assert_eq!(*error.kind(), Kind::Unreachable);
    assert!(error.message().starts_with("cannot resolve `no-such-host.invalid`"), "{error}");
    assert!(error.hint().is_some_and(|h| h.contains("8884")));
}

#[tokio::test]
async fn a_method_or_request_that_does_not_fit_is_not_sent() {
    let client = client(plaintext(1));
    let wrong =
        client.unary(GET, proto::message("EndDevice"), Call::safe(about())).await.expect_err("wrong request");
    assert_eq!(wrong.message(), format!("EndDevice is not the request of {GET}"));
    let unknown = client
        .unary("/ttn.lorawan.v3.Nope/Get", get_request(), Call::safe(about()))
        .await
        .expect_err("unknown");
    assert_eq!((unknown.kind(), unknown.outcome()), (&Kind::Protocol, Outcome::NotApplied));
}
