//! From what is written to what is meant: every value is checked, and every problem reported, before anything is used.
//!
//! A value with a problem is replaced by a default and checking goes on: a configuration with an error is never given
//! out.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use toml::de::DeTable;

use super::{
    Depth,
    checked::{Config, Integrations, Side},
    diagnostic::{Diagnostic, Diagnostics, Place},
    raw::{RawClear, RawConfig, RawIntegrations, RawJournal, RawLimits, RawRollout, RawTransform, Reference},
    read::{At, Later, Read, Reader, Section, join, listed, nearest},
    secret::SecretRef,
};
use ttn_v2::Written;

mod application;
mod gateways;
mod people;
mod rules;
mod side;
mod ttn_v2;

/// Checks a whole file. `None` when something that is needed is not there; the reader was told.
pub(super) fn config(
    tree: &DeTable<'_>,
    path: &Path,
    reader: &mut Reader<'_>,
    depth: Depth,
) -> Option<Config> {
    let whole = toml::de::DeValue::Table(tree.clone());
    let raw = RawConfig::read(&whole, &Place::Whole, "", reader)?;
    let folder = path.parent().unwrap_or(Path::new("")).to_owned();
    let mut checker = Checker {
        reader,
        folder,
        depth,
        outputs: vec![(path.to_owned(), Place::Whole)],
        stdin: None,
        from_v2: false,
        has_people: false,
        copies_keys: None,
        default_application: None,
    };
    let source = checker.source(raw.source);
    let target = checker.target(raw.target);
    let journal: RawJournal = checker.section(raw.journal, "journal");
    let journal = checker.journal(journal, path);
    let people = checker.people(raw.people);
    let applications = checker.applications(raw.application);
    let gateways = raw.gateways.and_then(|raw| checker.gateways(raw));
    let transform: RawTransform = checker.section(raw.transform, "transform");
    let mut transform = checker.transform(transform);
    let integrations: RawIntegrations = checker.section(raw.integrations, "integrations");
    let integrations = checker.integrations(integrations);
    let rollout: RawRollout = checker.section(raw.rollout, "rollout");
    let clear: RawClear = checker.section(raw.clear, "clear");
    let written = Written {
        clear_mode: clear.mode.as_ref().map(|mode| mode.at.clone()),
        in_flight: rollout.in_flight.is_some(),
        clear_gateways: clear.gateways.as_ref().map(|gateways| gateways.at.clone()),
    };
    let mut rollout = checker.rollout(rollout);
    let mut clear = checker.clear(clear);
    let limits: RawLimits = checker.section(raw.limits, "limits");
    let limits = checker.limits(limits);
    let (mut source, (mut target, owner)) = (source?, target?);
    for side in [&mut source, &mut target] {
        if let Side::Rehearsal(rehearsal) = side {
            rehearsal.people = people.clone();
        }
    }
    checker.one_deployment(&source, &target, &applications);
    let applications: Vec<_> = applications.into_iter().map(|found| found.application).collect();
    checker.with_ttn_v2(&source, &applications, &mut transform, (&mut rollout, &mut clear), &written);
    checker.clear_of_gateways(&clear, gateways.as_ref(), &written);
    Some(Config {
        path: path.to_owned(),
        source,
        target,
        owner,
        journal,
        applications,
        gateways,
        transform,
        integrations,
        people,
        rollout,
        clear,
        limits,
        warnings: Diagnostics::new(path.to_owned(), String::new(), Vec::new()),
    })
}

/// What all checks share.
struct Checker<'r, 'e> {
    reader: &'r mut Reader<'e>,
    /// Where relative paths start.
    folder: PathBuf,
    /// How far the checks look beyond the text.
    depth: Depth,
    /// Files that a run reads back or writes: no two may be the same.
    outputs: Vec<(PathBuf, Place)>,
    /// Where standard input is read.
    stdin: Option<Place>,
    /// True when the source is V2: application and device IDs there have other rules.
    from_v2: bool,
    /// True when `[people]` says who is who.
    has_people: bool,
    /// Where the first application says that its API keys are copied.
    copies_keys: Option<Place>,
    /// The application that the source names.
    default_application: Option<At<String>>,
}

impl Checker<'_, '_> {
    fn error(
        &mut self,
        at: &Place,
        message: impl Into<String>,
        label: impl Into<String>,
        help: impl Into<String>,
    ) {
        let (label, help) = (label.into(), help.into());
        let error = Diagnostic::error(at, message).label(label);
        self.reader.report(if help.is_empty() { error } else { error.help(help) });
    }

    /// A section that may be absent: its keys have defaults, and variables may override them.
    fn section<S: Section>(&mut self, raw: Option<At<S>>, path: &str) -> S {
        raw.map_or_else(|| S::fill(&DeTable::new(), path, self.reader), |raw| raw.value)
    }

    fn integrations(&mut self, raw: RawIntegrations) -> Integrations {
        match (&raw.keys_file, self.copies_keys.clone()) {
            (None, Some(at)) if !self.from_v2 => {
                let help = "add [integrations] with keys-file = \"application-keys.csv\"";
                self.error(&at, "nobody has said where the new API keys go", "", help);
            }
            (Some(file), None) => {
                let help = "add \"api-keys\" to the copy of an application, or take it out";
                self.error(&file.at, "`integrations.keys-file` has no keys to hold", "", help);
            }
            _ => {}
        }
        Integrations {
            paused: raw.paused.is_some_and(|paused| paused.value),
            keys_file: self.output(raw.keys_file, "integrations.keys-file"),
        }
    }

    /// Refuses what a later release will do.
    fn later(&mut self, raw: Option<At<Later>>, path: &str, help: &str) {
        if let Some(raw) = raw {
            self.error(&raw.at, format!("`{path}` is not in this release"), "", help);
        }
    }

    /// The typed value of a text.
    fn parsed<T, E: fmt::Display>(
        &mut self,
        raw: Option<At<String>>,
        path: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let raw = raw?;
        match parse(&raw.value) {
            Ok(value) => Some(value),
            Err(error) => {
                self.error(&raw.at, format!("`{path}` cannot be used"), error.to_string(), "");
                None
            }
        }
    }

    /// One of some words.
    fn choice<T: Copy>(&mut self, raw: &At<String>, path: &str, words: &[(&str, T)]) -> Option<T> {
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == raw.value) {
            return Some(*value);
        }
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let label =
            nearest(&raw.value, &known).map(|meant| format!("did you mean `{meant}`?")).unwrap_or_default();
        let help = format!("it is one of {}", listed(&known));
        self.error(&raw.at, format!("`{path}` cannot be `{}`", raw.value), label, help);
        None
    }

    /// Exactly one of some keys of a table: reports none and several.
    fn exactly_one(&mut self, path: &str, at: &Place, keys: &[(&str, Option<&Place>)]) {
        let names: Vec<&str> = keys.iter().map(|(key, _)| *key).collect();
        let mut there: Vec<_> = keys.iter().filter_map(|(key, at)| Some((*key, (*at)?))).collect();
        // The first in the file is the one that the others clash with.
        there.sort_by_key(|(_, at)| match at {
            Place::File(span) => span.start,
            _ => usize::MAX,
        });
        let help = format!("write exactly one of {}", listed(&names));
        match there.as_slice() {
            [] if names.iter().any(|name| self.reader.excused(&join(path, name))) => {}
            [] => self.error(at, format!("`{path}` needs one of {}", listed(&names)), "", ""),
            [(first, first_at), rest @ ..] => {
                for (key, at) in rest {
                    let error = Diagnostic::error(at, format!("`{path}` has both `{first}` and `{key}`"));
                    self.reader.report(error.also(first_at, "the other one").help(&help));
                }
            }
        }
    }

    /// Where a secret is; with [`Depth::Secrets`], that it is there.
    fn secret(&mut self, raw: Option<At<Reference>>, path: &str) -> Option<SecretRef> {
        let At { value: Reference(raw), at } = raw?;
        self.exactly_one(
            path,
            &at,
            &[
                ("env", raw.env.as_ref().map(|v| &v.at)),
                ("file", raw.file.as_ref().map(|v| &v.at)),
                ("command", raw.command.as_ref().map(|v| &v.at)),
            ],
        );
        let (found, at) = if let Some(env) = raw.env {
            (self.variable(&env, path)?, env.at)
        } else if let Some(file) = raw.file {
            (SecretRef::File(self.folder.join(&file.value)), file.at)
        } else {
            let command = raw.command?;
            if command.value.first().is_none_or(|program| program.value.is_empty()) {
                self.error(&command.at, format!("`{path}.command` names no program"), "", "");
                return None;
            }
            (SecretRef::Command(command.value.into_iter().map(|part| part.value).collect()), command.at)
        };
        if self.depth >= Depth::Secrets
            && let Err(error) = found.probe(self.reader.env())
        {
            self.error(&at, format!("`{path}` cannot be used"), error.to_string(), error.help());
        }
        Some(found)
    }

    /// The name of a variable. What cannot be one may be the secret itself, so it is not shown.
    fn variable(&mut self, raw: &At<String>, path: &str) -> Option<SecretRef> {
        let mut bytes = raw.value.bytes();
        let first = bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
        if first
            && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && !super::mask::is_token(&raw.value)
        {
            return Some(SecretRef::Env(raw.value.clone()));
        }
        self.reader.hide(&raw.at);
        let help = "`env` is the name of the variable, not the secret; a secret that was written here should be revoked";
        self.error(&raw.at, format!("`{path}.env` is not the name of an environment variable"), "", help);
        None
    }

    /// A file that must be there.
    fn input(&mut self, raw: Option<At<String>>, path: &str) -> Option<PathBuf> {
        let raw = raw?;
        let file = self.folder.join(&raw.value);
        if self.depth < Depth::Files {
            return Some(file);
        }
        let problem = match file.metadata() {
            Ok(metadata) if metadata.is_dir() => "this is a folder".to_owned(),
            Ok(_) => return Some(file),
            Err(error) => error.to_string(),
        };
        let help = if raw.value.starts_with('~') {
            "`~` is not expanded: write the whole path".to_owned()
        } else {
            format!("relative paths start at the folder of this file: {}", file.display())
        };
        self.error(&raw.at, format!("`{path}` names a file that cannot be read"), problem, help);
        Some(file)
    }

    /// A file that is made if it is absent, in a folder that must be there.
    fn output(&mut self, raw: Option<At<String>>, path: &str) -> Option<PathBuf> {
        let raw = raw?;
        let file = self.folder.join(&raw.value);
        let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
        let looks = self.depth >= Depth::Files;
        if raw.value.is_empty() || (looks && file.is_dir()) {
            self.error(&raw.at, format!("`{path}` is not a file"), "", "");
        } else if looks && parent.is_some_and(|parent| !parent.is_dir()) {
            let help = "make the folder first; relative paths start at the folder of this file";
            self.error(&raw.at, format!("`{path}` is in a folder that does not exist"), "", help);
        } else if let Some((_, first)) = self.outputs.iter().find(|(other, _)| *other == file) {
            let error = Diagnostic::error(&raw.at, format!("`{path}` is the same file as another"));
            let error = match first {
                Place::Whole => error.label("this is the configuration itself"),
                first => error.also(first, "the other one"),
            };
            self.reader.report(error);
        }
        self.outputs.push((file.clone(), raw.at));
        Some(file)
    }
}

/// The numbered name of an application in messages.
fn application_path(index: usize) -> String {
    format!("application[{index}]")
}
