//! The way there: decide, create, make API keys.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{GatewayKeeper, LNS_SECRET, MESSAGE, is_done, key_item, known, last_write, redirect};
use crate::{
    engine::{
        device::{Trouble, retry, trouble},
        event::Outcome,
        keys,
        log::LogError,
    },
    map::path,
    model::{belonging::ItemKey, gateway::GatewayKey},
    plan::{
        belongings::{Verdict, rights},
        finding::{Finding, Kind},
        gateways::{self, GatewaysPlan, redirect::Redirect},
        transform::Write,
    },
    proto,
    step::belonging::{ItemEvent, ItemStep},
    tts::keys::{KeyOrder, KeyOwner},
    wire,
};

/// What a server may still be doing with a call whose answer was lost is over by then.
const LOOK_AFTER: Duration = Duration::from_secs(1);

/// Why a gateway is not gone on with.
const INTERRUPTED: &str = "the run was interrupted, and the next one goes on with it";

impl GatewayKeeper<'_> {
    /// Seals what is written, then does all that is left to do; `drain` ends it after the gateway in hand, and before that one
    /// is sent anywhere.
    ///
    /// # Errors
    /// Only when the journal fails.
    pub(super) async fn register(
        &self,
        plan: &GatewaysPlan,
        fresh: &[super::Fresh],
        drain: &CancellationToken,
    ) -> Result<(), LogError> {
        if plan.gateways.is_empty() && plan.findings.iter().any(Finding::blocks) {
            let blocking = plan.findings.iter().filter(|f| f.blocks()).cloned().collect();
            self.ended("[gateways]", Outcome::Refused(blocking));
        }
        for gateway in &plan.gateways {
            let outcome = match gateway.verdict {
                Verdict::Done | Verdict::Equal | Verdict::Differs | Verdict::Leave => Outcome::Already,
                Verdict::Stop => {
                    let all = gateway.findings.iter().chain(&plan.findings);
                    Outcome::Refused(all.filter(|f| f.blocks()).cloned().collect())
                }
                Verdict::Create | Verdict::Resume(_) => continue,
            };
            self.ended(&gateway.id, outcome);
        }
        for (found, decided, verdict) in fresh {
            let item = super::item(&found.id);
            if !matches!(verdict, Verdict::Create | Verdict::Equal) {
                continue;
            }
            let seal = self.log.seal(&decided.target_id, &found.message, &decided.write).await?;
            let event = match verdict {
                Verdict::Equal => ItemEvent::Matched { item, seal },
                _ => ItemEvent::Decided { item, seal, key: false, held: decided.lns_secret },
            };
            self.log.record(&event).await?;
        }
        for (item, _) in known(&self.log) {
            if !is_done(self.job, &self.log, &item).await? {
                let mut result = if drain.is_cancelled() {
                    Err(Trouble::Wait(INTERRUPTED.to_owned()))
                } else {
                    self.one(&item, drain).await
                };
                if let Err(Trouble::Refuse(finding)) = result {
                    result = self.give_up(&item).await.and(Err(Trouble::Refuse(finding)));
                }
                self.settle(&item.id, result)?;
            }
        }
        Ok(())
    }

    /// Another run has the application whose lock this one needs.
    pub(super) fn stopped(&self, plan: &GatewaysPlan, why: &str) {
        for gateway in &plan.gateways {
            if matches!(gateway.verdict, Verdict::Create | Verdict::Resume(_)) {
                self.ended(&gateway.id, Outcome::Stopped(why.to_owned()));
            }
        }
    }

    async fn one(&self, item: &ItemKey, drain: &CancellationToken) -> Result<Outcome, Trouble> {
        let sealed = self.log.sealed_as(MESSAGE, item).await?;
        let id = &sealed.target_name;
        if self.log.state(item).is_open(ItemStep::Remove)
            && self.target.side().gateway(id, &["ids".to_owned()]).await.map_err(retry)?.is_none()
        {
            self.is_gone(item, id).await?;
            let why = "a rollback that was interrupted has deleted it; the next run registers it anew";
            return Err(Trouble::Retry { why: why.to_owned(), maybe_applied: false });
        }
        if !self.log.state(item).has(ItemStep::Create) && self.create(item, id, &sealed.write).await? {
            return Ok(Outcome::Already);
        }
        for kind in &self.job.wishes.api_keys {
            self.make_key(&item.id, id, *kind).await?;
        }
        let state = self.log.state(item);
        // A rollback that was interrupted has taken the key away.
        if state.is_held() && (!state.has(ItemStep::Release) || state.is_open(ItemStep::Remove)) {
            self.give_lns_secret(item, id, &sealed.write).await?;
        }
        if redirect::left(self.job, &self.log, item).await? == Redirect::Set {
            if drain.is_cancelled() {
                return Err(Trouble::Wait(INTERRUPTED.to_owned()));
            }
            self.redirect(item, &sealed).await?;
        }
        Ok(Outcome::Done)
    }

    /// Creates one; true when it is there and not ours.
    async fn create(&self, item: &ItemKey, id: &str, write: &Write) -> Result<bool, Trouble> {
        let look = || async { self.target.side().gateway(id, &gateways::whole()).await };
        let seen = match look().await {
            // Somebody else's: the create is refused.
            Err(error) if matches!(error.kind(), wire::Kind::Denied { .. }) => None,
            seen => seen.map_err(retry)?,
        };
        let begun = self.log.state(item).touched(ItemStep::Create);
        if let (false, Some(there)) = (begun, &seen) {
            let paths = gateways::differences(write, there);
            if !paths.is_empty() {
                let text = format!("gateway {}: {id} came to be on the target meanwhile", item.id);
                return Err(Trouble::Refuse(
                    Finding::new(Kind::IdTaken, text).paths(paths).fix("look at the plan again"),
                ));
            }
            let seal = self.log.state(item).seal().unwrap_or_default();
            self.log.record(&ItemEvent::Matched { item: item.clone(), seal }).await?;
            return Ok(true);
        }
        if seen.is_none() {
            self.log.step(item, ItemStep::Create, false).await?;
            if let Err(error) = self.call(item, id, write).await {
                self.log.failed(item, ItemStep::Create, &error).await?;
                if error.outcome() != wire::Outcome::Unknown {
                    return Err(refused(item, &error));
                }
                // The answer was lost: what is there tells.
                tokio::time::sleep(LOOK_AFTER).await;
            }
        }
        let there = look().await.map_err(retry)?;
        self.is_as_written(item, write, there.as_ref())?;
        if self.log.was_removed(item) {
            self.delete_old_keys(item, id).await?;
        }
        self.log.step(item, ItemStep::Create, true).await?;
        Ok(false)
    }

    /// With a gateway that is restored its API keys come back: those of an earlier life that nobody could delete, since it was
    /// gone from the target by other hands when it was rolled back. This life has made none yet.
    async fn delete_old_keys(&self, item: &ItemKey, id: &str) -> Result<(), Trouble> {
        for kind in [GatewayKey::Lns, GatewayKey::Cups] {
            if self.log.has_seen(&key_item(&item.id, kind)) {
                keys::delete_orphans(&self.target, &self.order(&item.id, id, kind)).await?;
            }
        }
        Ok(())
    }

    /// Creates it; one that an earlier rollback has deleted is restored, since its ID is still taken, and written anew.
    async fn call(&self, item: &ItemKey, id: &str, write: &Write) -> Result<(), wire::Error> {
        if self.log.was_removed(item) {
            self.target.restore_gateway(id).await?;
            if self.target.side().gateway(id, &["ids".to_owned()]).await?.is_some() {
                return self.target.update_gateway(id, &gateways::over_all(write.clone())).await;
            }
        }
        let Some(owner) = &self.job.owner else {
            return Err(self.target.side().is.refuse(
                wire::Kind::Denied { missing: Vec::new() },
                "the configuration names no owner",
                "/ttn.lorawan.v3.GatewayRegistry/Create",
                &wire::Call::create(wire::About::gateway(id)),
            ));
        };
        self.target.create_gateway(id, write, owner).await
    }

    fn is_as_written(
        &self,
        item: &ItemKey,
        write: &Write,
        there: Option<&prost_reflect::DynamicMessage>,
    ) -> Result<(), Trouble> {
        let Some(there) = there else {
            return Err(Trouble::Retry {
                why: "it is not there after it was written".into(),
                maybe_applied: true,
            });
        };
        let paths = gateways::differences(write, there);
        if paths.is_empty() {
            return Ok(());
        }
        let text = format!("gateway {}: the target holds something else than what was written", item.id);
        let finding = Finding::new(Kind::NotEqual, text).paths(paths);
        Err(Trouble::Block(
            finding.fix("see who works on it, then set it right or delete it there, and run again"),
        ))
    }

    /// Makes an API key, unless it is made.
    async fn make_key(&self, gateway: &str, id: &str, kind: GatewayKey) -> Result<(), Trouble> {
        let item = key_item(gateway, kind);
        if self.log.state(&item).key().is_some() {
            return Ok(());
        }
        if self.log.state(&item).seal().is_none() {
            let nothing = proto::message(MESSAGE);
            let write = Write { message: nothing.clone(), paths: Vec::new() };
            let seal = self.log.seal(id, &nothing, &write).await?;
            self.log.record(&ItemEvent::Decided { item: item.clone(), seal, key: true, held: false }).await?;
        }
        // The gateway is there: a key that could not be made waits for the next run.
        keys::make(&self.log, &self.target, &item, &self.order(gateway, id, kind)).await?.map_err(retry)
    }

    /// The API key that is made for a gateway. Its name has at most 50 characters (`rights.proto`): 36 of an ID, 4 and 8.
    pub(super) fn order<'o>(&self, gateway: &str, id: &'o str, kind: GatewayKey) -> KeyOrder<'o> {
        KeyOrder {
            owner: KeyOwner::Gateway(id),
            name: format!("{gateway} {} {}", kind.word(), self.run),
            rights: rights::value(kind.rights().iter().copied()),
            expires_at: None,
        }
    }

    /// Gives CUPS the new LNS API key to hand out.
    async fn give_lns_secret(&self, item: &ItemKey, id: &str, write: &Write) -> Result<(), Trouble> {
        let last = last_write(&self.log, item, write).await?;
        let look = || async { self.target.side().gateway(id, &gateways::whole()).await.map_err(retry) };
        if self.is_as_written(item, &last, look().await?.as_ref()).is_err() {
            let mut but_for_it = look().await?;
            but_for_it.iter_mut().for_each(|there| path::clear(there, LNS_SECRET));
            self.is_as_written(item, write, but_for_it.as_ref())?;
            self.log.step(item, ItemStep::Release, false).await?;
            let only = Write { message: last.message.clone(), paths: vec![LNS_SECRET.to_owned()] };
            if let Err(error) = self.target.update_gateway(id, &only).await {
                self.log.failed(item, ItemStep::Release, &error).await?;
                return Err(retry(error));
            }
            self.is_as_written(item, &last, look().await?.as_ref())?;
        }
        Ok(self.log.step(item, ItemStep::Release, true).await?)
    }

    /// Nothing of it is on the target: the next run decides anew.
    async fn give_up(&self, item: &ItemKey) -> Result<(), Trouble> {
        if !self.log.state(item).touched(ItemStep::Create) {
            self.log.record(&ItemEvent::ItemUndone { item: item.clone() }).await?;
        }
        Ok(())
    }
}

/// What a refused create means.
fn refused(item: &ItemKey, error: &wire::Error) -> Trouble {
    let of = |kind, text: &str| Finding::new(kind, format!("gateway {}: {text}", item.id));
    match error.kind() {
        wire::Kind::AlreadyExists if error.is("pkg/identityserver", "gateway_eui_taken") => {
            let text = "another gateway of the target has its EUI";
            Trouble::Refuse(of(Kind::GatewayEuiTaken, text).fix("look at the plan again"))
        }
        wire::Kind::AlreadyExists => {
            let text = "its ID is taken on the target, by a gateway that is deleted or somebody else's";
            Trouble::Refuse(of(Kind::IdTaken, text).fix("choose another ID with gateways.id.prefix"))
        }
        wire::Kind::Denied { .. } => {
            let text = format!("the target refused it: {}", error.message());
            Trouble::Refuse(
                of(Kind::Rights, &text).fix("use an API key of the owner with the right to create gateways"),
            )
        }
        _ => trouble(error),
    }
}
