//! The embedded server as a client meets it: cut connections, restarts, TLS, other people's methods.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use prost_reflect::{DynamicMessage, Value};
use stackferry::{
    map::path,
    proto,
    rehearsal::{Fault, Served, ServerTls, Settings, Tts, serve},
};
use tonic::{
    Code,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

use crate::conformance::client::{self, Answer};

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

async fn start(settings: Settings) -> (Arc<Tts>, Served, Channel) {
    let tts = Tts::new(settings).expect("memory");
    let served = serve(Arc::clone(&tts), loopback(0), None).await.expect("a free port");
    let channel = connect(&served).await;
    (tts, served, channel)
}

async fn connect(served: &Served) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{}", served.addr)).expect("an address");
    endpoint.connect().await.expect("loopback")
}

fn create(id: &str) -> DynamicMessage {
    let mut request = proto::message("CreateApplicationRequest");
    path::set(&mut request, "application.ids.application_id", Value::String(id.to_owned()));
    path::set(&mut request, "collaborator.user_ids.user_id", Value::String("admin".to_owned()));
    request
}

async fn call(tts: &Tts, channel: &Channel, rpc: &str, request: DynamicMessage) -> Answer {
    let path = format!("/{}.{rpc}", proto::PACKAGE);
    let method = proto::method(&path).expect("a method");
    client::call(channel, &method, &path, request, &client::bearer(&tts.settings().api_key)).await
}

#[tokio::test]
async fn a_connection_is_cut_before_or_after_a_call_is_applied() {
    let (tts, served, channel) = start(Settings::default()).await;
    tts.on_call(|call| match call.entity.as_str() {
        "application:cut-before" => Some(Fault::CutBefore),
        "application:cut-after" => Some(Fault::CutAfter),
        "application:busy" => Some(Fault::Status(Code::Unavailable)),
        "application:slow" => Some(Fault::Delay(Duration::from_millis(50))),
        _ => None,
    });
    for (id, applied) in [("cut-before", false), ("cut-after", true)] {
        let answer = call(&tts, &channel, "ApplicationRegistry/Create", create(id)).await;
        assert_ne!(answer.code, Code::Ok, "{id} was answered");
        let there = tts.store().get(stackferry::rehearsal::store::Table::Applications, id).is_some();
        assert_eq!(there, applied, "{id}");
    }
    let channel = connect(&served).await;
    let answer = call(&tts, &channel, "ApplicationRegistry/Create", create("busy")).await;
    assert_eq!(answer.code, Code::Unavailable);
    let answer = call(&tts, &channel, "ApplicationRegistry/Create", create("slow")).await;
    assert_eq!(answer.code, Code::Ok);
    let codes: Vec<_> = tts.calls().iter().map(|call| (call.entity.clone(), call.code)).collect();
    // A call that was cut off before it was applied never finished.
    assert_eq!(
        codes.iter().map(|(entity, _)| entity.as_str()).collect::<Vec<_>>(),
        ["application:cut-after", "application:busy", "application:slow"]
    );
}

#[tokio::test]
async fn what_is_stored_survives_a_restart_on_the_same_port() {
    let dir = tempfile::tempdir().expect("a folder");
    let settings = Settings { state: Some(dir.path().join("state")), ..Settings::default() };
    let (tts, served, channel) = start(settings.clone()).await;
    let answer = call(&tts, &channel, "ApplicationRegistry/Create", create("meters")).await;
    assert_eq!(answer.code, Code::Ok);
    let addr = served.addr;
    served.stop().await;
    drop((tts, channel));
    // The connection that was cut lets go of the state when its task has ended.
    let mut again = Tts::new(settings.clone());
    for _ in 0..250 {
        if again.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        again = Tts::new(settings.clone());
    }
    let tts = again.expect("the state file");
    let served = serve(Arc::clone(&tts), addr, None).await.expect("the port is free");
    let channel = connect(&served).await;
    let answer = call(&tts, &channel, "ApplicationRegistry/Create", create("meters")).await;
    assert_eq!(answer.code, Code::AlreadyExists);
}

#[tokio::test]
async fn hooks_see_a_call_applied_and_answered() {
    let (tts, _served, channel) = start(Settings::default()).await;
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let replied = sender.clone();
    tts.on_applied(move |call| sender.send(("applied", call.n, call.code)).expect("open"));
    tts.on_replied(move |call| replied.send(("replied", call.n, call.code)).expect("open"));
    call(&tts, &channel, "ApplicationRegistry/Create", create("meters")).await;
    assert_eq!(receiver.recv().await, Some(("applied", 1, Some(Code::Ok))));
    assert_eq!(receiver.recv().await, Some(("replied", 1, Some(Code::Ok))));
}

#[tokio::test]
async fn an_unknown_method_is_not_implemented() {
    let (_tts, _served, channel) = start(Settings::default()).await;
    let method = proto::method(&format!("/{}.Ns/GetNetID", proto::PACKAGE)).expect("a method");
    let empty = proto::message("google.protobuf.Empty");
    let answer = client::call(&channel, &method, "/some.Service/Method", empty, &[]).await;
    assert_eq!(answer.code, Code::Unimplemented);
}

#[tokio::test]
async fn a_server_with_a_certificate_is_trusted_through_its_ca() {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let (certificate, key) = (own.cert.pem(), own.signing_key.serialize_pem());
    let tts = Tts::new(Settings::default()).expect("memory");
    let tls = ServerTls { certificate: certificate.clone(), key, client_ca: None };
    let served = serve(Arc::clone(&tts), loopback(0), Some(tls)).await.expect("a free port");
    let endpoint = |tls| {
        let endpoint = Endpoint::from_shared(format!("https://localhost:{}", served.addr.port()));
        endpoint.expect("an address").tls_config(tls).expect("a configuration")
    };
    assert!(endpoint(ClientTlsConfig::new()).connect().await.is_err(), "nobody signed it");
    let trusted = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(certificate));
    let channel = endpoint(trusted).connect().await.expect("trusted");
    tts.on_call(|call| (call.entity == "application:cut").then_some(Fault::CutBefore));
    let answer = call(&tts, &channel, "ApplicationRegistry/Create", create("meters")).await;
    assert_eq!(answer.code, Code::Ok);
    let answer = call(&tts, &channel, "ApplicationRegistry/Create", create("cut")).await;
    assert_ne!(answer.code, Code::Ok);
}
