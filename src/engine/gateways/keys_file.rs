//! What is in the file of the new API keys of gateways.

use std::fmt::Write as _;

use zeroize::Zeroizing;

use super::{GatewayKeeper, KEY, MESSAGE, known, nowhere};
use crate::engine::{keys_file, run::RunError};

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
        if !any {
            return Ok(());
        }
        keys_file::put(file, text.as_bytes())
            .map_err(|source| RunError::KeysFile { path: file.clone(), source })
    }
}
