//! A fresh MAC state, and the settings that devices have by default (`pkg/networkserver/mac/utils.go`,
//! `pkg/networkserver/mac/relay.go`).

use prost_reflect::{DynamicMessage, Value};
use tonic::Code;

use super::{
    super::failure::{Failure, Kind},
    regional::{Band, Plan, plan_and_band},
};
use crate::{map::path, proto};

const CLASS_A_MULTICAST: Kind = Kind::new(
    Code::InvalidArgument,
    "pkg/networkserver/mac",
    "class_a_multicast",
    "multicast device in class A mode",
);

/// What the Network Server falls back to: `DefaultConfig` of `pkg/networkserver/config.go`.
const DESIRED_RX1_DELAY: i32 = 5;
const CLASS_A: i32 = 0;
const CLASS_B: i32 = 1;
const CLASS_C: i32 = 2;

/// True for `MAC_V1_1`, in which the network session keys differ and the device tells its class. The numbers of the
/// enum are not in the order of the versions: 1.0.3 and 1.0.4 come after.
pub(super) fn is_mac_1_1(version: u64) -> bool {
    version == 4
}

/// The settings of one device in one plan and band.
struct Settings<'a> {
    device: &'a DynamicMessage,
    plan: &'a Plan,
    band: &'a Band,
}

impl Settings<'_> {
    /// The value of a setting's wrapper, `None` when the device has none.
    fn own(&self, setting: &str) -> Option<u64> {
        let at = format!("mac_settings.{setting}");
        path::has(self.device, &at).then(|| path::number(self.device, &format!("{at}.value")))
    }

    /// A frequency setting: 0 stands for none.
    fn own_frequency(&self, setting: &str) -> Option<u64> {
        self.own(setting).filter(|f| *f != 0)
    }

    fn flag(&self, setting: &str) -> Option<bool> {
        path::wrapped_flag(self.device, &format!("mac_settings.{setting}"))
    }

    fn is_multicast(&self) -> bool {
        path::flag(self.device, "multicast")
    }

    fn rx1_delay(&self, desired: bool) -> u64 {
        let default = || self.own("rx1_delay").unwrap_or(self.band.receive_delay() as u64);
        if desired { self.own("desired_rx1_delay").unwrap_or(DESIRED_RX1_DELAY as u64) } else { default() }
    }

    /// A setting with a desired counterpart that falls back to it.
    fn either(&self, setting: &str, desired: bool, default: u64) -> u64 {
        let own = || self.own(setting).unwrap_or(default);
        if desired { self.own(&format!("desired_{setting}")).unwrap_or_else(own) } else { own() }
    }

    fn rx2_data_rate(&self, desired: bool) -> u64 {
        let current = || {
            self.own("rx2_data_rate_index")
                .unwrap_or(self.band.index("default_rx2_parameters.data_rate_index") as u64)
        };
        let planned = self.plan.rx2_data_rate.map(|index| index as u64);
        if desired {
            self.own("desired_rx2_data_rate_index").or(planned).unwrap_or_else(current)
        } else {
            current()
        }
    }

    fn rx2_frequency(&self, desired: bool) -> u64 {
        let current = || self.own_frequency("rx2_frequency").unwrap_or(self.band.rx2_frequency());
        if desired {
            self.own_frequency("desired_rx2_frequency").or(self.plan.rx2_frequency).unwrap_or_else(current)
        } else {
            current()
        }
    }

    fn ping_slot_frequency(&self, desired: bool) -> u64 {
        let current = || {
            let band = self.band.frequencies("ping_slot_frequencies");
            self.own_frequency("ping_slot_frequency").unwrap_or(if band.len() == 1 { band[0] } else { 0 })
        };
        if desired {
            let planned = self.plan.ping_slot_frequency;
            self.own_frequency("desired_ping_slot_frequency").or(planned).unwrap_or_else(current)
        } else {
            current()
        }
    }

    fn beacon_frequency(&self, desired: bool) -> u64 {
        let band = self.band.frequencies("beacon.frequencies");
        let current =
            self.own_frequency("beacon_frequency").unwrap_or(if band.len() == 1 { band[0] } else { 0 });
        if desired { self.own_frequency("desired_beacon_frequency").unwrap_or(current) } else { current }
    }

    fn ping_slot_data_rate(&self, desired: bool) -> u64 {
        let current = || {
            self.own("ping_slot_data_rate_index").unwrap_or(self.band.index("beacon.data_rate_index") as u64)
        };
        let planned = self.plan.ping_slot_data_rate.map(|index| index as u64);
        if desired {
            self.own("desired_ping_slot_data_rate_index").or(planned).unwrap_or_else(current)
        } else {
            current()
        }
    }

    fn max_eirp(&self, desired: bool) -> f32 {
        let band = self.band.max_eirp();
        match self.own("desired_max_eirp") {
            Some(index) if desired => device_eirp(index),
            _ if desired => self.plan.max_eirp.filter(|max| *max > 0.0 && *max < band).unwrap_or(band),
            _ => band,
        }
    }

    /// Dwell times are there only in bands that can set them.
    fn dwell_time(&self, uplinks: bool, desired: bool) -> Option<bool> {
        if !self.band.flag("tx_param_setup_req_support") {
            return None;
        }
        let (setting, planned) = if uplinks {
            ("uplink_dwell_time", self.plan.dwell_time_uplinks)
        } else {
            ("downlink_dwell_time", self.plan.dwell_time_downlinks)
        };
        if desired { Some(planned.unwrap_or(true)) } else { self.flag(setting) }
    }

    fn factory_frequencies(&self) -> Vec<u64> {
        let list = path::get(self.device, "mac_settings.factory_preset_frequencies");
        list.iter().flat_map(|l| l.as_list().unwrap_or_default()).filter_map(Value::as_u64).collect()
    }

    fn current_channels(&self) -> Vec<MacChannel> {
        let factory = self.factory_frequencies();
        let down = self.band.channels("downlink_channels");
        let up = self.band.channels("uplink_channels").into_iter().enumerate();
        let multicast = self.is_multicast();
        let mut channels: Vec<_> = up
            .map(|(n, channel)| {
                let downlink = down.get(n % down.len().max(1)).map_or(0, |d| d.frequency);
                if multicast {
                    return MacChannel { downlink, ..MacChannel::default() };
                }
                MacChannel {
                    uplink: channel.frequency,
                    downlink,
                    min: channel.min_data_rate,
                    max: channel.max_data_rate,
                    enabled: factory.is_empty(),
                }
            })
            .collect();
        for frequency in factory {
            if let Some(channel) = channels.iter_mut().find(|c| c.uplink == frequency) {
                channel.enabled = true;
            } else if self.band.has_channel_masks() {
                // Such bands have fixed channels: an unknown frequency enables none.
            } else if multicast {
                channels.push(MacChannel { downlink: frequency, ..MacChannel::default() });
            } else {
                let max = self.band.index("max_adr_data_rate_index");
                channels.push(MacChannel {
                    uplink: frequency,
                    downlink: frequency,
                    min: 0,
                    max,
                    enabled: true,
                });
            }
        }
        channels
    }

    fn desired_channels(&self) -> Vec<MacChannel> {
        let mut channels = self.current_channels();
        channels.iter_mut().for_each(|c| c.enabled = false);
        let masks = self.band.has_channel_masks();
        for (n, &(frequency, min, max)) in self.plan.uplink_channels.iter().enumerate() {
            match channels.iter_mut().find(|c| c.uplink == frequency) {
                Some(channel) => {
                    if !masks {
                        (channel.min, channel.max) = (min, max);
                    }
                    channel.enabled = true;
                }
                None if masks => {}
                None => {
                    let downlink = self.plan.downlink_frequencies.get(n).copied().unwrap_or(frequency);
                    channels.push(MacChannel { uplink: frequency, downlink, min, max, enabled: true });
                }
            }
        }
        if masks
            && let Some(standard) = self.plan.lora_standard_frequency
            && let Some(channel) = channels.iter_mut().find(|c| c.uplink == standard)
        {
            channel.enabled = true;
        }
        channels
    }

    /// `MACParameters` as the device has them now, or should get them.
    fn parameters(&self, desired: bool) -> DynamicMessage {
        let mut parameters = proto::message("MACParameters");
        let mut set = |at: &str, value: Value| path::set(&mut parameters, at, value);
        set("max_eirp", Value::F32(self.max_eirp(desired)));
        set("adr_nb_trans", Value::U32(1));
        set("rx1_delay", enumeration(self.rx1_delay(desired)));
        set("rx1_data_rate_offset", enumeration(self.either("rx1_data_rate_offset", desired, 0)));
        set("rx2_data_rate_index", enumeration(self.rx2_data_rate(desired)));
        set("rx2_frequency", Value::U64(self.rx2_frequency(desired)));
        set("max_duty_cycle", enumeration(self.either("max_duty_cycle", desired, 0)));
        set("ping_slot_frequency", Value::U64(self.ping_slot_frequency(desired)));
        set("beacon_frequency", Value::U64(self.beacon_frequency(desired)));
        let channels = if desired { self.desired_channels() } else { self.current_channels() };
        set("channels", Value::List(channels.iter().map(MacChannel::message).collect()));
        let ack_limit = self.band.index("adr_ack_limit") as u64;
        // 32 uplinks in every band (`universalSharedParameters`); descriptions of bands do not carry it.
        let ack_delay = proto::enumeration("ADRAckDelayExponent").get_value_by_name("ADR_ACK_DELAY_32");
        let ack_delay = ack_delay.map_or(0, |v| v.number() as u64);
        for (at, setting, default) in [
            ("adr_ack_limit_exponent.value", "desired_adr_ack_limit_exponent", ack_limit),
            ("adr_ack_delay_exponent.value", "desired_adr_ack_delay_exponent", ack_delay),
        ] {
            let value = if desired { self.own(setting).unwrap_or(default) } else { default };
            set(at, enumeration(value));
        }
        set("ping_slot_data_rate_index_value.value", enumeration(self.ping_slot_data_rate(desired)));
        for (uplinks, at) in [(true, "uplink_dwell_time.value"), (false, "downlink_dwell_time.value")] {
            if let Some(limited) = self.dwell_time(uplinks, desired) {
                set(at, Value::Bool(limited));
            }
        }
        if let Some(relay) = self.relay(desired) {
            set("relay", Value::Message(relay));
        }
        parameters
    }

    fn relay(&self, desired: bool) -> Option<DynamicMessage> {
        let own = path::child(self.device, "mac_settings.relay");
        let settings = match path::child(self.device, "mac_settings.desired_relay") {
            Some(wanted) if desired => Some(wanted),
            _ => own,
        }?;
        let mut relay = proto::message("RelayParameters");
        if let Some(served) = path::child(&settings, "mode.served") {
            let backoff = path::child(&served, "backoff").map(|b| path::number(&b, "value") as u32);
            let backoff = backoff.unwrap_or(self.band.relay_backoff());
            path::touch(&mut relay, "mode.served");
            path::set(&mut relay, "mode.served.backoff", Value::U32(backoff));
            for field in [
                "mode.always",
                "mode.dynamic",
                "mode.end_device_controlled",
                "second_channel",
                "serving_device_id",
            ] {
                copy(&served, field, &mut relay, &format!("mode.served.{field}"));
            }
        } else if let Some(serving) = path::child(&settings, "mode.serving") {
            path::touch(&mut relay, "mode.serving");
            for field in ["second_channel", "cad_periodicity", "uplink_forwarding_rules", "limits"] {
                copy(&serving, field, &mut relay, &format!("mode.serving.{field}"));
            }
            let index =
                path::child(&serving, "default_channel_index").map(|i| path::number(&i, "value") as u32);
            path::set(
                &mut relay,
                "mode.serving.default_channel_index",
                Value::U32(index.unwrap_or_default()),
            );
        }
        Some(relay)
    }
}

fn copy(from: &DynamicMessage, at: &str, into: &mut DynamicMessage, to: &str) {
    if let Some(value) = path::get(from, at) {
        path::set(into, to, value.into_owned());
    }
}

fn enumeration(number: u64) -> Value {
    Value::EnumNumber(i32::try_from(number).unwrap_or_default())
}

/// dBm of a `DeviceEIRP` (LoRaWAN 1.1 §5.8).
fn device_eirp(index: u64) -> f32 {
    const TABLE: [f32; 16] = [8., 10., 12., 13., 14., 16., 18., 20., 21., 24., 26., 27., 29., 30., 33., 36.];
    TABLE.get(index as usize).copied().unwrap_or(36.)
}

/// The `DeviceEIRP` that is not above these dBm.
fn eirp_index(dbm: f32) -> u64 {
    (0..16).rev().find(|n| device_eirp(*n) <= dbm).unwrap_or_default()
}

#[derive(Debug, Default)]
struct MacChannel {
    uplink: u64,
    downlink: u64,
    min: i32,
    max: i32,
    enabled: bool,
}

impl MacChannel {
    fn message(&self) -> Value {
        let mut channel = proto::message("MACParameters.Channel");
        path::set(&mut channel, "uplink_frequency", Value::U64(self.uplink));
        path::set(&mut channel, "downlink_frequency", Value::U64(self.downlink));
        path::set(&mut channel, "min_data_rate_index", Value::EnumNumber(self.min));
        path::set(&mut channel, "max_data_rate_index", Value::EnumNumber(self.max));
        path::set(&mut channel, "enable_uplink", Value::Bool(self.enabled));
        Value::Message(channel)
    }
}

fn class(device: &DynamicMessage) -> Result<i32, Failure> {
    let (class_b, class_c) = (path::flag(device, "supports_class_b"), path::flag(device, "supports_class_c"));
    let tells_class = is_mac_1_1(path::number(device, "lorawan_version"));
    match path::flag(device, "multicast") {
        _ if !tells_class && class_c => Ok(CLASS_C),
        false => Ok(CLASS_A),
        true if class_c => Ok(CLASS_C),
        true if class_b => Ok(CLASS_B),
        true => Err(CLASS_A_MULTICAST.failure()),
    }
}

/// The state of a device that has just been activated (`mac.NewState`).
///
/// # Errors
/// When the device's frequency plan or PHY version is unknown, or it is multicast of class A.
pub(super) fn new_state(device: &DynamicMessage) -> Result<DynamicMessage, Failure> {
    let phy = path::number(device, "lorawan_phy_version") as i32;
    let (plan, band) = plan_and_band(&path::string(device, "frequency_plan_id"), phy)?;
    let settings = Settings { device, plan, band };
    let class = class(device)?;
    let current = settings.parameters(false);
    let desired = if settings.is_multicast() { current.clone() } else { settings.parameters(true) };
    let mut state = proto::message("MACState");
    path::set(&mut state, "current_parameters", Value::Message(current));
    path::set(&mut state, "desired_parameters", Value::Message(desired));
    path::set(&mut state, "device_class", Value::EnumNumber(class));
    let version = path::number(device, "lorawan_version");
    // A 1.1 device is treated as 1.1 from the start; there is no other version with rekeying.
    path::set(&mut state, "lorawan_version", enumeration(version));
    copy(device, "mac_settings.ping_slot_periodicity", &mut state, "ping_slot_periodicity");
    Ok(state)
}

/// What devices get that have no settings of their own (`GetDefaultMACSettings`).
///
/// # Errors
/// When the frequency plan or the PHY version in it is unknown.
pub(in crate::rehearsal::tts) fn default_settings(
    plan_id: &str,
    phy: i32,
) -> Result<DynamicMessage, Failure> {
    let (plan, band) = plan_and_band(plan_id, phy)?;
    let device = proto::message("EndDevice");
    let of = Settings { device: &device, plan, band };
    let mut settings = proto::message("MACSettings");
    let mut set = |at: &str, value: Value| path::set(&mut settings, &format!("{at}.value"), value);
    let both = |desired: bool| if desired { "desired_" } else { "" };
    for desired in [false, true] {
        let p = both(desired);
        set(&format!("{p}ping_slot_data_rate_index"), enumeration(of.ping_slot_data_rate(desired)));
        set(&format!("{p}ping_slot_frequency"), Value::U64(of.ping_slot_frequency(desired)));
        set(&format!("{p}beacon_frequency"), Value::U64(of.beacon_frequency(desired)));
        set(&format!("{p}rx1_delay"), enumeration(of.rx1_delay(desired)));
        set(&format!("{p}rx1_data_rate_offset"), enumeration(0));
        set(&format!("{p}rx2_data_rate_index"), enumeration(of.rx2_data_rate(desired)));
        set(&format!("{p}rx2_frequency"), Value::U64(of.rx2_frequency(desired)));
        set(&format!("{p}max_duty_cycle"), enumeration(0));
    }
    for (at, value) in [
        ("supports_32_bit_f_cnt", true),
        ("use_adr", band.flag("supports_dynamic_adr")),
        ("resets_f_cnt", false),
        ("schedule_downlinks", true),
    ] {
        set(at, Value::Bool(value));
    }
    set("desired_max_eirp", enumeration(eirp_index(of.max_eirp(true))));
    let state = of.parameters(true);
    for exponent in ["adr_ack_limit_exponent", "adr_ack_delay_exponent"] {
        let value = path::number(&state, &format!("{exponent}.value"));
        set(&format!("desired_{exponent}"), enumeration(value));
    }
    path::set(&mut settings, "adr_margin.value", Value::F32(15.0));
    path::set(&mut settings, "status_count_periodicity.value", Value::U32(200));
    for (at, seconds) in
        [("class_b_timeout", 600), ("class_c_timeout", 300), ("status_time_periodicity", 86400)]
    {
        path::set(&mut settings, &format!("{at}.seconds"), Value::I64(seconds));
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(plan: &str, phy: &str) -> DynamicMessage {
        let mut device = proto::message("EndDevice");
        let phy = proto::enumeration("PHYVersion").get_value_by_name(phy).expect("known").number();
        path::set(&mut device, "frequency_plan_id", Value::String(plan.into()));
        path::set(&mut device, "lorawan_phy_version", Value::EnumNumber(phy));
        path::set(&mut device, "lorawan_version", Value::EnumNumber(3));
        device
    }

    fn enabled(state: &DynamicMessage, at: &str) -> Vec<u64> {
        let channels = path::get(state, &format!("{at}.channels")).expect("some").into_owned();
        let channels = channels.as_list().expect("list").to_vec();
        let channels = channels.iter().filter_map(Value::as_message);
        channels
            .filter(|c| path::flag(c, "enable_uplink"))
            .map(|c| path::number(c, "uplink_frequency"))
            .collect()
    }

    #[test]
    fn a_fresh_device_has_the_channels_of_its_band_and_wants_those_of_its_plan() {
        let state = new_state(&device("EU_863_870_TTN", "RP001_V1_0_3_REV_A")).expect("known");
        assert_eq!(enabled(&state, "current_parameters"), [868_100_000, 868_300_000, 868_500_000]);
        assert_eq!(enabled(&state, "desired_parameters").len(), 8);
        assert_eq!(path::number(&state, "current_parameters.rx1_delay"), 1);
        assert_eq!(path::number(&state, "desired_parameters.rx1_delay"), 5);
        let state = new_state(&device("US_902_928_FSB_2", "RP001_V1_0_3_REV_A")).expect("known");
        assert_eq!(enabled(&state, "current_parameters").len(), 72);
        let wanted = enabled(&state, "desired_parameters");
        assert_eq!((wanted.len(), wanted[0], wanted[8]), (9, 903_900_000, 904_600_000));
    }

    /// What a V2 device gets from the defaults is what the server itself wants for a fresh device on the same plan, as
    /// `ttn-lw-migrate` takes it, but for the RX1 delay of V2 and dwell times, which the defaults do not tell.
    #[test]
    fn the_mac_state_of_a_v2_device_is_the_one_that_the_server_wants() {
        for plan in ["EU_863_870_TTN", "EU_863_870", "US_902_928_FSB_2", "AU_915_928_FSB_2"] {
            let device = device(plan, "RP001_V1_0_2_REV_B");
            let phy = path::number(&device, "lorawan_phy_version") as i32;
            let defaults = default_settings(plan, phy).expect("known");
            let band = plan_and_band(plan, phy).expect("known").0.band_id.clone();
            let mut wanted = new_state(&device).expect("known");
            let mut desired = path::child(&wanted, "desired_parameters").expect("some");
            path::set(&mut desired, "rx1_delay", Value::EnumNumber(1));
            path::clear(&mut desired, "uplink_dwell_time");
            path::clear(&mut desired, "downlink_dwell_time");
            for at in ["current_parameters", "desired_parameters"] {
                path::set(&mut wanted, at, Value::Message(desired.clone()));
            }
            let derived = crate::map::ttn_v2::mac_state(plan, &band, &defaults, 3).expect("a plan of V2");
            let differences = crate::map::diff::diff(&derived, &wanted);
            let paths: Vec<_> = differences.into_iter().map(|d| d.path).collect();
            assert_eq!(paths, Vec::<String>::new(), "{plan}");
        }
    }

    #[test]
    fn factory_frequencies_replace_the_default_channels() {
        let mut device = device("EU_863_870_TTN", "RP001_V1_0_3_REV_A");
        let factory = [868_100_000, 867_100_000].map(Value::U64).to_vec();
        path::set(&mut device, "mac_settings.factory_preset_frequencies", Value::List(factory));
        let state = new_state(&device).expect("known");
        assert_eq!(enabled(&state, "current_parameters"), [868_100_000, 867_100_000]);
    }

    #[test]
    fn a_multicast_group_needs_a_class_that_listens() {
        let mut device = device("EU_863_870_TTN", "RP001_V1_0_3_REV_A");
        path::set(&mut device, "multicast", Value::Bool(true));
        assert!(new_state(&device).is_err());
        path::set(&mut device, "supports_class_b", Value::Bool(true));
        let state = new_state(&device).expect("class B");
        assert_eq!(path::get(&state, "current_parameters"), path::get(&state, "desired_parameters"));
    }
}
