//! Contacts of an application that this journal has made: set once the collaborators are there, and given back to the owner
//! before those go.

use super::{Belongings, Keeper, contact_key, edited};
use crate::{
    engine::{
        application::{self, Origin},
        device::{Trouble, retry, trouble},
        event::Outcome,
        log::LogError,
    },
    journal::{self, JournalHandle},
    model::ids::AppId,
    plan::{
        self,
        belongings::collaborator::COLLABORATOR,
        contacts,
        finding::{Finding, Kind},
    },
    step::belonging::ItemStep,
    wire,
};

/// What the journal says of contacts that were set.
const SET: &str = "set";

fn meta(app: &AppId) -> String {
    format!("contacts/{app}")
}

/// True when this journal has set contacts of the application: what they are now is the target's.
///
/// # Errors
/// When the journal cannot be read.
pub async fn are_set(journal: &JournalHandle, app: &AppId) -> Result<bool, journal::Error> {
    let key = meta(app);
    Ok(journal.read(move |j| j.meta(&key)).await?.as_deref() == Some(SET))
}

impl Keeper {
    /// Sets the contacts of the plan. A failure stops nothing else.
    ///
    /// # Errors
    /// Only when the journal fails.
    pub async fn set_contacts(&self, belongings: &Belongings) -> Result<(), LogError> {
        for contact in &belongings.contacts {
            let set = self.set_contact(contact).await.map(|()| Outcome::Done);
            self.settle(&contact_key(&self.target_app, contact.0), set)?;
        }
        Ok(())
    }

    async fn set_contact(&self, contact: &(&'static str, String)) -> Result<(), Trouble> {
        let key = contact_key(&self.target_app, contact.0);
        let write = contacts::write(std::slice::from_ref(contact));
        match self.target.update_application(&self.target_app, &write).await {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), wire::Kind::Denied { .. } | wire::Kind::Invalid { .. }) => {
                let text = format!("{key}: {}", plan::refused(Kind::Refused, &error).text);
                return Err(Trouble::Refuse(Finding::new(Kind::Refused, text).fix(format!(
                    "a contact has to be a collaborator: see what became of {}, or set it by hand",
                    contact.1
                ))));
            }
            Err(error) => return Err(trouble(&error)),
        }
        if self.contacts_there().await?.contains(contact) {
            self.journal.set_meta(&meta(&self.target_app), SET).await.map_err(LogError::from)?;
            return Ok(());
        }
        let finding = edited(&key, "it is not the contact after it was set", vec![contact.0.to_owned()]);
        Err(Trouble::Block(finding.fix("set it on the target by hand")))
    }

    async fn contacts_there(&self) -> Result<Vec<(&'static str, String)>, Trouble> {
        let found = self.target.side().application(&self.target_app, &contacts::paths()).await;
        Ok(found.map_err(retry)?.map(|application| contacts::of(&application)).unwrap_or_default())
    }

    /// Rollback: contacts whom this journal has made collaborators make way for the owner, where it has made the application:
    /// a contact cannot be deleted.
    ///
    /// # Errors
    /// Only when the journal fails.
    pub(super) async fn contacts_back(&self) -> Result<(), LogError> {
        let origin = application::origin(&self.journal, &self.target_app).await?;
        let (Some(Origin::Ours), Some(owner)) = (origin, &self.owner) else { return Ok(()) };
        let mut ours = Vec::new();
        for (item, state) in self.log.known(&self.target_app) {
            if item.sort == COLLABORATOR.name && state.touched(ItemStep::Create) {
                ours.push(self.log.sealed(&COLLABORATOR, &item).await?.target_name);
            }
        }
        if ours.is_empty() {
            return Ok(());
        }
        let app: &AppId = &self.target_app;
        let back = async {
            let mut there = self.contacts_there().await?;
            there.retain(|(_, name)| ours.contains(name));
            there.iter_mut().for_each(|(_, name)| *name = owner.to_string());
            if there.is_empty() {
                return Ok(());
            }
            self.target.update_application(app, &contacts::write(&there)).await.map_err(|e| trouble(&e))
        };
        match back.await {
            Ok(()) => Ok(self.journal.set_meta(&meta(app), "").await?),
            Err(trouble) => self.settle(&contact_key(app, "contacts"), Err(trouble)),
        }
    }
}
