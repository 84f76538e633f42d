//! The way back: the source gets back what the clear took, and the target loses what was made there, if nobody has edited it.

use prost_reflect::DynamicMessage;

use super::{Keeper, edited, now, sort_of};
use crate::{
    engine::{
        device::{Trouble, retry, trouble},
        event::{Event, Outcome},
        log::LogError,
    },
    model::{belonging::ItemKey, ids::DeviceId},
    plan::{
        belongings::{self, Ids, Pause, Sort},
        finding::Finding,
        transform::Write,
    },
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
                paths.retain(|p| sort.pause.is_none_or(|pause| pause.path() != p));
            } else if state.is_held() {
                paths.clear();
            }
            let unnamed = sort.ids == Ids::Key && !state.has(ItemStep::Create);
            if unnamed && crate::map::path::string(&there, "name") == self.log.key_name(item).await? {
                paths.retain(|p| p != "name");
            }
            if !paths.is_empty() {
                let finding =
                    edited(item, "it was edited on the target since it was written, and stays there", paths);
                return Err(Trouble::Block(by_hand(finding)));
            }
            self.log.step(item, ItemStep::Remove, false).await?;
            // An API key goes as such, right after this.
            let deleted =
                if sort.ids == Ids::Key { Ok(()) } else { self.target.delete_belonging(which).await };
            if let Err(error) = deleted {
                self.log.failed(item, ItemStep::Remove, &error).await?;
                return Err(trouble(&error));
            }
        }
        Ok(self.log.step(item, ItemStep::Remove, true).await?)
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
        let differs = |now: &DynamicMessage| belongings::differences(sort, &was, now);
        let write = match &now {
            None if sort.ids == Ids::Key => {
                let text = "the source has it no more, and nobody can give its secret back";
                self.events.send(Event::Note(format!("{}: {item}: {text}", self.target_app)));
                return Ok(self.log.step(item, ItemStep::RestoreSource, true).await?);
            }
            None => Some(was.clone()),
            Some(now) if differs(now).is_empty() => None,
            Some(now) if is_only_paused(sort, &was, now) => {
                if has_ended(sort, &was) {
                    // Whatever was done to it.
                    return Ok(self.log.step(item, ItemStep::RestoreSource, true).await?);
                }
                Some(belongings::unpausing(sort, &was))
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

/// True when nothing but its pause is not as it `was`; of what ends at a time, that it was made to end.
fn is_only_paused(sort: &Sort, was: &Write, there: &DynamicMessage) -> bool {
    let is_pause = |p: &String| sort.pause.is_some_and(|pause| pause.path() == p);
    let by_time = matches!(sort.pause, Some(Pause::Expiry(_)));
    belongings::differences(sort, was, there).iter().all(is_pause)
        && (!by_time || belongings::is_paused(sort, was, there, now()))
}

/// True for an API key that has expired by itself, or does in a moment: no server takes a time that is past.
fn has_ended(sort: &Sort, was: &Write) -> bool {
    matches!(sort.pause, Some(Pause::Expiry(_))) && belongings::is_paused(sort, was, &was.message, now())
}

fn by_hand(finding: Finding) -> Finding {
    finding.fix("see who works on it, set it right by hand, then roll back again")
}
