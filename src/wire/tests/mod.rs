//! The client against scripted servers: real sockets, and answers that no good server gives.

mod calls;
mod hostile;
mod lists;
mod pins;
mod server;
mod tls;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use prost_reflect::{DynamicMessage, Value};
use tokio::net::TcpListener;

use super::{throttle::lock, *};
use crate::{map::path, model::secret::Secret, proto};

pub const GET: &str = "/ttn.lorawan.v3.NsEndDeviceRegistry/Get";
pub const CREATE: &str = "/ttn.lorawan.v3.EndDeviceRegistry/Create";
pub const KEY: &str = "NNSXS.CANARYCANARYCANARY";

/// Short times: tests wait for real sockets.
pub fn settings() -> Settings {
    let retry = RetryPolicy { first: Duration::from_millis(2), attempts: 3, ..RetryPolicy::default() };
    Settings {
        deadline: Duration::from_millis(800),
        connect_timeout: Duration::from_millis(600),
        retry,
        ..Settings::new(Side::Target)
    }
}

pub fn client_with(endpoint: Endpoint, settings: Settings) -> Client {
    Client::new(endpoint, Some(Secret::new(KEY)), settings).expect("no CA file to read")
}

pub fn client(endpoint: Endpoint) -> Client {
    client_with(endpoint, settings())
}

pub fn plaintext(port: u16) -> Endpoint {
    Endpoint { host: "127.0.0.1".into(), port, tls: Tls::Plaintext }
}

pub async fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    (listener, port)
}

pub fn about() -> About {
    About::device("fleet", "meter-1")
}

pub fn get_request() -> DynamicMessage {
    let mut request = proto::message("GetEndDeviceRequest");
    path::set(&mut request, "end_device_ids.device_id", Value::String("meter-1".into()));
    request
}

pub fn device(id: &str) -> DynamicMessage {
    let mut device = proto::message("EndDevice");
    path::set(&mut device, "ids.device_id", Value::String(id.into()));
    device
}

pub async fn get(client: &Client) -> Result<Answer, Error> {
    client.unary(GET, get_request(), Call::safe(about())).await
}

pub async fn create(client: &Client) -> Result<Answer, Error> {
    client.unary(CREATE, proto::message("CreateEndDeviceRequest"), Call::create(about())).await
}

/// Writes down what is observed.
#[derive(Default)]
pub struct Log(Mutex<Vec<String>>);

impl Log {
    pub fn lines(&self) -> Vec<String> {
        lock(&self.0).clone()
    }
}

impl Observer for Log {
    fn call(&self, event: &CallEvent<'_>) {
        lock(&self.0).push(format!("call {} {} {}", event.attempt, event.about, event.code));
    }

    fn wait(&self, event: &WaitEvent<'_>) {
        lock(&self.0).push(format!("wait {}", event.reason));
    }
}

pub fn observed(settings: Settings) -> (Settings, Arc<Log>) {
    let log = Arc::new(Log::default());
    (Settings { observer: log.clone(), ..settings }, log)
}
