//! The sealed forms: a device as it was found, and the copy that is written, as bytes for the journal.
//!
//! The bytes hold keys. They are made for [`crate::journal`], which encrypts them, and wiped when dropped.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use prost_reflect::{
    DynamicMessage,
    prost::{DecodeError, Message as _},
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{
    facts::Hosts,
    transform::{Copy, Found, Write},
};
use crate::{
    map::ttn_v2::V2Device,
    model::device::{Component, Record},
    proto,
};

/// Why sealed bytes cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SealedError {
    /// Not the JSON that was sealed. Without serde's words: they may quote a value.
    #[error("the sealed snapshot has another form")]
    Form,
    /// A record in it is not base64.
    #[error("a record in the sealed snapshot is damaged: {0}")]
    Base64(#[from] base64::DecodeError),
    /// A record in it is not what it should be.
    #[error("a record in the sealed snapshot is damaged: {0}")]
    Record(#[from] DecodeError),
    /// Written by a newer version.
    #[error("the sealed snapshot has format {0}, this build reads 1 and 2")]
    Version(u32),
}

/// Version of both forms.
const FORMAT: u32 = 1;
/// Version of a device of V2: the first form and its message.
const WITH_V2: u32 = 2;

#[derive(Serialize, Deserialize)]
struct SealedFound {
    format: u32,
    records: Vec<(Component, String)>,
    elsewhere: Vec<(Component, String)>,
    external_js: bool,
    hosts: [String; 3],
    known_as: Vec<String>,
    /// Only in the second format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    v2: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct SealedCopy {
    format: u32,
    id: String,
    writes: Vec<(Component, String, Vec<String>)>,
}

/// The bytes of a device as it was found.
pub fn found_to_bytes(found: &Found) -> Zeroizing<Vec<u8>> {
    let sealed = SealedFound {
        format: if found.v2.is_some() { WITH_V2 } else { FORMAT },
        records: found.records.present().map(|(c, r)| (c, encode(&r.0))).collect(),
        elsewhere: found.elsewhere.clone(),
        external_js: found.external_js,
        hosts: [found.hosts.ns.clone(), found.hosts.as_.clone(), found.hosts.js.clone()],
        known_as: found.hosts.known_as.clone(),
        v2: found.v2.as_ref().map(|device| encode(device.message())),
    };
    Zeroizing::new(serde_json::to_vec(&sealed).expect("strings and numbers serialize"))
}

/// A device as it was found, from its bytes.
///
/// # Errors
/// When the bytes are not what [`found_to_bytes`] made.
pub fn found_from_bytes(bytes: &[u8]) -> Result<Found, SealedError> {
    let format = format_of(bytes, &[FORMAT, WITH_V2])?;
    let sealed: SealedFound = serde_json::from_slice(bytes).map_err(|_| SealedError::Form)?;
    if sealed.v2.is_some() != (format == WITH_V2) {
        return Err(SealedError::Form);
    }
    let [ns, as_, js] = sealed.hosts;
    let mut found = Found {
        elsewhere: sealed.elsewhere,
        external_js: sealed.external_js,
        hosts: Hosts { ns, as_, js, known_as: sealed.known_as },
        ..Found::default()
    };
    for (component, text) in sealed.records {
        *found.records.slot(component) = Some(Record(decode(&text, "EndDevice")?));
    }
    if let Some(text) = sealed.v2 {
        found.v2 = Some(V2Device::new(decode(&text, "handler.Device")?));
    }
    Ok(found)
}

/// The bytes of a copy.
pub fn copy_to_bytes(copy: &Copy) -> Zeroizing<Vec<u8>> {
    let writes = copy.components().filter_map(|c| {
        let write = copy.get(c)?;
        Some((c, encode(&write.message), write.paths.clone()))
    });
    let sealed = SealedCopy { format: FORMAT, id: copy.id.clone(), writes: writes.collect() };
    Zeroizing::new(serde_json::to_vec(&sealed).expect("strings and numbers serialize"))
}

/// A copy, from its bytes.
///
/// # Errors
/// When the bytes are not what [`copy_to_bytes`] made.
pub fn copy_from_bytes(bytes: &[u8]) -> Result<Copy, SealedError> {
    format_of(bytes, &[FORMAT])?;
    let sealed: SealedCopy = serde_json::from_slice(bytes).map_err(|_| SealedError::Form)?;
    let mut copy = Copy { id: sealed.id, ..Copy::default() };
    for (component, text, paths) in sealed.writes {
        *copy.slot(component) = Some(Write { message: decode(&text, "EndDevice")?, paths });
    }
    Ok(copy)
}

/// The format, when it is one of those that are read here.
fn format_of(bytes: &[u8], known: &[u32]) -> Result<u32, SealedError> {
    #[derive(Deserialize)]
    struct Versioned {
        format: u32,
    }
    let Versioned { format } = serde_json::from_slice(bytes).map_err(|_| SealedError::Form)?;
    if known.contains(&format) { Ok(format) } else { Err(SealedError::Version(format)) }
}

fn encode(message: &DynamicMessage) -> String {
    BASE64_STANDARD.encode(Zeroizing::new(message.encode_to_vec()))
}

fn decode(text: &str, message: &str) -> Result<DynamicMessage, SealedError> {
    let bytes = Zeroizing::new(BASE64_STANDARD.decode(text)?);
    Ok(DynamicMessage::decode(proto::descriptor(message), bytes.as_slice())?)
}
