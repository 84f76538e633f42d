//! The Things Network Stack V2 as a source: discovery, the handler, and how its devices are read and written.
//!
//! V2 takes five calls a second for each application and counts all of them (docs/servers.md, V2 rate limit), so calls take
//! turns: concurrency brings nothing. Devices without a session are read by pages, many with one call (`look`).

mod look;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use prost_reflect::{DynamicMessage, Value};
use tokio::sync::{Mutex, OnceCell, OwnedMutexGuard};

use super::{Source, Turn};
use crate::{
    map::{
        path,
        ttn_v2::{HOST, V2Device, records},
    },
    model::{
        device::Component,
        ids::{AppId, DeviceId, Eui64},
        secret::Secret,
    },
    plan::{
        facts::{Hosts, TargetFacts},
        transform::{Found, Write},
    },
    proto,
    wire::{About, Answer, Call, Client, Endpoint, Error, Kind, Repeat, Settings, Tls},
};

/// Devices on one page of a list: V2 answers a thousand in 170 kB.
const PAGE: u64 = 1000;
/// Readings of the list before it counts as never at rest.
const READINGS: u32 = 6;
/// How long a write may be put off after it was decided; longer only at a rate that is slower itself.
const FRESH: Duration = Duration::from_secs(2);
/// Length of a session key ID, in bytes (`pkg/joinserver` draws as many).
const SESSION_KEY_ID: usize = 16;

/// Where the handler of an application is.
#[derive(Debug, Clone)]
pub enum Handler {
    /// Discovery knows.
    Discover(Endpoint),
    /// Here.
    At(Endpoint),
}

/// One application of a V2 network. Clones share connections, turns and readings.
#[derive(Debug, Clone)]
pub struct TtnV2Source(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    app: AppId,
    handler: Handler,
    access_key: Secret,
    settings: Settings,
    client: OnceCell<Client>,
    /// Whose turn it is to call.
    turn: Arc<Mutex<()>>,
    /// Calls that wait for their turn.
    queued: AtomicUsize,
    looks: look::Looks,
}

impl TtnV2Source {
    /// Connects with the first call. `settings.limit` is the rate of all calls together.
    pub fn new(app: AppId, handler: Handler, access_key: Secret, settings: Settings) -> Self {
        Self(Arc::new(Inner {
            app,
            handler,
            access_key,
            settings,
            client: OnceCell::new(),
            turn: Arc::default(),
            queued: AtomicUsize::new(0),
            looks: look::Looks::default(),
        }))
    }

    /// The application.
    pub fn app(&self) -> &AppId {
        &self.0.app
    }

    /// The handler of the application, found once.
    async fn client(&self) -> Result<&Client, Error> {
        self.0.client.get_or_try_init(|| self.find_handler()).await
    }

    async fn find_handler(&self) -> Result<Client, Error> {
        let inner = &self.0;
        let key = || Some(inner.access_key.clone());
        let discovery = match &inner.handler {
            Handler::At(endpoint) => return Client::ttn_v2(endpoint.clone(), key(), inner.settings.clone()),
            Handler::Discover(discovery) => discovery,
        };
        // The access key is the handler's; discovery has no limit that five calls a second would keep.
        let settings = Settings { limit: None, ..inner.settings.clone() };
        let discovery = Client::ttn_v2(discovery.clone(), None, settings)?;
        let mut request = proto::message("discovery.GetByAppIDRequest");
        path::set(&mut request, "app_id", Value::String(inner.app.as_str().to_owned()));
        let call = Call::safe(About::application(inner.app.as_str()));
        let found = discovery.unary("/discovery.Discovery/GetByAppID", request, call.clone()).await?;
        let announced = announced(&found.message).ok_or_else(|| {
            let text = "discovery announces a handler without an address";
            discovery.refuse(Kind::Protocol, text, "/discovery.Discovery/GetByAppID", &call)
        })?;
        Client::ttn_v2(announced, key(), inner.settings.clone())
    }

    /// One call, when it is its turn.
    async fn call(&self, method: &'static str, request: DynamicMessage, call: Call) -> Result<Answer, Error> {
        let turn = self.turn_to_call().await;
        self.call_in(&turn, method, request, call).await
    }

    async fn call_in(
        &self,
        _turn: &OwnedMutexGuard<()>,
        method: &'static str,
        request: DynamicMessage,
        call: Call,
    ) -> Result<Answer, Error> {
        self.client().await?.unary(method, request, call).await
    }

    async fn turn_to_call(&self) -> OwnedMutexGuard<()> {
        // Counted down also when whoever waits is dropped.
        struct Queued<'a>(&'a AtomicUsize);
        impl Drop for Queued<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::SeqCst);
            }
        }
        self.0.queued.fetch_add(1, Ordering::SeqCst);
        let _queued = Queued(&self.0.queued);
        Arc::clone(&self.0.turn).lock_owned().await
    }

    /// Payload functions and format of the application.
    ///
    /// # Errors
    /// Those of the call: it needs the right `settings`.
    pub async fn application(&self) -> Result<DynamicMessage, Error> {
        let call = Call::safe(About::application(self.app().as_str()));
        let answer =
            self.call("/handler.ApplicationManager/GetApplication", self.app_identifier(), call).await?;
        Ok(answer.message)
    }

    fn app_identifier(&self) -> DynamicMessage {
        let mut request = proto::message("handler.ApplicationIdentifier");
        path::set(&mut request, "app_id", Value::String(self.app().as_str().to_owned()));
        request
    }

    fn identifier(&self, device: &DeviceId) -> DynamicMessage {
        let mut request = proto::message("handler.DeviceIdentifier");
        path::set(&mut request, "app_id", Value::String(self.app().as_str().to_owned()));
        path::set(&mut request, "dev_id", Value::String(device.as_str().to_owned()));
        request
    }

    fn about(&self, device: &DeviceId) -> Call {
        Call::safe(About::device(self.app().as_str(), device.as_str()))
    }

    /// Some devices of the list, in its order (bytewise by ID), and how many there are in all.
    async fn page(&self, offset: u64, limit: u64) -> Result<(Vec<V2Device>, Option<u64>), Error> {
        let call = Call {
            metadata: vec![("limit", limit), ("offset", offset)],
            ..Call::safe(About::application(self.app().as_str()))
        };
        let method = "/handler.ApplicationManager/GetDevicesForApplication";
        let answer = self.call(method, self.app_identifier(), call).await?;
        let listed = path::get(&answer.message, "devices");
        let listed = listed.as_ref().and_then(|v| v.as_list()).unwrap_or_default();
        let devices = listed.iter().filter_map(Value::as_message).cloned().map(V2Device::new).collect();
        Ok((devices, answer.total_count))
    }

    /// The whole list; read again when devices came or went meanwhile.
    async fn pages(&self) -> Result<Vec<V2Device>, Error> {
        for _ in 0..READINGS {
            let mut devices: Vec<V2Device> = Vec::new();
            let mut first_total = None;
            loop {
                let offset = u64::try_from(devices.len()).unwrap_or(u64::MAX);
                let (page, total) = self.page(offset, PAGE).await?;
                let last = (page.len() as u64) < PAGE;
                devices.extend(page);
                if *first_total.get_or_insert(total) != total {
                    break;
                }
                if last {
                    let whole = total.is_none_or(|total| total == devices.len() as u64);
                    let in_order = devices.is_sorted_by(|a, b| a.dev_id() < b.dev_id());
                    if whole && in_order {
                        return Ok(devices);
                    }
                    break;
                }
            }
        }
        let call = Call::safe(About::application(self.app().as_str()));
        let text = "the list of devices changed in each reading";
        let method = "/handler.ApplicationManager/GetDevicesForApplication";
        Err(self.client().await?.refuse(Kind::Protocol, text, method, &call))
    }

    /// One device with its counters; `None` when there is none.
    async fn get(&self, turn: &OwnedMutexGuard<()>, device: &DeviceId) -> Result<Option<V2Device>, Error> {
        let method = "/handler.ApplicationManager/GetDevice";
        match self.call_in(turn, method, self.identifier(device), self.about(device)).await {
            Ok(answer) => Ok(Some(V2Device::new(answer.message))),
            Err(error) if is_no_device(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn get_in_turn(&self, device: &DeviceId) -> Result<Found, Error> {
        let turn = self.turn_to_call().await;
        Ok(self.get(&turn, device).await?.map(found).unwrap_or_else(nothing))
    }

    fn cannot(&self, what: &'static str) -> Error {
        let endpoint = match &self.0.handler {
            Handler::Discover(endpoint) | Handler::At(endpoint) => endpoint,
        };
        Error::unsupported(self.0.settings.side, endpoint, what)
    }
}

/// True when the application has no such device; the same status is given when the handler has no such application.
fn is_no_device(error: &Error) -> bool {
    *error.kind() == Kind::NotFound && !error.message().contains("Application not")
}

/// What discovery announces of a handler: the first address of its list, and the certificate that alone is trusted.
fn announced(message: &DynamicMessage) -> Option<Endpoint> {
    let addresses = path::string(message, "net_address");
    let (host, port) = addresses.split(',').next()?.trim().rsplit_once(':')?;
    let certificate = path::string(message, "certificate");
    // Without a certificate the handler has one of a public CA (docs/servers.md, V2 TLS).
    let tls = if certificate.trim().is_empty() { Tls::System } else { Tls::Pinned(certificate) };
    let host = host.trim_matches(['[', ']']);
    (!host.is_empty()).then_some(())?;
    Some(Endpoint { host: host.to_owned(), port: port.parse().ok()?, tls })
}

/// The hosts that V2 stands under in the records that are made of its devices.
fn hosts() -> Hosts {
    Hosts { ns: HOST.to_owned(), as_: HOST.to_owned(), js: HOST.to_owned(), known_as: Vec::new() }
}

/// A device as the planner sees it. The session gets a key ID, which V2 has none for: what is sealed of it is what counts.
fn found(device: V2Device) -> Found {
    let mut id = [0; SESSION_KEY_ID];
    getrandom::fill(&mut id).expect("the system gives random bytes");
    Found { records: records(&device, &id), hosts: hosts(), v2: Some(device), ..Found::default() }
}

fn nothing() -> Found {
    Found { hosts: hosts(), ..Found::default() }
}

impl Source for TtnV2Source {
    async fn list(&self) -> Result<Vec<Found>, Error> {
        let devices = self.pages().await?;
        self.0.looks.learn(&devices);
        Ok(devices.into_iter().map(found).collect())
    }

    async fn read(&self, device: &DeviceId, listed: Found) -> Result<Found, Error> {
        // A list has all but counters, on which no plan depends.
        match &listed.v2 {
            Some(_) => Ok(listed),
            None => self.get_in_turn(device).await,
        }
    }

    async fn look(&self, device: &DeviceId) -> Result<Found, Error> {
        self.look_by_page(device).await
    }

    async fn first_look(&self, device: &DeviceId) -> Result<Found, Error> {
        match self.0.looks.take_listed(device) {
            Some(v2) => Ok(found(v2)),
            None => self.look_by_page(device).await,
        }
    }

    async fn turn(&self) -> Turn {
        Turn(Some(self.turn_to_call().await))
    }

    async fn read_in(&self, turn: &Turn, device: &DeviceId) -> Result<Found, Error> {
        match &turn.0 {
            Some(turn) => Ok(self.get(turn, device).await?.map(found).unwrap_or_else(nothing)),
            None => self.get_in_turn(device).await,
        }
    }

    async fn write_whole(&self, turn: &Turn, device: &DeviceId, v2: &V2Device) -> Result<(), Error> {
        let method = "/handler.ApplicationManager/SetDevice";
        // What it was made of grows old: the caller looks again before another attempt.
        let pace = self.0.settings.limit.map_or(FRESH, |limit| FRESH.max(2 * limit.interval()));
        let about = Call { repeat: Repeat::OnlyIfNotApplied, within: Some(pace), ..self.about(device) };
        let message = v2.message().clone();
        match &turn.0 {
            Some(turn) => self.call_in(turn, method, message, about).await,
            None => self.call(method, message, about).await,
        }
        .map(drop)
    }

    async fn schedule_downlinks(&self, _: &DeviceId, _: Option<bool>) -> Result<(), Error> {
        Err(self.cannot("V2 cannot be muted"))
    }

    async fn clear(&self, device: &DeviceId, component: Component) -> Result<(), Error> {
        if component != Component::Is {
            return Err(self.cannot("V2 has no records that could be removed one by one"));
        }
        let method = "/handler.ApplicationManager/DeleteDevice";
        match self.call(method, self.identifier(device), self.about(device)).await {
            Err(error) if is_no_device(&error) => Ok(()),
            deleted => deleted.map(drop),
        }
    }

    async fn facts(&self) -> Result<TargetFacts, Error> {
        Ok(TargetFacts { hosts: hosts(), ..TargetFacts::default() })
    }

    async fn recreate(&self, _: &DeviceId, _: Component, _: &Write) -> Result<(), Error> {
        Err(self.cannot("V2 takes devices as a whole"))
    }

    async fn update(&self, _: &DeviceId, _: Component, _: &Write) -> Result<(), Error> {
        Err(self.cannot("V2 takes devices as a whole"))
    }

    async fn holder(&self, _: Eui64, _: Eui64) -> Result<Option<(AppId, DeviceId)>, Error> {
        // SetDevice itself refuses EUIs that are taken.
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_gives_the_first_address_and_its_certificate() {
        let mut message = proto::message("discovery.Announcement");
        path::set(&mut message, "net_address", Value::String("handler.example.com:1904, other:1904".into()));
        path::set(&mut message, "certificate", Value::String("PEM".into()));
        let endpoint = announced(&message).expect("an address");
        assert_eq!((endpoint.host.as_str(), endpoint.port), ("handler.example.com", 1904));
        assert_eq!(endpoint.tls, Tls::Pinned("PEM".into()));
        path::clear(&mut message, "certificate");
        assert_eq!(announced(&message).map(|e| e.tls), Some(Tls::System));
        for bad in ["", "handler", ":1904", "handler:port"] {
            path::set(&mut message, "net_address", Value::String(bad.into()));
            assert!(announced(&message).is_none(), "{bad}");
        }
    }
}
