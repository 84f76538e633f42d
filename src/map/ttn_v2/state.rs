//! The MAC state of a V2 device whose session is kept.
//!
//! V2 tells none. `ttn-lw-migrate` (`pkg/source/ttnv2/source.go`) takes the state that the target wants (`mac.NewState`,
//! desired), makes it the current one too, in class A, with the RX1 delay of one second that V2 used. Here the same is made of
//! what the target answers: `Ns.GetDefaultMACSettings` has everything wanted but the channels, and these are V2's own, which is what a
//! device was told when it joined there.

use prost_reflect::{DynamicMessage, Value};

use crate::{map::path, proto};

/// One channel: uplink and downlink in Hz, data rates, whether the device may use it.
type Channel = (u64, u64, i32, i32, bool);

/// The MAC state for a plan of the target, with its band and its MAC defaults; `None` where V2 had no plan for it.
///
/// Desired equals current, so that the target leaves the device as it is. Dwell times are left out: the defaults do not tell them, and
/// without them none is set.
pub fn mac_state(plan: &str, band: &str, defaults: &DynamicMessage, version: i32) -> Option<DynamicMessage> {
    let channels = channels(plan, band)?;
    let wanted = |setting: &str| path::number(defaults, &format!("desired_{setting}.value"));
    if wanted("rx2_frequency") == 0 {
        return None;
    }
    let mut parameters = proto::message("MACParameters");
    let mut set = |at: &str, value: Value| path::set(&mut parameters, at, value);
    set("max_eirp", Value::F32(eirp(wanted("max_eirp"))));
    set("adr_nb_trans", Value::U32(1));
    set("rx1_delay", number(1));
    for setting in ["rx1_data_rate_offset", "rx2_data_rate_index", "max_duty_cycle"] {
        set(setting, number(wanted(setting)));
    }
    for setting in ["rx2_frequency", "ping_slot_frequency", "beacon_frequency"] {
        set(setting, Value::U64(wanted(setting)));
    }
    for setting in ["adr_ack_limit_exponent", "adr_ack_delay_exponent"] {
        set(&format!("{setting}.value"), number(wanted(setting)));
    }
    set("ping_slot_data_rate_index_value.value", number(wanted("ping_slot_data_rate_index")));
    set("channels", Value::List(channels.into_iter().map(channel).collect()));
    let mut state = proto::message("MACState");
    for at in ["current_parameters", "desired_parameters"] {
        path::set(&mut state, at, Value::Message(parameters.clone()));
    }
    // Class A is zero.
    path::set(&mut state, "lorawan_version", Value::EnumNumber(version));
    Some(state)
}

fn number(number: u64) -> Value {
    Value::EnumNumber(i32::try_from(number).unwrap_or_default())
}

/// dBm of a `DeviceEIRP` (LoRaWAN 1.1 §5.8).
fn eirp(index: u64) -> f32 {
    const TABLE: [f32; 16] = [8., 10., 12., 13., 14., 16., 18., 20., 21., 24., 26., 27., 29., 30., 33., 36.];
    usize::try_from(index).ok().and_then(|index| TABLE.get(index).copied()).unwrap_or(36.)
}

fn channel((uplink, downlink, min, max, enabled): Channel) -> Value {
    let mut channel = proto::message("MACParameters.Channel");
    path::set(&mut channel, "uplink_frequency", Value::U64(uplink));
    path::set(&mut channel, "downlink_frequency", Value::U64(downlink));
    path::set(&mut channel, "min_data_rate_index", Value::EnumNumber(min));
    path::set(&mut channel, "max_data_rate_index", Value::EnumNumber(max));
    path::set(&mut channel, "enable_uplink", Value::Bool(enabled));
    Value::Message(channel)
}

/// The channels of a V2 device (`core/band/band.go`): those that the band has by itself, and those of the CFList that V2 sent
/// with a join-accept. Channels for FSK alone are in no CFList. Of the two plans that V2 had for parts of AS923 the name tells.
fn channels(plan: &str, band: &str) -> Option<Vec<Channel>> {
    const KHZ: u64 = 1000;
    let list = |khz: &[u64]| Some(khz.iter().map(|f| (f * KHZ, f * KHZ, 0, 5, true)).collect());
    match band {
        "EU_863_870" => list(&[868_100, 868_300, 868_500, 867_100, 867_300, 867_500, 867_700, 867_900]),
        "AS_923" if plan.starts_with("AS_920_923") => {
            list(&[923_200, 923_400, 922_200, 922_400, 922_600, 922_800, 923_000])
        }
        "AS_923" if plan.starts_with("AS_923_925") => {
            list(&[923_200, 923_400, 923_600, 923_800, 924_000, 924_200, 924_400])
        }
        "AS_923" => list(&[923_200, 923_400]),
        "KR_920_923" => list(&[922_100, 922_300, 922_500, 922_700, 922_900, 923_100, 923_300]),
        "RU_864_870" => list(&[868_900, 869_100, 864_100, 864_300, 864_500, 864_700, 864_900]),
        "EU_433" => list(&[433_175, 433_375, 433_575]),
        "CN_779_787" => list(&[779_500, 779_700, 779_900]),
        "IN_865_867" => {
            let hz = [865_062_500, 865_402_500, 865_985_000];
            Some(hz.into_iter().map(|f| (f, f, 0, 5, true)).collect())
        }
        "CN_470_510" => {
            let at = |n: u64| (470_300_000 + 200_000 * n, 500_300_000 + 200_000 * (n % 48), 0, 5, true);
            Some((0..96).map(at).collect())
        }
        "US_902_928" => sub_band(plan, (902_300_000, 903_000_000), 3, 4),
        "AU_915_928" => sub_band(plan, (915_200_000, 915_900_000), 5, 6),
        _ => None,
    }
}

/// Sixty-four channels of 125 kHz and eight of 500 kHz, of which one sub-band is used: eight of the first and one of the second.
/// V2 used the second one (`us-fsb` and `au-fsb` are 1); here it is the one that the target's plan is named for.
fn sub_band(plan: &str, (narrow, wide): (u64, u64), max: i32, wide_rate: i32) -> Option<Vec<Channel>> {
    let (_, number) = plan.split_once("_FSB_")?;
    let number: u64 = number.split('_').next()?.parse().ok().filter(|n| (1..=8).contains(n))?;
    let used = |n: u64| n == number - 1;
    let down = |n: u64| 923_300_000 + 600_000 * (n % 8);
    let narrow = (0..64).map(|n| (narrow + 200_000 * n, down(n), 0, max, used(n / 8)));
    let wide = (0..8).map(|n| (wide + 1_600_000 * n, down(n), wide_rate, wide_rate, used(n)));
    Some(narrow.chain(wide).collect())
}
