//! Certificates, good and bad.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    date_time_ymd,
};
use rustls::{
    RootCertStore, ServerConfig,
    server::{NoClientAuth, WebPkiClientVerifier, danger::ClientCertVerifier},
    version::{TLS12, TLS13},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

pub type Authority = CertifiedIssuer<'static, KeyPair>;

/// A certificate authority of its own; each has another key.
pub fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.distinguished_name.push(DnType::CommonName, format!("CA {}", unique()));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate")
}

fn unique() -> usize {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A chain with its key, and the PEM text of what makes a client trust it.
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    pub trusted_by: String,
}

fn private(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()))
}

fn params(names: &[&str]) -> CertificateParams {
    CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()).expect("valid names")
}

/// From an authority of its own.
fn issued(params: &CertificateParams) -> Identity {
    let (ca, key) = (authority(), KeyPair::generate().expect("a key"));
    let certificate = params.signed_by(&key, &ca).expect("a certificate");
    Identity { chain: vec![certificate.der().clone()], key: private(&key), trusted_by: ca.pem() }
}

/// As it should be, for these names.
pub fn good(names: &[&str]) -> Identity {
    issued(&params(names))
}

/// Valid in these years only.
pub fn dated(from: i32, to: i32) -> Identity {
    let mut params = params(HERE);
    (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(to, 1, 1));
    issued(&params)
}

/// The host in its subject alone, as certificates were made long ago.
pub fn without_names() -> Identity {
    let mut params = params(&[]);
    params.distinguished_name.push(DnType::CommonName, "127.0.0.1");
    issued(&params)
}

/// For clients.
pub fn of_a_client() -> Identity {
    let mut params = params(HERE);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    issued(&params)
}

/// From an intermediate authority that the server does not send along.
pub fn without_intermediate() -> Identity {
    let (root, key) = (authority(), KeyPair::generate().expect("a key"));
    let mut middle = params(&[]);
    middle.distinguished_name.push(DnType::CommonName, "an intermediate");
    middle.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let middle =
        CertifiedIssuer::signed_by(middle, KeyPair::generate().expect("a key"), &root).expect("valid");
    let certificate = params(HERE).signed_by(&key, &middle).expect("a certificate");
    Identity { chain: vec![certificate.der().clone()], key: private(&key), trusted_by: root.pem() }
}

/// Signed by itself.
pub fn self_signed() -> Identity {
    let key = KeyPair::generate().expect("a key");
    let certificate = params(HERE).self_signed(&key).expect("a certificate");
    Identity { chain: vec![certificate.der().clone()], key: private(&key), trusted_by: certificate.pem() }
}

/// The authority itself, in the place of a server.
pub fn authority_as_server() -> Identity {
    let (key, mut params) = (KeyPair::generate().expect("a key"), params(HERE));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).expect("a certificate");
    Identity { chain: vec![certificate.der().clone()], key: private(&key), trusted_by: certificate.pem() }
}

/// Where the servers of the tests are.
pub const HERE: &[&str] = &["127.0.0.1", "localhost"];

impl Identity {
    /// A server with this identity.
    pub fn server(&self) -> ServerConfig {
        self.configured(Arc::new(NoClientAuth), true)
    }

    /// A server that speaks TLS 1.2 only.
    pub fn older_server(&self) -> ServerConfig {
        self.configured(Arc::new(NoClientAuth), false)
    }

    /// A server that asks for a certificate of its clients.
    pub fn server_for_known_clients(&self) -> ServerConfig {
        let mut roots = RootCertStore::empty();
        roots.add(authority().der().clone()).expect("valid");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        self.configured(clients.build().expect("has a root"), true)
    }

    fn configured(&self, clients: Arc<dyn ClientCertVerifier>, newest: bool) -> ServerConfig {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider);
        let versions: &[_] = if newest { &[&TLS12, &TLS13] } else { &[&TLS12] };
        let builder = builder.with_protocol_versions(versions).expect("ring has both");
        let builder = builder.with_client_cert_verifier(clients);
        builder.with_single_cert(self.chain.clone(), self.key.clone_key()).expect("fits")
    }
}
