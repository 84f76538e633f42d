//! The embedded The Things Network Stack V2: discovery, and the handler with the Network Server's half of its devices.
//!
//! The rules are those of docs/servers.md, V2 discovery to V2 radio, and of the upstream source
//! (`github.com/TheThingsArchive/ttn`), cited file by file; the account server, which was never open, is a list of access
//! keys. [`TtnV2::call`] does for a request what the gRPC services do, but for the rate limit.

mod access;
mod certificate;
mod discovery;
mod handler;
mod limit;
mod load;
#[cfg(test)]
pub(in crate::rehearsal) mod samples;
mod serve;
mod set_device;
mod settings;
mod stored;
#[cfg(test)]
mod tests;
mod validation;

use std::{
    fmt, io,
    sync::{Arc, Mutex, MutexGuard},
};

use prost_reflect::{DynamicMessage, Value};
use tokio::time::Instant;
use tonic::{
    Code, Status,
    metadata::{MetadataKey, MetadataMap},
};

use super::{
    air::{Network, NetworkFacts},
    calls::{CallInfo, Calls, Fault, Reply},
    lock,
    service::{self, Stack},
    store::{Store, Table},
};
use crate::{map::path, proto};

pub use load::V2LoadError;
pub use serve::{ServedTtnV2, serve_ttn_v2};
pub use settings::{AccessKey, V2Application, V2Settings};

pub(in crate::rehearsal) use stored::{is_zero, network_key};

use access::Access;
use limit::Limiter;

/// An embedded V2.
pub struct TtnV2 {
    settings: V2Settings,
    store: Mutex<Store>,
    calls: Calls,
    limiter: Mutex<Limiter>,
    /// What discovery answers for the handler.
    announcement: Mutex<DynamicMessage>,
}

impl fmt::Debug for TtnV2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TtnV2").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl TtnV2 {
    /// A V2 with what its state file holds, or an empty one; applications that the settings register are there.
    ///
    /// # Errors
    /// When the state file cannot be opened or written.
    pub fn new(settings: V2Settings) -> io::Result<Arc<Self>> {
        let mut store = match &settings.state {
            Some(path) => Store::open(path)?,
            None => Store::in_memory(),
        };
        for application in settings.applications.iter().filter(|application| application.registered) {
            if store.get(Table::V2Applications, &application.id).is_none() {
                let mut message = proto::message("handler.Application");
                path::set(&mut message, "app_id", Value::String(application.id.clone()));
                store.put(Table::V2Applications, &application.id, message)?;
            }
        }
        let announcement = Mutex::new(discovery::announcement(&settings));
        Ok(Arc::new(Self {
            settings,
            store: Mutex::new(store),
            calls: Calls::default(),
            limiter: Mutex::default(),
            announcement,
        }))
    }

    /// What is stored. While it is held no call is served.
    pub fn store(&self) -> MutexGuard<'_, Store> {
        lock(&self.store)
    }

    /// What this V2 was told about itself.
    pub fn settings(&self) -> &V2Settings {
        &self.settings
    }

    /// Changes what discovery announces of the handler (a `discovery.Announcement`): other addresses, no certificate.
    pub fn announce_otherwise(&self, change: impl FnOnce(&mut DynamicMessage)) {
        change(&mut lock(&self.announcement));
    }

    /// Calls `hook` before each call is applied; the first fault that a hook answers happens.
    pub fn on_call(&self, hook: impl Fn(&CallInfo) -> Option<Fault> + Send + Sync + 'static) {
        self.calls.on_call(hook);
    }

    /// Calls `hook` after each call was applied or refused, before it is answered.
    pub fn on_applied(&self, hook: impl Fn(&CallInfo) + Send + Sync + 'static) {
        self.calls.on_applied(hook);
    }

    /// Calls `hook` after each answer was handed to the transport.
    pub fn on_replied(&self, hook: impl Fn(&CallInfo) + Send + Sync + 'static) {
        self.calls.on_replied(hook);
    }

    /// Takes all hooks out again.
    pub fn unhook(&self) {
        self.calls.unhook();
    }

    /// Every finished call of discovery and handler, in the order of arrival.
    pub fn calls(&self) -> Vec<CallInfo> {
        self.calls.all()
    }

    /// A call without a connection, with request metadata such as `key`, `limit` and `offset`. Hooks see it; delays, cut
    /// connections and the rate limit are the transport's, and do not happen here.
    ///
    /// # Errors
    /// What the real servers answer.
    pub fn call(
        &self,
        path: &str,
        request: DynamicMessage,
        metadata: &[(&str, &str)],
    ) -> Result<Reply, Status> {
        let mut call = self.announce(path, &request);
        if let Some(status) = self.calls.fault(&call).as_ref().and_then(injected) {
            self.calls.finish(&mut call, status.code());
            return Err(status);
        }
        let mut map = MetadataMap::new();
        for (name, value) in metadata {
            if let (Ok(name), Ok(value)) = (MetadataKey::from_bytes(name.as_bytes()), value.parse()) {
                map.insert(name, value);
            }
        }
        let admitted = self.admit(&call, &request, &map);
        let outcome = admitted.and_then(|access| self.perform(&call, request, &map, access.as_ref()));
        self.calls.finish(&mut call, outcome.as_ref().map_or_else(Status::code, |_| Code::Ok));
        self.calls.replied(&call);
        outcome
    }

    fn announce(&self, path: &str, request: &DynamicMessage) -> CallInfo {
        let method = path.rsplit('/').next().unwrap_or_default();
        self.calls.announce(path, entity(request), !method.starts_with("Get"))
    }

    /// What comes before the rate limit: the message itself, its identifiers, and who calls. Discovery asks nobody.
    fn admit(
        &self,
        call: &CallInfo,
        request: &DynamicMessage,
        metadata: &MetadataMap,
    ) -> Result<Option<Access>, Status> {
        validation::lengths(request)?;
        if call.rpc().starts_with("Discovery/") {
            return Ok(None);
        }
        validation::identifiers(call.rpc(), request)?;
        access::check(&self.settings, &path::string(request, "app_id"), metadata).map(Some)
    }

    /// Waits as the rate limiter says, or refuses (`validateTTNAuthAppContext` in `core/handler/manager_server.go`).
    async fn wait(&self, access: &Access) -> Result<(), Status> {
        let Some(rate) = self.settings.rate_limit else { return Ok(()) };
        let buckets = [("client", &access.subject), ("application", &access.application)];
        for (what, id) in buckets {
            let wait = lock(&self.limiter).take(rate, what, id, Instant::now());
            let Some(wait) = wait else {
                return Err(Status::resource_exhausted(format!("Rate limit for {what} \"{id}\" reached")));
            };
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
        }
        Ok(())
    }

    fn perform(
        &self,
        call: &CallInfo,
        request: DynamicMessage,
        metadata: &MetadataMap,
        access: Option<&Access>,
    ) -> Result<Reply, Status> {
        match (call.rpc().split_once('/'), access) {
            (Some(("Discovery", method)), _) => {
                discovery::call(&self.store(), &lock(&self.announcement), method, &request)
            }
            (Some(("ApplicationManager", method)), Some(access)) => {
                handler::call(&mut self.store(), access, method, request, metadata)
            }
            _ => Err(Status::unimplemented("the embedded server does not have this method")),
        }
    }
}

impl Network for TtnV2 {
    fn facts(&self) -> NetworkFacts {
        let V2Settings { net_id, dev_addr_prefixes, .. } = &self.settings;
        NetworkFacts { net_id: *net_id, dev_addr_prefixes: dev_addr_prefixes.clone() }
    }

    fn with_store(&self, work: &mut dyn FnMut(&mut Store)) {
        work(&mut self.store());
    }
}

impl Stack for TtnV2 {
    fn calls(&self) -> &Calls {
        &self.calls
    }

    fn max_message_size(&self) -> usize {
        self.settings.max_message_size
    }

    fn announce(&self, path: &str, request: &DynamicMessage) -> CallInfo {
        self.announce(path, request)
    }

    fn injected(&self, fault: &Fault) -> Option<Status> {
        injected(fault)
    }

    async fn apply(
        &self,
        call: &mut CallInfo,
        request: DynamicMessage,
        metadata: &MetadataMap,
    ) -> Result<Reply, Status> {
        let outcome = match self.admit(call, &request, metadata) {
            Ok(Some(access)) => match self.wait(&access).await {
                Ok(()) => self.perform(call, request, metadata, Some(&access)),
                Err(status) => Err(status),
            },
            Ok(None) => self.perform(call, request, metadata, None),
            Err(status) => Err(status),
        };
        self.calls.finish(call, outcome.as_ref().map_or_else(Status::code, |_| Code::Ok));
        outcome
    }
}

/// What a request is about, in the words of [`CallInfo::entity`].
fn entity(request: &DynamicMessage) -> String {
    let application = path::string(request, "app_id");
    match path::string(request, "dev_id") {
        _ if application.is_empty() => String::new(),
        device if device.is_empty() => format!("application:{application}"),
        device => format!("end device:{application}.{device}"),
    }
}

/// The refusal that a fault asks for. V2 has no error details.
fn injected(fault: &Fault) -> Option<Status> {
    match fault {
        Fault::Status(code) => Some(Status::new(*code, "injected failure")),
        Fault::Error(code, namespace, name) => Some(Status::new(*code, format!("{namespace}: {name}"))),
        Fault::Text(code, text) => Some(Status::new(*code, *text)),
        Fault::RateLimited(headers) => {
            let mut status = Status::resource_exhausted("Rate limit for client \"injected\" reached");
            service::add(status.metadata_mut(), headers);
            Some(status)
        }
        _ => None,
    }
}
