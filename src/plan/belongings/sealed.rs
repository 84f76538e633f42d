//! The sealed form of a belonging: what was found, and what is written, as bytes for the journal.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use prost_reflect::{DynamicMessage, ReflectMessage as _, prost::Message as _};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    plan::{sealed::SealedError, transform::Write},
    proto,
};

/// Version of the form.
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Form {
    format: u32,
    /// Written as it was called when only devices had another name there.
    #[serde(rename = "target_device")]
    target_name: String,
    found: String,
    write: String,
    paths: Vec<String>,
}

/// A belonging as it was sealed.
#[derive(Clone)]
pub struct Sealed {
    /// What it is called on the target ([`super::Found::target_name`]).
    pub target_name: String,
    /// All of it as it was found at the source.
    pub found: DynamicMessage,
    /// What is written to the target, without its API key.
    pub write: Write,
}

impl std::fmt::Debug for Sealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sealed({})", self.found.descriptor().name())
    }
}

/// The bytes of a belonging.
pub fn to_bytes(target_name: &str, found: &DynamicMessage, write: &Write) -> Zeroizing<Vec<u8>> {
    let encode = |message: &DynamicMessage| BASE64_STANDARD.encode(Zeroizing::new(message.encode_to_vec()));
    let form = Form {
        format: FORMAT,
        target_name: target_name.to_owned(),
        found: encode(found),
        write: encode(&write.message),
        paths: write.paths.clone(),
    };
    Zeroizing::new(serde_json::to_vec(&form).expect("strings and numbers serialize"))
}

/// A belonging with this message from its bytes.
///
/// # Errors
/// When the bytes are not what [`to_bytes`] made.
pub fn from_bytes(message: &str, bytes: &[u8]) -> Result<Sealed, SealedError> {
    let form: Form = serde_json::from_slice(bytes).map_err(|_| SealedError::Form)?;
    if form.format != FORMAT {
        return Err(SealedError::Version(form.format));
    }
    let decode = |text: &str| -> Result<DynamicMessage, SealedError> {
        let bytes = Zeroizing::new(BASE64_STANDARD.decode(text)?);
        Ok(DynamicMessage::decode(proto::descriptor(message), bytes.as_slice())?)
    };
    Ok(Sealed {
        target_name: form.target_name,
        found: decode(&form.found)?,
        write: Write { message: decode(&form.write)?, paths: form.paths },
    })
}
