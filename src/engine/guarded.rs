//! A source and a target whose writes wait for the lock, and what a run does with the lock of a job. Reads pass.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{
    event::{Outcome, Sink, Summary},
    lock::{Lock, LockError, Place, Terms},
    run::{Job, Stop},
};
use crate::{
    map::ttn_v2::V2Device,
    model::{
        device::{Component, Record},
        ids::{AppId, DeviceId, Eui64},
    },
    plan::{
        facts::TargetFacts,
        transform::{Found, Write},
    },
    source::{Source, Turn},
    target::Target,
    tts::{
        Stack,
        application::Owner,
        belongings::Which,
        keys::{KeyOrder, KeyOwner, NewKey},
    },
    wire::{self, Error},
};

/// How long the lock is given back for once the user wants to be gone.
const PARTING: Duration = Duration::from_secs(5);

/// Where the lock of the source's application is. V2 has no place for a marker: the target's keeps runs of one pair of
/// applications apart.
fn source_of(job: &Job) -> Option<Place> {
    job.source.tts().map(|source| Place {
        side: wire::Side::Source,
        stack: source.stack().clone(),
        app: source.app().clone(),
        exists: true,
    })
}

/// Where the lock of the target's application is.
fn target_of(job: &Job, exists: bool) -> Place {
    let (stack, app) = (job.target.stack().clone(), job.target.app().clone());
    Place { side: wire::Side::Target, stack, app, exists }
}

impl Lock {
    /// The lock of both applications of a job. `exists`: the target has its application already.
    pub fn of(job: &Job, exists: bool, terms: &Terms, events: &Sink, abort: &CancellationToken) -> Self {
        let places = source_of(job).into_iter().chain([target_of(job, exists)]);
        Self::new(terms.clone(), places.collect(), events.clone(), abort.clone())
    }

    /// The lock of the application on the target, when that of the source is gone.
    pub fn of_target(
        job: &Job,
        exists: bool,
        terms: &Terms,
        events: &Sink,
        abort: &CancellationToken,
    ) -> Self {
        Self::new(terms.clone(), vec![target_of(job, exists)], events.clone(), abort.clone())
    }

    /// As [`Lock::of`], of those of the two applications that are there. `exists`: the target has its application.
    pub fn of_those_there(
        job: &Job,
        exists: bool,
        terms: &Terms,
        events: &Sink,
        abort: &CancellationToken,
    ) -> Self {
        let places = source_of(job).into_iter().chain(exists.then(|| target_of(job, true)));
        Self::new(terms.clone(), places.collect(), events.clone(), abort.clone())
    }

    /// For the work on gateways, under the lock of those applications of the first job that are there (see
    /// [`Lock::of_those_there`]). Without a job there is none that another run could have, and the journal's own lock has to do.
    pub fn for_gateways(
        first: Option<(&Job, bool)>,
        terms: &Terms,
        events: &Sink,
        abort: &CancellationToken,
    ) -> Self {
        match first {
            Some((job, exists)) => Self::of_those_there(job, exists, terms, events, abort),
            None => Self::new(terms.clone(), Vec::new(), events.clone(), abort.clone()),
        }
    }

    /// The outcome of a device, with what is wrong with the lock where that has stopped it.
    pub fn outcome(&self, outcome: Outcome, summary: &mut Summary) -> Outcome {
        match (self.trouble(), &outcome) {
            (Some(why), Outcome::Stopped(_)) => {
                summary.locked |= why.is_refusal();
                Outcome::Stopped(why.to_string())
            }
            _ => outcome,
        }
    }

    /// Gives the applications back; not for ever when the user wants to be gone. A lock that was lost ends the whole run.
    pub async fn give_back(&self, stop: &Stop) {
        let patience = async {
            stop.abort.cancelled().await;
            tokio::time::sleep(PARTING).await;
        };
        tokio::select! {
            () = self.release() => {}
            () = patience => self.may_be_left(),
        }
        if self.trouble().is_some_and(|t| matches!(t, LockError::Lost { .. })) {
            [&stop.drain, &stop.abort].into_iter().for_each(CancellationToken::cancel);
        }
    }
}

/// One side behind the lock.
#[derive(Debug, Clone)]
pub struct Guarded<P> {
    place: P,
    lock: Lock,
}

impl<P> Guarded<P> {
    /// Puts a side behind the lock.
    pub fn new(place: P, lock: Lock) -> Self {
        Self { place, lock }
    }
}

/// What belongs to an application, on a side behind the lock.
impl Guarded<Stack> {
    /// The side, to read from.
    pub fn side(&self) -> &Stack {
        &self.place
    }

    /// As [`Stack::update_application`].
    ///
    /// # Errors
    /// Those of the call.
    pub async fn update_application(&self, app: &AppId, write: &Write) -> Result<(), Error> {
        self.lock.before_write().await;
        self.place.update_application(app, write).await
    }

    /// As [`Stack::set_belonging`].
    ///
    /// # Errors
    /// Those of the call.
    pub async fn set_belonging(&self, which: Which<'_>, write: &Write) -> Result<(), Error> {
        self.lock.before_write().await;
        self.place.set_belonging(which, write).await
    }

    /// As [`Stack::delete_belonging`].
    ///
    /// # Errors
    /// Those of the call.
    pub async fn delete_belonging(&self, which: Which<'_>) -> Result<(), Error> {
        self.lock.before_write().await;
        self.place.delete_belonging(which).await
    }

    /// As [`Stack::create_key`].
    ///
    /// # Errors
    /// Those of the call.
    pub async fn create_key(&self, order: &KeyOrder<'_>) -> Result<NewKey, Error> {
        self.lock.before_write().await;
        self.place.create_key(order).await
    }

    /// As [`Stack::create_gateway`].
    ///
    /// # Errors
    /// Those of the call.
    pub async fn create_gateway(&self, id: &str, write: &Write, owner: &Owner) -> Result<(), Error> {
        self.lock.before_write().await;
        self.place.create_gateway(id, write, owner).await
    }

    /// As [`Stack::update_gateway`].
    ///
    /// # Errors
    /// Those of the call.
    pub async fn update_gateway(&self, id: &str, write: &Write) -> Result<(), Error> {
        self.lock.before_write().await;
        self.place.update_gateway(id, write).await
    }

    /// As [`Stack::restore_gateway`].
    ///
    /// # Errors
    /// Those of the call.
    pub async fn restore_gateway(&self, id: &str) -> Result<(), Error> {
        self.lock.before_write().await;
        self.place.restore_gateway(id).await
    }

    /// As [`Stack::delete_gateway`].
    ///
    /// # Errors
    /// Those of the call.
    pub async fn delete_gateway(&self, id: &str) -> Result<(), Error> {
        self.lock.before_write().await;
        self.place.delete_gateway(id).await
    }

    /// As [`Stack::delete_key`].
    ///
    /// # Errors
    /// Those of the call.
    pub async fn delete_key(&self, owner: KeyOwner<'_>, id: &str) -> Result<(), Error> {
        self.lock.before_write().await;
        self.place.delete_key(owner, id).await
    }
}

impl<S: Source> Source for Guarded<S> {
    async fn list(&self) -> Result<Vec<Found>, Error> {
        self.place.list().await
    }

    async fn read(&self, device: &DeviceId, listed: Found) -> Result<Found, Error> {
        self.place.read(device, listed).await
    }

    async fn look(&self, device: &DeviceId) -> Result<Found, Error> {
        self.place.look(device).await
    }

    async fn first_look(&self, device: &DeviceId) -> Result<Found, Error> {
        self.place.first_look(device).await
    }

    async fn turn(&self) -> Turn {
        // What is read in a turn is about to be written: the lock must not take its time in between.
        self.lock.before_write().await;
        self.place.turn().await
    }

    async fn read_in(&self, turn: &Turn, device: &DeviceId) -> Result<Found, Error> {
        self.place.read_in(turn, device).await
    }

    async fn write_whole(&self, turn: &Turn, device: &DeviceId, v2: &V2Device) -> Result<(), Error> {
        self.lock.before_write().await;
        self.place.write_whole(turn, device, v2).await
    }

    async fn schedule_downlinks(&self, device: &DeviceId, on: Option<bool>) -> Result<(), Error> {
        self.lock.before_write().await;
        self.place.schedule_downlinks(device, on).await
    }

    async fn clear(&self, device: &DeviceId, component: Component) -> Result<(), Error> {
        self.lock.before_write().await;
        self.place.clear(device, component).await
    }

    async fn facts(&self) -> Result<TargetFacts, Error> {
        self.place.facts().await
    }

    async fn recreate(&self, device: &DeviceId, component: Component, write: &Write) -> Result<(), Error> {
        self.lock.before_write().await;
        self.place.recreate(device, component, write).await
    }

    async fn update(&self, device: &DeviceId, component: Component, write: &Write) -> Result<(), Error> {
        self.lock.before_write().await;
        self.place.update(device, component, write).await
    }

    async fn holder(&self, join_eui: Eui64, dev_eui: Eui64) -> Result<Option<(AppId, DeviceId)>, Error> {
        self.place.holder(join_eui, dev_eui).await
    }
}

impl<T: Target> Target for Guarded<T> {
    async fn read(
        &self,
        device: &DeviceId,
        component: Component,
        paths: &[String],
    ) -> Result<Option<Record>, Error> {
        self.place.read(device, component, paths).await
    }

    async fn create(&self, device: &DeviceId, component: Component, write: &Write) -> Result<(), Error> {
        self.lock.before_write().await;
        self.place.create(device, component, write).await
    }

    async fn update(&self, device: &DeviceId, component: Component, write: &Write) -> Result<(), Error> {
        self.lock.before_write().await;
        self.place.update(device, component, write).await
    }

    async fn remove(&self, device: &DeviceId, component: Component) -> Result<(), Error> {
        self.lock.before_write().await;
        self.place.remove(device, component).await
    }

    async fn holder(&self, join_eui: Eui64, dev_eui: Eui64) -> Result<Option<(AppId, DeviceId)>, Error> {
        self.place.holder(join_eui, dev_eui).await
    }
}
