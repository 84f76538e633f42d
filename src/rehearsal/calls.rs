//! What every embedded server has around its methods: numbered calls, hooks, and the faults that hooks ask for.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prost_reflect::{DynamicMessage, ReflectMessage as _};
use tonic::Code;

/// One call, as hooks and the list of calls of a server see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallInfo {
    /// Number of the call on this server, from 1.
    pub n: u64,
    /// Request path: `/ttn.lorawan.v3.EndDeviceRegistry/Get`.
    pub method: String,
    /// What it is about: `end device:meters.meter-1`, as the rate limiter of The Things Stack names it; empty for none.
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
    /// The same with this text and no details, as servers without error details answer, and proxies.
    Text(Code, &'static str),
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

/// The calls of one embedded server, and its hooks.
#[derive(Default)]
pub(super) struct Calls {
    before: RwLock<Vec<Before>>,
    applied: RwLock<Vec<After>>,
    replied: RwLock<Vec<After>>,
    finished: Mutex<BTreeMap<u64, CallInfo>>,
    last: AtomicU64,
}

impl Calls {
    pub fn on_call(&self, hook: impl Fn(&CallInfo) -> Option<Fault> + Send + Sync + 'static) {
        self.before.write().unwrap_or_else(PoisonError::into_inner).push(Box::new(hook));
    }

    pub fn on_applied(&self, hook: impl Fn(&CallInfo) + Send + Sync + 'static) {
        self.applied.write().unwrap_or_else(PoisonError::into_inner).push(Box::new(hook));
    }

    pub fn on_replied(&self, hook: impl Fn(&CallInfo) + Send + Sync + 'static) {
        self.replied.write().unwrap_or_else(PoisonError::into_inner).push(Box::new(hook));
    }

    pub fn unhook(&self) {
        self.before.write().unwrap_or_else(PoisonError::into_inner).clear();
        self.applied.write().unwrap_or_else(PoisonError::into_inner).clear();
        self.replied.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Every finished call, in the order of arrival.
    pub fn all(&self) -> Vec<CallInfo> {
        super::lock(&self.finished).values().cloned().collect()
    }

    /// Numbers a call.
    pub fn announce(&self, path: &str, entity: String, is_write: bool) -> CallInfo {
        let n = self.last.fetch_add(1, Ordering::SeqCst) + 1;
        CallInfo { n, method: path.to_owned(), entity, code: None, is_write }
    }

    /// The first fault that a hook answers.
    pub fn fault(&self, call: &CallInfo) -> Option<Fault> {
        let hooks = self.before.read().unwrap_or_else(PoisonError::into_inner);
        hooks.iter().find_map(|hook| hook(call))
    }

    /// Notes how a call ended, and tells the hooks.
    pub fn finish(&self, call: &mut CallInfo, code: Code) {
        call.code = Some(code);
        super::lock(&self.finished).insert(call.n, call.clone());
        for hook in self.applied.read().unwrap_or_else(PoisonError::into_inner).iter() {
            hook(call);
        }
    }

    /// Tells the hooks that an answer is out.
    pub fn replied(&self, call: &CallInfo) {
        for hook in self.replied.read().unwrap_or_else(PoisonError::into_inner).iter() {
            hook(call);
        }
    }
}
