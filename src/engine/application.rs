//! The application on the target: created when it is not there, with name, description, attributes and its default
//! payload formatters.

use std::fmt;

use prost_reflect::{DynamicMessage, Value};

use crate::{
    map::{diff, mask, path},
    model::ids::AppId,
    plan::finding::{Finding, Kind},
    tts::{Stack, application::Owner},
    wire::Error,
};

/// What both sides hold of an application.
#[derive(Clone)]
pub struct ApplicationState {
    source: DynamicMessage,
    target: Option<DynamicMessage>,
    source_link: Option<DynamicMessage>,
    target_link: Option<DynamicMessage>,
    target_app: AppId,
    surroundings: Vec<(&'static str, Option<usize>)>,
}

impl fmt::Debug for ApplicationState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApplicationState(for {})", self.target_app)
    }
}

/// What is copied of an application itself.
const COPIED: &[&str] = &["name", "description", "attributes"];

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
    /// Reads both sides.
    ///
    /// # Errors
    /// Those of the calls, and a missing source application.
    pub async fn read(
        source: &Stack,
        app: &AppId,
        target: &Stack,
        target_app: &AppId,
    ) -> Result<Self, ApplicationError> {
        let mut paths: Vec<_> = COPIED.iter().map(|p| (*p).to_owned()).collect();
        paths.extend(["contact_info", "administrative_contact", "technical_contact"].map(str::to_owned));
        let found = source.application(app, &paths).await?;
        let link = mask::leaves("As/GetLink").into_iter().map(str::to_owned).collect::<Vec<_>>();
        let there = target.application(target_app, &paths[..COPIED.len()]).await?;
        Ok(Self {
            source: found.ok_or_else(|| ApplicationError::Missing(app.clone()))?,
            source_link: source.link(app, &link).await?,
            target_link: if there.is_some() { target.link(target_app, &link).await? } else { None },
            target: there,
            target_app: target_app.clone(),
            surroundings: source.surroundings(app).await?,
        })
    }

    /// True when the target does not have the application.
    pub fn is_new(&self) -> bool {
        self.target.is_none()
    }

    /// True when the default payload formatters are to be set on the target.
    pub fn sets_link(&self) -> bool {
        self.source_link.as_ref().is_some_and(|l| !path::stored(l).is_empty()) && self.target_link.is_none()
    }

    /// What is worth saying about the application.
    pub fn findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        if let Some(target) = &self.target {
            let differences =
                diff::diff(&path::project(&self.source, COPIED), &path::project(target, COPIED));
            findings
                .extend(differs("the application is on the target already and stays as it is", differences));
        }
        if let (Some(ours), Some(theirs)) = (&self.source_link, &self.target_link) {
            let paths: Vec<_> = path::stored(ours);
            let differences = diff::diff(&path::project(ours, &paths), &path::project(theirs, &paths));
            findings.extend(differs(
                "the default payload formatters of the target stay as they are",
                differences,
            ));
        }
        for contact in ["contact_info", "administrative_contact", "technical_contact"] {
            if path::has(&self.source, contact) {
                findings.push(
                    Finding::new(Kind::NotCopied, "contacts name people of the source")
                        .paths([contact])
                        .fix("set them on the target by hand"),
                );
            }
        }
        for (what, count) in &self.surroundings {
            findings.extend(
                match count {
                    Some(0) => None,
                    Some(count) => Some(format!("{what} are not copied yet: {count} at the source")),
                    None => Some(format!("{what} were not looked at: the API key has no right to")),
                }
                .map(|text| Finding::new(Kind::NotCopied, text).fix("recreate them on the target by hand")),
            );
        }
        findings
    }

    /// Creates the application and sets its link, as far as they are not there.
    ///
    /// # Errors
    /// Those of the calls.
    pub async fn carry_over(&self, target: &Stack, owner: Option<&Owner>) -> Result<(), Error> {
        if let (true, Some(owner)) = (self.is_new(), owner) {
            let mut message = path::project(&self.source, COPIED);
            let id = self.target_app.as_str().to_owned();
            path::set(&mut message, "ids.application_id", Value::String(id));
            target.create_application(&self.target_app, message, owner).await?;
        }
        if self.sets_link()
            && let Some(link) = &self.source_link
        {
            let paths: Vec<_> = path::stored(link)
                .iter()
                .filter_map(|p| mask::cover(mask::allowed("As/SetLink"), p))
                .map(str::to_owned)
                .collect();
            let message = path::project(link, &paths);
            target.set_link(&self.target_app, message, &paths).await?;
        }
        Ok(())
    }
}

fn differs(text: &str, differences: Vec<diff::Difference>) -> Option<Finding> {
    (!differences.is_empty()).then(|| {
        Finding::new(Kind::ApplicationDiffers, text)
            .paths(differences.into_iter().map(|d| d.path))
            .fix("change them on the target by hand where they should be as at the source")
    })
}
