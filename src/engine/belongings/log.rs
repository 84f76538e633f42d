//! The journal as the belongings of one source application see it. Cheap to share: whoever works on one of them records
//! while others work on others.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

use prost_reflect::DynamicMessage;
use zeroize::Zeroizing;

use crate::{
    engine::log::LogError,
    journal::{DeviceKey, JournalHandle, Plain},
    model::{belonging::ItemKey, ids::AppId, secret::Secret},
    plan::{
        belongings::{
            Ids, Sort,
            sealed::{self, Sealed},
        },
        transform::Write,
    },
    step::belonging::{ItemEvent, ItemState, ItemStep},
    wire,
};

/// What the journal holds of the belongings of one source application.
#[derive(Debug)]
pub struct ItemLog {
    journal: JournalHandle,
    key: DeviceKey,
    states: Mutex<BTreeMap<ItemKey, ItemState>>,
    /// Those that were removed from the target before this run.
    removed: BTreeSet<ItemKey>,
}

impl ItemLog {
    /// Replays what is recorded.
    ///
    /// # Errors
    /// When the journal cannot be read or holds an illegal sequence.
    pub async fn open(journal: &JournalHandle, app: &AppId) -> Result<Self, LogError> {
        let key = DeviceKey::of_application(app);
        let mut states: BTreeMap<ItemKey, ItemState> = BTreeMap::new();
        let mut removed = BTreeSet::new();
        for event in journal.events(&key).await? {
            let logged: ItemEvent = serde_json::from_slice(&event.body)
                .map_err(|source| LogError::Event { device: key.to_string(), source })?;
            let state = states.entry(logged.item().clone()).or_default();
            *state = state
                .apply(&logged)
                .map_err(|source| LogError::Illegal { device: key.to_string(), source })?;
            match &logged {
                ItemEvent::ItemDone { item, step: ItemStep::Remove } => _ = removed.insert(item.clone()),
                ItemEvent::ItemDone { item, step: ItemStep::Create } => _ = removed.remove(item),
                _ => {}
            }
        }
        Ok(Self { journal: journal.clone(), key, states: Mutex::new(states), removed })
    }

    /// True for one that was made and removed again before this run.
    pub fn was_removed(&self, item: &ItemKey) -> bool {
        self.removed.contains(item)
    }

    /// True for one of which something was ever recorded.
    pub fn has_seen(&self, item: &ItemKey) -> bool {
        self.states.lock().unwrap_or_else(PoisonError::into_inner).contains_key(item)
    }

    /// Where one stands.
    pub fn state(&self, item: &ItemKey) -> ItemState {
        self.states.lock().unwrap_or_else(PoisonError::into_inner).get(item).cloned().unwrap_or_default()
    }

    /// Those of which something is recorded that goes to this application.
    pub fn known(&self, target: &AppId) -> Vec<(ItemKey, ItemState)> {
        let states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let known = states.iter().filter(|(key, state)| key.is_of(target) && state.seal().is_some());
        known.map(|(key, state)| (key.clone(), state.clone())).collect()
    }

    /// Those that are not on the target yet as they should be: the application's, and this device's.
    pub fn waiting(&self, target: &AppId, device: &str) -> Vec<(ItemKey, ItemState)> {
        let states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = |(key, state): &(&ItemKey, &ItemState)| {
            let concerned = key.device.is_empty() || key.device == device;
            concerned && key.is_of(target) && state.seal().is_some() && !state.is_there()
        };
        states.iter().filter(waits).map(|(key, state)| (key.clone(), state.clone())).collect()
    }

    /// Makes an event durable, then moves the state.
    ///
    /// # Errors
    /// When the event is not legal here (nothing is written), or the journal fails.
    pub async fn record(&self, event: &ItemEvent) -> Result<(), LogError> {
        let item = event.item();
        let illegal = |source| LogError::Illegal { device: self.key.to_string(), source };
        let next = self.state(item).apply(event).map_err(illegal)?;
        let body = serde_json::to_vec(event)
            .map_err(|source| LogError::Event { device: self.key.to_string(), source })?;
        self.journal.append(&self.key, event.name(), body).await?;
        self.states.lock().unwrap_or_else(PoisonError::into_inner).insert(item.clone(), next);
        Ok(())
    }

    /// Records the intent of a step, or that it was done.
    ///
    /// # Errors
    /// Those of [`Self::record`].
    pub async fn step(&self, item: &ItemKey, step: ItemStep, done: bool) -> Result<(), LogError> {
        let item = item.clone();
        let event =
            if done { ItemEvent::ItemDone { item, step } } else { ItemEvent::ItemIntent { item, step } };
        self.record(&event).await
    }

    /// Records that a step failed.
    ///
    /// # Errors
    /// Those of [`Self::record`].
    pub async fn failed(&self, item: &ItemKey, step: ItemStep, error: &wire::Error) -> Result<(), LogError> {
        let maybe_applied = error.outcome() == wire::Outcome::Unknown;
        let (item, why) = (item.clone(), error.message().to_owned());
        self.record(&ItemEvent::ItemFailed { item, step, maybe_applied, why }).await
    }

    /// Seals what was found and what is written.
    ///
    /// # Errors
    /// When the journal fails.
    pub async fn seal(
        &self,
        target_name: &str,
        found: &DynamicMessage,
        write: &Write,
    ) -> Result<u64, LogError> {
        Ok(self.journal.seal(&self.key, "item", &sealed::to_bytes(target_name, found, write)).await?)
    }

    /// Seals an API key.
    ///
    /// # Errors
    /// When the journal fails.
    pub async fn seal_key(&self, secret: &Secret) -> Result<u64, LogError> {
        Ok(self.journal.seal(&self.key, "item-key", secret.reveal().as_bytes()).await?)
    }

    /// What was sealed of one, read from disk; with the ID of its key on the target where it is an API key that was made.
    ///
    /// # Errors
    /// When there is nothing or it cannot be read.
    pub async fn sealed(&self, sort: &Sort, item: &ItemKey) -> Result<Sealed, LogError> {
        let mut sealed = self.sealed_as(sort.message, item).await?;
        if let (Ids::Key, Some((id, _))) = (sort.ids, self.state(item).key()) {
            sealed.target_name.clone_from(id);
        }
        Ok(sealed)
    }

    /// As [`Self::sealed`], of a thing with this message.
    ///
    /// # Errors
    /// When there is nothing or it cannot be read.
    pub async fn sealed_as(&self, message: &str, item: &ItemKey) -> Result<Sealed, LogError> {
        let bytes = self.unseal(item, self.state(item).seal(), "sealed copy").await?;
        sealed::from_bytes(message, &bytes)
            .map_err(|source| LogError::Snapshot { device: format!("{}: {item}", self.key), source })
    }

    /// The API key that was made for one, read from disk; `None` when it has none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn key(&self, item: &ItemKey) -> Result<Option<Secret>, LogError> {
        let state = self.state(item);
        let Some((_, seal)) = state.key() else { return Ok(None) };
        let bytes = self.unseal(item, Some(*seal), "sealed API key").await?;
        let text = Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned());
        Ok(Some(Secret::new(text.as_str())))
    }

    async fn unseal(&self, item: &ItemKey, seal: Option<u64>, what: &'static str) -> Result<Plain, LogError> {
        let id = seal.ok_or_else(|| LogError::Missing { device: format!("{}: {item}", self.key), what })?;
        Ok(self.journal.unseal(id).await?)
    }

    /// The name of the API key that a run of this journal makes for one: found again should a run end between making it and
    /// recording it. At most 50 characters (`rights.proto`): 36, 6 and 8; of a copy of an API key the ID of that one, 39, and 9.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub async fn key_name(&self, item: &ItemKey) -> Result<String, LogError> {
        let run: String = self.journal.read(|j| Ok(j.run_id())).await?.chars().take(8).collect();
        let is_key = Sort::by_name(&item.sort).is_some_and(|sort| sort.ids == Ids::Key);
        let id = &item.id;
        Ok(if is_key { format!("{id:.41} {run}") } else { format!("{id} down {run}") })
    }
}
