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
    collections::BTreeMap,
    fmt, io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use prost_reflect::{DynamicMessage, ReflectMessage as _, Value};
use serde_json::json;
use tonic::Code;

use super::store::{Store, Table};
use crate::{map::path, proto};

pub use auth::EntityKind;
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

/// Random bytes. The operating system's source does not fail on the systems that this runs on; zeros stand in if so.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    if getrandom::fill(&mut bytes).is_err() {
        bytes = [0; N];
    }
    bytes
}

/// One call, as hooks and [`Tts::calls`] see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallInfo {
    /// Number of the call on this server, from 1.
    pub n: u64,
    /// Request path: `/ttn.lorawan.v3.EndDeviceRegistry/Get`.
    pub method: String,
    /// What it is about, as the rate limiter names it: `end device:meters.meter-1`; empty for none.
    pub entity: String,
    /// The answer's status; `None` before there is one.
    pub code: Option<Code>,
    /// True for methods that may change something.
    pub is_write: bool,
}

impl CallInfo {
    /// Service and method without the package: `EndDeviceRegistry/Get`.
    pub fn rpc(&self) -> &str {
        self.method.rsplit_once('.').map_or(&self.method, |(_, rpc)| rpc)
    }
}

/// What a hook makes of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Answer this status without applying the call.
    Status(Code),
    /// The same with namespace and name of the error, as `pkg/redis` and `not_found`.
    Error(Code, &'static str, &'static str),
    /// Apply it and answer this status all the same: what a proxy says of an answer that it lost.
    StatusAfter(Code),
    /// Refuse it for its rate, as the limiter does, with these headers in place of the limiter's own.
    RateLimited(Vec<(String, String)>),
    /// Wait before applying it. It is not applied when the client has gone by then.
    Delay(Duration),
    /// Apply it after this time, whether the client still waits or not.
    Late(Duration),
    /// Drop the connection without applying it.
    CutBefore,
    /// Apply it and drop the connection instead of answering.
    CutAfter,
    /// Apply it and drop the connection in the middle of the answer.
    CutWithin,
    /// Reset the connection (RST in place of FIN) without applying it.
    Reset,
    /// Add headers to the answer.
    Headers(Vec<(String, String)>),
}

/// A successful answer.
#[derive(Clone, PartialEq)]
pub struct Reply {
    /// The message.
    pub message: DynamicMessage,
    /// Response headers, such as `x-total-count`.
    pub headers: Vec<(String, String)>,
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reply({})", self.message.descriptor().name())
    }
}

type Before = Box<dyn Fn(&CallInfo) -> Option<Fault> + Send + Sync>;
type After = Box<dyn Fn(&CallInfo) + Send + Sync>;

#[derive(Default)]
struct Hooks {
    before: RwLock<Vec<Before>>,
    applied: RwLock<Vec<After>>,
    replied: RwLock<Vec<After>>,
}

/// An embedded The Things Stack.
pub struct Tts {
    settings: Settings,
    store: Mutex<Store>,
    index: Index,
    limiter: Mutex<Limiter>,
    hooks: Hooks,
    calls: Mutex<BTreeMap<u64, CallInfo>>,
    next: AtomicU64,
}

impl fmt::Debug for Tts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tts").field("settings", &self.settings).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A test that panics with the store locked does not take the server down: every change is one statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
            hooks: Hooks::default(),
            calls: Mutex::default(),
            next: AtomicU64::new(1),
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
        self.hooks.before.write().unwrap_or_else(PoisonError::into_inner).push(Box::new(hook));
    }

    /// Calls `hook` after each call was applied or refused, before it is answered.
    pub fn on_applied(&self, hook: impl Fn(&CallInfo) + Send + Sync + 'static) {
        self.hooks.applied.write().unwrap_or_else(PoisonError::into_inner).push(Box::new(hook));
    }

    /// Calls `hook` after each answer was handed to the transport.
    pub fn on_replied(&self, hook: impl Fn(&CallInfo) + Send + Sync + 'static) {
        self.hooks.replied.write().unwrap_or_else(PoisonError::into_inner).push(Box::new(hook));
    }

    /// Takes all hooks out again.
    pub fn unhook(&self) {
        self.hooks.before.write().unwrap_or_else(PoisonError::into_inner).clear();
        self.hooks.applied.write().unwrap_or_else(PoisonError::into_inner).clear();
        self.hooks.replied.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Every finished call, in the order of arrival.
    pub fn calls(&self) -> Vec<CallInfo> {
        lock(&self.calls).values().cloned().collect()
    }

    /// Everything a request goes through: hooks, mask check, validation, rate limit, authentication, rights, and the
    /// method itself. Atomic; delays and cut connections of hooks are the transport's, and do not happen here.
    ///
    /// # Errors
    /// What the real server answers.
    pub fn call(&self, path: &str, request: DynamicMessage, bearer: Option<&str>) -> Result<Reply, Failure> {
        let call = self.announce(path, &request);
        let fault = self.fault(&call);
        let mut more = Vec::new();
        match fault {
            Some(Fault::Status(code)) => return Err(self.refuse(call, code, None).1),
            Some(Fault::Error(code, namespace, name)) => {
                return Err(self.refuse(call, code, Some((namespace, name))).1);
            }
            Some(Fault::RateLimited(headers)) => {
                return Err(self.refuse_for_rate(call).1.with_headers(headers));
            }
            Some(Fault::Headers(ref headers)) => more.clone_from(headers),
            _ => {}
        }
        let (call, outcome) = self.apply(call, request, bearer);
        self.replied(&call);
        if let Some(Fault::StatusAfter(code)) = fault {
            return Err(Failure::injected(code, None));
        }
        match outcome {
            Ok(mut reply) => {
                reply.headers.extend(more);
                Ok(reply)
            }
            Err(failure) => Err(failure.with_headers(more)),
        }
    }

    /// Numbers a call.
    pub(super) fn announce(&self, path: &str, request: &DynamicMessage) -> CallInfo {
        CallInfo {
            n: self.next.fetch_add(1, Ordering::SeqCst),
            method: path.to_owned(),
            entity: methods::entity(request),
            code: None,
            is_write: methods::is_write(path),
        }
    }

    /// The first fault that a hook answers.
    pub(super) fn fault(&self, call: &CallInfo) -> Option<Fault> {
        let hooks = self.hooks.before.read().unwrap_or_else(PoisonError::into_inner);
        hooks.iter().find_map(|hook| hook(call))
    }

    /// Answers an injected status.
    pub(super) fn refuse(
        &self,
        mut call: CallInfo,
        code: Code,
        definition: Option<(&'static str, &'static str)>,
    ) -> (CallInfo, Failure) {
        call.code = Some(code);
        self.finish(&call);
        (call, Failure::injected(code, definition))
    }

    /// Answers an injected refusal of the rate limiter.
    pub(super) fn refuse_for_rate(&self, mut call: CallInfo) -> (CallInfo, Failure) {
        let failure = RATE_LIMIT_EXCEEDED.with(json!({"key": "injected", "rate": 0}));
        call.code = Some(failure.code());
        self.finish(&call);
        (call, failure)
    }

    /// Applies a call and tells the hooks.
    pub(super) fn apply(
        &self,
        mut call: CallInfo,
        request: DynamicMessage,
        bearer: Option<&str>,
    ) -> (CallInfo, Result<Reply, Failure>) {
        let outcome = self.perform(&call, request, bearer);
        call.code = Some(outcome.as_ref().map_or_else(Failure::code, |_| Code::Ok));
        self.finish(&call);
        (call, outcome)
    }

    fn finish(&self, call: &CallInfo) {
        lock(&self.calls).insert(call.n, call.clone());
        for hook in self.hooks.applied.read().unwrap_or_else(PoisonError::into_inner).iter() {
            hook(call);
        }
    }

    /// Tells the hooks that an answer is out.
    pub(super) fn replied(&self, call: &CallInfo) {
        for hook in self.hooks.replied.read().unwrap_or_else(PoisonError::into_inner).iter() {
            hook(call);
        }
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
