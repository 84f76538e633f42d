//! Loads dumps of a real deployment into an embedded one: the devices as their components answered, and the application.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader},
    path::{Path, PathBuf},
};

use prost_reflect::{DynamicMessage, Value};
use serde_json::Value as Json;

use super::{
    Tts,
    store::{Store, Table, device_key},
};
use crate::{
    map::{
        json::{self, JsonError},
        path,
    },
    model::device::Component,
    proto,
};

/// Why a dump cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read, or the store cannot be written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
    /// A line is not JSON.
    #[error("{path}:{line}: this is not JSON: {source}", path = path.display())]
    Json {
        /// Which file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// A record is not what the API has.
    #[error("{path}:{line}: {what}: {source}", path = path.display())]
    Record {
        /// Which file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// Which record.
        what: &'static str,
        /// What is wrong.
        source: JsonError,
    },
}

/// Loads `devices` (a line each: `{"is": …, "ns": …, "as": …, "js": …}` in the JSON of The Things Stack, `null` for no
/// record) and `application` (`{"application": …, "link": …, "webhooks": …}`), straight into the store: as they were.
///
/// # Errors
/// The first thing that cannot be read, with file and line.
pub fn load(tts: &Tts, devices: Option<&Path>, application: Option<&Path>) -> Result<(), LoadError> {
    let mut store = tts.store();
    if let Some(path) = application {
        load_application(&mut store, path)?;
    }
    if let Some(path) = devices {
        load_devices(&mut store, path)?;
    }
    Ok(())
}

fn load_devices(store: &mut Store, path: &Path) -> Result<(), LoadError> {
    let io = |source| LoadError::Io { path: path.to_owned(), source };
    for (index, line) in BufReader::new(File::open(path).map_err(io)?).lines().enumerate() {
        let (line, at) = (line.map_err(io)?, index + 1);
        if line.trim().is_empty() {
            continue;
        }
        let dump: Json = serde_json::from_str(&line).map_err(|source| LoadError::Json {
            path: path.to_owned(),
            line: at,
            source,
        })?;
        for component in Component::ALL {
            let what = component.short();
            if let Some(record) = read(&dump, what, "EndDevice", path, at)? {
                let app = path::string(&record, "ids.application_ids.application_id");
                let key = device_key(&app, &path::string(&record, "ids.device_id"));
                store.put(Table::of(component), &key, record).map_err(io)?;
            }
        }
    }
    Ok(())
}

fn load_application(store: &mut Store, path: &Path) -> Result<(), LoadError> {
    let io = |source| LoadError::Io { path: path.to_owned(), source };
    let text = std::fs::read_to_string(path).map_err(io)?;
    let dump: Json = serde_json::from_str(&text).map_err(|source| LoadError::Json {
        path: path.to_owned(),
        line: 1,
        source,
    })?;
    let Some(application) = read(&dump, "application", "Application", path, 1)? else { return Ok(()) };
    let app = path::string(&application, "ids.application_id");
    store.put(Table::Applications, &app, application).map_err(io)?;
    if let Some(link) = read(&dump, "link", "ApplicationLink", path, 1)? {
        store.put(Table::Links, &app, link).map_err(io)?;
    }
    let lists = [
        ("webhooks", "ApplicationWebhooks", "webhooks", Table::Webhooks, "ids.webhook_id"),
        ("pubsubs", "ApplicationPubSubs", "pubsubs", Table::PubSubs, "ids.pub_sub_id"),
        (
            "default_associations",
            "ApplicationPackageDefaultAssociations",
            "defaults",
            Table::PackageDefaults,
            "ids.f_port",
        ),
    ];
    for (what, message, field, table, id) in lists {
        let Some(list) = read(&dump, what, message, path, 1)? else { continue };
        for item in items(&list, field) {
            let id = match table {
                Table::PackageDefaults => format!("{:03}", path::number(&item, id)),
                _ => path::string(&item, id),
            };
            store.put(table, &format!("{app}.{id}"), item).map_err(io)?;
        }
    }
    Ok(())
}

fn read(
    dump: &Json,
    what: &'static str,
    message: &str,
    path: &Path,
    line: usize,
) -> Result<Option<DynamicMessage>, LoadError> {
    match dump.get(what) {
        None | Some(Json::Null) => Ok(None),
        Some(value) => json::from_json(&proto::descriptor(message), value)
            .map(Some)
            .map_err(|source| LoadError::Record { path: path.to_owned(), line, what, source }),
    }
}

fn items(list: &DynamicMessage, field: &str) -> Vec<DynamicMessage> {
    let value = path::get(list, field);
    let values = value.as_ref().and_then(|v| v.as_list()).unwrap_or_default();
    values.iter().filter_map(Value::as_message).cloned().collect()
}
