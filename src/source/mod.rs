//! What a source can do. A source never knows a target.

pub mod tts;

use crate::{
    model::{
        device::Component,
        ids::{AppId, DeviceId, Eui64},
    },
    plan::{
        facts::TargetFacts,
        transform::{Found, Write},
    },
    wire::Error,
};

/// The devices of one application at a source.
///
/// Every method may be called again after a failure: reading, muting and clearing are idempotent.
pub trait Source: Send + Sync {
    /// The IDs of the devices in the application, with their IS records where there are any.
    fn list(&self) -> impl Future<Output = Result<Vec<Found>, Error>> + Send;

    /// Everything that the components hold of a device. `listed` is what [`Source::list`] gave for it.
    fn read(&self, device: &DeviceId, listed: Found) -> impl Future<Output = Result<Found, Error>> + Send;

    /// Stops (`Some(false)`) or sets back downlinks and join-accepts of a device; `None` leaves the default.
    fn schedule_downlinks(
        &self,
        device: &DeviceId,
        on: Option<bool>,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Removes one component's record; that there is none is fine.
    fn clear(
        &self,
        device: &DeviceId,
        component: Component,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// What the source says of itself as a place to bring devices back to.
    fn facts(&self) -> impl Future<Output = Result<TargetFacts, Error>> + Send;

    /// Makes a record again that was cleared.
    fn recreate(
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

    /// Which device of the source has these EUIs.
    fn holder(
        &self,
        join_eui: Eui64,
        dev_eui: Eui64,
    ) -> impl Future<Output = Result<Option<(AppId, DeviceId)>, Error>> + Send;
}
