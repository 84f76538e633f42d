//! The clear of what the source has: paused or deleted where the configuration says so, once all of the application's devices
//! are done, and what was sealed of it is what is there (S1).

use super::{Keeper, carry::pause, edited, sort_of};
use crate::{
    config::ClearIntegrations,
    engine::{
        device::{Trouble, retry, trouble},
        event::Outcome,
        log::{DeviceLog, LogError},
    },
    journal::DeviceKey,
    model::{belonging::ItemKey, ids::DeviceId},
    plan::belongings::{self, Sort},
    step::belonging::{ItemState, ItemStep},
};

/// What is to be done about one at the source: nothing of what the target does not have for good.
pub(super) fn step(how: ClearIntegrations, item: &ItemKey, state: &ItemState) -> Option<ItemStep> {
    let sort = Sort::by_name(&item.sort).filter(|sort| sort.is_integration)?;
    let step = match how {
        ClearIntegrations::Nothing => return None,
        ClearIntegrations::Pause => sort.pause.map(|_| ItemStep::PauseSource)?,
        ClearIntegrations::Delete => ItemStep::DeleteSource,
    };
    (state.is_there() && !state.has(step)).then_some(step)
}

impl Keeper {
    /// Pauses or deletes what was copied, at the source. `devices` are all of the source application.
    ///
    /// # Errors
    /// Only when the journal fails.
    pub async fn clear(&self, how: ClearIntegrations, devices: &[DeviceId]) -> Result<(), LogError> {
        let todo = self.to_clear(how);
        if todo.is_empty() {
            return Ok(());
        }
        for device in devices {
            let name = self.device(device);
            let key = DeviceKey { application: name.app, device: name.device };
            if !DeviceLog::open(self.journal.clone(), key).await?.state().is_finished() {
                for (item, _) in todo {
                    let what = format!(
                        "it stays at the source until all devices are done: {device} is not (clear.integrations)"
                    );
                    self.ended(&item, Outcome::Waiting(what));
                }
                return Ok(());
            }
        }
        for (item, step) in todo {
            if let Err(trouble) = self.clear_one(&item, step).await {
                self.settle(&item, Err(trouble))?;
            }
        }
        Ok(())
    }

    fn to_clear(&self, how: ClearIntegrations) -> Vec<(ItemKey, ItemStep)> {
        let known = self.log.known(&self.target_app).into_iter();
        known.filter_map(|(item, state)| Some((item.clone(), step(how, &item, &state)?))).collect()
    }

    async fn clear_one(&self, item: &ItemKey, step: ItemStep) -> Result<(), Trouble> {
        let Some(source) = &self.source else { return Ok(()) };
        let sort = sort_of(item)?;
        let sealed = self.log.sealed(sort, item).await?;
        let which = self.here(sort, item);
        let was = belongings::as_it_was(sort, &sealed.found);
        let paused = belongings::paused(sort, was.clone());
        let by_us = step == ItemStep::PauseSource || self.log.state(item).touched(ItemStep::PauseSource);
        let wanted = if by_us { &paused } else { &was };
        let now = source.side().belonging(which).await.map_err(retry)?;
        // By another run that shares the source, by an attempt of ours, or with its device.
        let already = now.as_ref().is_none_or(|now| {
            step == ItemStep::PauseSource && belongings::differences(sort, &paused, now).is_empty()
        });
        if let (false, Some(now)) = (already, &now) {
            let paths = belongings::differences(sort, &was, now);
            if !paths.is_empty() && !belongings::differences(sort, wanted, now).is_empty() {
                let finding =
                    edited(item, "it was edited at the source since it was copied, and stays there", paths);
                return Err(Trouble::Block(
                    finding.fix("set the copy right by hand, then delete it at the source by hand"),
                ));
            }
        }
        let copy = self.there(sort, item, &sealed.target_name);
        let copy = self.target.side().belonging(copy).await.map_err(retry)?;
        let written = self.last_write(item, sort, &sealed.write).await?;
        let paths = copy.map_or_else(
            || vec!["it is gone".to_owned()],
            |copy| belongings::differences(sort, &written, &copy),
        );
        if !paths.is_empty() && !already {
            let finding = edited(item, "the copy is not as it was written: the source keeps its own", paths);
            return Err(Trouble::Block(finding.fix("set the copy right by hand, then run again")));
        }
        self.log.step(item, step, false).await?;
        if !already {
            let done = match step {
                ItemStep::PauseSource => source.set_belonging(which, &pause(sort, true)).await,
                _ => source.delete_belonging(which).await,
            };
            if let Err(error) = done {
                self.log.failed(item, step, &error).await?;
                return Err(trouble(&error));
            }
        }
        Ok(self.log.step(item, step, true).await?)
    }
}
