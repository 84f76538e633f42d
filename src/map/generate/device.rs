//! Devices that a real stack takes, with every path set that can be set.

use prost_reflect::{DynamicMessage, Value};

use super::{
    Rng,
    valid::{Maker, Tree},
};
use crate::{
    map::{mask, path},
    model::device::{Component, Record, Records},
    proto,
};

/// The application that generated devices belong to.
pub const APPLICATION: &str = "generated";

/// The address of the servers in generated devices: it must be that of the application (`end_device_registry.go:110`).
pub const HOST: &str = "localhost";

/// Paths that can be set but that no generated device holds, with the reason.
pub const UNREACHED: &[(Component, &str, &str)] = &[
    (Component::Is, "picture", "the server stores the picture elsewhere and answers addresses of its own"),
    (
        Component::Ns,
        "mac_settings.uplink_dwell_time.value",
        "refused in EU 863-870, which has no TxParamSetupReq",
    ),
    (
        Component::Ns,
        "mac_settings.downlink_dwell_time.value",
        "refused in EU 863-870, which has no TxParamSetupReq",
    ),
];

/// The kinds of device; consecutive seeds go through them in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// OTAA, LoRaWAN 1.0.4, with a session.
    Otaa,
    /// OTAA, LoRaWAN 1.1, with a session.
    Otaa11,
    /// OTAA, LoRaWAN 1.0.4, with a session and a join that is not yet confirmed by an uplink.
    Joining,
    /// ABP, LoRaWAN 1.0.3, with the older ADR settings.
    Abp,
    /// Multicast, LoRaWAN 1.0.3, class B and C.
    Multicast,
}

impl Variant {
    const ALL: [Self; 5] = [Self::Otaa, Self::Otaa11, Self::Joining, Self::Abp, Self::Multicast];

    /// The kind of the device of this seed.
    pub fn of(seed: u64) -> Self {
        Self::ALL[(seed % Self::ALL.len() as u64) as usize]
    }

    /// True for devices that join, and so have a JS record.
    pub fn joins(self) -> bool {
        matches!(self, Self::Otaa | Self::Otaa11 | Self::Joining)
    }

    fn mac_version(self) -> &'static str {
        match self {
            Self::Otaa | Self::Joining => "MAC_V1_0_4",
            Self::Otaa11 => "MAC_V1_1",
            Self::Abp | Self::Multicast => "MAC_V1_0_3",
        }
    }
}

/// The record of one component: every path of the mask of its Set (IS: Update) is set to something that is not the
/// default and that the rules, and the checks of the server that [`Variant`] and the band decide, allow.
///
/// Paths that exclude each other take turns: over 30 consecutive seeds each is set, but for [`UNREACHED`]. Identifiers,
/// DevAddr and session key ID are the same for all components of one seed. ABP and multicast devices have no JS record
/// ([`Variant::joins`]); asked for all the same, it is that of a device that joins.
pub fn device(seed: u64, component: Component) -> DynamicMessage {
    let unreached = |p: &str| UNREACHED.iter().any(|(c, path, _)| *c == component && *path == p);
    let leaves = mask::leaves(set_rpc(component));
    let round = seed / Variant::ALL.len() as u64;
    let mut maker = Maker { rng: Rng::new(seed ^ (component as u64) << 56), round };
    let allowed = Tree::of(leaves.into_iter().filter(|p| !unreached(p)));
    let mut device = maker.message(&proto::descriptor("EndDevice"), &allowed);
    let variant = Variant::of(seed);
    identify(&mut device, seed);
    match component {
        Component::Is => settle_is(&mut device),
        Component::Js => settle_js(&mut device),
        Component::As => settle_as(&mut device, variant, seed),
        Component::Ns => settle_ns(&mut device, variant, seed),
    }
    device
}

/// The records of all components of one device; without JS for ABP and multicast.
pub fn records(seed: u64) -> Records {
    let mut records = Records::default();
    for component in Component::ALL {
        if component != Component::Js || Variant::of(seed).joins() {
            *records.slot(component) = Some(Record(device(seed, component)));
        }
    }
    records
}

/// The call whose mask says what a component can be told.
fn set_rpc(component: Component) -> &'static str {
    match component {
        Component::Is => "EndDeviceRegistry/Update",
        Component::Js => "JsEndDeviceRegistry/Set",
        Component::As => "AsEndDeviceRegistry/Set",
        Component::Ns => "NsEndDeviceRegistry/Set",
    }
}

fn identify(device: &mut DynamicMessage, seed: u64) {
    path::set(device, "ids.device_id", Value::String(format!("gen-{seed:06}")));
    path::set(device, "ids.application_ids.application_id", Value::String(APPLICATION.to_owned()));
    let number = seed.to_be_bytes();
    let eui = [&[0x70, 0xB3, 0xD5, 0x7E], &number[4..]].concat();
    path::set(device, "ids.dev_eui", Value::Bytes(eui.into()));
    path::set(device, "ids.join_eui", Value::Bytes(vec![0x70, 0xB3, 0xD5, 0x7E, 0xD0, 0, 0, 1].into()));
}

fn settle_is(device: &mut DynamicMessage) {
    path::set(device, "version_ids.band_id", Value::String("EU_863_870".into()));
}

fn settle_js(device: &mut DynamicMessage) {
    path::set(device, "net_id", Value::Bytes(vec![0, 0, 0x13].into()));
}

fn settle_as(device: &mut DynamicMessage, variant: Variant, seed: u64) {
    path::set(device, "version_ids.band_id", Value::String("EU_863_870".into()));
    share_session(device, variant, seed);
}

/// What NS and AS must agree on.
fn share_session(device: &mut DynamicMessage, variant: Variant, seed: u64) {
    let mut rng = Rng::new(seed ^ 0x5E55_1017);
    let addr = [&[0x26_u8], &rng.bytes(3)[..]].concat();
    path::set(device, "session.dev_addr", Value::Bytes(addr.into()));
    if variant.joins() {
        path::set(device, "session.keys.session_key_id", Value::Bytes(rng.bytes(16).into()));
    } else {
        path::clear(device, "session.keys.session_key_id");
    }
}

/// The checks of the NS on a Set (`networkserver/grpc_deviceregistry.go`).
fn settle_ns(device: &mut DynamicMessage, variant: Variant, seed: u64) {
    path::set(device, "frequency_plan_id", Value::String("EU_863_870_TTN".into()));
    path::set(device, "version_ids.band_id", Value::String("EU_863_870".into()));
    // Relays exist in RP002-1.0.4 alone: the NS refuses a serving relay where the band has no WOR channels.
    path::set(device, "lorawan_phy_version", named("PHYVersion", "RP002_V1_0_4"));
    path::set(device, "min_frequency", Value::U64(863_000_000));
    path::set(device, "max_frequency", Value::U64(870_000_000));
    path::set(device, "supports_join", Value::Bool(variant.joins()));
    path::set(device, "multicast", Value::Bool(variant == Variant::Multicast));
    let states: &[&str] =
        &["lorawan_version", "mac_state.lorawan_version", "pending_mac_state.lorawan_version"];
    for version in states {
        path::set(device, version, named("MACVersion", variant.mac_version()));
    }
    share_session(device, variant, seed);
    if variant != Variant::Otaa11 {
        for keys in ["session.keys", "pending_session.keys", "pending_mac_state.queued_join_accept.keys"] {
            one_network_key(device, keys);
        }
    }
    for path in refused(variant) {
        path::clear(device, path);
    }
    if variant == Variant::Multicast
        && let Some(current) = path::child(device, "mac_state.current_parameters")
    {
        path::set(device, "mac_state.desired_parameters", Value::Message(current));
    }
    drop_defaults(device, &["supports_join", "multicast"]);
}

/// LoRaWAN 1.0.x has one network session key, which the API shows three times.
fn one_network_key(device: &mut DynamicMessage, keys: &str) {
    if let Some(key) = path::child(device, &format!("{keys}.f_nwk_s_int_key")) {
        path::set(device, &format!("{keys}.s_nwk_s_int_key"), Value::Message(key.clone()));
        path::set(device, &format!("{keys}.nwk_s_enc_key"), Value::Message(key));
    }
}

/// What the NS refuses for this kind of device, or next to something else that is set.
fn refused(variant: Variant) -> &'static [&'static str] {
    match variant {
        Variant::Otaa | Variant::Otaa11 => {
            &["pending_mac_state", "pending_session", "mac_settings.use_adr", "mac_settings.adr_margin"]
        }
        Variant::Joining => &["mac_settings.use_adr", "mac_settings.adr_margin"],
        Variant::Abp => &["pending_mac_state", "pending_session", "mac_settings.adr"],
        Variant::Multicast => &[
            "pending_mac_state",
            "pending_session",
            "mac_settings.adr",
            "mac_settings.relay",
            "mac_settings.desired_relay",
            "mac_settings.schedule_downlinks",
            "mac_state.current_parameters.relay",
            "mac_state.last_adr_change_f_cnt_up",
            "mac_state.last_confirmed_downlink_at",
            "mac_state.last_dev_status_f_cnt_up",
            "mac_state.pending_application_downlink",
            "mac_state.pending_requests",
            "mac_state.queued_responses",
            "mac_state.recent_mac_command_identifiers",
            "mac_state.recent_uplinks",
            "mac_state.rejected_adr_data_rate_indexes",
            "mac_state.rejected_adr_tx_power_indexes",
            "mac_state.rejected_data_rate_ranges",
            "mac_state.rejected_frequencies",
            "mac_state.rx_windows_available",
            "session.last_conf_f_cnt_down",
            "session.last_f_cnt_up",
        ],
    }
}

/// A stored `false` would differ from an absent one in comparisons of messages.
fn drop_defaults(device: &mut DynamicMessage, paths: &[&str]) {
    for path in paths.iter().copied().filter(|p| !path::flag(device, p)).collect::<Vec<_>>() {
        path::clear(device, path);
    }
}

fn named(descriptor: &str, name: &str) -> Value {
    let value = proto::enumeration(descriptor).get_value_by_name(name);
    Value::EnumNumber(value.map_or(0, |v| v.number()))
}
