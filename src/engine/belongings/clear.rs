//! The clear of what the source has: paused, ended or deleted where the configuration says so, once all of the application's
//! devices are done, and what was sealed of it is what is there (S1).

use std::collections::BTreeSet;

use prost_reflect::DynamicMessage;

use super::{Belongings, Keeper, edited, now, sort_of};
use crate::{
    config::{ClearApiKeys, ClearIntegrations},
    engine::{
        device::{Trouble, retry, trouble},
        event::Outcome,
        log::{DeviceLog, LogError},
        run::Pace,
    },
    journal::DeviceKey,
    model::belonging::ItemKey,
    plan::belongings::{self, Cleared, Sort, api_key::API_KEY},
    step::belonging::{ItemState, ItemStep},
};

/// What is to be done about one at the source: nothing of what the target does not have for good; nor of an API key with which
/// this program works, or whose counterpart on the target is none of our making: nobody may have that one's secret.
pub(super) fn step(
    pace: &Pace,
    in_use: &BTreeSet<String>,
    item: &ItemKey,
    state: &ItemState,
) -> Option<ItemStep> {
    let sort = Sort::by_name(&item.sort)?;
    let step = match (sort.cleared, pace.integrations) {
        (Cleared::Never, _) | (Cleared::Integrations, ClearIntegrations::Nothing) => return None,
        (Cleared::Integrations, ClearIntegrations::Pause) => sort.pause.map(|_| ItemStep::PauseSource)?,
        (Cleared::Integrations, ClearIntegrations::Delete) => ItemStep::DeleteSource,
        (Cleared::ApiKeys, _) => {
            let ends =
                pace.api_keys == ClearApiKeys::Expire && !in_use.contains(&item.id) && !state.is_matched();
            ends.then_some(ItemStep::PauseSource)?
        }
    };
    (state.is_there() && !state.has(step)).then_some(step)
}

impl Keeper {
    /// Pauses, ends or deletes what was copied, at the source, once all devices of the source application are done.
    ///
    /// # Errors
    /// Only when the journal fails.
    pub async fn clear(&self, pace: &Pace, belongings: &Belongings) -> Result<(), LogError> {
        let todo = self.to_clear(pace, &belongings.keys_in_use);
        if todo.is_empty() {
            return Ok(());
        }
        for device in &belongings.devices {
            let name = self.device(device);
            let key = DeviceKey { application: name.app, device: name.device };
            if !DeviceLog::open(self.journal.clone(), key).await?.state().is_finished() {
                for (item, _) in todo {
                    let key = if item.sort == API_KEY.name { "clear.api-keys" } else { "clear.integrations" };
                    let what =
                        format!("it stays at the source until all devices are done: {device} is not ({key})");
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

    fn to_clear(&self, pace: &Pace, in_use: &BTreeSet<String>) -> Vec<(ItemKey, ItemStep)> {
        let known = self.log.known(&self.target_app).into_iter();
        known.filter_map(|(item, state)| Some((item.clone(), step(pace, in_use, &item, &state)?))).collect()
    }

    async fn clear_one(&self, item: &ItemKey, step: ItemStep) -> Result<(), Trouble> {
        let Some(source) = &self.source else { return Ok(()) };
        let sort = sort_of(item)?;
        let sealed = self.log.sealed(sort, item).await?;
        let which = self.here(sort, item);
        let was = belongings::as_it_was(sort, &sealed.found);
        let is_paused = |there: &DynamicMessage| belongings::is_paused(sort, &was, there, now());
        let by_us = self.log.state(item).touched(ItemStep::PauseSource);
        let look = || async { source.side().belonging(which).await.map_err(retry) };
        let there = look().await?;
        // By another run that shares the source, by an attempt of ours, or with its device.
        let already = there.as_ref().is_none_or(|there| step == ItemStep::PauseSource && is_paused(there));
        if let (false, Some(there)) = (already, &there) {
            let paths = belongings::differences(sort, &was, there);
            let paused_by_us = by_us && is_paused(there);
            if !paths.is_empty() && !paused_by_us {
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
                ItemStep::PauseSource => {
                    source.set_belonging(which, &belongings::pausing(sort, &was, now())).await
                }
                _ => source.delete_belonging(which).await,
            };
            if let Err(error) = done {
                self.log.failed(item, step, &error).await?;
                return Err(trouble(&error));
            }
            if step == ItemStep::PauseSource && !look().await?.is_some_and(|there| is_paused(&there)) {
                let finding = edited(item, "the source holds something else than what was set", Vec::new());
                return Err(Trouble::Block(finding.fix("see who works on it there, then run again")));
            }
        }
        Ok(self.log.step(item, step, true).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::ClearMode, step::belonging::ItemEvent};

    #[test]
    fn a_key_is_ended_only_when_that_is_asked_and_somebody_has_another() {
        let item = |sort: &str| ItemKey {
            target: "acme".into(),
            sort: sort.into(),
            device: String::new(),
            id: "OLD".into(),
        };
        let pace = |integrations, api_keys| Pace {
            in_flight: 1,
            max_failures: 1,
            stop: false,
            clear: ClearMode::Keys,
            clear_when: None,
            hold: false,
            max_devices: 1,
            integrations,
            api_keys,
            gateways: crate::config::ClearGateways::Nothing,
            only_begun: false,
        };
        let key = item(API_KEY.name);
        let state = |events: &[ItemEvent]| {
            events.iter().try_fold(ItemState::default(), |state, event| state.apply(event)).expect("legal")
        };
        let made = state(&[
            ItemEvent::Decided { item: key.clone(), seal: 1, key: true, held: false },
            ItemEvent::ItemIntent { item: key.clone(), step: ItemStep::Key },
            ItemEvent::Keyed { item: key.clone(), id: "NEW".into(), seal: 2 },
            ItemEvent::ItemDone { item: key.clone(), step: ItemStep::Create },
        ]);
        let matched = state(&[ItemEvent::Matched { item: key.clone(), seal: 1 }]);
        let expire = pace(ClearIntegrations::Nothing, ClearApiKeys::Expire);
        let nobody = BTreeSet::new();
        assert_eq!(step(&expire, &nobody, &key, &made), Some(ItemStep::PauseSource));
        assert_eq!(step(&expire, &["OLD".to_owned()].into(), &key, &made), None, "stackferry works with it");
        assert_eq!(step(&expire, &nobody, &key, &matched), None, "nobody may have the secret of the other");
        assert_eq!(step(&expire, &nobody, &item("webhook"), &made), None);
        let delete = pace(ClearIntegrations::Delete, ClearApiKeys::Nothing);
        assert_eq!(step(&delete, &nobody, &key, &made), None);
        assert_eq!(step(&delete, &nobody, &item("webhook"), &matched), Some(ItemStep::DeleteSource));
    }
}
