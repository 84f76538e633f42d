//! Either of the sources, chosen by the configuration.

use super::{Source, Turn, ttn_v2::TtnV2Source, tts::TtsSource};
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

/// One application of a source.
#[derive(Debug, Clone)]
pub enum AnySource {
    /// The Things Stack.
    Tts(TtsSource),
    /// The Things Network Stack V2.
    TtnV2(TtnV2Source),
}

impl AnySource {
    /// The application.
    pub fn app(&self) -> &AppId {
        match self {
            Self::Tts(source) => source.app(),
            Self::TtnV2(source) => source.app(),
        }
    }

    /// The deployment, when it is The Things Stack.
    pub fn tts(&self) -> Option<&TtsSource> {
        match self {
            Self::Tts(source) => Some(source),
            Self::TtnV2(_) => None,
        }
    }

    /// True when the source can be muted.
    pub fn can_be_muted(&self) -> bool {
        matches!(self, Self::Tts(_))
    }
}

/// Hands a call on.
macro_rules! forward {
    ($self:ident, $source:ident => $call:expr) => {
        match $self {
            Self::Tts($source) => $call.await,
            Self::TtnV2($source) => $call.await,
        }
    };
}

impl Source for AnySource {
    async fn list(&self) -> Result<Vec<Found>, Error> {
        forward!(self, s => s.list())
    }

    async fn read(&self, device: &DeviceId, listed: Found) -> Result<Found, Error> {
        forward!(self, s => s.read(device, listed))
    }

    async fn look(&self, device: &DeviceId) -> Result<Found, Error> {
        forward!(self, s => s.look(device))
    }

    async fn first_look(&self, device: &DeviceId) -> Result<Found, Error> {
        forward!(self, s => s.first_look(device))
    }

    async fn turn(&self) -> Turn {
        forward!(self, s => s.turn())
    }

    async fn read_in(&self, turn: &Turn, device: &DeviceId) -> Result<Found, Error> {
        forward!(self, s => s.read_in(turn, device))
    }

    async fn write_whole(&self, turn: &Turn, device: &DeviceId, v2: &V2Device) -> Result<(), Error> {
        forward!(self, s => s.write_whole(turn, device, v2))
    }

    async fn schedule_downlinks(&self, device: &DeviceId, on: Option<bool>) -> Result<(), Error> {
        forward!(self, s => s.schedule_downlinks(device, on))
    }

    async fn clear(&self, device: &DeviceId, component: Component) -> Result<(), Error> {
        forward!(self, s => s.clear(device, component))
    }

    async fn facts(&self) -> Result<TargetFacts, Error> {
        forward!(self, s => s.facts())
    }

    async fn recreate(&self, device: &DeviceId, component: Component, write: &Write) -> Result<(), Error> {
        forward!(self, s => s.recreate(device, component, write))
    }

    async fn update(&self, device: &DeviceId, component: Component, write: &Write) -> Result<(), Error> {
        forward!(self, s => s.update(device, component, write))
    }

    async fn holder(&self, join_eui: Eui64, dev_eui: Eui64) -> Result<Option<(AppId, DeviceId)>, Error> {
        forward!(self, s => s.holder(join_eui, dev_eui))
    }
}
