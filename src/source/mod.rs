//! What a source can do. A source never knows a target.

pub mod any;
pub mod ttn_v2;
pub mod tts;

use tokio::sync::OwnedMutexGuard;

use crate::{
    map::ttn_v2::V2Device,
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

/// Nobody else calls the source while this is held, where calls take turns: what was read right before a write is then still
/// so.
#[derive(Debug, Default)]
pub struct Turn(Option<OwnedMutexGuard<()>>);

/// The devices of one application at a source.
///
/// Every method may be called again after a failure: reading, muting and clearing are idempotent.
pub trait Source: Send + Sync {
    /// The IDs of the devices in the application, with their IS records where there are any.
    fn list(&self) -> impl Future<Output = Result<Vec<Found>, Error>> + Send;

    /// Everything that the components hold of a device. `listed` is what [`Source::list`] gave for it.
    fn read(&self, device: &DeviceId, listed: Found) -> impl Future<Output = Result<Found, Error>> + Send;

    /// As [`Source::read`], by the cheapest reading that tells what matters of the device: without a session it has no counters.
    fn look(&self, device: &DeviceId) -> impl Future<Output = Result<Found, Error>> + Send {
        self.read(device, Found::default())
    }

    /// As [`Source::look`], for a device that is looked at once more before anything is done to it: what was listed counts
    /// once, however old it is.
    fn first_look(&self, device: &DeviceId) -> impl Future<Output = Result<Found, Error>> + Send {
        self.look(device)
    }

    /// Waits until nobody else calls the source.
    fn turn(&self) -> impl Future<Output = Turn> + Send {
        std::future::ready(Turn::default())
    }

    /// As [`Source::read`], in a turn.
    fn read_in(&self, _turn: &Turn, device: &DeviceId) -> impl Future<Output = Result<Found, Error>> + Send {
        self.read(device, Found::default())
    }

    /// Writes a device as a whole, in a turn: only V2, which knows no other way.
    fn write_whole(
        &self,
        turn: &Turn,
        device: &DeviceId,
        v2: &V2Device,
    ) -> impl Future<Output = Result<(), Error>> + Send;

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
