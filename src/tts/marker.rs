//! The lock marker of an application: an end device that only the Identity Server knows. Its ID is the same for everybody,
//! and a second create of an ID is refused, which is the only test-and-set that the API has (`docs/adr/0004-lock-marker.md`).

use std::{collections::HashMap, time::Duration};

use prost_reflect::{DynamicMessage, MapKey, Value};

use super::Stack;
use crate::{
    map::path,
    model::{
        device::{Component, Record},
        ids::{AppId, DeviceId},
    },
    proto,
    wire::Error,
};

/// The ID of every marker.
pub const ID: &str = "stackferry-lock";

/// What a marker is made of, and what is read of it.
const PATHS: &[&str] = &["name", "description", "attributes"];

/// What the marker of an application says of the run that works there. Nothing of it is secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marker {
    /// ID of the journal.
    pub journal: String,
    /// Drawn for each run, so that two processes with copies of one journal tell each other apart.
    pub run: String,
    /// Where the journal is, as a digest: of two runs there, the file lock has let only one begin.
    pub place: String,
    /// Who runs, in words.
    pub holder: String,
    /// Since when.
    pub since: String,
    /// How often the marker is renewed.
    pub renewal: Duration,
}

/// A device with the marker's ID as it stands. Equal only to itself unchanged, the times of the server included.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    record: Record,
    /// `None` for a device that is no marker: somebody's own, with this ID.
    pub marker: Option<Marker>,
}

/// True for a marker: it must never be taken for a device.
pub fn is_marker(record: &Record) -> bool {
    record.device_id() == ID && record.dev_eui().is_none() && Marker::read(&record.0).is_some()
}

impl Marker {
    fn read(message: &DynamicMessage) -> Option<Self> {
        let attributes = path::get(message, "attributes")?;
        let attributes = attributes.as_map()?;
        let text = |name: &str| {
            let value = attributes.get(&MapKey::String(format!("stackferry-{name}")));
            value.and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let journal = Some(text("journal")).filter(|id| !id.is_empty())?;
        Some(Self {
            journal,
            run: text("run"),
            place: text("place"),
            holder: text("holder"),
            since: text("since"),
            renewal: Duration::from_millis(text("renewal-ms").parse().ok()?),
        })
    }

    fn attributes(&self) -> Value {
        let renewal = self.renewal.as_millis().to_string();
        let texts = [
            ("journal", &self.journal),
            ("run", &self.run),
            ("place", &self.place),
            ("holder", &self.holder),
            ("since", &self.since),
            ("renewal-ms", &renewal),
        ];
        // The longest value that the server takes is 200 (docs/servers.md).
        let entry = |(name, text): (&str, &String)| {
            let text: String = text.chars().take(200).collect();
            (MapKey::String(format!("stackferry-{name}")), Value::String(text))
        };
        Value::Map(texts.into_iter().map(entry).collect::<HashMap<_, _>>())
    }

    /// For people in the Console. `beat` makes each renewal another text.
    fn description(&self, beat: u64) -> Value {
        let Self { holder, since, journal, .. } = self;
        let now = jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M:%SZ");
        Value::String(format!(
            "Not a device: {holder} moves the devices of this application since {since}, with journal {journal}. It goes by \
             itself when that run ends. Last sign of life: {now}, number {beat}."
        ))
    }
}

impl Stack {
    /// The marker of an application, if there is one.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn marker(&self, app: &AppId) -> Result<Option<Seen>, Error> {
        let paths: Vec<_> = [PATHS, &["updated_at"]].concat().into_iter().map(str::to_owned).collect();
        let found = self.device(Component::Is, app, &id(), &paths).await?;
        Ok(found.map(|record| {
            let marker = Marker::read(&record.0).filter(|_| is_marker(&record));
            Seen { record, marker }
        }))
    }

    /// Makes the marker; refused by the server when there is one.
    ///
    /// # Errors
    /// Those of the call: `AlreadyExists` when another run has it.
    pub async fn create_marker(&self, app: &AppId, marker: &Marker) -> Result<(), Error> {
        self.create_device(Component::Is, app, &id(), message(app, marker, 0), &[]).await
    }

    /// Writes the whole marker over the one that is there.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn replace_marker(&self, app: &AppId, marker: &Marker) -> Result<(), Error> {
        self.update_device(Component::Is, app, &id(), message(app, marker, 0), &owned(PATHS)).await
    }

    /// A sign of life. Only words change: should the marker have become another's, it stays that.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn renew_marker(&self, app: &AppId, marker: &Marker, beat: u64) -> Result<(), Error> {
        self.update_device(Component::Is, app, &id(), message(app, marker, beat), &owned(&["description"]))
            .await
    }

    /// Takes the marker away.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn remove_marker(&self, app: &AppId) -> Result<(), Error> {
        self.delete_device(Component::Is, app, &id()).await.map(drop)
    }
}

fn message(app: &AppId, marker: &Marker, beat: u64) -> DynamicMessage {
    let mut message = proto::message("EndDevice");
    path::set(&mut message, "ids.device_id", Value::String(ID.to_owned()));
    let app = app.as_str().to_owned();
    path::set(&mut message, "ids.application_ids.application_id", Value::String(app));
    path::set(&mut message, "name", Value::String("stackferry is working here".to_owned()));
    path::set(&mut message, "description", marker.description(beat));
    path::set(&mut message, "attributes", marker.attributes());
    message
}

fn id() -> DeviceId {
    DeviceId::unchecked(ID)
}

fn owned(paths: &[&str]) -> Vec<String> {
    paths.iter().map(|p| (*p).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marker() -> Marker {
        Marker {
            journal: "00ff".repeat(8),
            run: "run".to_owned(),
            place: "place".to_owned(),
            holder: "ann@desk, process 7, stackferry 0.1.0".to_owned(),
            since: "2026-01-02 03:04:05Z".to_owned(),
            renewal: Duration::from_secs(30),
        }
    }

    #[test]
    fn a_marker_is_read_as_it_was_written() {
        let record = Record(message(&AppId::unchecked("meters"), &marker(), 3));
        assert!(is_marker(&record));
        assert_eq!(Marker::read(&record.0), Some(marker()));
        assert!(path::string(&record.0, "name").chars().count() <= 50);
    }

    #[test]
    fn a_device_of_somebody_s_own_is_no_marker() {
        let mut with_eui = message(&AppId::unchecked("meters"), &marker(), 0);
        path::set(&mut with_eui, "ids.dev_eui", Value::Bytes(vec![1; 8].into()));
        let mut plain = message(&AppId::unchecked("meters"), &marker(), 0);
        path::clear(&mut plain, "attributes");
        let mut other = message(&AppId::unchecked("meters"), &marker(), 0);
        path::set(&mut other, "ids.device_id", Value::String("stackferry-lock-2".to_owned()));
        for message in [with_eui, plain, other] {
            assert!(!is_marker(&Record(message)));
        }
    }
}
