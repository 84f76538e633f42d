//! The journal as one device sees it: its state, its events, its seals.

use crate::{
    journal::{self, DeviceKey, JournalHandle, Write},
    plan::{
        sealed::{self, SealedError},
        transform::{Copy, Found},
    },
    step::{Event, Illegal, State},
};

/// The journal failed or holds what it should not: the run ends, nothing more is done without a journal.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Reading or writing it failed.
    #[error(transparent)]
    Journal(#[from] journal::Error),
    /// An event that is not legal.
    #[error("{device}: {source}")]
    Illegal {
        /// Whose.
        device: String,
        /// Which rule.
        source: Illegal,
    },
    /// An event is not what this version writes.
    #[error("{device}: an event in the journal cannot be read: {source}")]
    Event {
        /// Whose.
        device: String,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// A sealed snapshot cannot be read.
    #[error("{device}: {source}")]
    Snapshot {
        /// Whose.
        device: String,
        /// What is wrong.
        source: SealedError,
    },
    /// A seal that the state names is not there.
    #[error("{device}: the journal has no {what}")]
    Missing {
        /// Whose.
        device: String,
        /// What.
        what: &'static str,
    },
}

/// One device's part of the journal.
#[derive(Debug)]
pub struct DeviceLog {
    journal: JournalHandle,
    key: DeviceKey,
    state: State,
}

impl DeviceLog {
    /// Replays what is recorded of the device.
    ///
    /// # Errors
    /// When the journal cannot be read or holds an illegal sequence.
    pub async fn open(journal: JournalHandle, key: DeviceKey) -> Result<Self, LogError> {
        let mut state = State::default();
        for event in journal.events(&key).await? {
            let logged: Event = serde_json::from_slice(&event.body)
                .map_err(|source| LogError::Event { device: key.to_string(), source })?;
            state = state
                .apply(&logged)
                .map_err(|source| LogError::Illegal { device: key.to_string(), source })?;
        }
        Ok(Self { journal, key, state: state.resumed() })
    }

    /// Where the device stands.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Makes an event durable, then moves the state.
    ///
    /// # Errors
    /// When the event is not legal here (nothing is written), or the journal fails.
    pub async fn record(&mut self, event: &Event) -> Result<(), LogError> {
        self.record_all(&[event]).await
    }

    /// Makes events durable, all or none, then moves the state.
    ///
    /// # Errors
    /// As those of [`Self::record`].
    pub async fn record_all(&mut self, events: &[&Event]) -> Result<(), LogError> {
        let mut next = self.state.clone();
        let mut writes = Vec::new();
        for event in events {
            next = next
                .apply(event)
                .map_err(|source| LogError::Illegal { device: self.key.to_string(), source })?;
            let body = serde_json::to_vec(event)
                .map_err(|source| LogError::Event { device: self.key.to_string(), source })?;
            writes.push(Write::event(&self.key, name(event), body));
        }
        self.journal.write(writes).await?;
        self.state = next;
        Ok(())
    }

    /// Seals a device as it was found.
    ///
    /// # Errors
    /// When the journal fails.
    pub async fn seal_found(&self, kind: &'static str, found: &Found) -> Result<u64, LogError> {
        Ok(self.journal.seal(&self.key, kind, &sealed::found_to_bytes(found)).await?)
    }

    /// Seals a copy that is to be written.
    ///
    /// # Errors
    /// When the journal fails.
    pub async fn seal_copy(&self, kind: &'static str, copy: &Copy) -> Result<u64, LogError> {
        Ok(self.journal.seal(&self.key, kind, &sealed::copy_to_bytes(copy)).await?)
    }

    /// The first snapshot, read from disk.
    ///
    /// # Errors
    /// When there is none or it cannot be read.
    pub async fn first_snapshot(&self) -> Result<Found, LogError> {
        self.found(self.state.snapshot(), "first snapshot").await
    }

    /// The second snapshot, read from disk.
    ///
    /// # Errors
    /// When there is none or it cannot be read.
    pub async fn second_snapshot(&self) -> Result<Found, LogError> {
        self.found(self.state.reread().map(|(seal, _)| seal), "second snapshot").await
    }

    /// The source as it was seen last, read from disk.
    ///
    /// # Errors
    /// When there is none or it cannot be read.
    pub async fn last_seen(&self) -> Result<Found, LogError> {
        self.found(self.state.last_seen(), "snapshot").await
    }

    /// The target's records as they were sealed for the way back, read from disk.
    ///
    /// # Errors
    /// When there are none or they cannot be read.
    pub async fn sealed_target(&self) -> Result<Found, LogError> {
        self.found(self.state.read_back().map(|(seal, _)| seal), "seal of the target").await
    }

    /// What the source gets back, read from disk.
    ///
    /// # Errors
    /// When there is none or it cannot be read.
    pub async fn back(&self) -> Result<Copy, LogError> {
        self.sealed_copy(self.state.read_back().map(|(_, back)| back), "seal of what the source gets back")
            .await
    }

    /// As [`Self::back`], of a source that takes a device as a whole.
    ///
    /// # Errors
    /// When there is none or it cannot be read.
    pub async fn back_whole(&self) -> Result<Found, LogError> {
        self.found(self.state.read_back().map(|(_, back)| back), "seal of what the source gets back").await
    }

    /// The copy, read from disk.
    ///
    /// # Errors
    /// When there is none or it cannot be read.
    pub async fn copy(&self) -> Result<Copy, LogError> {
        self.sealed_copy(self.state.reread().map(|(_, copy)| copy), "sealed copy").await
    }

    async fn sealed_copy(&self, id: Option<u64>, what: &'static str) -> Result<Copy, LogError> {
        let bytes = self.bytes(id, what).await?;
        sealed::copy_from_bytes(&bytes)
            .map_err(|source| LogError::Snapshot { device: self.key.to_string(), source })
    }

    async fn found(&self, id: Option<u64>, what: &'static str) -> Result<Found, LogError> {
        let bytes = self.bytes(id, what).await?;
        sealed::found_from_bytes(&bytes)
            .map_err(|source| LogError::Snapshot { device: self.key.to_string(), source })
    }

    async fn bytes(&self, id: Option<u64>, what: &'static str) -> Result<journal::Plain, LogError> {
        let id = id.ok_or_else(|| LogError::Missing { device: self.key.to_string(), what })?;
        Ok(self.journal.unseal(id).await?)
    }
}

fn name(event: &Event) -> &'static str {
    match event {
        Event::Snapshot { .. } => "snapshot",
        Event::Reread { .. } => "reread",
        Event::Intent { .. } => "intent",
        Event::Done { .. } => "done",
        Event::Checked { .. } => "checked",
        Event::Counted { .. } => "counted",
        Event::Adopted { .. } => "adopted",
        Event::Failed { .. } => "failed",
        Event::Undo { .. } => "undo",
        Event::Rollback { .. } => "rollback",
        Event::ReadBack { .. } => "read-back",
        Event::Kept => "kept",
        Event::Undone => "undone",
        Event::Finished => "finished",
    }
}
