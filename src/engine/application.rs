//! The application on the target: created when it is not there, with name, description and attributes.

use std::{collections::BTreeSet, fmt};

use prost_reflect::{DynamicMessage, Value};

use super::lock::LockError;
use crate::{
    journal::{self, JournalHandle},
    map::{diff, mask, path},
    model::ids::AppId,
    plan::{
        belongings::link::LINK,
        contacts::{self, Contacts},
        facts::Wishes,
        finding::{self, Finding},
        ttn_v2,
    },
    proto,
    source::{any::AnySource, ttn_v2::TtnV2Source},
    tts::{Stack, application::Owner},
    wire::{Error, Kind},
};

/// What both sides hold of an application.
#[derive(Clone)]
pub struct ApplicationState {
    source: DynamicMessage,
    /// The source has it no more; an earlier run has begun it.
    gone: bool,
    target: Option<DynamicMessage>,
    source_link: Option<DynamicMessage>,
    target_app: AppId,
    /// The default payload formatters are copied.
    copies_link: bool,
    surroundings: Vec<(&'static str, Option<usize>)>,
    /// What is known of the application besides.
    more: Vec<Finding>,
}

impl fmt::Debug for ApplicationState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApplicationState(for {})", self.target_app)
    }
}

/// What is copied of an application itself.
const COPIED: [&str; 3] = ["name", "description", "attributes"];

/// Contacts as older versions keep them; newer ones make it from those that have an account.
const CONTACT_INFO: &str = "contact_info";

/// Why the source cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub enum ApplicationError {
    /// A call failed.
    #[error(transparent)]
    Call(#[from] Error),
    /// The source has no such application, or the key does not see it.
    #[error("the source has no application {0}, or the API key has no right to see it")]
    Missing(AppId),
}

impl ApplicationState {
    /// Reads both sides. `begun`: an earlier run has begun it, so that it is gone on with also when the source has it no more.
    ///
    /// # Errors
    /// Those of the calls, and a missing source application.
    pub async fn read(
        source: &AnySource,
        target: &Stack,
        wishes: &Wishes,
        begun: bool,
    ) -> Result<Self, ApplicationError> {
        match source {
            AnySource::Tts(source) => Self::of_tts(source.stack(), source.app(), target, wishes, begun).await,
            AnySource::TtnV2(source) => Ok(Self::of_ttn_v2(source, target, wishes).await?),
        }
    }

    /// V2 has payload functions, and nothing else of its own: integrations were made behind its Console.
    async fn of_ttn_v2(source: &TtnV2Source, target: &Stack, wishes: &Wishes) -> Result<Self, Error> {
        let mut more = vec![ttn_v2::integrations()];
        let target_app = &wishes.target_app;
        let copies_link = wishes.copy.contains(LINK.copy);
        let link = match source.application().await {
            Ok(functions) => {
                if copies_link {
                    more.extend(ttn_v2::formatter_findings(&functions, wishes));
                }
                ttn_v2::link(&functions)
            }
            Err(error) if matches!(error.kind(), Kind::Denied { .. }) => {
                more.push(ttn_v2::functions_not_read(&error.hint().unwrap_or_default()));
                None
            }
            Err(error) => return Err(error),
        };
        let mut application = proto::message("Application");
        path::set(&mut application, "name", Value::String(source.app().as_str().to_owned()));
        let there = target.application(target_app, &COPIED.map(str::to_owned)).await?;
        Ok(Self {
            source: application,
            gone: false,
            source_link: link,
            target: there,
            target_app: target_app.clone(),
            copies_link,
            surroundings: Vec::new(),
            more,
        })
    }

    async fn of_tts(
        source: &Stack,
        app: &AppId,
        target: &Stack,
        wishes: &Wishes,
        begun: bool,
    ) -> Result<Self, ApplicationError> {
        let target_app = &wishes.target_app;
        let mut paths: Vec<_> = COPIED.iter().map(|p| (*p).to_owned()).collect();
        paths.extend(contacts::paths());
        let both = paths.clone();
        paths.push(CONTACT_INFO.to_owned());
        let found = source.application(app, &paths).await?;
        let there = target.application(target_app, &both).await?;
        let gone = found.is_none();
        if gone && !begun {
            return Err(ApplicationError::Missing(app.clone()));
        }
        let copies_link = wishes.copy.contains(LINK.copy);
        // What is copied is read with all else that is (`belongings`).
        let source_link = if gone || copies_link { None } else { source.link(app, &link_paths()).await? };
        let surroundings = if gone { Vec::new() } else { source.surroundings(app, &wishes.copy).await? };
        Ok(Self {
            source: found.unwrap_or_else(|| proto::message("Application")),
            gone,
            source_link,
            target: there,
            target_app: target_app.clone(),
            copies_link,
            surroundings,
            more: Vec::new(),
        })
    }

    /// True when the source has the application no more.
    pub fn source_is_gone(&self) -> bool {
        self.gone
    }

    /// True when the target does not have the application.
    pub fn is_new(&self) -> bool {
        self.target.is_none()
    }

    /// The link that a source of V2 would have.
    pub fn link(&self) -> Option<&DynamicMessage> {
        self.source_link.as_ref()
    }

    fn has_link(&self) -> bool {
        self.source_link.as_ref().is_some_and(|l| !path::stored(l).is_empty())
    }

    /// What becomes of its contacts. `ours`: this journal has made the application on the target, or will.
    pub fn contacts(&self, ours: bool, owner: Option<&Owner>, wishes: &Wishes) -> Contacts {
        let owner = owner.map(ToString::to_string).unwrap_or_default();
        contacts::contacts(&self.source, self.target.as_ref(), (ours || self.is_new(), &owner), wishes)
    }

    /// What is worth saying about the application.
    pub fn findings(&self) -> Vec<Finding> {
        let mut findings = self.more.clone();
        if self.gone {
            let text = "the source does not have the application any more: what was begun is gone on with";
            findings.push(Finding::new(finding::Kind::LeftBehind, text));
            return findings;
        }
        if let Some(target) = &self.target {
            let differences =
                diff::diff(&path::project(&self.source, &COPIED), &path::project(target, &COPIED));
            findings
                .extend(differs("the application is on the target already and stays as it is", differences));
        }
        if !self.copies_link && self.has_link() {
            let text = "default payload formatters are not copied (application.copy)";
            findings.push(Finding::new(finding::Kind::NotCopied, text).fix("set them on the target by hand"));
        }
        if path::has(&self.source, CONTACT_INFO) && contacts::of(&self.source).is_empty() {
            let text = "the source's version keeps contacts as texts, which are not copied";
            let finding = Finding::new(finding::Kind::NotCopied, text).paths([CONTACT_INFO]);
            findings.push(finding.fix("set them on the target by hand"));
        }
        for (what, count) in &self.surroundings {
            findings.extend(
                match count {
                    Some(0) => None,
                    Some(count) => Some(format!("{what} are not copied: {count} at the source")),
                    None => Some(format!("{what} were not looked at: the API key has no right to")),
                }
                .map(|text| {
                    Finding::new(finding::Kind::NotCopied, text).fix("recreate them on the target by hand")
                }),
            );
        }
        findings
    }

    /// Creates the application when it is not there.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn create(
        &self,
        target: &Stack,
        owner: Option<&Owner>,
        journal: &JournalHandle,
    ) -> Result<(), CarryError> {
        if let (true, Some(owner)) = (self.is_new(), owner) {
            self.create_or_restore(target, owner, journal).await?;
        }
        Ok(())
    }

    /// Creates the application, or restores the one that a rollback of ours has deleted: a deleted ID stays taken.
    async fn create_or_restore(
        &self,
        target: &Stack,
        owner: &Owner,
        journal: &JournalHandle,
    ) -> Result<(), CarryError> {
        let app = &self.target_app;
        let was_ours = matches!(origin(journal, app).await?, Some(Origin::Ours | Origin::Removed));
        // Before the call: who made it must be known whatever becomes of the answer.
        set_origin(journal, app, Origin::Ours).await?;
        let mut message = path::project(&self.source, &COPIED);
        path::set(&mut message, "ids.application_id", Value::String(app.as_str().to_owned()));
        match target.create_application(app, message, owner).await {
            Err(error) if was_ours && *error.kind() == Kind::AlreadyExists => {
                Ok(target.restore_application(app).await?)
            }
            Err(error) if *error.kind() == Kind::AlreadyExists => {
                set_origin(journal, app, Origin::Others).await?;
                Err(error.into())
            }
            created => Ok(created?),
        }
    }
}

/// Why an application cannot be made ready.
#[derive(Debug, thiserror::Error)]
pub enum CarryError {
    /// A call failed, or another run is in the way.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The journal failed: the run ends.
    #[error(transparent)]
    Journal(#[from] journal::Error),
}

impl From<Error> for CarryError {
    fn from(error: Error) -> Self {
        Self::Lock(error.into())
    }
}

/// Who made an application of the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A run of this journal.
    Ours,
    /// A run of this journal, and a rollback has deleted it.
    Removed,
    /// Somebody else.
    Others,
}

impl Origin {
    const ALL: [(Self, &'static str); 3] =
        [(Self::Ours, "ours"), (Self::Removed, "removed"), (Self::Others, "others")];

    /// How its names in the journal begin; the rest is the ID on the target.
    pub const PLACE: &'static str = "application/";

    /// The one with this word in the journal.
    pub fn by_word(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, w)| *w == word).map(|(o, _)| *o)
    }

    fn word(self) -> &'static str {
        Self::ALL.iter().find(|(o, _)| *o == self).map_or("", |(_, word)| word)
    }
}

fn origin_key(app: &AppId) -> String {
    format!("{}{app}", Origin::PLACE)
}

/// What the journal knows of who made an application.
///
/// # Errors
/// When the journal cannot be read.
pub async fn origin(journal: &JournalHandle, app: &AppId) -> Result<Option<Origin>, journal::Error> {
    let key = origin_key(app);
    let word = journal.read(move |j| j.meta(&key)).await?;
    Ok(word.and_then(|word| Origin::by_word(&word)))
}

/// Notes who made an application.
///
/// # Errors
/// When the journal cannot be written.
pub async fn set_origin(journal: &JournalHandle, app: &AppId, origin: Origin) -> Result<(), journal::Error> {
    journal.set_meta(&origin_key(app), origin.word()).await
}

/// Deletes an application of ours unless somebody has put something else into it: devices or integrations. `false` when
/// it stays.
///
/// # Errors
/// Those of the calls.
pub async fn remove(target: &Stack, app: &AppId) -> Result<bool, Error> {
    if target.application(app, &["created_at".to_owned()]).await?.is_none() {
        return Ok(true);
    }
    let devices = target.list_devices(app, &["ids".to_owned()]).await?;
    let around = target.surroundings(app, &BTreeSet::new()).await?;
    // Who owns it is a collaborator; every other thing was put there by somebody else.
    let others = |(what, count): &(&str, Option<usize>)| {
        count.is_none_or(|count| count > usize::from(*what == "collaborators"))
    };
    if !devices.is_empty() || around.iter().any(others) {
        return Ok(false);
    }
    target.delete_application(app).await?;
    Ok(true)
}

fn link_paths() -> Vec<String> {
    mask::leaves("As/GetLink").into_iter().map(str::to_owned).collect()
}

fn differs(text: &str, differences: Vec<diff::Difference>) -> Option<Finding> {
    (!differences.is_empty()).then(|| {
        Finding::new(finding::Kind::ApplicationDiffers, text)
            .paths(differences.into_iter().map(|d| d.path))
            .fix("change them on the target by hand where they should be as at the source")
    })
}
