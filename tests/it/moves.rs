//! Devices that move as they should: each session mode, each kind, each set of registries.

use prost_reflect::Value;
use stackferry::{map::path, proto, rehearsal::store::Table};

use crate::world::{APP, LOSSES, World, about_marker, dev, is_muted};

const TABLES: [Table; 4] = [Table::Is, Table::Js, Table::As, Table::Ns];

#[test]
fn the_whole_fleet_moves_and_a_second_run_writes_nothing() {
    let world = World::fleet();
    world.config(&format!("{LOSSES}\n[clear]\nmode = \"keys\"\nwhen = \"verified\"\n"));
    world.run().expect(0).says("100 devices moved").says("application fleet-lab created");
    assert_eq!(TABLES.map(|t| world.target.count(t, APP)), [100, 60, 100, 100]);
    assert_eq!(TABLES.map(|t| world.source.count(t, APP)), [100, 0, 0, 0]);

    let before = (world.source.writes().len(), world.target.writes().len());
    world.run().expect(0).says("100 devices done before");
    assert_eq!((world.source.writes().len(), world.target.writes().len()), before, "S6");
    world.call("verify", &[]).expect(0).says("100 devices on the target as written");
    world.call("status", &[]).expect(0).says("100 done");
}

#[test]
fn a_plan_changes_nothing() {
    let world = World::fleet();
    world.config(LOSSES);
    world.call("plan", &[]).expect(0).says("100 devices to move");
    world.call("run", &["--dry-run"]).expect(0).says("100 devices to move");
    assert_eq!(world.source.writes(), [""; 0]);
    assert_eq!(world.target.writes(), [""; 0]);
    assert!(!world.dir.path().join("test.journal").exists());
}

#[test]
fn clear_modes_leave_what_they_say() {
    for (mode, left) in
        [("nothing", [3, 2, 3, 3]), ("mute", [3, 2, 3, 3]), ("keys", [3, 0, 0, 0]), ("delete", [0, 0, 0, 0])]
    {
        let world = World::some(&[1, 2, 4]);
        world.config(&format!("[clear]\nmode = \"{mode}\"\nwhen = \"verified\"\n"));
        world.run().expect(0);
        assert_eq!(TABLES.map(|t| world.source.count(t, APP)), left, "{mode}");
        for number in [1, 2, 4] {
            if let Some(ns) = world.source.record(Table::Ns, APP, &dev(number)) {
                assert!(is_muted(&ns), "{mode}: {number} would be live twice (S2)");
            }
            let ns = world.target.record(Table::Ns, APP, &dev(number)).expect("moved");
            assert!(!is_muted(&ns), "{mode}: the mute was copied");
        }
    }
}

#[test]
fn sessions_are_kept_dropped_or_decided_by_the_address() {
    for (mode, kept) in [("keep", true), ("drop", false), ("auto", false)] {
        let world = World::some(&[1, 5]);
        world.config(&format!("[transform]\nsession = \"{mode}\"\n[clear]\nmode = \"keys\"\n"));
        world.run().expect(0);
        for number in [1, 5] {
            let ns = world.target.record(Table::Ns, APP, &dev(number)).expect("moved");
            assert_eq!(path::has(&ns, "session.dev_addr"), kept, "{mode}");
            let js = world.target.record(Table::Js, APP, &dev(number)).expect("moved");
            assert!(path::has(&js, "root_keys.app_key.key"), "{mode}: root keys go along");
            assert!(path::number(&js, "last_join_nonce") > 0, "{mode}: nonces go along (S4)");
            let cleared = world.source.record(Table::Js, APP, &dev(number)).is_none();
            assert_eq!(cleared, kept, "{mode}: a dropped session waits until it is seen");
        }
    }
}

#[test]
fn a_dropped_session_is_cleared_once_seen() {
    let world = World::some(&[1]);
    world.config("[transform]\nsession = \"drop\"\n[clear]\nmode = \"keys\"\n");
    world.run().expect(0).says("1 device waiting").says("not seen there yet");
    assert!(is_muted(&world.source.record(Table::Ns, APP, &dev(1)).expect("kept for its uplinks")));
    world.run().expect(0).says("1 device waiting");
    world.target.edit(Table::Ns, APP, &dev(1), |ns| {
        path::set(ns, "session.dev_addr", Value::Bytes(vec![1, 2, 3, 4].into()));
    });
    world.run().expect(0).says("1 device moved");
    assert!(world.source.record(Table::Ns, APP, &dev(1)).is_none());
}

#[test]
fn abp_keeps_its_counters_unless_it_is_to_be_reset() {
    let world = World::some(&[3, 13]);
    world.config(&format!("{LOSSES}session = \"drop\"\nabp-reset = [\"{}\"]\n", dev(13)));
    world.run().expect(0);
    let kept = world.target.record(Table::Ns, APP, &dev(3)).expect("moved");
    assert_eq!(path::number(&kept, "session.last_f_cnt_up"), 1003);
    assert_eq!(path::number(&kept, "session.last_n_f_cnt_down"), 53);
    let reset = world.target.record(Table::Ns, APP, &dev(13)).expect("moved");
    assert_eq!(path::number(&reset, "session.last_f_cnt_up"), 0);
    assert!(path::flag(&reset, "mac_settings.resets_f_cnt"));
}

#[test]
fn every_set_of_registries_is_handled() {
    for subset in 1_u32..16 {
        let world = World::some(&[1]);
        for (bit, table) in TABLES.into_iter().enumerate() {
            if subset & (1 << bit) == 0 {
                world.source.remove(table, APP, &dev(1));
            }
        }
        let held = |side: &crate::world::Side| TABLES.map(|t| side.count(t, APP) > 0);
        let [is, js, as_, ns] = held(&world.source);
        let allowed = [
            (js && !ns, "clear-without-mute"),
            (ns && !js, "root-keys"),
            (ns && !as_, "app-session-missing"),
        ];
        let losses: Vec<_> =
            allowed.iter().filter(|(on, _)| *on).map(|(_, name)| format!("\"{name}\"")).collect();
        let config = |losses: &str| {
            let text = format!(
                "[transform]\nsession = \"keep\"\nallow-loss = [{losses}]\n[clear]\nmode = \"delete\"\nwhen = \"verified\"\n"
            );
            let file = world.config(&text);
            let text = std::fs::read_to_string(&file).expect("written");
            let chosen = text.replace(
                "target = \"fleet-lab\"",
                "target = \"fleet-lab\"\ndevices = { ids = [\"dev-00001\"] }",
            );
            std::fs::write(file, chosen).expect("a file");
        };
        if !losses.is_empty() {
            config("");
            let writes = || {
                let calls = world.source.tts.calls();
                calls.iter().filter(|call| call.is_write && !about_marker(call)).count()
            };
            let before = writes();
            world.run().expect(3).says("not moved");
            assert_eq!(writes(), before, "{subset:04b}: a refused device is not touched");
        }
        config(&losses.join(", "));
        let held_before = held(&world.source);
        world.run().expect(0).says("1 device moved");
        assert_eq!(held(&world.target), held_before, "{subset:04b}: is {is} js {js} as {as_} ns {ns}");
        assert_eq!(held(&world.source), [false; 4], "{subset:04b}");
    }
}

/// A relay and the device that it serves name each other by their IDs, which change on the way and come back.
#[test]
fn relays_and_whom_they_serve_keep_each_other() {
    let world = World::some(&[1, 5]);
    let serving = "mac_settings.desired_relay.mode.serving.uplink_forwarding_rules";
    let served = [
        "mac_settings.desired_relay",
        "mac_state.current_parameters.relay",
        "mac_state.desired_parameters.relay",
    ];
    world.source.edit(Table::Ns, APP, &dev(1), |ns| {
        for at in served {
            path::touch(ns, &format!("{at}.mode.served.mode.always"));
            path::set(ns, &format!("{at}.mode.served.serving_device_id"), Value::String(dev(5)));
        }
    });
    world.source.edit(Table::Ns, APP, &dev(5), |ns| {
        let rules = [1, 77].map(|number| {
            let mut rule = proto::message("RelayUplinkForwardingRule");
            path::set(&mut rule, "device_id", Value::String(dev(number)));
            Value::Message(rule)
        });
        path::set(ns, serving, Value::List(rules.into()));
    });
    let before = [1, 5].map(|number| world.source.record(Table::Ns, APP, &dev(number)).expect("loaded"));

    world.config(
        "[transform]\nsession = \"keep\"\ndevice-id = { prefix = \"acme-\" }\n[clear]\nmode = \"keys\"\n",
    );
    world.call("plan", &[]).expect(0).says("relay-peer").says(&dev(77));
    world.run().expect(0).says("2 devices moved");
    let ns = world.target.record(Table::Ns, APP, "acme-dev-00001").expect("moved");
    for at in served {
        assert_eq!(
            path::string(&ns, &format!("{at}.mode.served.serving_device_id")),
            "acme-dev-00005",
            "{at}"
        );
    }
    let ns = world.target.record(Table::Ns, APP, "acme-dev-00005").expect("moved");
    let rules = path::get(&ns, serving).map(std::borrow::Cow::into_owned).expect("moved with it");
    let named = rules.as_list().into_iter().flatten().filter_map(Value::as_message);
    let named: Vec<_> = named.map(|rule| path::string(rule, "device_id")).collect();
    assert_eq!(named, ["acme-dev-00001", "acme-dev-00077"]);

    // It was heard there, so that its MAC state comes back from there.
    world.target.edit(Table::Ns, APP, "acme-dev-00001", |ns| {
        let up = u32::try_from(path::number(ns, "session.last_f_cnt_up")).expect("small");
        path::set(ns, "session.last_f_cnt_up", Value::U32(up + 1));
        path::set(ns, "mac_state.rx_windows_available", Value::Bool(true));
    });
    world.call("rollback", &["--yes"]).expect(0).says("2 devices");
    for (number, was) in [1, 5].into_iter().zip(before) {
        let is = world.source.record(Table::Ns, APP, &dev(number)).expect("brought back");
        for at in served {
            assert_eq!(path::get(&is, at), path::get(&was, at), "{number}: {at}");
        }
    }
    let is = world.source.record(Table::Ns, APP, &dev(1)).expect("brought back");
    assert!(path::flag(&is, "mac_state.rx_windows_available"), "the MAC state is that of the target");
}
