//! The way there: decide, create, release.

use std::{collections::BTreeSet, time::Duration};

use super::{Belongings, Keeper, edited, sort_of};
use crate::{
    engine::{
        device::{Trouble, retry, trouble},
        event::{DeviceName, Outcome},
        log::{DeviceLog, LogError},
    },
    journal::DeviceKey,
    map::path,
    model::{belonging::ItemKey, device::Component, ids::DeviceId},
    plan::{
        self,
        belongings::{self, Decided, Facts, Found, Ids, Pause, Sort, Verdict, package},
        finding::{Finding, Kind},
        transform::Write,
    },
    step::{
        Step,
        belonging::{ItemEvent, ItemStep},
    },
    wire,
};

/// What a server may still be doing with a call whose answer was lost is over by then.
const LOOK_AFTER: Duration = Duration::from_secs(1);

impl Keeper {
    /// Seals what is copied, and what it becomes, before any of it is touched; what is there is noted.
    ///
    /// # Errors
    /// When the journal fails.
    pub async fn decide(&self, belongings: &Belongings) -> Result<(), LogError> {
        if let Some(packages) = &belongings.packages {
            self.packages.set(Some(packages.clone())).ok();
        }
        // What an earlier run only sealed is decided anew.
        let fresh = belongings.fresh.iter().map(|(found, ..)| &found.key);
        for item in fresh.chain(&belongings.vanished) {
            if self.log.state(item).seal().is_some() {
                self.log.record(&ItemEvent::ItemUndone { item: item.clone() }).await?;
            }
        }
        for (found, decided, verdict) in &belongings.fresh {
            let item = found.key.clone();
            if !matches!(verdict, Verdict::Create | Verdict::Equal) {
                continue;
            }
            let seal = self.log.seal(&found.target_name, &found.message, &decided.write).await?;
            let event = if *verdict == Verdict::Equal {
                self.ended(&item, Outcome::Already);
                ItemEvent::Matched { item, seal }
            } else {
                let held = self.is_held(found, decided);
                ItemEvent::Decided { item, seal, key: decided.wants_key, held }
            };
            self.log.record(&event).await?;
        }
        Ok(())
    }

    /// True for one that is created paused, and released later. One that the source has paused stays so.
    fn is_held(&self, found: &Found, decided: &Decided) -> bool {
        let Some(Pause::Flag(pause)) = found.sort.pause else { return false };
        self.wishes.paused && !path::flag(&decided.write.message, pause)
    }

    /// Creates what the application has, before its first device; but what begins by itself, if it is to wait.
    ///
    /// # Errors
    /// Only when the journal fails.
    pub async fn before_devices(&self) -> Result<(), LogError> {
        for (item, state) in self.log.known(&self.target_app) {
            let defers = self.wishes.paused && Sort::by_name(&item.sort).is_some_and(|sort| sort.defers);
            if item.device.is_empty() && !state.is_matched() && !state.has(ItemStep::Create) && !defers {
                self.create_and_settle(&item).await?;
            }
        }
        Ok(())
    }

    /// Creates what this device has, once it is on the target; releases what waited for the first one.
    ///
    /// # Errors
    /// Only when the journal fails.
    pub async fn after_device(&self, name: &DeviceName) -> Result<(), LogError> {
        let waiting = self.log.waiting(&self.target_app, name.device.as_str());
        if waiting.is_empty() {
            return Ok(());
        }
        let key = DeviceKey { application: name.app.clone(), device: name.device.clone() };
        let log = DeviceLog::open(self.journal.clone(), key).await?;
        let state = log.state();
        if state.undo().is_some() {
            return Ok(());
        }
        let made = |c| state.was_equal(c);
        let no_as = state.recipe().is_some_and(|recipe| !recipe.create.contains(&Component::As));
        if made(Component::As) || (no_as && state.is_finished()) {
            for (item, item_state) in waiting {
                if !item.device.is_empty() && !item_state.has(ItemStep::Create) {
                    self.create_and_settle(&item).await?;
                }
            }
        }
        if made(Component::Ns) && state.has(Step::Create(Component::Ns)) && !state.target_is_muted() {
            self.live.get_or_try_init(|| self.release()).await?;
        }
        Ok(())
    }

    /// The first device is live: what waited for it begins.
    async fn release(&self) -> Result<(), LogError> {
        for (item, state) in self.log.known(&self.target_app) {
            if !item.device.is_empty() || state.is_there() {
                continue;
            }
            if state.has(ItemStep::Create) {
                let released = self.release_one(&item).await.map(|()| Outcome::Done);
                self.settle(&item, released)?;
            } else if Sort::by_name(&item.sort).is_some_and(|sort| sort.defers) {
                self.create_and_settle(&item).await?;
            }
        }
        Ok(())
    }

    /// What is left to do once the devices are: for those that an earlier run moved, and what waits.
    ///
    /// # Errors
    /// Only when the journal fails.
    pub async fn after_devices(&self, done: impl Iterator<Item = DeviceName>) -> Result<(), LogError> {
        let open = || self.log.known(&self.target_app).into_iter().filter(|(_, state)| !state.is_there());
        let devices: BTreeSet<_> = open().map(|(item, _)| item.device).collect();
        // Under no device: what the application has.
        let held = devices.contains("");
        for name in done {
            if devices.contains(name.device.as_str()) || (held && self.live.get().is_none()) {
                self.after_device(&name).await?;
            }
        }
        for (item, _) in open() {
            if !self.has_failed(&item) {
                let what = if item.device.is_empty() { HELD } else { "its device is not on the target yet" };
                self.ended(&item, Outcome::Waiting(what.to_owned()));
            }
        }
        Ok(())
    }

    async fn create_and_settle(&self, item: &ItemKey) -> Result<(), LogError> {
        let mut result = self.create(item).await;
        if let Err(Trouble::Refuse(finding)) = result {
            result = self.give_up(item).await.and(Err(Trouble::Refuse(finding)));
        }
        self.settle(item, result)
    }

    /// Creates one, or finds that it is there.
    async fn create(&self, item: &ItemKey) -> Result<Outcome, Trouble> {
        let sort = sort_of(item)?;
        let mut sealed = self.log.sealed(sort, item).await?;
        let begun = self.log.state(item).made().next().is_some();
        let which = self.there(sort, item, &sealed.target_name);
        let mut seen = self.target.side().belonging(which).await.map_err(retry)?;
        if let (false, Some(there)) = (begun, &seen) {
            return self.find(item, sort, there).await;
        }
        self.has_its_package(item, sort, &sealed.found).await?;
        if sort.ids == Ids::Key && seen.is_none() {
            self.forget_key(item).await?;
        }
        self.make_key(item, sort).await?;
        if sort.ids == Ids::Key {
            sealed = self.log.sealed(sort, item).await?;
            // Under the name with which it was made it waits for its own.
            let made_as = self.log.key_name(item).await?;
            seen = seen.filter(|there| path::string(there, "name") != made_as);
        }
        let which = self.there(sort, item, &sealed.target_name);
        let write = self.first_write(item, sort, &sealed.write).await?;
        if let Some(there) = &seen {
            let paths = belongings::differences(sort, &write, there);
            if !paths.is_empty() {
                return Err(Trouble::Block(not_ours(item, paths)));
            }
        } else {
            self.log.step(item, ItemStep::Create, false).await?;
            if let Err(error) = self.target.set_belonging(which, &write).await {
                self.log.failed(item, ItemStep::Create, &error).await?;
                if matches!(error.kind(), wire::Kind::Denied { .. }) {
                    return Err(Trouble::Refuse(denied(item, &error)));
                }
                if error.outcome() != wire::Outcome::Unknown {
                    return Err(trouble(&error));
                }
                // The answer was lost: what is there tells.
                tokio::time::sleep(LOOK_AFTER).await;
            }
            let there = self.target.side().belonging(which).await.map_err(retry)?;
            let Some(there) = there else {
                return Err(Trouble::Retry {
                    why: "it is not there after it was set".into(),
                    maybe_applied: true,
                });
            };
            let paths = belongings::differences(sort, &write, &there);
            if !paths.is_empty() {
                return Err(Trouble::Block(not_ours(item, paths)));
            }
        }
        self.log.step(item, ItemStep::Create, true).await?;
        Ok(if self.log.state(item).is_there() { Outcome::Done } else { Outcome::Waiting(HELD.to_owned()) })
    }

    /// Something is there that no run of this journal has made.
    async fn find(
        &self,
        item: &ItemKey,
        sort: &'static Sort,
        there: &prost_reflect::DynamicMessage,
    ) -> Result<Outcome, Trouble> {
        let sealed = self.log.sealed(sort, item).await?;
        let wants_key = self.log.state(item).wants_key();
        let found = Found { key: item.clone(), sort, target_name: sealed.target_name, message: sealed.found };
        let decided = Decided { write: sealed.write, wants_key, findings: Vec::new() };
        match belongings::there(&found, &decided, there) {
            (Verdict::Equal, _) => {
                let seal = self.log.state(item).seal().unwrap_or_default();
                self.log.record(&ItemEvent::Matched { item: item.clone(), seal }).await?;
                Ok(Outcome::Already)
            }
            (_, findings) => {
                let text = format!("{item}: it is on the target already, differs, and stays as it is");
                let finding = Finding::new(Kind::IntegrationDiffers, text);
                Err(Trouble::Refuse(findings.into_iter().next().unwrap_or(finding)))
            }
        }
    }

    /// Where the application was yet to be created, the plan could not ask for its packages.
    async fn has_its_package(
        &self,
        item: &ItemKey,
        sort: &Sort,
        found: &prost_reflect::DynamicMessage,
    ) -> Result<(), Trouble> {
        if sort.copy != package::DEFAULT.copy {
            return Ok(());
        }
        let ask = || self.target.side().packages(&self.target_app);
        let packages = self.packages.get_or_try_init(ask).await.map_err(retry)?.clone();
        let facts = Facts { packages, ..Facts::default() };
        let finding = package::unknown_package(&path::string(found, "package_name"), &facts);
        match finding.map(|finding| finding.allow(&self.wishes.allowed)) {
            Some(mut finding) if finding.blocks() => {
                finding.text = format!("{item}: {}", finding.text);
                Err(Trouble::Refuse(finding))
            }
            _ => Ok(()),
        }
    }

    /// Nothing of it is on the target but perhaps its key: that goes, and the next run decides anew.
    async fn give_up(&self, item: &ItemKey) -> Result<(), Trouble> {
        if self.log.state(item).touched(ItemStep::Create) {
            return Ok(());
        }
        self.remove_key(item).await?;
        if item.device.is_empty() {
            self.log.record(&ItemEvent::ItemUndone { item: item.clone() }).await?;
        }
        Ok(())
    }

    /// What is written first: with its key, and paused if it is held.
    async fn first_write(&self, item: &ItemKey, sort: &Sort, write: &Write) -> Result<Write, Trouble> {
        let write = self.last_write(item, sort, write).await?;
        Ok(if self.log.state(item).is_held() { belongings::paused(sort, write) } else { write })
    }

    /// What is there at the end: with its key.
    pub(super) async fn last_write(
        &self,
        item: &ItemKey,
        sort: &Sort,
        write: &Write,
    ) -> Result<Write, Trouble> {
        let key = self.log.key(item).await?;
        Ok(belongings::with_key(sort, write.clone(), key.as_ref().map(|key| key.reveal())))
    }

    /// Takes one out of its pause.
    async fn release_one(&self, item: &ItemKey) -> Result<(), Trouble> {
        let sort = sort_of(item)?;
        let sealed = self.log.sealed(sort, item).await?;
        let which = self.there(sort, item, &sealed.target_name);
        let (first, last) = (
            self.first_write(item, sort, &sealed.write).await?,
            self.last_write(item, sort, &sealed.write).await?,
        );
        let look = || async { self.target.side().belonging(which).await.map_err(retry) };
        let there = look().await?.ok_or_else(|| Trouble::Block(not_ours(item, vec!["it is gone".into()])))?;
        if !belongings::differences(sort, &last, &there).is_empty() {
            let paths = belongings::differences(sort, &first, &there);
            if !paths.is_empty() {
                return Err(Trouble::Block(not_ours(item, paths)));
            }
            self.log.step(item, ItemStep::Release, false).await?;
            let write = belongings::unpausing(sort, &last);
            if let Err(error) = self.target.set_belonging(which, &write).await {
                self.log.failed(item, ItemStep::Release, &error).await?;
                return Err(trouble(&error));
            }
            let paths = match look().await? {
                Some(there) => belongings::differences(sort, &last, &there),
                None => vec!["it is gone".to_owned()],
            };
            if !paths.is_empty() {
                return Err(Trouble::Block(not_ours(item, paths)));
            }
        }
        Ok(self.log.step(item, ItemStep::Release, true).await?)
    }

    /// The devices of this journal, as they are named.
    pub(super) fn device(&self, device: &DeviceId) -> DeviceName {
        DeviceName { app: self.app.clone(), device: device.clone() }
    }
}

/// What one waits for that was created paused.
pub(super) const HELD: &str =
    "it is paused until the first device is live on the target (integrations.paused)";

/// Where the application was yet to be created, the plan could not ask for our rights on it; nor do servers tell all of them.
pub(super) fn denied(item: &ItemKey, error: &wire::Error) -> Finding {
    let text = format!("{item}: {}", plan::refused(Kind::Rights, error).text);
    Finding::new(Kind::Rights, text)
        .fix("use a key of the target that has these rights, or do it by hand there")
}

fn not_ours(item: &ItemKey, paths: Vec<String>) -> Finding {
    edited(item, "the target holds something else than what was written", paths)
        .fix("set it back there to what was written, or delete it there, then run again")
}
