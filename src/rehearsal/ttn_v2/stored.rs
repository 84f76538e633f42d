//! The two halves of a device: as the handler keeps it, and as the Network Server does.

use prost_reflect::{DynamicMessage, Value};

use crate::map::path;

/// Fields that are present in every device that is read, as zeros where nothing is stored, and their lengths.
pub(super) const ALWAYS: &[(&str, usize)] =
    &[("dev_addr", 4), ("nwk_s_key", 16), ("app_s_key", 16), ("app_key", 16)];

/// The key of a device at the Network Server: its EUIs, zeros where they are absent.
pub(in crate::rehearsal) fn network_key(lorawan: &DynamicMessage) -> String {
    let eui = |field: &str| {
        let bytes = path::bytes(lorawan, field);
        hex::encode_upper(if bytes.is_empty() { vec![0; 8] } else { bytes })
    };
    format!("{}.{}", eui("app_eui"), eui("dev_eui"))
}

/// True for what is cleared: no bytes, or only zeros.
pub(in crate::rehearsal) fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// The LoRaWAN half of a `handler.Device`.
pub(super) fn lorawan(device: &DynamicMessage) -> DynamicMessage {
    path::child(device, "lorawan_device").unwrap_or_else(|| crate::proto::message("lorawan.Device"))
}

/// Puts zeros where nothing is.
pub(super) fn fill(lorawan: &mut DynamicMessage) {
    for (field, length) in ALWAYS {
        if path::get(lorawan, field).is_none() {
            path::set(lorawan, field, Value::Bytes(vec![0; *length].into()));
        }
    }
    for eui in ["app_eui", "dev_eui"] {
        if path::get(lorawan, eui).is_none() {
            path::set(lorawan, eui, Value::Bytes(vec![0; 8].into()));
        }
    }
}

/// A stored device as a list shows it: without nonces, counters and the time when it was seen.
pub(super) fn listed(device: &DynamicMessage) -> DynamicMessage {
    let mut device = device.clone();
    let mut half = lorawan(&device);
    fill(&mut half);
    for hidden in ["used_dev_nonces", "used_app_nonces", "f_cnt_up", "f_cnt_down", "last_seen"] {
        path::clear(&mut half, hidden);
    }
    path::set(&mut device, "lorawan_device", Value::Message(half));
    device
}
