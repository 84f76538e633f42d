//! What a target can do.

pub mod tts;

use crate::{
    model::{
        device::{Component, Record},
        ids::{AppId, DeviceId, Eui64},
    },
    plan::transform::Write,
    wire::Error,
};

/// One application on a target.
pub trait Target: Send + Sync {
    /// One component's record with the given paths.
    fn read(
        &self,
        device: &DeviceId,
        component: Component,
        paths: &[String],
    ) -> impl Future<Output = Result<Option<Record>, Error>> + Send;

    /// Creates a record that is not there.
    fn create(
        &self,
        device: &DeviceId,
        component: Component,
        write: &Write,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Writes the given paths of a record that is there.
    fn update(
        &self,
        device: &DeviceId,
        component: Component,
        write: &Write,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Removes a record; that there is none is fine.
    fn remove(
        &self,
        device: &DeviceId,
        component: Component,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Which device of the deployment has these EUIs.
    fn holder(
        &self,
        join_eui: Eui64,
        dev_eui: Eui64,
    ) -> impl Future<Output = Result<Option<(AppId, DeviceId)>, Error>> + Send;
}
