//! A device of The Things Network Stack V2: what it says, and the messages that clear and restore it.
//!
//! Source of what is not in the API's own words: docs/servers.md, V2 devices; upstream is `TheThingsNetwork/ttn`.

mod attributes;
mod clear;
pub mod formatter;
mod records;
mod state;

use std::{collections::BTreeMap, fmt};

use prost_reflect::{DynamicMessage, Value};
use zeroize::Zeroizing;

use super::{
    path,
    unknown::{self, UnknownField},
};
use crate::model::ids::{DevAddr, Eui64};

pub use attributes::{Attributes, mapped_key};
pub use clear::{Session, cleared, is_cleared, restored, same_standing, with_keys_of, without_session};
pub use records::{HOST, MAC_VERSION, PHY_VERSION, degrees, f_cnt_down_of, last_n_f_cnt_down, records};
pub use state::mac_state;

/// Activation constraints of a device that nobody has changed (`core/handler/manager_server.go`).
pub const LOCAL: &str = "local";

/// What a handler answers for one device: a `handler.Device` whose contents cannot be printed.
///
/// ```compile_fail,E0277
/// let device = stackferry::map::ttn_v2::V2Device::new(stackferry::proto::message("handler.Device"));
/// let text = serde_json::to_string(&device);
/// ```
#[derive(Clone, PartialEq)]
pub struct V2Device(DynamicMessage);

impl fmt::Debug for V2Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "V2Device({}/{})", self.app_id(), self.dev_id())
    }
}

impl V2Device {
    /// Takes a `handler.Device` in.
    pub fn new(message: DynamicMessage) -> Self {
        Self(message)
    }

    /// The message as it was read.
    pub fn message(&self) -> &DynamicMessage {
        &self.0
    }

    /// The application.
    pub fn app_id(&self) -> String {
        path::string(&self.0, "app_id")
    }

    /// The ID in the application.
    pub fn dev_id(&self) -> String {
        path::string(&self.0, "dev_id")
    }

    /// The AppEUI, which TTS calls JoinEUI. V2 takes an absent one as zeros.
    pub fn app_eui(&self) -> Eui64 {
        self.eui("app_eui")
    }

    /// The DevEUI; zeros in a template of devices that register on join.
    pub fn dev_eui(&self) -> Eui64 {
        self.eui("dev_eui")
    }

    fn eui(&self, field: &str) -> Eui64 {
        Eui64::from_bytes(&self.lorawan_bytes(field)).unwrap_or(Eui64([0; 8]))
    }

    /// True for a register-on-join template: the handler makes a device of it for each DevEUI that joins under its AppEUI
    /// (`core/networkserver/activation.go`, `HandlePrepareActivation`).
    pub fn is_template(&self) -> bool {
        self.dev_eui() == Eui64([0; 8])
    }

    /// The DevAddr of the session; V2 reads an absent one as zeros.
    pub fn dev_addr(&self) -> Option<DevAddr> {
        DevAddr::from_bytes(&self.lorawan_bytes("dev_addr")).filter(|addr| *addr != DevAddr([0; 4]))
    }

    /// The root key.
    pub fn app_key(&self) -> Option<Zeroizing<Vec<u8>>> {
        self.key("app_key")
    }

    /// The network session key.
    pub fn nwk_s_key(&self) -> Option<Zeroizing<Vec<u8>>> {
        self.key("nwk_s_key")
    }

    /// The application session key.
    pub fn app_s_key(&self) -> Option<Zeroizing<Vec<u8>>> {
        self.key("app_s_key")
    }

    /// A key that is neither absent nor zeros.
    fn key(&self, field: &str) -> Option<Zeroizing<Vec<u8>>> {
        let key = Zeroizing::new(self.lorawan_bytes(field));
        key.iter().any(|b| *b != 0).then_some(key)
    }

    /// The FCntUp of the last uplink that was received (`core/networkserver/uplink.go`: `dev.FCntUp = FCnt`); 0 also before
    /// the first.
    pub fn f_cnt_up(&self) -> u32 {
        self.number("f_cnt_up")
    }

    /// The FCntDown of the *next* downlink (`core/networkserver/downlink.go`: it is sent, then counted up).
    pub fn f_cnt_down(&self) -> u32 {
        self.number("f_cnt_down")
    }

    fn number(&self, field: &str) -> u32 {
        u32::try_from(path::number(&self.0, &lorawan(field))).unwrap_or(u32::MAX)
    }

    /// True when any frame counter is taken.
    pub fn disable_f_cnt_check(&self) -> bool {
        path::flag(&self.0, &lorawan("disable_f_cnt_check"))
    }

    /// True when counters have 32 bits.
    pub fn uses_32_bit_f_cnt(&self) -> bool {
        path::flag(&self.0, &lorawan("uses32_bit_f_cnt"))
    }

    /// Which blocks of addresses a join may give it; [`LOCAL`] for a device that nobody has changed.
    pub fn activation_constraints(&self) -> String {
        path::string(&self.0, &lorawan("activation_constraints"))
    }

    /// When it was last heard, in nanoseconds since 1970.
    pub fn last_seen(&self) -> Option<i64> {
        match path::get(&self.0, &lorawan("last_seen"))?.into_owned() {
            Value::I64(at) if at > 0 => Some(at),
            _ => None,
        }
    }

    /// What people have written about it.
    pub fn description(&self) -> String {
        path::string(&self.0, "description")
    }

    /// Latitude and longitude in degrees as they were typed in ([`degrees`]), and the altitude in metres; `None` when all
    /// three are zero, which is how V2 says that there is none.
    pub fn location(&self) -> Option<(f64, f64, i32)> {
        let float = |field: &str| match path::get(&self.0, field).map(|v| v.into_owned()) {
            Some(Value::F32(degree)) => degree,
            _ => 0.0,
        };
        let altitude = match path::get(&self.0, "altitude").map(|v| v.into_owned()) {
            Some(Value::I32(metres)) => metres,
            _ => 0,
        };
        let (latitude, longitude) = (float("latitude"), float("longitude"));
        let none = latitude == 0.0 && longitude == 0.0 && altitude == 0;
        (!none).then(|| (degrees(latitude), degrees(longitude), altitude))
    }

    /// Attributes by name, as V2 has them.
    pub fn attributes(&self) -> BTreeMap<String, String> {
        let map = path::get(&self.0, "attributes").map(|v| v.into_owned());
        let Some(Value::Map(map)) = map else { return BTreeMap::new() };
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        map.iter().map(|(key, value)| (path::key(key), text(value))).collect()
    }

    /// True when the device can go on without joining: V2's Network Server finds it by DevAddr and NwkSKey
    /// (`core/networkserver/get_devices.go`). The AppSKey may be missing all the same.
    pub fn has_session(&self) -> bool {
        self.dev_addr().is_some() && self.nwk_s_key().is_some()
    }

    /// True when it holds some part of a session and not enough for one.
    pub fn has_broken_session(&self) -> bool {
        let any = self.dev_addr().is_some() || self.nwk_s_key().is_some() || self.app_s_key().is_some();
        any && !self.has_session()
    }

    /// True when it joins over the air: it has an AppKey.
    pub fn is_otaa(&self) -> bool {
        self.app_key().is_some()
    }

    /// True when it is activated by personalization: a session, and no AppKey with which another could come.
    pub fn is_abp(&self) -> bool {
        !self.is_otaa() && self.has_session()
    }

    /// Fields that this build does not know.
    pub fn unknown_fields(&self) -> Vec<UnknownField> {
        unknown::find(&self.0)
    }

    fn lorawan_bytes(&self, field: &str) -> Vec<u8> {
        path::bytes(&self.0, &lorawan(field))
    }
}

/// The path of a field of the LoRaWAN half.
fn lorawan(field: &str) -> String {
    format!("lorawan_device.{field}")
}

#[cfg(test)]
pub(crate) mod generate;
#[cfg(test)]
pub(crate) mod tests;
