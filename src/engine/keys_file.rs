//! Files of new API keys: made anew from the journal whenever one is not what it should be. Only its owner can read it.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use super::{belongings::log::ItemLog, run::RunError};
use crate::{
    journal::JournalHandle,
    map::{json, path},
    model::ids::AppId,
    plan::belongings::{api_key::API_KEY, rights},
    step::belonging::ItemStep,
};

/// The file of the new API keys of applications.
#[derive(Debug, Clone)]
pub struct KeysFile {
    /// The file.
    pub path: PathBuf,
    /// The applications of the run, at the source and on the target.
    pub applications: Vec<(AppId, AppId)>,
}

const HEADER: [&str; 7] = ["application", "old_key_id", "new_key_id", "name", "rights", "expires", "key"];

impl KeysFile {
    /// Writes the file if a key is recorded that is not in it. Answers how many are recorded.
    ///
    /// # Errors
    /// When a key cannot be read from the journal, or the file cannot be written.
    pub async fn write(&self, journal: &JournalHandle) -> Result<usize, RunError> {
        let mut rows = csv::Writer::from_writer(Vec::new());
        let fail = |source| RunError::KeysFile { path: self.path.clone(), source };
        let failed = |error: csv::Error| fail(io::Error::other(error));
        rows.write_record(HEADER).map_err(failed)?;
        let mut made = 0;
        for (source, target) in &self.applications {
            let log = ItemLog::open(journal, source).await?;
            for (item, state) in log.known(target).into_iter().filter(|(item, _)| item.sort == API_KEY.name) {
                if !state.is_matched() && !state.has(ItemStep::Create) {
                    continue;
                }
                let key = log.key(&item).await?;
                made += usize::from(key.is_some());
                let sealed = log.sealed(&API_KEY, &item).await?;
                let expires = path::child(&sealed.found, "expires_at").map(|time| json::to_json(&time));
                let expires = expires.as_ref().and_then(serde_json::Value::as_str).unwrap_or_default();
                let (name, rights) =
                    (path::string(&sealed.found, "name"), rights::names(&sealed.found).join(" "));
                let secret = key.as_ref().map_or("", |key| key.reveal());
                let new_id = sealed.target_name.as_str();
                rows.write_record([target.as_str(), &item.id, new_id, &name, &rights, expires, secret])
                    .map_err(failed)?;
            }
        }
        let text = rows.into_inner().map_err(|error| fail(error.into_error()))?;
        let text = Zeroizing::new(text);
        // The keys of one that was rolled back are of no use: what is left of its file is its head.
        if made > 0 || fs::read(&self.path).map(Zeroizing::new).is_ok_and(|old| is_ours(&old)) {
            put(&self.path, &text).map_err(fail)?;
        }
        Ok(made)
    }
}

/// True for a file that this program has written.
fn is_ours(file: &[u8]) -> bool {
    file.starts_with(HEADER.join(",").as_bytes())
}

/// Makes the file hold this, and nobody else able to read it.
///
/// # Errors
/// When it cannot be written.
pub fn put(file: &Path, bytes: &[u8]) -> io::Result<()> {
    if is_so(file, bytes) { Ok(()) } else { write(file, bytes) }
}

/// The file holds this, and nobody else can read it.
fn is_so(file: &Path, bytes: &[u8]) -> bool {
    #[cfg(unix)]
    let private = fs::metadata(file)
        .is_ok_and(|metadata| std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o077 == 0);
    #[cfg(not(unix))]
    let private = true;
    private && fs::read(file).map(Zeroizing::new).is_ok_and(|there| *there == bytes)
}

/// Whole or not at all: written beside it, synced and renamed.
fn write(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = file.with_file_name(name);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut opened = options.open(&new)?;
    opened.write_all(bytes)?;
    opened.sync_all()?;
    fs::rename(&new, file)
}
