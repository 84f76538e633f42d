//! Each way that TLS fails, and the ways that it works.

use std::{io::Write as _, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::{
    RootCertStore, ServerConfig,
    server::{NoClientAuth, WebPkiClientVerifier, danger::ClientCertVerifier},
};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tempfile::NamedTempFile;
use tokio_rustls::TlsAcceptor;

use super::{
    server::{Reply, Server},
    *,
};

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        Self::named("one CA")
    }

    fn named(name: &str) -> Self {
        let mut params = CertificateParams::new(vec![]).expect("no names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(
            CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate"),
        )
    }

    fn file(&self) -> NamedTempFile {
        let mut file = NamedTempFile::new().expect("a file");
        file.write_all(self.0.pem().as_bytes()).expect("written");
        file
    }

    fn acceptor(&self, names: &[&str], years: (i32, i32)) -> TlsAcceptor {
        self.acceptor_for(names, years, Arc::new(NoClientAuth))
    }

    fn acceptor_for(
        &self,
        names: &[&str],
        years: (i32, i32),
        clients: Arc<dyn ClientCertVerifier>,
    ) -> TlsAcceptor {
        let names: Vec<_> = names.iter().map(|n| (*n).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("valid names");
        (params.not_before, params.not_after) = (date_time_ymd(years.0, 1, 1), date_time_ymd(years.1, 1, 1));
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions().expect("ring");
        let chain = vec![certificate.der().clone()];
        let config = builder.with_client_cert_verifier(clients).with_single_cert(chain, key).expect("fits");
        TlsAcceptor::from(Arc::new(config))
    }
}

const NOW: (i32, i32) = (2020, 4000);

async fn server(acceptor: TlsAcceptor) -> Server {
    Server::serve(Some(acceptor), |_, _| Reply::Message(device("meter-1"), vec![])).await
}

fn with_ca(server: &Server, host: &str, ca: &NamedTempFile) -> Endpoint {
    Endpoint { host: host.into(), tls: Tls::Ca(ca.path().to_owned()), ..server.endpoint.clone() }
}

async fn fails(endpoint: Endpoint) -> (Kind, String, String) {
    let error = create(&client(endpoint)).await.expect_err("TLS fails");
    assert_eq!(error.outcome(), Outcome::NotApplied);
    assert_eq!(error.attempts(), 1, "no use in trying again");
    (error.kind().clone(), error.message().to_owned(), error.hint().unwrap_or_default())
}

#[tokio::test]
async fn a_private_ca_is_trusted_from_its_file() {
    let authority = Authority::new();
    let server = server(authority.acceptor(&["localhost", "127.0.0.1"], NOW)).await;
    let file = authority.file();
    for host in ["localhost", "127.0.0.1"] {
        get(&client(with_ca(&server, host, &file))).await.expect("trusted");
    }
}

#[tokio::test]
async fn an_unknown_ca_says_which_option_names_it() {
    let server = server(Authority::new().acceptor(&["localhost"], NOW)).await;
    let (kind, message, hint) =
        fails(with_ca(&server, "localhost", &Authority::named("other CA").file())).await;
    assert_eq!(kind, Kind::Tls(TlsProblem::UnknownCa));
    assert_eq!(message, "the certificate was issued by an unknown CA");
    assert!(hint.contains("`ca = \"ca.pem\"`"), "{hint}");
}

#[tokio::test]
async fn a_ca_that_was_made_anew_under_its_old_name_is_told() {
    let server = server(Authority::new().acceptor(&["localhost"], NOW)).await;
    let (kind, message, _) = fails(with_ca(&server, "localhost", &Authority::new().file())).await;
    assert_eq!(kind, Kind::Tls(TlsProblem::UnknownCa));
    assert!(message.ends_with("has the same name and another key"), "{message}");
}

#[tokio::test]
async fn a_certificate_out_of_its_time_says_when_it_was_valid() {
    let authority = Authority::new();
    let file = authority.file();
    let expired = server(authority.acceptor(&["localhost"], (2020, 2021))).await;
    let (kind, message, _) = fails(with_ca(&expired, "localhost", &file)).await;
    assert_eq!(kind, Kind::Tls(TlsProblem::Expired));
    assert_eq!(message, "the certificate has expired: it was valid until 2021-01-01T00:00:00Z");
    let early = server(authority.acceptor(&["localhost"], (3000, 3001))).await;
    let (kind, message, hint) = fails(with_ca(&early, "localhost", &file)).await;
    assert_eq!(kind, Kind::Tls(TlsProblem::NotYetValid));
    assert_eq!(message, "the certificate is not valid yet: it is valid from 3000-01-01T00:00:00Z");
    assert!(hint.contains("clock"), "{hint}");
}

#[tokio::test]
async fn a_wrong_host_lists_the_names_of_the_certificate() {
    let authority = Authority::new();
    let server = server(authority.acceptor(&["tts.example.com", "10.1.2.3"], NOW)).await;
    let (kind, message, hint) = fails(with_ca(&server, "localhost", &authority.file())).await;
    let names = vec!["tts.example.com".to_owned(), "10.1.2.3".to_owned()];
    assert_eq!(kind, Kind::Tls(TlsProblem::WrongName { names }));
    assert!(message.ends_with("it is valid for tts.example.com, 10.1.2.3, not for localhost"), "{message}");
    assert!(hint.ends_with("tts.example.com, 10.1.2.3"), "{hint}");
}

#[tokio::test]
async fn a_plaintext_server_on_a_tls_port_is_told() {
    let server = Server::start(|_, _| Reply::Hang).await;
    let (kind, _, hint) = fails(with_ca(&server, "localhost", &Authority::new().file())).await;
    assert_eq!(kind, Kind::Tls(TlsProblem::ServerIsPlaintext));
    assert!(hint.contains("insecure = true"), "{hint}");
}

#[tokio::test]
async fn plaintext_to_a_tls_server_is_told() {
    let server = server(Authority::new().acceptor(&["localhost"], NOW)).await;
    let (kind, _, hint) = fails(server.endpoint.clone()).await;
    assert_eq!(kind, Kind::Tls(TlsProblem::ServerIsTls));
    assert!(hint.contains("remove `insecure = true`"), "{hint}");
}

#[tokio::test]
async fn plaintext_to_a_tls_server_that_closes_without_a_word_is_told() {
    // As Go's TLS servers do: what does not begin like TLS is cut off.
    let tls = Authority::new().acceptor(&["localhost"], NOW);
    let (listener, port) = listener().await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut first = [0];
            if stream.peek(&mut first).await.is_ok() && first == [0x16] {
                let _ = tls.accept(stream).await;
            }
        }
    });
    let (kind, ..) = fails(plaintext(port)).await;
    assert_eq!(kind, Kind::Tls(TlsProblem::ServerIsTls));
}

#[tokio::test]
async fn a_server_that_ends_the_handshake_has_refused_it() {
    let (listener, port) = listener().await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut byte = [0];
            let _ = stream.peek(&mut byte).await;
            // The client's greeting is read, so that the end is an orderly one.
            let _ = stream.try_read(&mut [0; 4096]);
        }
    });
    let file = Authority::new().file();
    let endpoint = Endpoint { tls: Tls::Ca(file.path().to_owned()), ..plaintext(port) };
    let (kind, message, _) = fails(endpoint).await;
    assert_eq!(kind, Kind::Tls(TlsProblem::Refused));
    assert_eq!(message, "the server refused the TLS handshake: it closed the connection");
}

#[tokio::test]
async fn a_server_that_asks_for_a_client_certificate_refuses() {
    let authority = Authority::new();
    let mut roots = RootCertStore::empty();
    roots.add(authority.0.der().clone()).expect("valid");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().expect("has a root");
    let server = server(authority.acceptor_for(&["localhost"], NOW, verifier)).await;
    let (kind, message, _) = fails(with_ca(&server, "localhost", &authority.file())).await;
    assert_eq!(kind, Kind::Tls(TlsProblem::Refused));
    assert!(message.ends_with("it asks for a client certificate"), "{message}");
}

#[tokio::test]
async fn a_server_that_never_shakes_hands_is_unreachable() {
    let (_listener, port) = listener().await;
    let file = Authority::new().file();
    let endpoint = Endpoint { tls: Tls::Ca(file.path().to_owned()), ..plaintext(port) };
    let settings = Settings { connect_timeout: Duration::from_millis(50), ..settings() };
    let error = client_with(endpoint, settings).connect().await.expect_err("silence");
    assert_eq!(error.message(), "the server did not answer the TLS handshake within 50 ms");
}

#[test]
fn a_ca_file_that_is_none_is_told_at_once() {
    let with = |text: &str| {
        let mut file = NamedTempFile::new().expect("a file");
        file.write_all(text.as_bytes()).expect("written");
        let endpoint = Endpoint { tls: Tls::Ca(file.path().to_owned()), ..plaintext(1) };
        Client::new(endpoint, None, settings()).map(drop).expect_err("no certificate")
    };
    for text in ["", "not PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        let error = with(text);
        assert_eq!(*error.kind(), Kind::Tls(TlsProblem::CaFile), "{error}");
    }
    let endpoint = Endpoint { tls: Tls::Ca("/no/such/ca.pem".into()), ..plaintext(1) };
    let error = Client::new(endpoint, None, settings()).map(drop).expect_err("no file");
    assert!(error.message().starts_with("the CA file cannot be used: /no/such/ca.pem: "), "{error}");
}
