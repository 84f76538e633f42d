//! What can go wrong with a call: a kind, the server's own words, and whether a write may have taken effect.

use std::{fmt, time::Duration};

use super::{Endpoint, client::Repeat};
pub use super::{hint::TlsProblem, status::Status};

/// Which side of the migration a server is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// Where devices come from.
    Source,
    /// Where devices go.
    Target,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Target => "target",
        })
    }
}

/// What a call is about. Names the culprit in errors, and is the entity of the server's rate limits, which are kept
/// for each method and entity (`pkg/ratelimit/grpc.go`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct About {
    /// Application ID.
    pub application: Option<String>,
    /// Device ID in that application.
    pub device: Option<String>,
    /// Gateway ID.
    pub gateway: Option<String>,
}

impl About {
    /// A call about the deployment or about the API key itself.
    pub fn nothing() -> Self {
        Self::default()
    }

    /// A call about an application, or about several of its devices.
    pub fn application(id: impl Into<String>) -> Self {
        Self { application: Some(id.into()), ..Self::default() }
    }

    /// A call about one device.
    pub fn device(application: impl Into<String>, device: impl Into<String>) -> Self {
        Self { device: Some(device.into()), ..Self::application(application) }
    }

    /// A call about a gateway.
    pub fn gateway(id: impl Into<String>) -> Self {
        Self { gateway: Some(id.into()), ..Self::default() }
    }
}

/// "device `d` of application `a`", "application `a`", "gateway `g`"; nothing when it is about nothing.
impl fmt::Display for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { application: Some(app), device: Some(device), .. } => {
                write!(f, "device `{device}` of application `{app}`")
            }
            Self { device: Some(device), .. } => write!(f, "device `{device}`"),
            Self { application: Some(app), .. } => write!(f, "application `{app}`"),
            Self { gateway: Some(gateway), .. } => write!(f, "gateway `{gateway}`"),
            _ => Ok(()),
        }
    }
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Kind {
    /// No connection: DNS, refused, time-out, or cut while a call was under way.
    Unreachable,
    /// TLS could not be agreed on, or one side speaks it and the other does not.
    Tls(TlsProblem),
    /// No answer in time.
    Deadline,
    /// The server's limit of calls; waiting longer than the policy allows.
    RateLimited,
    /// The API key is not one that the server knows.
    Unauthenticated,
    /// The API key may not do this.
    Denied {
        /// Rights that are missing, such as `RIGHT_APPLICATION_DEVICES_READ_KEYS`; empty when the server does not say.
        missing: Vec<String>,
    },
    /// No such entity.
    NotFound,
    /// The ID or EUI is taken.
    AlreadyExists,
    /// Paths of the field mask that this server does not know or does not let be set.
    ForbiddenPaths(Vec<String>),
    /// The request breaks a rule of the server.
    Invalid {
        /// Path of the field, where the server says it.
        field: Option<String>,
    },
    /// The state of the server does not allow it (an application that still has devices).
    FailedPrecondition,
    /// The server has no such service or method: another component, or an older version.
    Unimplemented,
    /// The request or the answer is larger than a limit.
    TooLarge,
    /// The server says that it, or a part of its cluster, is not available now.
    Unavailable,
    /// The server failed.
    Server,
    /// The answer is not what it should be: not gRPC, no message, not the message of this method.
    Protocol,
    /// The server gave the call up.
    Cancelled,
}

impl Kind {
    /// A short name for events and JSON, such as `not-found`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Tls(_) => "tls",
            Self::Deadline => "deadline",
            Self::RateLimited => "rate-limited",
            Self::Unauthenticated => "unauthenticated",
            Self::Denied { .. } => "denied",
            Self::NotFound => "not-found",
            Self::AlreadyExists => "already-exists",
            Self::ForbiddenPaths(_) => "forbidden-paths",
            Self::Invalid { .. } => "invalid",
            Self::FailedPrecondition => "failed-precondition",
            Self::Unimplemented => "unimplemented",
            Self::TooLarge => "too-large",
            Self::Unavailable => "unavailable",
            Self::Server => "server",
            Self::Protocol => "protocol",
            Self::Cancelled => "cancelled",
        }
    }

    /// True for what may pass by itself, so that a call that is safe to repeat is repeated.
    pub fn passes(&self) -> bool {
        matches!(
            self,
            Self::Unreachable
                | Self::Deadline
                | Self::RateLimited
                | Self::Unavailable
                | Self::Server
                | Self::Cancelled
        )
    }
}

/// Could the call have changed something at the server?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Surely not: it was never sent, or it was refused.
    NotApplied,
    /// It may have: the answer was lost, came too late or made no sense.
    Unknown,
}

/// How one attempt failed, without the context of the call.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub kind: Kind,
    pub message: String,
    pub outcome: Outcome,
    pub status: Option<Status>,
    /// True when the answer carried the server's own limits: the throttle knows how long to wait.
    pub paced: bool,
}

impl Failure {
    /// A failure before anything was sent.
    pub fn before(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), outcome: Outcome::NotApplied, status: None, paced: false }
    }

    /// A failure after the request may have reached the server.
    pub fn after(kind: Kind, message: impl Into<String>) -> Self {
        Self { outcome: Outcome::Unknown, ..Self::before(kind, message) }
    }
}

/// A call that did not succeed, after all its attempts.
///
/// `Display` is a lowercase fragment that names what the call was about, the method, the side, the address and the
/// server's own words; [`Error::hint`] says what to do.
#[derive(Debug, Clone)]
pub struct Error(Box<Inner>);

#[derive(Debug, Clone)]
struct Inner {
    failure: Failure,
    side: Side,
    endpoint: Endpoint,
    method: Option<&'static str>,
    about: About,
    attempts: u32,
    repeat: Repeat,
}

impl Error {
    pub(super) fn new(failure: Failure, side: Side, endpoint: &Endpoint) -> Self {
        Self(Box::new(Inner {
            failure,
            side,
            endpoint: endpoint.clone(),
            method: None,
            about: About::default(),
            attempts: 0,
            repeat: Repeat::Safe,
        }))
    }

    /// What a side cannot do at all. Nothing was sent.
    pub fn unsupported(side: Side, endpoint: &Endpoint, what: &'static str) -> Self {
        Self::new(Failure::before(Kind::Unimplemented, what), side, endpoint)
    }

    pub(super) fn of_call(
        mut self,
        method: &'static str,
        about: &About,
        repeat: Repeat,
        attempts: u32,
    ) -> Self {
        self.0.method = Some(method);
        self.0.about = about.clone();
        self.0.repeat = repeat;
        self.0.attempts = attempts;
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> &Kind {
        &self.0.failure.kind
    }

    /// The side of the server.
    pub fn side(&self) -> Side {
        self.0.side
    }

    /// The server.
    pub fn endpoint(&self) -> &Endpoint {
        &self.0.endpoint
    }

    /// The method, such as `/ttn.lorawan.v3.NsEndDeviceRegistry/Get`; `None` before the first call.
    pub fn method(&self) -> Option<&'static str> {
        self.0.method
    }

    /// What the call was about.
    pub fn about(&self) -> &About {
        &self.0.about
    }

    /// The server's own words, or ours where it said nothing.
    pub fn message(&self) -> &str {
        &self.0.failure.message
    }

    /// What the server answered, when it did.
    pub fn status(&self) -> Option<&Status> {
        self.0.failure.status.as_ref()
    }

    /// How many times the call was sent; 0 when it never was.
    pub fn attempts(&self) -> u32 {
        self.0.attempts
    }

    /// Could a write have taken effect, in any of the attempts?
    pub fn outcome(&self) -> Outcome {
        self.0.failure.outcome
    }

    /// True when the server reports this error: `is("pkg/util/store", "id_taken")`. Its causes: [`Status::caused_by`].
    pub fn is(&self, namespace: &str, name: &str) -> bool {
        self.status().is_some_and(|s| s.is(namespace, name))
    }

    /// True when the same call may succeed later without any change.
    pub fn retryable(&self) -> bool {
        self.kind().passes()
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        super::hint::hint(self)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { failure, side, endpoint, method, about, attempts, repeat } = &*self.0;
        if *about != About::default() {
            write!(f, "{about}: ")?;
        }
        match method {
            Some(method) => write!(f, "{} at the {side} {endpoint}: {}", short(method), failure.message)?,
            None => write!(f, "{side} {endpoint}: {}", failure.message)?,
        }
        if *attempts > 1 {
            write!(f, ", after {attempts} attempts")?;
        }
        if failure.outcome == Outcome::Unknown && *repeat != Repeat::Safe {
            f.write_str("; it is not known whether it took effect")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// `NsEndDeviceRegistry/Get` of `/ttn.lorawan.v3.NsEndDeviceRegistry/Get`.
pub(super) fn short(method: &str) -> &str {
    method.rsplit_once('.').map_or(method, |(_, short)| short)
}

/// A duration as people say it: `300 ms`, `1.5 s`, `90 s`.
pub(super) fn spoken(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        format!("{} ms", duration.as_millis())
    } else {
        format!("{} s", (duration.as_secs_f64() * 10.0).round() / 10.0)
    }
}
