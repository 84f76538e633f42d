//! The embedded The Things Stack: the rules of Identity, Join, Application and Network Server 3.32.1, in memory.
//!
//! [`Tts::call`] is the whole server: what the gRPC service ([`super::serve`]) does for a request, tests may do without
//! a connection. The rules follow the upstream source, cited file by file, and the conversations in
//! `tests/conformance`.

mod access;
mod applications;
mod auth;
mod claiming;
mod configuration;
mod cups;
mod devices;
mod failure;
mod fields;
mod gateways;
mod index;
mod integrations;
mod limit;
mod links;
mod methods;
mod network;
mod packages;
mod registries;
mod settings;
mod stored;
mod validation;

#[cfg(test)]
mod tests;

use std::{
    fmt, io,
    sync::{Arc, Mutex, MutexGuard},
    time::Instant,
};

use prost_reflect::{DynamicMessage, Value};
use serde_json::json;
use tonic::{Code, Status, metadata::MetadataMap};

use super::{
    calls::{CallInfo, Calls, Fault, Reply},
    lock, random,
    service::Stack,
    store::{Store, Table},
};
use crate::{map::path, proto};

pub use auth::EntityKind;
pub use cups::CupsAnswer;
pub use failure::{Failure, Kind};
pub use limit::RateLimit;
pub use settings::{ADMIN, Settings};

use index::Index;
use limit::Limiter;
use stored::Now;

const RATE_LIMIT_EXCEEDED: Kind = Kind::new(
    Code::ResourceExhausted,
    "pkg/ratelimit",
    "rate_limit_exceeded",
    "rate limit of `{rate}` accesses per minute exceeded for resource `{key}`",
);

/// An embedded The Things Stack.
pub struct Tts {
    settings: Settings,
    store: Mutex<Store>,
    index: Index,
    limiter: Mutex<Limiter>,
    calls: Calls,
}

impl fmt::Debug for Tts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tts").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Tts {
    /// A server with what its state file holds, or an empty one.
    ///
    /// # Errors
    /// When the state file cannot be opened.
    pub fn new(settings: Settings) -> io::Result<Arc<Self>> {
        let mut store = match &settings.state {
            Some(path) => Store::open(path)?,
            None => Store::in_memory(),
        };
        let index = Index::of(&mut store);
        Ok(Arc::new(Self {
            settings,
            store: Mutex::new(store),
            index,
            limiter: Mutex::default(),
            calls: Calls::default(),
        }))
    }

    /// What is stored. While it is held no call is served.
    pub fn store(&self) -> MutexGuard<'_, Store> {
        lock(&self.store)
    }

    /// What this server was told about itself.
    pub fn settings(&self) -> &Settings {
        &self.settings
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

    /// Every finished call, in the order of arrival.
    pub fn calls(&self) -> Vec<CallInfo> {
        self.calls.all()
    }

    /// Everything a request goes through: hooks, mask check, validation, rate limit, authentication, rights, and the
    /// method itself. Atomic; delays and cut connections of hooks are the transport's, and do not happen here.
    ///
    /// # Errors
    /// What the real server answers.
    pub fn call(&self, path: &str, request: DynamicMessage, bearer: Option<&str>) -> Result<Reply, Failure> {
        let mut call = self.announce(path, &request);
        let fault = self.calls.fault(&call);
        if let Some(failure) = fault.as_ref().and_then(injected) {
            self.calls.finish(&mut call, failure.code());
            return Err(failure);
        }
        let outcome = self.apply(&mut call, request, bearer);
        self.calls.replied(&call);
        let more = match fault {
            Some(Fault::StatusAfter(code)) => return Err(Failure::injected(code, None)),
            Some(Fault::Headers(headers)) => headers,
            _ => Vec::new(),
        };
        match outcome {
            Ok(mut reply) => {
                reply.headers.extend(more);
                Ok(reply)
            }
            Err(failure) => Err(failure.with_headers(more)),
        }
    }

    fn announce(&self, path: &str, request: &DynamicMessage) -> CallInfo {
        self.calls.announce(path, methods::entity(request), methods::is_write(path))
    }

    /// Applies a call and tells the hooks.
    fn apply(
        &self,
        call: &mut CallInfo,
        request: DynamicMessage,
        bearer: Option<&str>,
    ) -> Result<Reply, Failure> {
        let outcome = self.perform(call, request, bearer);
        self.calls.finish(call, outcome.as_ref().map_or_else(Failure::code, |_| Code::Ok));
        outcome
    }

    fn perform(
        &self,
        call: &CallInfo,
        request: DynamicMessage,
        bearer: Option<&str>,
    ) -> Result<Reply, Failure> {
        let method = call.rpc();
        validation::check(method, &request, &self.settings.refused_paths)?;
        let headers = self.limit(call, bearer)?;
        let mut store = self.store();
        let mut ctx = Ctx {
            store: &mut store,
            index: &self.index,
            settings: &self.settings,
            bearer,
            headers,
            now: Now::read(),
        };
        match methods::dispatch(&mut ctx, method, request) {
            Ok(message) => Ok(Reply { message, headers: ctx.headers }),
            Err(failure) => Err(failure.with_headers(ctx.headers)),
        }
    }

    /// Counts the access and answers its headers (`pkg/ratelimit/grpc.go`).
    fn limit(&self, call: &CallInfo, bearer: Option<&str>) -> Result<Vec<(String, String)>, Failure> {
        let Some(limit) = self.settings.rate_limit else { return Ok(Vec::new()) };
        let entity = if limit.per_entity { call.entity.as_str() } else { "" };
        let mut key = format!("grpc:method:{}:{entity}", call.method);
        if let Some(Ok((_, id, _))) = bearer.map(auth::split_token) {
            key.push_str(":token:");
            key.push_str(id);
        }
        let answer = lock(&self.limiter).access(limit, &key, Instant::now());
        if answer.limited {
            let failure = RATE_LIMIT_EXCEEDED.with(json!({"key": key, "rate": answer.limit}));
            return Err(failure.with_headers(answer.headers()));
        }
        Ok(answer.headers())
    }

    /// Makes an API key with these rights (names without `RIGHT_`) on an entity, valid until `expires` if given: for
    /// tests of missing rights and expired keys. Answers the token.
    ///
    /// # Errors
    /// When the state file cannot be written.
    pub fn create_key(
        &self,
        kind: EntityKind,
        id: &str,
        rights: &[&str],
        expires: Option<std::time::SystemTime>,
    ) -> io::Result<String> {
        let (token, key_id) = auth::generate_token();
        let mut key = proto::message("APIKey");
        path::set(&mut key, "id", Value::String(key_id.clone()));
        path::set(&mut key, "key", Value::String(token.clone()));
        path::set(&mut key, "rights", auth::rights_value(rights.iter().map(|name| auth::right(name))));
        if let Some(at) = expires.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok()) {
            let at = stored::timestamp(i128::try_from(at.as_nanos()).unwrap_or(i128::MAX));
            path::set(&mut key, "expires_at", Value::Message(at));
        }
        self.store().put(Table::ApiKeys, &stored::api_key_key(kind, id, &key_id), key)?;
        Ok(token)
    }
}

impl Stack for Tts {
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
        injected(fault).map(Failure::into_status)
    }

    async fn apply(
        &self,
        call: &mut CallInfo,
        request: DynamicMessage,
        metadata: &MetadataMap,
    ) -> Result<Reply, Status> {
        self.apply(call, request, bearer(metadata).as_deref()).map_err(Failure::into_status)
    }
}

/// The refusal that a fault asks for.
fn injected(fault: &Fault) -> Option<Failure> {
    match fault {
        Fault::Status(code) => Some(Failure::injected(*code, None)),
        Fault::Error(code, namespace, name) => Some(Failure::injected(*code, Some((namespace, name)))),
        Fault::Text(code, text) => Some(Failure::bare(*code, *text)),
        Fault::RateLimited(headers) => {
            let failure = RATE_LIMIT_EXCEEDED.with(json!({"key": "injected", "rate": 0}));
            Some(failure.with_headers(headers.clone()))
        }
        _ => None,
    }
}

fn bearer(metadata: &MetadataMap) -> Option<String> {
    let (kind, token) = metadata.get("authorization")?.to_str().ok()?.split_once(' ')?;
    kind.eq_ignore_ascii_case("bearer").then(|| token.to_owned())
}

/// What a method works with.
struct Ctx<'a> {
    store: &'a mut Store,
    index: &'a Index,
    settings: &'a Settings,
    bearer: Option<&'a str>,
    headers: Vec<(String, String)>,
    now: Now,
}

impl Ctx<'_> {
    fn header(&mut self, name: &str, value: &str) {
        self.headers.push((name.to_owned(), value.to_owned()));
    }

    /// A warning to the caller (`pkg/rpcmiddleware/warning`).
    fn warn(&mut self, text: &str) {
        self.header("warning", text);
    }
}
