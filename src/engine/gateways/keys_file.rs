//! The file of new API keys: made anew from the journal whenever it is not what it should be. Only its owner can read it.

use std::{
    fmt::Write as _,
    fs::{self, OpenOptions},
    io::{self, Write as _},
    path::Path,
};

use zeroize::Zeroizing;

use super::{GatewayKeeper, KEY, MESSAGE, known, nowhere};
use crate::engine::run::RunError;

impl GatewayKeeper<'_> {
    /// Writes the file if a key is recorded that is not in it.
    ///
    /// # Errors
    /// When a key cannot be read from the journal, or the file cannot be written.
    pub async fn write_keys(&self) -> Result<(), RunError> {
        let mut text = Zeroizing::new("gateway,eui,for,key_id,key\n".to_owned());
        let mut any = false;
        for (gateway, _) in known(&self.log) {
            for (item, state) in self.log.known(&nowhere()).into_iter().filter(|(item, _)| item.sort == KEY) {
                let Some((_, kind)) = item.id.split_once('/').filter(|(of, _)| *of == gateway.id) else {
                    continue;
                };
                let Some((id, _)) = state.key() else { continue };
                let Some(secret) = self.log.key(&item).await? else { continue };
                let sealed = self.log.sealed_as(MESSAGE, &gateway).await?;
                let eui = crate::plan::gateways::eui(&sealed.write.message);
                let eui = eui.map(|eui| eui.to_string()).unwrap_or_default();
                let _ = writeln!(text, "{},{eui},{kind},{id},{}", sealed.target_name, secret.reveal());
                any = true;
            }
        }
        let file = &self.job.keys_file;
        if !any || is_so(file, text.as_bytes()) {
            return Ok(());
        }
        write(file, text.as_bytes()).map_err(|source| RunError::KeysFile { path: file.clone(), source })
    }
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
