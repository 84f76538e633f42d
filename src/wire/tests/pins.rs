//! Certificates that are a CA and the server's own at once, as V2 makes them.

use std::{io::Write as _, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose, date_time_ymd};
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tempfile::NamedTempFile;
use tokio_rustls::TlsAcceptor;

use super::{
    server::{Reply, Server},
    *,
};

/// A self-signed certificate with `CA:TRUE`, as `ttn handler gen-cert` makes it.
struct Own {
    pem: String,
    der: CertificateDer<'static>,
    key: KeyPair,
}

impl Own {
    fn new(names: &[&str], years: (i32, i32)) -> Self {
        let names: Vec<_> = names.iter().map(|n| (*n).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("valid names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
            KeyUsagePurpose::KeyCertSign,
        ];
        (params.not_before, params.not_after) = (date_time_ymd(years.0, 1, 1), date_time_ymd(years.1, 1, 1));
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        Self { pem: certificate.pem(), der: certificate.der().clone(), key }
    }

    /// A server that shows this certificate, and signs with `key`.
    async fn server(&self, key: &KeyPair) -> Server {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let signing = provider.key_provider.load_private_key(key).expect("a key");
        // Not `with_single_cert`, which refuses a key that does not fit.
        let certified = Arc::new(rustls::sign::CertifiedKey::new(vec![self.der.clone()], signing));
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring")
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Server::serve(Some(acceptor), |_, _| Reply::Message(device("meter-1"), vec![])).await
    }
}

const NOW: (i32, i32) = (2020, 4000);

fn pinned(server: &Server, host: &str, pem: &str) -> Endpoint {
    Endpoint { host: host.into(), tls: Tls::Pinned(pem.to_owned()), ..server.endpoint.clone() }
}

async fn fails(endpoint: Endpoint) -> (Kind, String) {
    let error = create(&client(endpoint)).await.expect_err("TLS fails");
    assert_eq!(error.outcome(), Outcome::NotApplied);
    (error.kind().clone(), error.message().to_owned())
}

#[tokio::test]
async fn the_certificate_that_was_announced_is_taken_though_it_is_that_of_a_ca() {
    let own = Own::new(&["localhost", "127.0.0.1"], NOW);
    let server = own.server(&own.key).await;
    for host in ["localhost", "127.0.0.1"] {
        get(&client(pinned(&server, host, &own.pem))).await.expect("trusted");
    }
}

#[tokio::test]
async fn at_the_things_stack_a_ca_is_no_server() {
    let own = Own::new(&["localhost"], NOW);
    let server = own.server(&own.key).await;
    let mut file = NamedTempFile::new().expect("a file");
    file.write_all(own.pem.as_bytes()).expect("written");
    let ca = Tls::Ca(file.path().to_owned());
    let (kind, _) = fails(Endpoint { host: "localhost".into(), tls: ca, ..server.endpoint.clone() }).await;
    assert_eq!(kind, Kind::Tls(TlsProblem::BadCertificate));
}

#[tokio::test]
async fn another_certificate_of_the_same_make_is_refused() {
    let (own, other) = (Own::new(&["localhost"], NOW), Own::new(&["localhost"], NOW));
    let server = other.server(&other.key).await;
    let (kind, _) = fails(pinned(&server, "localhost", &own.pem)).await;
    assert_eq!(kind, Kind::Tls(TlsProblem::UnknownCa));
}

#[tokio::test]
async fn the_key_of_the_handshake_must_be_that_of_the_certificate() {
    let own = Own::new(&["localhost"], NOW);
    let server = own.server(&KeyPair::generate().expect("a key")).await;
    let (kind, message) = fails(pinned(&server, "localhost", &own.pem)).await;
    assert!(matches!(kind, Kind::Tls(_)), "{kind:?} {message}");
}

#[tokio::test]
async fn a_pinned_certificate_must_be_for_this_host() {
    let own = Own::new(&["handler.example.com"], NOW);
    let server = own.server(&own.key).await;
    let (kind, message) = fails(pinned(&server, "localhost", &own.pem)).await;
    assert!(matches!(kind, Kind::Tls(TlsProblem::WrongName { .. })), "{kind:?}");
    assert!(message.contains("handler.example.com"), "{message}");
}

#[tokio::test]
async fn a_pinned_certificate_must_be_in_its_time() {
    for (years, problem, text) in [
        ((2020, 2021), TlsProblem::Expired, "2021-01-01"),
        ((3000, 3001), TlsProblem::NotYetValid, "3000-01-01"),
    ] {
        let own = Own::new(&["localhost"], years);
        let server = own.server(&own.key).await;
        let (kind, message) = fails(pinned(&server, "localhost", &own.pem)).await;
        assert_eq!(kind, Kind::Tls(problem));
        assert!(message.contains(text), "{message}");
    }
}

#[tokio::test]
async fn a_pin_that_is_no_certificate_is_told_before_anything_is_sent() {
    let endpoint = Endpoint { host: "localhost".into(), port: 1, tls: Tls::Pinned("garbage".into()) };
    let error = Client::ttn_v2(endpoint, None, settings()).expect_err("no certificate");
    assert_eq!(error.kind(), &Kind::Tls(TlsProblem::CaFile));
}
