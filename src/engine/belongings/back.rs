//! The way back: the source gets back what the clear took, and the target loses what was made there, if nobody has edited it.

use super::{Keeper, carry::pause, edited, sort_of};
use crate::{
    engine::{
        device::{Trouble, retry, trouble},
        event::Outcome,
        log::LogError,
    },
    model::{belonging::ItemKey, ids::DeviceId},
    plan::{belongings, finding::Finding},
    step::belonging::{ItemEvent, ItemStep},
};

impl Keeper {
    /// How many things an earlier run has made or changed.
    pub fn begun(&self) -> usize {
        self.log.known(&self.target_app).len()
    }

    /// Before devices come back: the source gets back what the clear paused or deleted, so that their data goes somewhere.
    ///
    /// # Errors
    /// Only when the journal fails.
    pub async fn restore_source(&self) -> Result<(), LogError> {
        for (item, state) in self.log.known(&self.target_app) {
            if item.device.is_empty()
                && state.source_changed()
                && let Err(trouble) = self.restore(&item).await
            {
                self.settle(&item, Err(trouble))?;
            }
        }
        Ok(())
    }

    /// What a device had, once it has come back.
    ///
    /// # Errors
    /// Only when the journal fails.
    pub async fn device_is_back(&self, device: &DeviceId) -> Result<(), LogError> {
        for (item, _) in self.log.known(&self.target_app) {
            if item.device == device.as_str() {
                let back = self.take_back(&item).await;
                self.settle(&item, back)?;
            }
        }
        Ok(())
    }

    /// What the application has, and whatever is left, once all devices have come back.
    ///
    /// # Errors
    /// Only when the journal fails.
    pub async fn all_are_back(&self) -> Result<(), LogError> {
        self.contacts_back().await?;
        for (item, _) in self.log.known(&self.target_app) {
            let back = self.take_back(&item).await;
            self.settle(&item, back)?;
        }
        Ok(())
    }

    async fn take_back(&self, item: &ItemKey) -> Result<Outcome, Trouble> {
        self.remove(item).await?;
        self.remove_key(item).await?;
        let state = self.log.state(item);
        // A device's goes when its record at the Application Server does.
        if state.source_changed() || !item.device.is_empty() {
            self.restore(item).await?;
        }
        self.log.record(&ItemEvent::ItemUndone { item: item.clone() }).await?;
        Ok(Outcome::RolledBack)
    }

    /// Deletes it on the target if it is ours and as we left it.
    async fn remove(&self, item: &ItemKey) -> Result<(), Trouble> {
        let state = self.log.state(item);
        if state.is_matched() || !state.touched(ItemStep::Create) {
            return Ok(());
        }
        let sort = sort_of(item)?;
        let sealed = self.log.sealed(sort, item).await?;
        let which = self.there(sort, item, &sealed.target_name);
        if let Some(there) = self.target.side().belonging(which).await.map_err(retry)? {
            let last = self.last_write(item, sort, &sealed.write).await?;
            let mut paths = belongings::differences(sort, &last, &there);
            if state.is_held()
                && !belongings::differences(sort, &belongings::paused(sort, last), &there).is_empty()
            {
                paths.retain(|p| sort.pause != Some(p.as_str()));
            } else if state.is_held() {
                paths.clear();
            }
            if !paths.is_empty() {
                let finding =
                    edited(item, "it was edited on the target since it was written, and stays there", paths);
                return Err(Trouble::Block(by_hand(finding)));
            }
            self.log.step(item, ItemStep::Remove, false).await?;
            if let Err(error) = self.target.delete_belonging(which).await {
                self.log.failed(item, ItemStep::Remove, &error).await?;
                return Err(trouble(&error));
            }
        }
        Ok(self.log.step(item, ItemStep::Remove, true).await?)
    }

    /// Deletes its API key on the target, also one that was made and not recorded.
    pub(super) async fn remove_key(&self, item: &ItemKey) -> Result<(), Trouble> {
        let state = self.log.state(item);
        let open = state.is_open(ItemStep::Key);
        if state.key().is_none() && !open {
            return Ok(());
        }
        self.log.step(item, ItemStep::RemoveKey, false).await?;
        if open {
            self.delete_orphans(&self.log.key_name(item).await?).await?;
        }
        if let Some((id, _)) = state.key()
            && let Err(error) = self.target.delete_key(&self.target_app, id).await
        {
            self.log.failed(item, ItemStep::RemoveKey, &error).await?;
            return Err(trouble(&error));
        }
        Ok(self.log.step(item, ItemStep::RemoveKey, true).await?)
    }

    /// Puts it back at the source as it was found.
    async fn restore(&self, item: &ItemKey) -> Result<(), Trouble> {
        let Some(source) = &self.source else { return Ok(()) };
        let sort = sort_of(item)?;
        let sealed = self.log.sealed(sort, item).await?;
        let which = self.here(sort, item);
        let was = belongings::as_it_was(sort, &sealed.found);
        let look = || async { source.side().belonging(which).await.map_err(retry) };
        let now = look().await?;
        let differs = |now: &prost_reflect::DynamicMessage| belongings::differences(sort, &was, now);
        let write = match &now {
            None => Some(was.clone()),
            Some(now) if differs(now).is_empty() => None,
            Some(now) if differs(now).iter().all(|p| sort.pause == Some(p.as_str())) => {
                Some(pause(sort, sort.pause.is_some_and(|p| crate::map::path::flag(&was.message, p))))
            }
            // A device's is not touched by the clear: what is there is somebody's.
            Some(_) if !item.device.is_empty() && !self.log.state(item).source_changed() => None,
            Some(now) => {
                let finding = edited(item, "it was edited at the source since it was cleared", differs(now));
                return Err(Trouble::Block(by_hand(finding)));
            }
        };
        self.log.step(item, ItemStep::RestoreSource, false).await?;
        if let Some(write) = write {
            if let Err(error) = source.set_belonging(which, &write).await {
                self.log.failed(item, ItemStep::RestoreSource, &error).await?;
                return Err(trouble(&error));
            }
            let now = look().await?;
            let paths = now.as_ref().map_or_else(|| vec!["it is gone".to_owned()], differs);
            if !paths.is_empty() {
                let finding = edited(item, "the source holds something else than what was put back", paths);
                return Err(Trouble::Block(by_hand(finding)));
            }
        }
        Ok(self.log.step(item, ItemStep::RestoreSource, true).await?)
    }
}

fn by_hand(finding: Finding) -> Finding {
    finding.fix("see who works on it, set it right by hand, then roll back again")
}
