//! Certificates as `ttn <component> gen-cert` makes them: self-signed, CA and leaf in one, for 365 days.

use std::io;

use jiff::{ToSpan as _, Zoned};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose, date_time_ymd};

use crate::rehearsal::service::ServerTls;

/// A certificate with its key.
pub(super) struct SelfSigned {
    /// The certificate, in PEM.
    pub certificate: String,
    /// The public half of its key, in PEM.
    pub public_key: String,
    key: String,
}

impl SelfSigned {
    /// A new certificate for these host names and addresses.
    ///
    /// # Errors
    /// When a host name cannot stand in a certificate.
    pub fn new(hosts: &[&str]) -> io::Result<Self> {
        let mut names: Vec<String> = Vec::new();
        for host in hosts {
            if !names.iter().any(|name| name == host) {
                names.push((*host).to_owned());
            }
        }
        let mut params = CertificateParams::new(names).map_err(io::Error::other)?;
        params.distinguished_name.push(DnType::OrganizationName, "The Things Network");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
            KeyUsagePurpose::KeyCertSign,
        ];
        let day =
            |date: jiff::civil::Date| date_time_ymd(date.year().into(), date.month() as u8, date.day() as u8);
        let today = Zoned::now().with_time_zone(jiff::tz::TimeZone::UTC).date();
        params.not_before = day(today);
        params.not_after = day(today.saturating_add(365.days()));
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let certificate = params.self_signed(&key).map_err(io::Error::other)?;
        Ok(Self {
            certificate: certificate.pem(),
            public_key: key.public_key_pem(),
            key: key.serialize_pem(),
        })
    }

    /// For a server.
    pub fn into_tls(self) -> ServerTls {
        ServerTls { certificate: self.certificate, key: self.key, client_ca: None }
    }
}
