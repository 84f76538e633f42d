//! Files that a deployment serves over HTTP beside its API, such as pictures of devices. Anybody may fetch them, so that no
//! key is ever sent for one: not to the deployment, and not to wherever an address or a redirect leads.

use std::{error::Error as _, fmt, sync::Arc, time::Duration};

use reqwest::{Client, Response, StatusCode, Url, redirect::Policy};
use tokio::{sync::OnceCell, time::Instant};

use super::{About, CallEvent, Endpoint, Settings, Tls, tls};

/// How often a file is asked for when the server is overloaded or does not answer in time.
const ATTEMPTS: u32 = 3;
/// Time before another attempt.
const PAUSE: Duration = Duration::from_secs(1);
/// A server may lead elsewhere so often.
const REDIRECTS: usize = 3;

/// The HTTP server of a deployment. Cheap to clone; connects, and reads certificates, when the first file is asked for.
#[derive(Clone)]
pub struct Files(Arc<Inner>);

struct Inner {
    endpoint: Endpoint,
    settings: Settings,
    client: OnceCell<Client>,
}

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Files({})", self.0.endpoint)
    }
}

/// Why one attempt failed.
struct Failed {
    why: String,
    passes: bool,
}

impl Failed {
    fn surely(why: impl Into<String>) -> Self {
        Self { why: why.into(), passes: false }
    }
}

impl Files {
    /// Where addresses without a host lead. With TLS, files are fetched over TLS alone.
    pub fn new(endpoint: Endpoint, settings: Settings) -> Self {
        Self(Arc::new(Inner { endpoint, settings, client: OnceCell::new() }))
    }

    /// The bytes of a file of at most `max` bytes. `address` is a whole one, or a path at this server.
    ///
    /// # Errors
    /// Why it cannot be had, in words that do not name the file.
    pub async fn get(&self, address: &str, max: usize, about: &About) -> Result<Vec<u8>, String> {
        let url = self.url(address)?;
        let whose = whose(&url);
        let client = self.0.client.get_or_try_init(|| async { self.client() }).await?;
        let mut attempt = 1;
        loop {
            let started = Instant::now();
            let result = fetch(client, url.clone(), max).await;
            self.0.settings.observer.call(&CallEvent {
                side: self.0.settings.side,
                endpoint: &self.0.endpoint,
                method: "GET (file)",
                about,
                attempt,
                elapsed: started.elapsed(),
                code: if result.is_ok() { "ok" } else { "failed" },
            });
            match result {
                Ok(bytes) => return Ok(bytes),
                Err(failed) if failed.passes && attempt < ATTEMPTS => {
                    tokio::time::sleep(PAUSE * attempt).await;
                    attempt += 1;
                }
                Err(failed) => return Err(format!("{whose} {}", failed.why)),
            }
        }
    }

    fn url(&self, address: &str) -> Result<Url, String> {
        let Endpoint { tls, .. } = &self.0.endpoint;
        let scheme = if *tls == Tls::Plaintext { "http" } else { "https" };
        let base = Url::parse(&format!("{scheme}://{}/", self.0.endpoint));
        let url =
            base.and_then(|base| base.join(address)).map_err(|e| format!("its address is none: {e}"))?;
        match url.scheme() {
            "https" => Ok(url),
            "http" if scheme == "http" => Ok(url),
            "http" => Err("its address is not one of https".into()),
            _ => Err("its address is not one of the web".into()),
        }
    }

    fn client(&self) -> Result<Client, String> {
        let Endpoint { tls, .. } = &self.0.endpoint;
        // Also a deployment without TLS may keep its files where there is.
        let trusted = if *tls == Tls::Plaintext { &Tls::System } else { tls };
        let config = match tls::config(trusted) {
            Ok(Some(config)) => config,
            Ok(None) => return Err("there is no TLS".into()),
            Err(_) if *tls == Tls::Plaintext => {
                tls::with_roots(rustls::RootCertStore::empty()).map_err(|f| f.message)?
            }
            Err(failure) => return Err(failure.message),
        };
        let mut config = Arc::unwrap_or_clone(config);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Client::builder()
            .tls_backend_preconfigured(config)
            .https_only(*tls != Tls::Plaintext)
            .redirect(Policy::limited(REDIRECTS))
            .referer(false)
            // As the API is reached.
            .no_proxy()
            .connect_timeout(self.0.settings.connect_timeout)
            .timeout(self.0.settings.deadline)
            .user_agent(concat!("stackferry/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| words(&e.without_url()))
    }
}

/// The server in an address. Nothing else of it: the rest may be a secret of its own, as in links that are signed.
fn whose(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port_or_known_default() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

async fn fetch(client: &Client, url: Url, max: usize) -> Result<Vec<u8>, Failed> {
    let response = client.get(url).send().await.map_err(failed)?;
    let status = response.status();
    if status != StatusCode::OK {
        let passes = status.is_server_error()
            || [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT].contains(&status);
        return Err(Failed { why: format!("answers {status}"), passes });
    }
    body(response, max).await
}

async fn body(mut response: Response, max: usize) -> Result<Vec<u8>, Failed> {
    let large = || Failed::surely(format!("has a file of more than {} MiB", max >> 20));
    if response.content_length().is_some_and(|length| length > max as u64) {
        return Err(large());
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if bytes.len() + chunk.len() > max {
            return Err(large());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

fn failed(error: reqwest::Error) -> Failed {
    let passes = error.is_timeout() || !(error.is_connect() || error.is_redirect() || error.is_builder());
    let error = error.without_url();
    let why = if error.is_timeout() {
        "does not answer in time".to_owned()
    } else if error.is_connect() {
        format!("cannot be reached: {}", words(&error))
    } else if error.is_redirect() {
        "leads elsewhere, and not over https, or too often".to_owned()
    } else {
        format!("does not give it: {}", words(&error))
    };
    Failed { why, passes }
}

/// The words of the innermost cause, which says what happened.
fn words(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = inner.to_string();
        source = inner.source();
    }
    super::status::clean(&text)
}
