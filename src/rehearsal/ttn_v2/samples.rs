//! A V2 with devices, for tests.

use prost_reflect::{MapKey, Value};

use super::*;

pub(in crate::rehearsal) const KEY: &str = "ttn-account-v2.devices";
pub(in crate::rehearsal) const FLEET: &[u8] = include_bytes!("../../../tests/fixtures/ttn-v2-fleet.json");

pub(in crate::rehearsal) fn settings() -> V2Settings {
    let keys = vec![
        AccessKey::new(KEY, &["messages", "devices"]),
        AccessKey::new("ttn-account-v2.settings", &["settings"]),
        AccessKey::new("ttn-account-v2.all", &["devices", "settings"]),
    ];
    let other = V2Application::new("other", vec![AccessKey::new("ttn-account-v2.other", &["devices"])]);
    let unregistered = V2Application {
        registered: false,
        ..V2Application::new("unreg", vec![AccessKey::new(KEY, &["devices", "settings"])])
    };
    let applications = vec![V2Application::new("fleet", keys), other, unregistered];
    V2Settings { applications, ..V2Settings::default() }
}

pub(in crate::rehearsal) fn v2() -> Arc<TtnV2> {
    TtnV2::new(settings()).expect("memory")
}

pub(in crate::rehearsal) fn identifier(app_id: &str, dev_id: Option<&str>) -> DynamicMessage {
    let name = if dev_id.is_some() { "DeviceIdentifier" } else { "ApplicationIdentifier" };
    let mut message = proto::message(&format!("handler.{name}"));
    path::set(&mut message, "app_id", Value::String(app_id.to_owned()));
    if let Some(dev_id) = dev_id {
        path::set(&mut message, "dev_id", Value::String(dev_id.to_owned()));
    }
    message
}

impl TtnV2 {
    pub(in crate::rehearsal) fn manager(
        &self,
        method: &str,
        request: DynamicMessage,
        metadata: &[(&str, &str)],
    ) -> Result<Reply, Status> {
        self.call(&format!("/handler.ApplicationManager/{method}"), request, metadata)
    }

    pub(in crate::rehearsal) fn get(&self, dev_id: &str) -> Result<DynamicMessage, Status> {
        let reply = self.manager("GetDevice", identifier("fleet", Some(dev_id)), &[("key", KEY)]);
        reply.map(|reply| reply.message)
    }

    pub(in crate::rehearsal) fn set(&self, device: DynamicMessage) -> Result<(), Status> {
        self.manager("SetDevice", device, &[("key", KEY)]).map(|_| ())
    }

    pub(in crate::rehearsal) fn list(&self, metadata: &[(&str, &str)]) -> Result<Reply, Status> {
        let metadata = [&[("key", KEY)], metadata].concat();
        self.manager("GetDevicesForApplication", identifier("fleet", None), &metadata)
    }
}

pub(in crate::rehearsal) fn eui(n: u8) -> Value {
    Value::Bytes(vec![0x70, 0xB3, 0xD5, 0x7E, 0xD0, 0, 0, n].into())
}

pub(in crate::rehearsal) fn bytes(n: u8, length: usize) -> Value {
    Value::Bytes(vec![n; length].into())
}

/// As little as is taken.
pub(in crate::rehearsal) fn bare(dev_id: &str) -> DynamicMessage {
    let mut device = identifier_only(dev_id);
    for (field, value) in [("app_id", "fleet"), ("dev_id", dev_id)] {
        path::set(&mut device, &format!("lorawan_device.{field}"), Value::String(value.to_owned()));
    }
    path::set(&mut device, "lorawan_device.app_eui", eui(0xAA));
    path::set(&mut device, "lorawan_device.dev_eui", eui(1));
    device
}

pub(in crate::rehearsal) fn identifier_only(dev_id: &str) -> DynamicMessage {
    let mut device = proto::message("handler.Device");
    path::set(&mut device, "app_id", Value::String("fleet".into()));
    path::set(&mut device, "dev_id", Value::String(dev_id.to_owned()));
    device
}

/// Everything that can be set.
pub(in crate::rehearsal) fn full(dev_id: &str) -> DynamicMessage {
    let mut device = bare(dev_id);
    let fields = [
        ("lorawan_device.app_key", bytes(1, 16)),
        ("lorawan_device.nwk_s_key", bytes(2, 16)),
        ("lorawan_device.app_s_key", bytes(3, 16)),
        ("lorawan_device.dev_addr", Value::Bytes(vec![0x26, 1, 0x10, 1].into())),
        ("lorawan_device.f_cnt_up", Value::U32(70_000)),
        ("lorawan_device.f_cnt_down", Value::U32(21)),
        ("lorawan_device.disable_f_cnt_check", Value::Bool(true)),
        ("lorawan_device.uses32_bit_f_cnt", Value::Bool(true)),
        ("lorawan_device.activation_constraints", Value::String("private".into())),
        ("description", Value::String("a meter".into())),
        ("latitude", Value::F32(52.5)),
        ("longitude", Value::F32(4.5)),
        ("altitude", Value::I32(-3)),
        ("attributes", attributes(&[("site", "north"), ("ttn-brand", "acme")])),
    ];
    for (at, value) in fields {
        path::set(&mut device, at, value);
    }
    device
}

pub(in crate::rehearsal) fn attributes(list: &[(&str, &str)]) -> Value {
    let entry = |(key, value): &(&str, &str)| (MapKey::String((*key).into()), Value::String((*value).into()));
    Value::Map(list.iter().map(entry).collect())
}
