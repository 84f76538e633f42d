//! The seal: who can read snapshots, and what proves that nobody rewrote the journal.

use std::{fmt, fs, io::Read as _, os::unix::fs::MetadataExt as _, path::Path};

use base64::{Engine as _, alphabet, engine};
use chacha20poly1305::{KeyInit as _, XChaCha20Poly1305, XNonce, aead::AeadInOut as _};
use zeroize::Zeroizing;

use super::{
    error::{Error, ErrorKind},
    files::{self, Paths},
};
use crate::model::secret::Secret;

/// Where the seal key comes from.
#[derive(Debug, Clone)]
pub enum SealKeyRef {
    /// From the config: 32 random bytes in hexadecimal or base64.
    Given(Secret),
    /// The file `<journal>.key`, made with the journal when it is not there yet.
    Beside,
}

/// Encrypts with XChaCha20-Poly1305 and a random 24-byte nonce for each text, so that one key may serve any number of
/// journals.
pub(super) struct Sealer {
    cipher: XChaCha20Poly1305,
}

const NONCE: usize = 24;

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer([redacted])")
    }
}

impl Sealer {
    /// The key of a journal that exists (`new` false: a missing key file is an error) or is about to be made.
    ///
    /// # Errors
    /// [`ErrorKind::BadKey`], [`ErrorKind::KeyMissing`], [`ErrorKind::KeyExposed`], or from the file system.
    pub fn resolve(key: &SealKeyRef, paths: &Paths, new: bool) -> Result<Self, Error> {
        match key {
            SealKeyRef::Given(secret) => Self::from_text(secret.reveal(), &paths.named),
            SealKeyRef::Beside => {
                let file = paths.beside(".key");
                if !file.exists() {
                    if !new {
                        return Err(Error::new(&paths.named, ErrorKind::KeyMissing(file)));
                    }
                    create_key(&file, paths)?;
                }
                Self::from_text(&read_key(&file, &paths.named)?, &paths.named)
            }
        }
    }

    fn from_text(text: &str, named: &Path) -> Result<Self, Error> {
        let key = parse(text.trim()).ok_or_else(|| Error::new(named, ErrorKind::BadKey))?;
        Ok(Self { cipher: XChaCha20Poly1305::new((&*key).into()) })
    }

    /// Nonce, ciphertext and tag of `plain`, bound to `context`.
    ///
    /// # Errors
    /// When the system has no random bytes.
    pub fn seal(&self, named: &Path, context: &[u8], plain: &[u8]) -> Result<Vec<u8>, Error> {
        let nonce = random::<NONCE>(named)?;
        // Of the final size from the start: a buffer that grows would leave plain text behind.
        let mut sealed = Vec::with_capacity(NONCE + plain.len() + 16);
        sealed.extend(nonce);
        sealed.extend(plain);
        let tag = self
            .cipher
            .encrypt_inout_detached(&XNonce::from(nonce), context, (&mut sealed[NONCE..]).into())
            .map_err(|e| {
                Error::new(named, ErrorKind::Io { doing: "sealing a snapshot", cause: e.to_string() })
            })?;
        sealed.extend(tag);
        Ok(sealed)
    }

    /// The plain text; `None` when `sealed` or `context` is not what was sealed, or the key is another.
    pub fn unseal(&self, context: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, text) = sealed.split_first_chunk::<NONCE>()?;
        let (text, tag) = text.split_last_chunk::<16>()?;
        let mut plain = Zeroizing::new(text.to_vec());
        let tag = (*tag).into();
        self.cipher
            .decrypt_inout_detached(&XNonce::from(*nonce), context, plain.as_mut_slice().into(), &tag)
            .ok()?;
        Some(plain)
    }
}

/// Random bytes from the system.
///
/// # Errors
/// When it has none.
pub(super) fn random<const N: usize>(named: &Path) -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| {
        Error::new(named, ErrorKind::Io { doing: "drawing random bytes", cause: e.to_string() })
    })?;
    Ok(bytes)
}

fn parse(text: &str) -> Option<Zeroizing<[u8; 32]>> {
    let mut key = Zeroizing::new([0; 32]);
    if text.len() == 64 {
        hex::decode_to_slice(text, &mut *key).ok()?;
        return Some(key);
    }
    let config =
        engine::GeneralPurposeConfig::new().with_decode_padding_mode(engine::DecodePaddingMode::Indifferent);
    [alphabet::STANDARD, alphabet::URL_SAFE].iter().find_map(|alphabet| {
        let decoded = engine::GeneralPurpose::new(alphabet, config).decode(text).map(Zeroizing::new).ok()?;
        (decoded.len() == 32).then(|| {
            key.copy_from_slice(&decoded);
            key.clone()
        })
    })
}

/// The key is durable before the journal exists: a journal whose key was lost restores nothing (S3).
fn create_key(file: &Path, paths: &Paths) -> Result<(), Error> {
    let failed = |e| paths.creation_error("making its key file", &e);
    let key = Zeroizing::new(random::<32>(&paths.named)?);
    let text = Zeroizing::new(format!("{}\n", *Zeroizing::new(hex::encode(*key))));
    let unfinished = paths.beside(".key.new");
    files::create_private(&unfinished, text.as_bytes()).map_err(failed)?;
    fs::rename(&unfinished, file).map_err(failed)?;
    paths.sync_folder()
}

fn read_key(file: &Path, named: &Path) -> Result<Zeroizing<String>, Error> {
    let failed = |e| Error::io(named, "reading its key file", &e);
    let opened = fs::File::open(file).map_err(failed)?;
    let mode = opened.metadata().map_err(failed)?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(Error::new(named, ErrorKind::KeyExposed { file: file.to_owned(), mode }));
    }
    let mut text = Zeroizing::new(String::with_capacity(256));
    opened.take(256).read_to_string(&mut text).map_err(|_| Error::new(named, ErrorKind::BadKey))?;
    Ok(text)
}
