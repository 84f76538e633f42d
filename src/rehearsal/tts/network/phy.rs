//! What of a device must fit its frequency plan and its band.

use prost_reflect::{DynamicMessage, Value};
use serde_json::json;
use tonic::Code;

use super::{
    super::failure::{Failure, Kind},
    regional::{Band, Plan, plan_and_band},
    set::{Writing, invalid, leaves_below},
};
use crate::map::path;

const BAND_MISMATCH: Kind = Kind::new(
    Code::InvalidArgument,
    "pkg/networkserver",
    "device_and_frequency_plan_band_mismatch",
    "device band ID `{dev_band_id}` and frequency plan band ID `{fp_band_id}` do not match",
);

const PLAN: &str = "frequency_plan_id";
const PHY: &str = "lorawan_phy_version";

type Result = std::result::Result<(), Failure>;
type Data = (&'static Plan, &'static Band);

/// Data rate indexes that must exist in the band, with the message that must be there for the check.
const DATA_RATES: &[(&str, &str)] = &[
    ("mac_settings.rx2_data_rate_index.value", "mac_settings.rx2_data_rate_index"),
    ("mac_settings.desired_rx2_data_rate_index.value", "mac_settings.desired_rx2_data_rate_index"),
    ("mac_settings.ping_slot_data_rate_index.value", "mac_settings.ping_slot_data_rate_index"),
    (
        "mac_settings.desired_ping_slot_data_rate_index.value",
        "mac_settings.desired_ping_slot_data_rate_index",
    ),
    ("mac_settings.adr.mode.static.data_rate_index", "mac_settings.adr.mode.static"),
    ("mac_state.current_parameters.rx2_data_rate_index", "mac_state"),
    ("mac_state.desired_parameters.rx2_data_rate_index", "mac_state"),
    ("pending_mac_state.current_parameters.rx2_data_rate_index", "pending_mac_state"),
    ("pending_mac_state.desired_parameters.rx2_data_rate_index", "pending_mac_state"),
];

/// Where relay settings and parameters stand.
const RELAYS: [&str; 6] = [
    "mac_settings.desired_relay",
    "mac_settings.relay",
    "mac_state.current_parameters.relay",
    "mac_state.desired_parameters.relay",
    "pending_mac_state.current_parameters.relay",
    "pending_mac_state.desired_parameters.relay",
];

/// Where MAC parameters stand.
const PARAMETERS: [&str; 4] = [
    "mac_state.current_parameters",
    "mac_state.desired_parameters",
    "pending_mac_state.current_parameters",
    "pending_mac_state.desired_parameters",
];

/// The checks of one device.
struct Checks<'w, 'a> {
    writing: &'w mut Writing<'a>,
    data: std::result::Result<Data, Failure>,
    /// True when the request changes plan or PHY version: everything is checked then.
    changes: bool,
}

/// Parameters must be consistent with the band.
pub(super) fn check(writing: &mut Writing<'_>) -> Result {
    let adr = "mac_settings.adr.mode.dynamic";
    let mut concerned: Vec<String> = DATA_RATES.iter().map(|(path, _)| (*path).to_owned()).collect();
    for part in
        ["max_data_rate_index.value", "max_tx_power_index", "min_data_rate_index.value", "min_tx_power_index"]
    {
        concerned.push(format!("{adr}.{part}"));
    }
    for relay in RELAYS {
        concerned.push(format!("{relay}.mode.served.second_channel.data_rate_index"));
        concerned.push(format!("{relay}.mode.serving.default_channel_index"));
        concerned.push(format!("{relay}.mode.serving.second_channel.data_rate_index"));
    }
    for parameters in PARAMETERS {
        for part in
            ["adr_data_rate_index", "adr_tx_power_index", "channels", "ping_slot_data_rate_index_value.value"]
        {
            concerned.push(format!("{parameters}.{part}"));
        }
    }
    concerned.extend(
        [
            PLAN,
            PHY,
            "mac_settings.adr.mode.static.tx_power_index",
            "mac_settings.downlink_dwell_time.value",
            "mac_settings.factory_preset_frequencies",
            "mac_settings.ping_slot_frequency.value",
            "mac_settings.uplink_dwell_time.value",
            "mac_settings.use_adr.value",
            "supports_class_b",
        ]
        .map(str::to_owned),
    );
    if !writing.sets_any(&concerned) {
        return Ok(());
    }
    let id = writing.at(PLAN).map(|device| path::string(device, PLAN)).unwrap_or_default();
    let version = i32::try_from(writing.number(PHY)).unwrap_or_default();
    let data = plan_and_band(&id, version);
    writing.check(&[PLAN, PHY], data.as_ref().map(|_| ()).map_err(Clone::clone))?;
    let changes = writing.sets(PLAN) || writing.sets(PHY);
    let mut checks = Checks { writing, data, changes };
    checks.band_id()?;
    checks.settings()?;
    checks.relays()?;
    checks.factory_frequencies()?;
    checks.class_b()?;
    checks.limits()
}

impl Checks<'_, '_> {
    /// Checks a field if it is set or the band may have changed.
    fn each(&mut self, field: &str, fits: impl Fn(&DynamicMessage, Data) -> bool) -> Result {
        if !self.changes && !self.writing.sets(field) {
            return Ok(());
        }
        let ok = match (&self.data, self.writing.at(field)) {
            (Ok(data), Some(device)) => fits(device, *data),
            _ => true,
        };
        let result = if ok { Ok(()) } else { Err(invalid(field)) };
        self.writing.check(&[field, PLAN, PHY], result)
    }

    /// A device that is known to be of one band has a plan of it.
    fn band_id(&mut self) -> Result {
        let field = "version_ids.band_id";
        if !self.writing.sets(PLAN) && !self.writing.sets(field) {
            return Ok(());
        }
        let own = self.writing.at(field).map(|device| path::string(device, field)).unwrap_or_default();
        let result = match &self.data {
            Ok((plan, _)) if !own.is_empty() && own != plan.band_id => {
                let cause = BAND_MISMATCH.with(json!({"dev_band_id": own, "fp_band_id": plan.band_id}));
                Err(invalid(field).because(cause))
            }
            _ => Ok(()),
        };
        self.writing.check(&[field, PLAN, PHY], result)
    }

    fn settings(&mut self) -> Result {
        for (field, owner) in DATA_RATES {
            self.each(field, |device, (_, band)| {
                !path::has(device, owner) || band.has_data_rate(path::number(device, field))
            })?;
        }
        for parameters in PARAMETERS {
            let owner = format!("{parameters}.ping_slot_data_rate_index_value");
            let field = format!("{owner}.value");
            self.each(&field, |device, (_, band)| {
                !path::has(device, &owner) || band.has_data_rate(path::number(device, &field))
            })?;
        }
        let dynamic = "mac_settings.adr.mode.dynamic";
        for side in ["max", "min"] {
            let owner = format!("{dynamic}.{side}_data_rate_index");
            let field = format!("{owner}.value");
            self.each(&field, |device, (_, band)| {
                let index = path::number(device, &field);
                let max = u64::try_from(band.index("max_adr_data_rate_index")).unwrap_or_default();
                !path::has(device, &owner) || (band.has_data_rate(index) && index <= max)
            })?;
        }
        for side in ["max", "min"] {
            let field = format!("{dynamic}.{side}_tx_power_index");
            self.each(&field, |device, (_, band)| {
                path::number(device, &format!("{field}.value")) <= band.max_tx_power_index()
            })?;
        }
        self.dynamic_adr(dynamic)?;
        let field = "mac_settings.adr.mode.static.tx_power_index";
        self.each(field, |device, (_, band)| path::number(device, field) <= band.max_tx_power_index())?;
        for direction in ["uplink", "downlink"] {
            let owner = format!("mac_settings.{direction}_dwell_time");
            self.each(&format!("{owner}.value"), |device, (_, band)| {
                !path::has(device, &owner) || band.flag("tx_param_setup_req_support")
            })?;
        }
        Ok(())
    }

    /// Not every band can adapt data rates.
    fn dynamic_adr(&mut self, dynamic: &str) -> Result {
        let mut fields: Vec<String> = leaves_below(&format!("{dynamic}."))
            .into_iter()
            .map(str::to_owned)
            .chain([dynamic.to_owned()])
            .filter(|field| self.writing.sets(field))
            .collect();
        if self.changes {
            fields.push("mac_settings.adr.mode".to_owned());
        }
        for field in fields {
            let ok = match (&self.data, self.writing.at(&field)) {
                (Ok((_, band)), Some(device)) => {
                    band.flag("supports_dynamic_adr") || !path::has(device, dynamic)
                }
                _ => true,
            };
            let result = if ok { Ok(()) } else { Err(invalid(&field)) };
            self.writing.check(&[&field, PLAN, PHY], result)?;
        }
        Ok(())
    }

    fn relays(&mut self) -> Result {
        for relay in RELAYS {
            for mode in ["served", "serving"] {
                let owner = format!("{relay}.mode.{mode}.second_channel");
                let field = format!("{owner}.data_rate_index");
                self.each(&field, |device, (_, band)| {
                    !path::has(device, &owner) || band.has_data_rate(path::number(device, &field))
                })?;
            }
            let serving = format!("{relay}.mode.serving");
            let field = format!("{serving}.default_channel_index");
            let wrapped = relay.starts_with("mac_settings");
            self.each(&field, |device, (_, band)| {
                let (owner, at) = if wrapped {
                    (field.clone(), format!("{field}.value"))
                } else {
                    (serving.clone(), field.clone())
                };
                !path::has(device, &owner) || path::number(device, &at) < band.wor_channels()
            })?;
        }
        Ok(())
    }

    fn factory_frequencies(&mut self) -> Result {
        let field = "mac_settings.factory_preset_frequencies";
        self.each(field, |device, (plan, band)| {
            let list = path::get(device, field);
            let mut frequencies =
                list.iter().flat_map(|l| l.as_list().unwrap_or_default()).filter_map(Value::as_u64);
            let fixed = band.channels("uplink_channels");
            frequencies.all(|frequency| {
                if band.has_channel_masks() {
                    fixed.iter().any(|channel| channel.frequency == frequency)
                } else {
                    plan.has_frequency(frequency) || band.has_frequency(frequency)
                }
            })
        })
    }

    /// Class B needs frequencies for ping slots and beacons, of the device or of the band.
    fn class_b(&mut self) -> Result {
        for (setting, of_band) in [
            ("ping_slot_frequency", "ping_slot_frequencies"),
            ("desired_ping_slot_frequency", "ping_slot_frequencies"),
            ("beacon_frequency", "beacon.frequencies"),
            ("desired_beacon_frequency", "beacon.frequencies"),
        ] {
            let field = format!("mac_settings.{setting}.value");
            if !self.changes && !self.writing.sets("supports_class_b") && !self.writing.sets(&field) {
                continue;
            }
            let needed = self.writing.flag("supports_class_b") && self.writing.number(&field) == 0;
            let known = self.data.as_ref().is_ok_and(|(_, band)| !band.frequencies(of_band).is_empty());
            let result = if !needed || known || self.data.is_err() { Ok(()) } else { Err(invalid(&field)) };
            self.writing.check(&[&field, "supports_class_b", PLAN, PHY], result)?;
        }
        Ok(())
    }

    fn limits(&mut self) -> Result {
        self.each("mac_settings.use_adr.value", |device, (_, band)| {
            !path::flag(device, "mac_settings.use_adr") || band.flag("supports_dynamic_adr")
        })?;
        for parameters in PARAMETERS {
            let field = format!("{parameters}.adr_data_rate_index");
            self.each(&field, |device, (_, band)| {
                let max = u64::try_from(band.index("max_adr_data_rate_index")).unwrap_or_default();
                path::number(device, &field) <= max
            })?;
            let field = format!("{parameters}.adr_tx_power_index");
            self.each(&field, |device, (_, band)| path::number(device, &field) <= band.max_tx_power_index())?;
            let field = format!("{parameters}.channels");
            self.each(&field, |device, (_, band)| {
                let count = path::get(device, &field).and_then(|l| Some(l.as_list()?.len() as u64));
                count.unwrap_or_default() <= band.max_uplink_channels()
            })?;
        }
        Ok(())
    }
}
