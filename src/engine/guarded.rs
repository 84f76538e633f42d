//! A source and a target whose writes wait for the lock. Reads pass.

use super::lock::Lock;
use crate::{
    model::{
        device::{Component, Record},
        ids::{AppId, DeviceId, Eui64},
    },
    plan::transform::{Found, Write},
    source::Source,
    target::Target,
    wire::Error,
};

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

impl<S: Source> Source for Guarded<S> {
    async fn list(&self) -> Result<Vec<Found>, Error> {
        self.place.list().await
    }

    async fn read(&self, device: &DeviceId, listed: Found) -> Result<Found, Error> {
        self.place.read(device, listed).await
    }

    async fn schedule_downlinks(&self, device: &DeviceId, on: Option<bool>) -> Result<(), Error> {
        self.lock.before_write().await;
        self.place.schedule_downlinks(device, on).await
    }

    async fn clear(&self, device: &DeviceId, component: Component) -> Result<(), Error> {
        self.lock.before_write().await;
        self.place.clear(device, component).await
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
