//! What the errors of The Things Network Stack V2 mean: it answers with misleading codes, and without details
//! (docs/servers.md, V2 errors).

use super::{
    Error,
    error::{Failure, Kind, Outcome},
    hint::TlsProblem,
    status::Code,
};

/// Words of a server of Go that cannot reach another: the account server, behind the handler.
const OUT_OF_REACH: &[&str] = &[
    "dial tcp",
    "connection refused",
    "connection reset",
    "no such host",
    "i/o timeout",
    "TLS handshake timeout",
    "context deadline exceeded",
    "Client.Timeout exceeded",
    "EOF",
    "502 ",
    "503 ",
    "504 ",
];

/// What the account server says of a key, before anything is done.
const ABOUT_THE_KEY: &[&str] = &["access key", "Application not found", "Auth server"];

/// True for a method of V2.
pub(super) fn is(method: &str) -> bool {
    method.starts_with("/handler.") || method.starts_with("/discovery.")
}

/// Sets the kind and outcome of a failure right, by the server's words.
pub(super) fn interpret(method: &str, failure: &mut Failure) {
    use Outcome::{NotApplied, Unknown};
    let Some(status) = &failure.status else { return };
    let words = status.message.as_str();
    let meaning = match status.code {
        Code::ResourceExhausted => Some((Kind::RateLimited, NotApplied)),
        // A limit behind the handler; the other half of a write may have been done.
        Code::Internal if words.contains("[ResourceExhausted]") => Some((Kind::RateLimited, Unknown)),
        Code::Internal if words.contains("unmarshalling request") => {
            Some((Kind::Invalid { field: None }, NotApplied))
        }
        // The NS half is written by then.
        Code::Unknown if ATTRIBUTES.iter().any(|sign| words.contains(sign)) => {
            Some((Kind::Invalid { field: None }, Unknown))
        }
        Code::Unknown if words.starts_with("strconv.") => Some((Kind::Invalid { field: None }, NotApplied)),
        Code::Unknown if ABOUT_THE_KEY.iter().any(|sign| words.contains(sign)) => {
            Some((Kind::Unauthenticated, NotApplied))
        }
        // The handler's own store, when the NS half is written; or the account server, when nothing is.
        Code::Unknown if writes(method) => Some((Kind::Unavailable, Unknown)),
        Code::Unknown if OUT_OF_REACH.iter().any(|sign| words.contains(sign)) => {
            Some((Kind::Unavailable, NotApplied))
        }
        Code::Unknown => Some((Kind::Unauthenticated, NotApplied)),
        Code::InvalidArgument if words.contains("neither token nor key present") => {
            Some((Kind::Unauthenticated, NotApplied))
        }
        Code::PermissionDenied if words.contains("read-only") => Some((Kind::FailedPrecondition, NotApplied)),
        Code::PermissionDenied if words.contains("No \"") => {
            Some((Kind::Denied { missing: quoted(words).into_iter().collect() }, NotApplied))
        }
        Code::PermissionDenied if words.contains("token") => Some((Kind::Unauthenticated, NotApplied)),
        Code::PermissionDenied => Some((Kind::Denied { missing: Vec::new() }, NotApplied)),
        _ => None,
    };
    if let Some((kind, outcome)) = meaning {
        (failure.kind, failure.outcome) = (kind, outcome);
    }
}

/// What a device has too much of in its attributes (`core/handler/device/store.go`).
const ATTRIBUTES: &[&str] = &["custom attributes", "exceeds maximum length"];

fn writes(method: &str) -> bool {
    ["/SetDevice", "/DeleteDevice"].iter().any(|end| method.ends_with(end))
}

/// The first text in quotes: `No "devices" rights to Application "fleet"`.
fn quoted(words: &str) -> Option<String> {
    words.split('"').nth(1).map(str::to_owned)
}

/// What the user can do about it; `None` where the general advice holds.
pub(super) fn hint(error: &Error) -> Option<String> {
    let app = error.about().application.as_deref().unwrap_or("the application");
    let words = error.message();
    let discovery = error.method().is_some_and(|method| method.starts_with("/discovery."));
    Some(match error.kind() {
        Kind::Tls(problem) => return tls(problem, discovery),
        Kind::Unauthenticated if words.contains("not registered") && words.contains("Auth server") => {
            "the access key begins with the name of an account server that this handler does not know: use a key that was \
             made for this network"
                .into()
        }
        Kind::Unauthenticated => format!(
            "check `access-key`: the whole key (ttn-account-v2.…), made for application {app}; V2 says the same of a wrong key, \
             of a key of another application, and of an application ID that it does not know"
        ),
        Kind::Denied { missing } => {
            let right = missing.first().map_or("devices", String::as_str);
            format!(
                "add the right `{right}` to the access key, in the V2 Console: Applications > {app} > Settings > Access keys"
            )
        }
        Kind::NotFound
            if words.contains("not registered to this Handler") || words.starts_with("handler:application") =>
        {
            format!(
            "application {app} is registered at another handler, or was never registered at one: see its handler in the V2 \
             Console, or leave `handler` out so that discovery finds it"
            )
        }
        Kind::NotFound if words.starts_with("discovery:") => format!(
            "discovery knows no handler for {app}: check `app-id` (`source` of the application) and `discovery-server`, or \
             name the `handler`"
        ),
        Kind::Unavailable if words.contains("NetworkServer") || words.contains("Broker") => {
            "a part of the V2 network behind the handler does not answer; the same command goes on once it does".into()
        }
        Kind::Unavailable if OUT_OF_REACH.iter().any(|sign| words.contains(sign)) => {
            "the handler cannot reach its account server; the same command goes on once it can".into()
        }
        Kind::FailedPrecondition if words.contains("read-only") => {
            "this V2 network takes no new devices any more: a device that was deleted there does not come back; use \
             clear.mode = \"keys\""
                .into()
        }
        Kind::Invalid { .. } if ATTRIBUTES.iter().any(|sign| words.contains(sign)) => {
            "V2 takes at most 5 custom attributes of 64 bytes: take one away from the device".into()
        }
        Kind::Unreachable => {
            "check the address, DNS and firewalls; discovery of V2 is on port 1900, handlers on port 1904".into()
        }
        Kind::RateLimited => "V2 allows 5 calls a second; another program may use the same access key: stop it, the same \
                              command goes on"
            .into(),
        Kind::Protocol | Kind::Unimplemented => {
            format!("check that {} is a V2 server of this kind: discovery on port 1900, handlers on 1904", error.endpoint())
        }
        _ => return None,
    })
}

/// How the TLS of V2 is set right; `None` where the general advice holds.
fn tls(problem: &TlsProblem, discovery: bool) -> Option<String> {
    use TlsProblem as P;
    Some(match (problem, discovery) {
        (P::UnknownCa | P::BadCertificate, true) => {
            "name the certificate of the discovery server in [source.ttn-v2]: `ca = \"ca.pem\"`, that of its CA, or its own as \
             `ttn discovery gen-cert` made it"
                .into()
        }
        (P::UnknownCa | P::BadCertificate, false) => {
            "only the certificate that discovery announces for this handler is trusted, or with `handler` that of `ca`: see \
             whether the handler was given a new one; do not go on if nobody knows of it"
                .into()
        }
        (P::ServerIsPlaintext, true) => "use the port with TLS (1900), or set `discovery-insecure = true` in [source.ttn-v2] if \
                                         the network between is yours"
            .into(),
        (P::ServerIsPlaintext, false) => "check the port of the handler (1904): V2 speaks TLS there".into(),
        (P::ServerIsTls, _) => "remove `discovery-insecure = true` from [source.ttn-v2]".into(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;
    use crate::wire::Status;

    const GET: &str = "/handler.ApplicationManager/GetDevice";
    const SET: &str = "/handler.ApplicationManager/SetDevice";

    fn of(code: Code, words: &str) -> (Kind, Outcome) {
        of_call(GET, code, words)
    }

    fn of_call(method: &str, code: Code, words: &str) -> (Kind, Outcome) {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-status", (code as i32).into());
        headers.insert("grpc-message", words.parse().expect("a header"));
        let status = Status::from_headers(&headers);
        let mut failure = Failure { status, ..Failure::after(Kind::Server, words) };
        interpret(method, &mut failure);
        (failure.kind, failure.outcome)
    }

    /// Every row of the table of docs/servers.md (V2 errors) whose code misleads.
    #[test]
    fn misleading_codes_are_told_apart() {
        use Outcome::{NotApplied, Unknown};
        assert_eq!(of(Code::Unknown, "Invalid access key"), (Kind::Unauthenticated, NotApplied));
        assert_eq!(of(Code::Unknown, "Application not found"), (Kind::Unauthenticated, NotApplied));
        let unregistered = "Auth server \"ttn-account-v9\" not registered";
        assert_eq!(of(Code::Unknown, unregistered), (Kind::Unauthenticated, NotApplied));
        let down = "Post \"http://account/token\": dial tcp 10.0.0.1:443: connect: connection refused";
        assert_eq!(of(Code::Unknown, down), (Kind::Unavailable, NotApplied));
        let neither = "Metadata not valid: neither token nor key present";
        assert_eq!(of(Code::InvalidArgument, neither), (Kind::Unauthenticated, NotApplied));
        let expired = "permission denied: unable to parse token: token is expired by 5s";
        assert_eq!(of(Code::PermissionDenied, expired), (Kind::Unauthenticated, NotApplied));
        let right = "permission denied: No \"settings\" rights to Application \"fleet-v2\"";
        assert_eq!(
            of(Code::PermissionDenied, right),
            (Kind::Denied { missing: vec!["settings".into()] }, NotApplied)
        );
        let limit = "Rate limit for client \"fleet-v2\" reached";
        assert_eq!(of(Code::ResourceExhausted, limit), (Kind::RateLimited, NotApplied));
        let behind = "Internal error: [ResourceExhausted] Rate limit for client \"fleet-v2\" reached";
        assert_eq!(of(Code::Internal, behind), (Kind::RateLimited, Unknown));
        let length = "grpc: error unmarshalling request: ttn/core: Invalid length for AES128Key";
        assert_eq!(of(Code::Internal, length), (Kind::Invalid { field: None }, NotApplied));
        let many = "Maximum number of custom attributes (5) exceeded";
        assert_eq!(of(Code::Unknown, many), (Kind::Invalid { field: None }, Unknown));
        assert_eq!(of(Code::Internal, "Internal error: boom"), (Kind::Server, Unknown));
        let long = "Attribute key aaaa exceeds maximum length (64)";
        assert_eq!(of_call(SET, Code::Unknown, long), (Kind::Invalid { field: None }, Unknown));
        let named = "permission denied: No \"settings\" rights to Application \"token-tracker\"";
        assert_eq!(
            of(Code::PermissionDenied, named),
            (Kind::Denied { missing: vec!["settings".into()] }, NotApplied)
        );
        let read_only = "permission denied: V2 clusters are now read-only.";
        assert_eq!(of_call(SET, Code::PermissionDenied, read_only), (Kind::FailedPrecondition, NotApplied));
    }

    /// The NS half of a write comes first: an error of the handler's store leaves it written.
    #[test]
    fn what_a_store_says_after_half_a_write_is_not_taken_for_nothing_done() {
        for words in
            ["EOF", "dial tcp 10.0.0.7:6379: i/o timeout", "LOADING Redis is loading the dataset in memory"]
        {
            assert_eq!(of_call(SET, Code::Unknown, words), (Kind::Unavailable, Outcome::Unknown), "{words}");
        }
        assert_eq!(
            of_call(SET, Code::Unknown, "Invalid access key"),
            (Kind::Unauthenticated, Outcome::NotApplied)
        );
    }
}
