//! Discovery and handler on their ports.

use std::{io, net::SocketAddr, sync::Arc};

use prost_reflect::Value;
use tokio::net::TcpListener;

use super::{TtnV2, certificate::SelfSigned};
use crate::{
    map::path,
    rehearsal::{
        Served,
        service::{Door, serve_listener},
    },
};

/// A running V2. It stops when this is dropped.
#[derive(Debug)]
pub struct ServedTtnV2 {
    /// Where discovery listens.
    pub discovery: SocketAddr,
    /// Where the handler listens.
    pub handler: SocketAddr,
    /// The handler's certificate, in PEM, as discovery announces it.
    pub certificate: String,
    /// Discovery's own certificate, in PEM; `None` when it speaks plaintext.
    pub discovery_certificate: Option<String>,
    servers: [Served; 2],
}

impl ServedTtnV2 {
    /// Stops and waits until both ports are free.
    pub async fn stop(self) {
        for server in self.servers {
            server.stop().await;
        }
    }
}

/// Serves `v2`; port 0 takes a free one. The handler speaks TLS with a new certificate that is CA and leaf in one;
/// discovery does too, unless `tls` is false: plaintext.
///
/// # Errors
/// When a port cannot be had, or the announced host name cannot stand in a certificate.
pub async fn serve_ttn_v2(
    v2: Arc<TtnV2>,
    listen_discovery: SocketAddr,
    listen_handler: SocketAddr,
    tls: bool,
) -> io::Result<ServedTtnV2> {
    let settings = v2.settings();
    let connection_age = settings.connection_age;
    let names = [settings.host.as_str(), "localhost", "127.0.0.1"];
    let own = SelfSigned::new(&names)?;
    let certificate = own.certificate.clone();
    let listener = TcpListener::bind(listen_handler).await?;
    let handler = listener.local_addr()?;
    let announced = [
        ("net_address", format!("{}:{}", settings.host, handler.port())),
        ("public_key", own.public_key.clone()),
        ("certificate", own.certificate.clone()),
    ];
    let discovery_tls = if tls { Some(SelfSigned::new(&names)?) } else { None };
    v2.announce_otherwise(|announcement| {
        for (field, text) in announced {
            path::set(announcement, field, Value::String(text));
        }
    });
    let door = Door { tls: Some(own.into_tls()), services: "handler.", connection_age };
    let handler_server = serve_listener(Arc::clone(&v2), door, listener)?;
    let discovery_certificate = discovery_tls.as_ref().map(|own| own.certificate.clone());
    let door = Door { tls: discovery_tls.map(SelfSigned::into_tls), services: "discovery.", connection_age };
    let discovery_server = serve_listener(v2, door, TcpListener::bind(listen_discovery).await?)?;
    Ok(ServedTtnV2 {
        discovery: discovery_server.addr,
        handler,
        certificate,
        discovery_certificate,
        servers: [discovery_server, handler_server],
    })
}
