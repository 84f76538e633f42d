//! TLS: which certificates are trusted, and what a failed handshake means.

use std::{io, path::Path, sync::Arc};

use rustls::{
    AlertDescription, CertificateError, ClientConfig, InvalidMessage, PeerMisbehaved, RootCertStore,
    pki_types::UnixTime,
};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};

use super::{
    endpoint::Tls,
    error::{Failure, Kind},
    hint::TlsProblem,
    pin,
};

/// The configuration for an endpoint; `None` for plaintext. Reads the CA file and the roots of the system.
pub(super) fn config(tls: &Tls) -> Result<Option<Arc<ClientConfig>>, Failure> {
    match tls {
        Tls::Plaintext => Ok(None),
        Tls::System => {
            let roots = system_roots();
            if roots.is_empty() {
                return Err(problem(TlsProblem::NoRoots, ""));
            }
            with_roots(roots).map(Some)
        }
        Tls::Ca(file) => {
            let mut roots = system_roots();
            trust(&mut roots, read_file(file)?, &file.display().to_string())?;
            with_roots(roots).map(Some)
        }
        Tls::Pinned(pem) => {
            let whose = "the certificate that was named or announced";
            let bad = |why: String| problem(TlsProblem::CaFile, &format!("{whose}: {why}"));
            let named: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
            let named = named.map_err(|e| bad(pem_reason(e)))?;
            if named.is_empty() {
                return Err(bad("no certificate in it".into()));
            }
            with_pins(named, whose).map(Some)
        }
    }
}

/// Trusts those that were named alone; of these also one that is both a CA and the server's own certificate.
fn with_pins(named: Vec<CertificateDer<'static>>, whose: &str) -> Result<Arc<ClientConfig>, Failure> {
    let mut roots = RootCertStore::empty();
    trust(&mut roots, named.clone(), whose)?;
    let mut config = Arc::unwrap_or_clone(with_roots(roots.clone())?);
    pin::accept(&mut config, roots, named).map_err(|e| problem(TlsProblem::Refused, &e))?;
    Ok(Arc::new(config))
}

fn trust(roots: &mut RootCertStore, named: Vec<CertificateDer<'static>>, whose: &str) -> Result<(), Failure> {
    for certificate in named {
        let bad = |e: rustls::Error| problem(TlsProblem::CaFile, &format!("{whose}: {e}"));
        roots.add(certificate).map_err(bad)?;
    }
    Ok(())
}

/// TLS 1.2 or 1.3 with ring. HTTP/2 is offered by ALPN, but not insisted upon: older servers do not answer to it.
pub(super) fn with_roots(roots: RootCertStore) -> Result<Arc<ClientConfig>, Failure> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| problem(TlsProblem::Refused, &e.to_string()))?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    // Single roots that cannot be read are skipped: one broken file in the system must not stop a migration.
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::debug!(%error, "a root certificate of the system cannot be read");
    }
    roots.add_parsable_certificates(found.certs);
    roots
}

fn read_file(file: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let bad = |why: String| problem(TlsProblem::CaFile, &format!("{}: {why}", file.display()));
    let found: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(file).map_err(|e| bad(pem_reason(e)))?.collect();
    let found = found.map_err(|e| bad(pem_reason(e)))?;
    if found.is_empty() { Err(bad("no certificate in it".into())) } else { Ok(found) }
}

fn pem_reason(error: rustls_pki_types::pem::Error) -> String {
    match error {
        rustls_pki_types::pem::Error::Io(error) => error.to_string(),
        _ => "not in PEM form".into(),
    }
}

/// A failure of TLS before anything was sent.
pub(super) fn problem(problem: TlsProblem, detail: &str) -> Failure {
    let message = match detail {
        "" => problem.to_string(),
        detail => format!("{problem}: {detail}"),
    };
    Failure::before(Kind::Tls(problem), message)
}

/// What a failed handshake means.
pub(super) fn handshake_failure(error: &io::Error) -> Failure {
    match error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(error)) => certificate_failure(error),
        // Any first bytes that are no TLS record: SETTINGS of HTTP/2, an HTTP/1 error page, an SSH banner.
        Some(rustls::Error::InvalidMessage(
            InvalidMessage::InvalidContentType
            | InvalidMessage::UnknownProtocolVersion
            | InvalidMessage::MessageTooLarge,
        )) => problem(TlsProblem::ServerIsPlaintext, ""),
        Some(rustls::Error::PeerMisbehaved(
            PeerMisbehaved::AttemptedDowngradeToTls12WhenTls13IsSupported,
        )) => problem(TlsProblem::Downgraded, ""),
        Some(error) => problem(TlsProblem::Refused, &refusal(error)),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            problem(TlsProblem::Refused, "it closed the connection")
        }
        None => Failure::before(
            Kind::Unreachable,
            format!("the connection was cut in the TLS handshake: {error}"),
        ),
    }
}

/// Why a handshake was refused; in plain words where users meet it.
pub(super) fn refusal(error: &rustls::Error) -> String {
    use rustls::Error::{AlertReceived, NoApplicationProtocol, PeerIncompatible};
    match error {
        PeerIncompatible(rustls::PeerIncompatible::ServerDoesNotSupportTls12Or13)
        | AlertReceived(AlertDescription::ProtocolVersion) => "it speaks no TLS of version 1.2 or 1.3".into(),
        AlertReceived(AlertDescription::CertificateRequired) => "it asks for a client certificate".into(),
        AlertReceived(AlertDescription::NoApplicationProtocol) | NoApplicationProtocol => {
            "it does not offer HTTP/2".into()
        }
        other => other.to_string(),
    }
}

fn certificate_failure(error: &CertificateError) -> Failure {
    match error {
        CertificateError::UnknownIssuer => problem(TlsProblem::UnknownCa, ""),
        // A CA that was made anew under its old name: the file has one of the two.
        CertificateError::BadSignature => {
            problem(TlsProblem::UnknownCa, "the one that is trusted has the same name and another key")
        }
        CertificateError::Expired => problem(TlsProblem::Expired, ""),
        CertificateError::ExpiredContext { not_after, .. } => {
            problem(TlsProblem::Expired, &format!("it was valid until {}", date(*not_after)))
        }
        CertificateError::NotValidYet => problem(TlsProblem::NotYetValid, ""),
        CertificateError::NotValidYetContext { not_before, .. } => {
            problem(TlsProblem::NotYetValid, &format!("it is valid from {}", date(*not_before)))
        }
        CertificateError::NotValidForName => problem(TlsProblem::WrongName { names: Vec::new() }, ""),
        CertificateError::NotValidForNameContext { expected, presented } => {
            let names: Vec<_> = presented.iter().map(|name| plain_name(name)).collect();
            let list = if names.is_empty() { "no name at all".into() } else { names.join(", ") };
            let detail = format!("it is valid for {list}, not for {}", expected.to_str());
            problem(TlsProblem::WrongName { names }, &detail)
        }
        other if other.to_string().contains("CaUsedAsEndEntity") => {
            problem(TlsProblem::BadCertificate, "it is that of a CA, not of a server")
        }
        other => problem(TlsProblem::BadCertificate, &other.to_string()),
    }
}

/// The name alone: webpki presents `DnsName("a.example")` and `IpAddress(127.0.0.1)`.
fn plain_name(presented: &str) -> String {
    let inner = presented.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    super::status::clean(inner.unwrap_or(presented).trim_matches('"'))
}

fn date(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds).map_or_else(|_| "an unknown time".into(), |t| t.to_string())
}
