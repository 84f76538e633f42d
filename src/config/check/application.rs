//! The applications, their devices, and what clashes between them.

use std::{collections::BTreeSet, fs::File, path::Path, str::FromStr as _};

use glob::Pattern;
use toml::de::DeTable;

use super::{
    super::{
        Depth,
        checked::{Application, Copy, Side},
        devices::{Devices, read_list},
        diagnostic::{Diagnostic, Place},
        raw::{RawApplication, RawDevices},
        read::{At, Many, Section as _, join},
    },
    Checker, application_path,
};
use crate::model::ids::{AppId, DeviceId, IdError, is_id, is_v2_id};

/// What is copied unless the file says otherwise: all that this release can without being told more.
const DEFAULT: [Copy; 5] =
    [Copy::Formatters, Copy::Webhooks, Copy::PubSubs, Copy::Packages, Copy::ActivationSettings];

/// What makes a shape of an ID.
const SHAPES: [char; 3] = ['*', '?', '['];

/// An application and where it stands in the file.
pub(super) struct Found {
    pub application: Application,
    source_at: Place,
    target_at: Place,
}

impl Checker<'_, '_> {
    pub(super) fn applications(&mut self, raw: Option<At<Vec<At<RawApplication>>>>) -> Vec<Found> {
        let help = "write [[application]] with the ID of the `source` application";
        let raw = raw.filter(|raw| !raw.value.is_empty());
        // The source may name the only one.
        let only = self.default_application.as_ref().filter(|_| raw.is_none()).map(|id| id.at.clone());
        let raw = match only {
            Some(at) => {
                let value = RawApplication::fill(&DeTable::new(), &application_path(0), self.reader);
                Some(vec![At { value, at }])
            }
            None => self.reader.required(raw, "", "application", &Place::Whole, help).map(|raw| raw.value),
        };
        let found: Vec<Found> = raw
            .unwrap_or_default()
            .into_iter()
            .enumerate()
            .filter_map(|(i, raw)| self.application(raw, &application_path(i)))
            .collect();
        for (i, later) in found.iter().enumerate() {
            for first in &found[..i] {
                self.clash(first, later);
            }
        }
        found
    }

    fn application(&mut self, raw: At<RawApplication>, path: &str) -> Option<Found> {
        let At { value: raw, at } = raw;
        let help = "write the ID of the application at the source";
        let source = raw.source.or_else(|| self.default_application.clone());
        let source = self.reader.required(source, path, "source", &at, help);
        let source_at = source.as_ref().map_or_else(|| at.clone(), |source| source.at.clone());
        let target_at = raw.target.as_ref().map_or_else(|| source_at.clone(), |target| target.at.clone());
        let explicit = raw.target.is_some();
        let shape = source.as_ref().filter(|source| source.value.contains(SHAPES));
        let shape = shape.cloned().map(|shape| self.shape(shape, &join(path, "source")));
        let (source, target) = match shape {
            Some(shape) => {
                let (source, pattern) = shape?;
                let target = raw.target.map(|target| self.target_shape(target, &join(path, "target")));
                (Some((source, Some(pattern))), target.flatten())
            }
            None => {
                let from_v2 = self.from_v2;
                let source = self.parsed(source, &join(path, "source"), |text| match from_v2 {
                    true if is_v2_id(text) => Ok(AppId::unchecked(text)),
                    true => Err(IdError::V2(text.to_owned())),
                    false => AppId::from_str(text),
                });
                let target = self.parsed(raw.target, &join(path, "target"), AppId::from_str);
                (source.map(|source| (source, None)), target)
            }
        };
        let devices = self.devices(raw.devices, &join(path, "devices"));
        let copy = self.copies(raw.copy, &join(path, "copy"));
        let api_key = self.secret(raw.api_key, &join(path, "api-key"));
        let access_key = self.secret(raw.access_key, &join(path, "access-key"));
        let (source, shape) = source?;
        let same = || if shape.is_some() { AppId::unchecked("*") } else { source.clone() };
        let target = if explicit { target? } else { same() };
        if !explicit && shape.is_none() && !is_id(target.as_str()) {
            let text = format!("The Things Stack takes no application of the name `{target}`");
            self.error(&source_at, text, "", "name one as `target` of the application");
        }
        Some(Found {
            application: Application { source, target, shape, devices, copy, api_key, access_key },
            source_at,
            target_at,
        })
    }

    /// A shape of IDs in the place of one.
    fn shape(&mut self, raw: At<String>, path: &str) -> Option<(AppId, Pattern)> {
        if self.from_v2 {
            let help = "V2's access keys are those of one application: write an [[application]] for each";
            self.error(&raw.at, format!("`{path}` cannot be a shape of IDs with V2"), "", help);
            return None;
        }
        let text = AppId::unchecked(raw.value.clone());
        self.parsed(Some(raw), path, Pattern::new).map(|shape| (text, shape))
    }

    /// Where the applications of a shape go.
    fn target_shape(&mut self, raw: At<String>, path: &str) -> Option<AppId> {
        self.parsed(Some(raw), path, |text| match text.split_once('*') {
            // What is refused with any ID in its place is refused here.
            Some((before, after)) if is_id(&format!("{before}app{after}")) => Ok(AppId::unchecked(text)),
            _ => Err("with a shape as `source` it has one `*` for the ID at the source, such as `acme-*`"),
        })
    }

    fn copies(&mut self, raw: Option<At<Vec<At<String>>>>, path: &str) -> Vec<Copy> {
        let Some(raw) = raw else {
            let people = self.has_people.then_some(Copy::Collaborators);
            return if self.from_v2 {
                vec![Copy::Formatters]
            } else {
                DEFAULT.into_iter().chain(people).collect()
            };
        };
        let mut copies = BTreeSet::new();
        for word in raw.value {
            let Some(copy) = self.choice(&word, path, &Copy::ALL) else { continue };
            if copy == Copy::ApiKeys {
                self.copies_keys.get_or_insert_with(|| word.at.clone());
            }
            if self.from_v2 && copy != Copy::Formatters {
                let help =
                    "V2's integrations cannot be read by any API: take it out here, and set them up by hand";
                self.error(&word.at, format!("V2 has no `{}` to copy", word.value), "", help);
            }
            if copy == Copy::Collaborators && !self.has_people && !self.from_v2 {
                let help =
                    "add a section [people] with users = { \"ID AT THE SOURCE\" = \"ID ON THE TARGET\" }";
                self.error(&word.at, "nobody has said who the collaborators are on the target", "", help);
            }
            copies.insert(copy);
        }
        copies.into_iter().collect()
    }

    pub(super) fn devices(&mut self, raw: Option<At<RawDevices>>, path: &str) -> Devices {
        let Some(At { value: raw, at }) = raw else { return Devices::All };
        self.exactly_one(
            path,
            &at,
            &[
                ("ids", raw.ids.as_ref().map(|v| &v.at)),
                ("file", raw.file.as_ref().map(|v| &v.at)),
                ("glob", raw.glob.as_ref().map(|v| &v.at)),
            ],
        );
        if let Some(ids) = raw.ids {
            let path = join(path, "ids");
            self.not_empty(&ids, &path);
            Devices::Ids(self.device_ids(ids.value, &path))
        } else if let Some(globs) = raw.glob {
            let path = join(path, "glob");
            self.not_empty(&globs, &path);
            let globs = globs.value.0.into_iter();
            Devices::Glob(globs.filter_map(|glob| self.parsed(Some(glob), &path, Pattern::new)).collect())
        } else if let Some(file) = raw.file {
            self.device_file(&file, &join(path, "file"))
        } else {
            Devices::All
        }
    }

    /// A list without anything in it is more likely a mistake than the wish to move nothing.
    fn not_empty(&mut self, raw: &At<Many>, path: &str) {
        if raw.value.0.is_empty() {
            self.error(&raw.at, format!("`{path}` is empty"), "", "leave `devices` out to move all devices");
        }
    }

    /// Device IDs of a list in the file.
    pub(super) fn device_ids(&mut self, raw: Many, path: &str) -> BTreeSet<DeviceId> {
        let from_v2 = self.from_v2;
        let parse = |text: &str| match from_v2 {
            true if is_v2_id(text) => Ok(DeviceId::unchecked(text)),
            true => Err(IdError::V2(text.to_owned())),
            false => DeviceId::from_str(text),
        };
        raw.0.into_iter().filter_map(|id| self.parsed(Some(id), path, parse)).collect()
    }

    fn device_file(&mut self, raw: &At<String>, path: &str) -> Devices {
        if raw.value == "-" {
            if let Some(first) = self.stdin.replace(raw.at.clone()) {
                let error = Diagnostic::error(&raw.at, "standard input can be read only once");
                self.reader.report(error.also(&first, "it is read here"));
            }
            return Devices::Stdin;
        }
        let file = self.folder.join(&raw.value);
        if self.depth < Depth::Files {
            return Devices::File { path: file, ids: BTreeSet::new() };
        }
        match list_of(&file) {
            Ok(ids) => Devices::File { path: file, ids },
            Err(problem) => {
                let help = format!("relative paths start at the folder of this file: {}", file.display());
                self.error(&raw.at, format!("`{path}` cannot be used"), problem, help);
                Devices::File { path: file, ids: BTreeSet::new() }
            }
        }
    }

    /// Two blocks must not move the same device, nor write to the same application.
    fn clash(&mut self, first: &Found, later: &Found) {
        let (a, b) = (&first.application, &later.application);
        if a.target == b.target && a.shape.is_none() && b.shape.is_none() {
            let error = Diagnostic::error(&later.target_at, format!("two applications go to `{}`", b.target));
            self.reader.report(
                error
                    .also(&first.target_at, "the first one")
                    .help("move them one after the other, or to two applications"),
            );
        }
        if a.source != b.source {
            return;
        }
        let shared = match (a.devices.listed(), b.devices.listed()) {
            _ if a.shape.is_some() => Some("of two shapes that fit the first one counts".to_owned()),
            (Some(a), Some(b)) => a.intersection(b).next().map(|id| format!("`{id}` is in both")),
            _ if a.devices == Devices::All || b.devices == Devices::All => {
                Some("one of them takes all devices".to_owned())
            }
            _ => None,
        };
        if let Some(shared) = shared {
            let error =
                Diagnostic::error(&later.source_at, format!("a device of `{}` would move twice", b.source));
            self.reader.report(
                error
                    .label(shared)
                    .also(&first.source_at, "the first one")
                    .help("give each its own `devices`"),
            );
        }
    }

    /// Inside one deployment no application may be moved to itself or to one that is itself moved.
    pub(super) fn one_deployment(&mut self, source: &Side, target: &Side, applications: &[Found]) {
        let (Side::Tts(from), Side::Tts(to)) = (source, target) else { return };
        if from.identity_server != to.identity_server {
            return;
        }
        for found in applications {
            if found.application.shape.is_some() {
                let text =
                    format!("`{}` would take the applications of the target too", found.application.source);
                let help = "inside one deployment write an [[application]] for each";
                self.error(&found.source_at, text, "", help);
                continue;
            }
            let id = &found.application.target;
            let Some(other) = applications.iter().find(|other| other.application.source == *id) else {
                continue;
            };
            let itself = found.application.source == *id;
            let message = if itself {
                format!("`{id}` would be moved to itself: source and target are {}", from.identity_server)
            } else {
                format!("devices would be moved to `{id}`, which is moved itself")
            };
            let error = Diagnostic::error(&found.target_at, message);
            let error = if itself { error } else { error.also(&other.source_at, "it is moved here") };
            self.reader.report(error.help("inside one deployment the target is another application"));
        }
    }
}

fn list_of(file: &Path) -> Result<BTreeSet<DeviceId>, String> {
    let open = File::open(file).map_err(|error| error.to_string())?;
    read_list(open).map_err(|error| error.to_string())
}
