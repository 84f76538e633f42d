//! Regional data: the bands of each PHY version and the frequency plans.
//!
//! `bands.jsonl` is what `Configuration/ListBands` of The Things Stack 3.32.1 answers, with repeated parts taken out;
//! `plans.jsonl` comes from the `lorawan-frequency-plans` repository of The Things Network. Both are facts in the order
//! of their sources.

use std::{collections::HashMap, sync::LazyLock};

use prost_reflect::{DynamicMessage, Value};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use tonic::Code;

use super::super::failure::{Failure, Kind};
use crate::{map::path, proto};

const PLAN_NOT_FOUND: Kind =
    Kind::new(Code::NotFound, "pkg/frequencyplans", "not_found", "frequency plan `{id}` not found");
const NO_BAND_VERSION: Kind = Kind::new(
    Code::InvalidArgument,
    "pkg/networkserver/internal",
    "no_band_version",
    "specified version `{ver}` of band `{id}` does not exist",
);

/// A frequency plan; frequencies in Hz.
#[derive(Debug, Deserialize)]
pub(in crate::rehearsal::tts) struct Plan {
    pub id: String,
    pub band_id: String,
    pub base_id: String,
    pub name: String,
    pub base_frequency: u32,
    pub gateways: bool,
    /// Frequency, lowest and highest data rate index.
    pub uplink_channels: Vec<(u64, i32, i32)>,
    pub downlink_frequencies: Vec<u64>,
    pub lora_standard_frequency: Option<u64>,
    pub dwell_time_uplinks: Option<bool>,
    pub dwell_time_downlinks: Option<bool>,
    pub max_eirp: Option<f32>,
    pub ping_slot_frequency: Option<u64>,
    pub ping_slot_data_rate: Option<i32>,
    pub rx2_frequency: Option<u64>,
    pub rx2_data_rate: Option<i32>,
    #[serde(default)]
    pub sub_bands: Vec<(u64, u64)>,
}

/// A band in one version of the regional parameters.
#[derive(Debug)]
pub(in crate::rehearsal::tts) struct Band {
    pub id: String,
    /// The `PHYVersion`s that this description is for: the names that the stack writes, and their numbers.
    pub phy_versions: Vec<(String, i32)>,
    /// `BandDescription`.
    pub description: DynamicMessage,
}

/// A channel of a band.
#[derive(Debug, Clone, Copy)]
pub(super) struct Channel {
    pub frequency: u64,
    pub min_data_rate: i32,
    pub max_data_rate: i32,
}

static PLANS: LazyLock<Vec<Plan>> = LazyLock::new(|| {
    let lines = include_str!("plans.jsonl").lines();
    lines.map(|line| serde_json::from_str(line).expect("plans.jsonl is part of this program")).collect()
});

static BANDS: LazyLock<Vec<Band>> =
    LazyLock::new(|| read_bands(include_str!("bands.jsonl")).expect("bands.jsonl is part of this program"));

fn read_bands(text: &str) -> Result<Vec<Band>, serde_json::Error> {
    let mut parts: Vec<Json> = Vec::new();
    let mut bands = Vec::new();
    for line in text.lines() {
        let mut line: Json = serde_json::from_str(line)?;
        if line.get("part").is_some() {
            parts.push(line["value"].take());
            continue;
        }
        let mut description = line["description"].take();
        for field in ["uplink_channels", "downlink_channels", "data_rates", "sub_bands", "relay", "beacon"] {
            let part = description[field].as_u64().and_then(|n| parts.get(usize::try_from(n).ok()?));
            let whole = part.cloned().unwrap_or(Json::Null);
            description[field] = if field.ends_with("channels") { channels(&whole) } else { whole };
        }
        let versions = proto::enumeration("PHYVersion");
        let names = line["phy_versions"].as_array().cloned().unwrap_or_default();
        let number = |name: &Json| {
            let name = name.as_str()?;
            Some((name.to_owned(), versions.get_value_by_name(name)?.number()))
        };
        bands.push(Band {
            id: line["band_id"].as_str().unwrap_or_default().to_owned(),
            phy_versions: names.iter().filter_map(number).collect(),
            description: DynamicMessage::deserialize(proto::descriptor("BandDescription"), description)?,
        });
    }
    Ok(bands)
}

/// `[[frequency, min, max], …]` as the API writes channels.
fn channels(list: &Json) -> Json {
    let channel = |c: &Json| json!({"frequency": c[0].as_u64(), "min_data_rate": c[1].as_i64(), "max_data_rate": c[2].as_i64()});
    list.as_array().map_or(Json::Null, |list| list.iter().map(channel).collect())
}

/// All plans.
pub(in crate::rehearsal::tts) fn plans() -> &'static [Plan] {
    &PLANS
}

/// All bands.
pub(in crate::rehearsal::tts) fn bands() -> &'static [Band] {
    &BANDS
}

/// A plan by its ID.
pub(super) fn plan(id: &str) -> Result<&'static Plan, Failure> {
    static BY_ID: LazyLock<HashMap<&str, &Plan>> =
        LazyLock::new(|| PLANS.iter().map(|p| (p.id.as_str(), p)).collect());
    BY_ID.get(id).copied().ok_or_else(|| PLAN_NOT_FOUND.with(json!({"id": id})))
}

/// A plan with its band in a PHY version, by number (`FrequencyPlanAndBand`).
pub(super) fn plan_and_band(id: &str, phy_version: i32) -> Result<(&'static Plan, &'static Band), Failure> {
    let plan = plan(id)?;
    let band = BANDS.iter().find(|b| b.id == plan.band_id && b.is_for(phy_version));
    let band = band.ok_or_else(|| {
        let mut names = BANDS.iter().flat_map(|b| &b.phy_versions);
        let name = names.find(|(_, number)| *number == phy_version).map(|(name, _)| name.clone());
        let name = name.unwrap_or_else(|| phy_name(phy_version));
        NO_BAND_VERSION.with(json!({"ver": name, "id": plan.band_id}))
    })?;
    Ok((plan, band))
}

fn phy_name(number: i32) -> String {
    let value = proto::enumeration("PHYVersion").get_value(number);
    value.map_or_else(|| number.to_string(), |v| v.name().to_owned())
}

impl Plan {
    /// True when a frequency lies in one of the plan's own sub-bands.
    pub(super) fn has_frequency(&self, frequency: u64) -> bool {
        self.sub_bands.iter().any(|(min, max)| (*min..=*max).contains(&frequency))
    }
}

impl Band {
    fn is_for(&self, phy_version: i32) -> bool {
        self.phy_versions.iter().any(|(_, number)| *number == phy_version)
    }

    fn number(&self, at: &str) -> u64 {
        path::number(&self.description, at)
    }

    /// An enum of the description.
    pub(super) fn index(&self, at: &str) -> i32 {
        i32::try_from(self.number(at)).unwrap_or_default()
    }

    pub(super) fn flag(&self, at: &str) -> bool {
        path::flag(&self.description, at)
    }

    fn list(&self, at: &str) -> Vec<Value> {
        let list = path::get(&self.description, at);
        list.and_then(|v| v.as_list().map(<[Value]>::to_vec)).unwrap_or_default()
    }

    /// True when the data rate index exists.
    pub(super) fn has_data_rate(&self, index: u64) -> bool {
        let rates = path::get(&self.description, "data_rates");
        let key = u32::try_from(index).map(prost_reflect::MapKey::U32);
        rates.is_some_and(|r| r.as_map().is_some_and(|map| key.is_ok_and(|key| map.contains_key(&key))))
    }

    /// Highest index of the TX power table.
    pub(super) fn max_tx_power_index(&self) -> u64 {
        (self.list("tx_offset").len() as u64).saturating_sub(1)
    }

    pub(super) fn max_uplink_channels(&self) -> u64 {
        self.number("max_uplink_channels")
    }

    pub(super) fn max_eirp(&self) -> f32 {
        path::get(&self.description, "default_max_eirp").and_then(|v| v.as_f32()).unwrap_or_default()
    }

    /// Frequencies in Hz of a list field: `ping_slot_frequencies`, `beacon.frequencies`.
    pub(super) fn frequencies(&self, at: &str) -> Vec<u64> {
        self.list(at).iter().filter_map(Value::as_u64).collect()
    }

    /// `uplink_channels` or `downlink_channels`.
    pub(super) fn channels(&self, at: &str) -> Vec<Channel> {
        let channel = |value: &Value| {
            let channel = value.as_message()?;
            let index = |at: &str| i32::try_from(path::number(channel, at)).unwrap_or_default();
            Some(Channel {
                frequency: path::number(channel, "frequency"),
                min_data_rate: index("min_data_rate"),
                max_data_rate: index("max_data_rate"),
            })
        };
        self.list(at).iter().filter_map(channel).collect()
    }

    /// True when a frequency lies in one of the band's sub-bands.
    pub(super) fn has_frequency(&self, frequency: u64) -> bool {
        self.list("sub_bands").iter().filter_map(Value::as_message).any(|sub| {
            (path::number(sub, "min_frequency")..=path::number(sub, "max_frequency")).contains(&frequency)
        })
    }

    pub(super) fn rx2_frequency(&self) -> u64 {
        self.number("default_rx2_parameters.frequency")
    }

    /// Wake-on-radio channels of the relay.
    pub(super) fn wor_channels(&self) -> u64 {
        self.list("relay.wor_channels").len() as u64
    }

    /// True for bands whose channel list is a mask of fixed channels.
    pub(super) fn has_channel_masks(&self) -> bool {
        self.index("cf_list_type") == 1
    }

    /// Seconds until RX1.
    pub(super) fn receive_delay(&self) -> i32 {
        let seconds = path::child(&self.description, "receive_delay_1")
            .and_then(|d| d.get_field_by_name("seconds")?.as_i64());
        seconds.and_then(|s| i32::try_from(s).ok()).unwrap_or(1)
    }

    /// Attempts of a device served by a relay before it sends directly: 8 where the band knows relays.
    pub(super) fn relay_backoff(&self) -> u32 {
        if path::has(&self.description, "relay_forward_delay") { 8 } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_plan_has_a_band_in_some_version() {
        for plan in plans() {
            let bands: Vec<_> = bands().iter().filter(|b| b.id == plan.band_id).collect();
            assert!(!bands.is_empty(), "{}", plan.id);
            for band in bands {
                assert!(!band.phy_versions.is_empty());
                assert!(band.has_data_rate(0) && !band.channels("uplink_channels").is_empty(), "{}", band.id);
                assert!(plan.uplink_channels.len() as u64 <= band.max_uplink_channels(), "{}", plan.id);
            }
        }
    }

    #[test]
    fn an_unknown_plan_and_version_are_told_apart() {
        assert_eq!(
            plan_and_band("NOPE", 1).expect_err("unknown").full_name(),
            "pkg/frequencyplans:not_found"
        );
        let error = plan_and_band("RU_864_870_TTN", 1).expect_err("too old").full_name();
        assert_eq!(error, "pkg/networkserver/internal:no_band_version");
    }
}
