//! Devices at Network, Join, Application and Identity Server.

use super::*;

const FIELDS: &str = "frequency_plan_id,lorawan_version,lorawan_phy_version,supports_join";
const KEYS: &str = "session.dev_addr,session.keys.f_nwk_s_int_key.key";

/// A device with frequency plan and versions, and more.
fn device(ids: Json, more: Json) -> Json {
    let mut device = json!({
        "ids": ids,
        "frequency_plan_id": "EU_863_870_TTN",
        "lorawan_version": "MAC_V1_0_3",
        "lorawan_phy_version": "RP001_V1_0_3_REV_A",
    });
    merge(&mut device, more);
    device
}

fn merge(into: &mut Json, more: Json) {
    if let (Json::Object(into), Json::Object(more)) = (into, more) {
        into.extend(more);
    }
}

fn session(keys: Json) -> Json {
    json!({"session": {"dev_addr": "AQIDBA==", "keys": keys}})
}

fn f_key() -> Json {
    session(json!({"f_nwk_s_int_key": {"key": KEY}}))
}

impl Server {
    fn set(&self, service: &str, device: Json, paths: &str) -> Result<Json, String> {
        self.call(&format!("{service}/Set"), json!({"end_device": device}), paths)
    }

    fn ns(&self, device: Json, paths: &str) -> Result<Json, String> {
        self.set("NsEndDeviceRegistry", device, paths)
    }

    /// The field that the Network Server refuses.
    fn refused(&self, device: Json, paths: &str) -> String {
        let error = self.ns(device, paths).expect_err("refused");
        let field =
            error.strip_prefix("InvalidArgument pkg/networkserver:field_value (invalid value of field `");
        field.and_then(|rest| rest.split('`').next()).map_or(error.clone(), str::to_owned)
    }

    fn ns_get(&self, id: &str, paths: &str) -> Result<Json, String> {
        self.call("NsEndDeviceRegistry/Get", json!({"end_device_ids": ids(id)}), paths)
    }
}

#[test]
fn a_personalized_session_has_an_address_a_key_and_no_session_key_id() {
    let server = Server::new();
    let abp = |more| device(ids("pump-1"), more);
    let no_addr = json!({"session": {"keys": {"f_nwk_s_int_key": {"key": KEY}}}});
    let paths = format!("{FIELDS},session.keys.f_nwk_s_int_key.key");
    assert_eq!(server.refused(abp(no_addr), &paths), "session.dev_addr");
    let keyed = session(json!({"session_key_id": "AQID", "f_nwk_s_int_key": {"key": KEY}}));
    let paths = format!("{FIELDS},{KEYS}");
    let with_id = format!("{paths},session.keys.session_key_id");
    assert_eq!(server.refused(abp(keyed), &with_id), "session.keys.session_key_id");
    let newer = json!({"lorawan_version": "MAC_V1_1", "lorawan_phy_version": "RP001_V1_1_REV_B"});
    let mut newer = abp(newer);
    merge(&mut newer, f_key());
    let field = server.refused(newer, &paths);
    assert!(field.starts_with("ids.dev_eui") || field.starts_with("session.keys."), "{field}");

    server.ns(abp(f_key()), &paths).expect("whole");
    let stored = server.ns_get("pump-1", "session,mac_state").expect("stored");
    let keys = &stored["session"]["keys"];
    // A device of 1.0.x has one network key.
    assert_eq!(keys["s_nwk_s_int_key"], keys["f_nwk_s_int_key"]);
    assert_eq!(keys["nwk_s_enc_key"], keys["f_nwk_s_int_key"]);
    assert!(stored["session"]["started_at"].is_string());
    assert_eq!(stored["ids"]["dev_addr"], "AQIDBA==");
    assert_eq!(stored["mac_state"]["lorawan_version"], "MAC_V1_0_3");
    assert_eq!(stored["mac_state"]["desired_parameters"]["rx1_delay"], "RX_DELAY_5");
}

#[test]
fn what_a_device_is_does_not_change() {
    let server = Server::new();
    let abp = |more: Json| {
        let mut device = json!({"ids": ids("pump-1")});
        merge(&mut device, more);
        device
    };
    server.ns(device(ids("pump-1"), f_key()), &format!("{FIELDS},{KEYS}")).expect("whole");
    assert_eq!(server.refused(abp(json!({"supports_join": true})), "supports_join"), "ids.dev_eui");
    server.ns(abp(json!({"multicast": true})), "multicast").expect_err("what it is");
    let otaa_device = device(otaa("valve-1"), json!({"supports_join": true}));
    server.ns(otaa_device, FIELDS).expect("whole");
    let other = json!({"device_id": "valve-1", "application_ids": {"application_id": "meters"},
        "dev_eui": JOIN_EUI, "join_eui": EUI});
    let error = server.ns(json!({"ids": other, "supports_class_c": true}), "supports_class_c");
    assert!(error.expect_err("other EUIs").contains("pkg/networkserver/redis:read_only_field"));
    let taken = device(otaa("valve-2"), json!({"supports_join": true}));
    let error = server.ns(taken, FIELDS).expect_err("the EUIs are taken");
    assert!(error.starts_with("AlreadyExists pkg/internal/registry:end_device_euis_taken"), "{error}");
}

#[test]
fn settings_that_exclude_or_need_each_other() {
    let server = Server::new();
    server.ns(device(ids("pump-1"), f_key()), &format!("{FIELDS},{KEYS}")).expect("whole");
    let with = |more: Json| {
        let mut device = json!({"ids": ids("pump-1")});
        merge(&mut device, more);
        device
    };
    let adr = json!({"mac_settings": {"adr": {"dynamic": {}}}});
    let both = json!({"mac_settings": {"use_adr": {"value": true}, "adr": {"dynamic": {}}}});
    let refused = server.refused(with(both), "mac_settings.use_adr,mac_settings.adr");
    assert_eq!(refused, "mac_settings.use_adr.value");
    server.ns(with(adr), "mac_settings.adr").expect("alone");
    let old = json!({"mac_settings": {"use_adr": {"value": true}}});
    assert_eq!(server.refused(with(old), "mac_settings.use_adr"), "mac_settings.adr.mode");
    let class_b = with(json!({"supports_class_b": true}));
    assert_eq!(server.refused(class_b, "supports_class_b"), "mac_settings.ping_slot_periodicity.value");
    assert_eq!(server.refused(with(json!({})), "frequency_plan_id"), "frequency_plan_id");
    let error = server.ns(with(json!({"frequency_plan_id": "NOPE"})), "frequency_plan_id");
    assert!(error.expect_err("unknown").starts_with("NotFound pkg/frequencyplans:not_found"));
    let pending =
        json!({"pending_session": {"dev_addr": "AQIDBA==", "keys": {"f_nwk_s_int_key": {"key": KEY}}}});
    assert_eq!(server.refused(with(pending), "pending_session.dev_addr"), "supports_join");
}

#[test]
fn a_multicast_group_listens_in_class_b_or_c_and_never_joins() {
    let server = Server::new();
    let mut group = device(ids("valves-1"), f_key());
    merge(&mut group, json!({"multicast": true}));
    let paths = format!("{FIELDS},{KEYS},multicast");
    assert_eq!(server.refused(group.clone(), &paths), "supports_class_b");
    merge(&mut group, json!({"supports_class_c": true}));
    server.ns(group, &format!("{paths},supports_class_c")).expect("class C");
    let joins = json!({"ids": ids("valves-1"), "supports_join": true});
    assert_eq!(server.refused(joins, "supports_join"), "multicast");
}

#[test]
fn a_reset_forgets_what_was_negotiated() {
    let server = Server::new();
    let reset = |id: &str| {
        server.call(
            "NsEndDeviceRegistry/ResetFactoryDefaults",
            json!({"end_device_ids": ids(id)}),
            "session,mac_state",
        )
    };
    assert!(reset("none-1").expect_err("absent").starts_with("NotFound pkg/networkserver:device_not_found"));
    let mut abp = device(ids("pump-1"), f_key());
    abp["session"]["last_f_cnt_up"] = json!(7);
    server.ns(abp, &format!("{FIELDS},{KEYS},session.last_f_cnt_up")).expect("whole");
    let after = reset("pump-1").expect("there");
    assert_eq!(after["session"].get("last_f_cnt_up"), None);
    assert_eq!(after["session"]["dev_addr"], "AQIDBA==");
    assert!(after["mac_state"].is_object());
    server.ns(device(otaa("valve-1"), json!({"supports_join": true})), FIELDS).expect("whole");
    let after = reset("valve-1").expect("there");
    assert_eq!((after.get("session"), after.get("mac_state")), (None, None));
}

#[test]
fn keys_need_rights_of_their_own() {
    let server = Server::new();
    let root = json!({"ids": otaa("valve-1"), "root_keys": {"app_key": {"key": KEY}}});
    server.set("JsEndDeviceRegistry", root, "root_keys.app_key.key").expect("whole");
    let reader = server.key(&["APPLICATION_DEVICES_READ"]);
    let get = |paths: &str| {
        server.call_as(
            Some(&reader),
            "JsEndDeviceRegistry/Get",
            json!({"end_device_ids": otaa("valve-1")}),
            paths,
        )
    };
    get("used_dev_nonces").expect("no key asked for");
    let denied = "PermissionDenied pkg/auth/rights:insufficient_application_rights";
    assert!(get("root_keys").expect_err("keys").starts_with(denied));
    let error = server.call_as(Some(&reader), "EndDeviceRegistry/Delete", ids("valve-1"), "");
    assert!(error.expect_err("reads only").starts_with(denied));
    let other =
        server.0.create_key(EntityKind::Application, "others", &["APPLICATION_ALL"], None).expect("memory");
    let error = server.call_as(
        Some(&other),
        "EndDeviceRegistry/Get",
        json!({"end_device_ids": ids("valve-1")}),
        "name",
    );
    assert!(error.expect_err("a key of another application").contains("no_application_rights"));
}

#[test]
fn the_identity_server_updates_what_is_there() {
    let server = Server::new();
    let update = |device: Json, paths: &str| {
        server.call("EndDeviceRegistry/Update", json!({"end_device": device}), paths)
    };
    let error = update(json!({"ids": ids("none-1"), "name": "x"}), "name").expect_err("absent");
    assert!(error.starts_with("NotFound pkg/identityserver/store:end_device_not_found"));
    let create = json!({"end_device": {"ids": otaa("valve-1"), "name": "x", "attributes": {"key": "1"}}});
    server.call("EndDeviceRegistry/Create", create, "").expect("new");
    // What the mask names and the request lacks is cleared.
    update(json!({"ids": otaa("valve-1"), "attributes": {"other": "2"}}), "attributes,name").expect("there");
    let read = json!({"end_device_ids": ids("valve-1")});
    let device = server.call("EndDeviceRegistry/Get", read, "name,attributes").expect("there");
    assert_eq!((device.get("name"), &device["attributes"]), (None, &json!({"other": "2"})));
    let batch = json!({"application_ids": {"application_id": "meters"}, "device_ids": ["valve-1", "none-1"]});
    let found = server.call("EndDeviceBatchRegistry/Get", batch.clone(), "name").expect("some are there");
    assert_eq!(found["end_devices"].as_array().map(Vec::len), Some(1));
    server.call("EndDeviceBatchRegistry/Delete", batch, "").expect("absent ones do not matter");
    let many = json!({"application_ids": {"application_id": "meters"}, "device_ids": vec!["abc"; 21]});
    let error = server.call("EndDeviceBatchRegistry/Delete", many, "").expect_err("20 at most");
    assert!(error.contains("value must contain between 1 and 20 items, inclusive"), "{error}");
}
