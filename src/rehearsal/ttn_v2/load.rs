//! Loads what a handler once answered: its list of devices, and an application with its payload functions.

use std::io;

use prost_reflect::{DynamicMessage, MessageDescriptor, Value};
use sha2::{Digest as _, Sha256};

use super::{
    TtnV2,
    set_device::network_half_of,
    stored::{self, is_zero},
};
use crate::{
    map::path,
    proto,
    rehearsal::store::{Table, device_key},
};

/// Why a listing cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum V2LoadError {
    /// Not the protobuf JSON of the message.
    #[error("this is not {what} in protobuf JSON: {source}")]
    Json {
        /// What it should be.
        what: &'static str,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// The state file cannot be written.
    #[error("state file cannot be written: {0}")]
    Io(#[from] io::Error),
}

/// When the devices of a listing were seen last, by a listing's own silence: some time in 2021.
const SEEN: u64 = 1_617_235_200_000_000_000;

impl TtnV2 {
    /// Loads the answer of `GetDevicesForApplication` in protobuf JSON as devices of `app_id`. A listing has no counters:
    /// those of devices with a session are drawn from the DevEUI, always the same for the same device. How many were
    /// loaded.
    ///
    /// # Errors
    /// When it cannot be read, with line and column, or the state file cannot be written.
    pub fn load_devices(&self, json: &[u8], app_id: &str) -> Result<usize, V2LoadError> {
        let list = parse(proto::descriptor("handler.DeviceList"), json, "a list of V2 devices")?;
        let devices = path::get(&list, "devices");
        let devices = devices.as_ref().and_then(|value| value.as_list()).unwrap_or_default();
        let devices: Vec<_> = devices.iter().filter_map(Value::as_message).cloned().collect();
        let count = devices.len();
        self.take_devices(devices, app_id)?;
        Ok(count)
    }

    /// Takes devices as a handler answered them, with counters where it told them (else as [`Self::load_devices`]).
    ///
    /// # Errors
    /// When the state file cannot be written.
    pub fn take_devices(&self, devices: Vec<DynamicMessage>, app_id: &str) -> io::Result<()> {
        let mut store = self.store();
        for mut device in devices {
            let mut lorawan = stored::lorawan(&device);
            for message in [&mut device, &mut lorawan] {
                path::set(message, "app_id", Value::String(app_id.to_owned()));
            }
            stored::fill(&mut lorawan);
            let half = with_history(&lorawan);
            for theirs in ["f_cnt_up", "f_cnt_down", "last_seen"] {
                path::clear(&mut lorawan, theirs);
            }
            let id = path::string(&device, "dev_id");
            store.put(Table::V2Network, &stored::network_key(&lorawan), half)?;
            path::set(&mut device, "lorawan_device", Value::Message(lorawan));
            store.put(Table::V2Devices, &device_key(app_id, &id), device)?;
        }
        Ok(())
    }

    /// Loads the answer of `GetApplication` in protobuf JSON: payload format and functions. It is registered with that.
    ///
    /// # Errors
    /// As [`Self::load_devices`].
    pub fn load_application(&self, json: &[u8], app_id: &str) -> Result<(), V2LoadError> {
        let application = parse(proto::descriptor("handler.Application"), json, "a V2 application")?;
        Ok(self.take_application(application, app_id)?)
    }

    /// Takes an application as a handler answered it.
    ///
    /// # Errors
    /// When the state file cannot be written.
    pub fn take_application(&self, mut application: DynamicMessage, app_id: &str) -> io::Result<()> {
        path::set(&mut application, "app_id", Value::String(app_id.to_owned()));
        self.store().put(Table::V2Applications, app_id, application)
    }
}

fn parse(
    descriptor: MessageDescriptor,
    json: &[u8],
    what: &'static str,
) -> Result<DynamicMessage, V2LoadError> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    let message = DynamicMessage::deserialize(descriptor, &mut reader);
    message
        .and_then(|message| reader.end().map(|()| message))
        .map_err(|source| V2LoadError::Json { what, source })
}

/// The Network Server's half of a listed device: its counters, or ones that a device with a session may have had.
fn with_history(lorawan: &DynamicMessage) -> DynamicMessage {
    let listed = |name: &str| u32::try_from(path::number(lorawan, name)).unwrap_or(u32::MAX);
    let (up, down) = (listed("f_cnt_up"), listed("f_cnt_down"));
    let has_session =
        !is_zero(&path::bytes(lorawan, "nwk_s_key")) && !is_zero(&path::bytes(lorawan, "dev_addr"));
    if up != 0 || down != 0 || !has_session {
        return network_half_of(lorawan, Some(lorawan), up, down);
    }
    let hash: [u8; 32] = Sha256::digest(path::bytes(lorawan, "dev_eui")).into();
    let draw = |at: usize| u32::from_be_bytes(std::array::from_fn(|i| hash[at + i]));
    let most = if path::flag(lorawan, "uses32_bit_f_cnt") { 200_000 } else { 60_000 };
    let mut half = network_half_of(lorawan, None, 1 + draw(0) % most, draw(4) % 500);
    let seen = SEEN + u64::from(draw(8)) * 1_000_000;
    path::set(&mut half, "last_seen", Value::I64(i64::try_from(seen).unwrap_or(i64::MAX)));
    half
}
