//! The ways in which the recipe of three tools loses devices (`ttn-lw-migrate`, the Console by hand, `ttn-lw-cli`), measured on
//! real servers (docs/servers.md). Each is driven here with the built binary, and must lose nothing.

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpListener},
    process::{Child, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use prost_reflect::{DynamicMessage, Value};
use stackferry::{
    map::path,
    rehearsal::{
        Fault, ServerTls,
        auditor::{Auditor, Side as Audited},
        serve,
        store::{Table, device_key},
    },
};
use tonic::Code;

use crate::world::{APP, LOSSES, Ran, World, about_marker, dev, is_muted, traffic::terms};

const TABLES: [Table; 4] = [Table::Is, Table::Js, Table::As, Table::Ns];

fn clear(mode: &str) -> String {
    format!("{LOSSES}session = \"keep\"\n[clear]\nmode = \"{mode}\"\nwhen = \"verified\"\n")
}

fn audited(world: &World) -> Auditor {
    let auditor = Auditor::new(terms());
    auditor.attach(Audited::Source, &mut world.source.tts.store(), Some(APP));
    auditor.attach(Audited::Target, &mut world.target.tts.store(), Some(APP));
    auditor
}

#[track_caller]
fn no_breach(auditor: &Auditor) {
    let breaches: Vec<_> = auditor.finish().iter().map(ToString::to_string).collect();
    assert_eq!(breaches, [""; 0]);
}

/// The fleet and twenty more: a hundred and twenty devices.
fn fleet_of_120() -> World {
    let world = World::fleet();
    let mut store = world.source.tts.store();
    for number in 0..20_u8 {
        for table in TABLES {
            let Some(mut record) = store.get(table, &device_key(APP, &dev(number.into()))).cloned() else {
                continue;
            };
            let id = dev(100 + usize::from(number));
            path::set(&mut record, "ids.device_id", Value::String(id.clone()));
            for (at, salt) in [
                ("ids.dev_eui", 0xE0),
                ("root_keys.app_key.key", 0xA0),
                ("root_keys.nwk_key.key", 0xB0),
                ("session.keys.f_nwk_s_int_key.key", 0xC0),
                ("session.keys.s_nwk_s_int_key.key", 0xC0),
                ("session.keys.nwk_s_enc_key.key", 0xC0),
                ("session.keys.app_s_key.key", 0xD0),
            ] {
                anew(&mut record, at, salt);
            }
            store.put(table, &device_key(APP, &id), record).expect("memory");
        }
    }
    drop(store);
    world
}

/// Another value where there is one.
fn anew(record: &mut DynamicMessage, at: &str, salt: u8) {
    let mut bytes = path::bytes(record, at);
    if !bytes.is_empty() {
        bytes.iter_mut().for_each(|b| *b ^= salt);
        path::set(record, at, Value::Bytes(bytes.into()));
    }
}

/// §4d: the source is muted and deleted "directly after reading, before anything is imported".
#[test]
fn clear_before_validation() {
    let world = fleet_of_120();
    world.config(&format!("{}[rollout]\nmax-failures = 1000\n", clear("delete")));
    let auditor = audited(&world);
    let refuses = Arc::new(AtomicBool::new(true));
    let on = Arc::clone(&refuses);
    // Half of the fleet is refused at the very last record.
    world.target.tts.on_call(move |call| {
        let number = call.entity.rsplit('-').next().and_then(|n| n.parse().ok()).unwrap_or(0);
        let refused =
            on.load(Ordering::SeqCst) && number >= 60 && call.method.ends_with("NsEndDeviceRegistry/Set");
        refused.then_some(Fault::Error(Code::InvalidArgument, "pkg/networkserver", "field_value"))
    });
    world.run().expect(3).says("60 devices moved").says("60 devices not moved");
    for number in 0..120 {
        let at_source = world.source.record(Table::Ns, APP, &dev(number));
        let on_target = world.target.record(Table::Ns, APP, &dev(number));
        assert!(at_source.is_some() != on_target.is_some(), "{number} is on exactly one side");
        let was_muted = matches!(number, 21 | 61);
        assert!(at_source.is_none_or(|ns| is_muted(&ns) == was_muted), "{number} is as it was");
    }
    refuses.store(false, Ordering::SeqCst);
    world.run().expect(0);
    assert_eq!(world.target.count(Table::Ns, APP), 120);
    no_breach(&auditor);
}

/// §4d: a clear that is refused in the middle. The old tool then has devices that are on neither list.
#[test]
fn clear_refused_half_way() {
    let world = fleet_of_120();
    world.config(&format!("{}[rollout]\nmax-failures = 1000\n", clear("delete")));
    let auditor = audited(&world);
    let refuses = Arc::new(AtomicBool::new(true));
    let (on, cleared) = (Arc::clone(&refuses), AtomicUsize::new(0));
    world.source.tts.on_call(move |call| {
        let this = on.load(Ordering::SeqCst) && call.method.ends_with("/Delete") && !about_marker(call);
        let refused = this && cleared.fetch_add(1, Ordering::SeqCst) > 150;
        refused.then_some(Fault::Status(Code::PermissionDenied))
    });
    world.run().expect(3).says("could not clear");
    assert_eq!(world.target.count(Table::Ns, APP), 120, "all are on the target all the same");
    assert!(world.source.count(Table::Is, APP) > 0, "the clear was refused");
    refuses.store(false, Ordering::SeqCst);
    world.run().expect(0);
    assert_eq!(TABLES.map(|t| world.source.count(t, APP)), [0; 4]);
    assert_eq!(world.target.count(Table::Is, APP), 120);
    no_breach(&auditor);
}

/// §4d: `--delete-source-device` pages by offset through what it deletes: of 120 devices 50 were never seen, with rc 0.
#[test]
fn delete_while_paging() {
    let world = fleet_of_120();
    // Answers of one page at most this big: the list takes several pages.
    world.config(&format!("{}[limits]\nmax-message = \"64KiB\"\n", clear("delete")));
    for number in 0..120 {
        world.source.edit(Table::Is, APP, &dev(number), |is| {
            path::set(is, "description", Value::String("much to say of it ".repeat(100)));
        });
    }
    world.run().expect(0).says("120 devices moved");
    let calls = world.source.tts.calls();
    let position = |method: &str| {
        let at = |c: &&stackferry::rehearsal::CallInfo| c.method.ends_with(method);
        calls.iter().filter(at).map(|c| c.n).collect::<Vec<_>>()
    };
    let lists = position("v3.EndDeviceRegistry/List");
    assert!(lists.len() > 2, "one page would prove nothing: {lists:?}");
    assert!(
        lists.iter().max() < position("v3.EndDeviceRegistry/Delete").iter().min(),
        "the list is complete first"
    );
    assert_eq!(TABLES.map(|t| world.source.count(t, APP)), [0; 4], "nobody was left behind");
    assert_eq!(world.target.count(Table::Is, APP), 120);
}

/// §4d: with the first ABP device AS and NS records are deleted, then the Join Server has none: rc 1, session keys gone.
#[test]
fn first_abp_device() {
    let numbers = [2, 1, 3, 4];
    let world = World::some(&numbers);
    world.config(&clear("delete"));
    let auditor = audited(&world);
    assert!(
        world.source.record(Table::Js, APP, &dev(2)).is_none(),
        "ABP: the Join Server knows nothing of it"
    );
    let keys = |side: &crate::world::Side| {
        let ns = side
            .record(Table::Ns, APP, &dev(2))
            .map(|ns| path::bytes(&ns, "session.keys.f_nwk_s_int_key.key"));
        let app = side.record(Table::As, APP, &dev(2)).map(|r| path::bytes(&r, "session.keys.app_s_key.key"));
        (ns, app)
    };
    let before = keys(&world.source);
    world.run().expect(0).says("4 devices moved");
    assert_eq!(keys(&world.target), before);
    assert_eq!(TABLES.map(|t| world.source.count(t, APP)), [0; 4]);
    no_breach(&auditor);
}

/// §4d: the devices are lines on stdout. When that ends early, or the file is written anew, they are nowhere.
#[test]
fn truncated_output() {
    for (case, output) in [("a reader that is gone", None), ("a disk that is full", Some("/dev/full"))] {
        let world = World::some(&[0, 1, 2, 3, 4]);
        world.config(&clear("delete"));
        let auditor = audited(&world);
        let stdio = || match output {
            None => Stdio::piped(),
            Some(path) => File::options().write(true).open(path).expect("there").into(),
        };
        for format in ["human", "json"] {
            let mut command = world.command("run");
            command.args(["--yes", "-vv", "--output", format]).stdout(stdio()).stderr(stdio());
            let mut child = command.spawn().expect("it starts");
            drop((child.stdout.take(), child.stderr.take()));
            let status = child.wait().expect("it ends");
            assert_eq!(status.code(), Some(0), "{case}, {format}");
        }
        assert_eq!(world.target.count(Table::Is, APP), 5, "{case}");
        assert_eq!(TABLES.map(|t| world.source.count(t, APP)), [0; 4], "{case}");
        world.call("status", &[]).expect(0).says("5 done");
        no_breach(&auditor);
    }
}

/// §4d: the second export, after any failure, carries `schedule_downlinks: false` into the target: no downlink and no
/// join-accept is ever sent there. Silent. What is muted stops here, alone, and the mute is not copied when it is allowed.
#[test]
fn copied_mute_flag() {
    let muted = [1, 4];
    let world = World::some(&[1, 2, 4]);
    for number in muted {
        world.source.edit(Table::Ns, APP, &dev(number), |ns| {
            path::set_wrapped(ns, "mac_settings.schedule_downlinks", Value::Bool(false));
        });
    }
    let records = |side: &crate::world::Side| muted.map(|n| TABLES.map(|t| side.record(t, APP, &dev(n))));
    let found = records(&world.source);
    world.config(&clear("keys").replace(", \"muted-source\"", ""));
    for (verb, arguments) in [("plan", &[][..]), ("run", &["--yes"]), ("run", &["--yes"])] {
        let ran = world.call(verb, arguments).expect(3).says("muted-source: 2 devices");
        let ran = ran.says("schedule_downlinks").says("unmute it at the source").says("\"muted-source\"");
        assert!(muted.iter().all(|n| ran.said().contains(&dev(*n))), "{ran:?}");
    }
    assert!(world.target.record(Table::Ns, APP, &dev(2)).is_some(), "the third goes");
    assert!(
        records(&world.source) == found && records(&world.target).as_flattened().iter().all(Option::is_none)
    );
    for call in world.source.tts.calls().into_iter().chain(world.target.tts.calls()).filter(|c| c.is_write) {
        assert!(!muted.iter().any(|n| call.entity.ends_with(&dev(*n))), "{call:?}");
    }

    world.config(&clear("keys"));
    world.call("plan", &[]).expect(0).says("allowed by allow-loss = [\"muted-source\"]");
    world.run().expect(0).says("2 devices moved");
    for number in muted {
        let ns = world.target.record(Table::Ns, APP, &dev(number)).expect("moved");
        assert!(!is_muted(&ns), "{number} would never be sent to");
    }
}

/// §4a: without a JS record, or with one that has no keys, the import makes a record without keys: it can never join.
#[test]
fn js_record_without_keys() {
    for without_record in [true, false] {
        let world = World::some(&[1, 4]);
        world.config(&clear("delete"));
        if without_record {
            world.source.remove(Table::Js, APP, &dev(4));
        } else {
            world.source.edit(Table::Js, APP, &dev(4), |js| path::clear(js, "root_keys"));
        }
        let before: Vec<_> = TABLES.map(|t| world.source.record(t, APP, &dev(4))).into();
        world.run().expect(3).says("1 device moved").says("1 device not moved");
        let after: Vec<_> = TABLES.map(|t| world.source.record(t, APP, &dev(4))).into();
        assert!(before == after, "{without_record}: it is left as it was");
        assert!(
            TABLES.iter().all(|t| world.target.record(*t, APP, &dev(4)).is_none()),
            "no shell on the target"
        );
    }
}

/// §4d: ABP devices cannot be stopped from living on both sides by the old recipe: two networks send with one counter.
#[test]
fn abp_left_live_on_both() {
    for mode in ["nothing", "mute", "keys", "delete"] {
        let world = World::some(&[2, 3, 13]);
        world.config(&clear(mode));
        let auditor = audited(&world);
        world.run().expect(0).says("3 devices moved");
        for number in [2, 3, 13] {
            let source = world.source.record(Table::Ns, APP, &dev(number));
            assert!(source.is_none_or(|ns| is_muted(&ns)), "{mode}: {number} is live at the source");
            let target = world.target.record(Table::Ns, APP, &dev(number)).expect("moved");
            assert!(
                !is_muted(&target) && path::has(&target, "session.dev_addr"),
                "{mode}: {number} lives there"
            );
        }
        no_breach(&auditor);
    }
}

/// Waits for the end, but not for ever: a hang is what is looked for.
fn ends(mut child: Child) -> Ran {
    let begun = Instant::now();
    while child.try_wait().expect("a child").is_none() {
        if begun.elapsed() > Duration::from_secs(180) {
            child.kill().expect("ours");
            panic!("it hangs");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ran::of(child.wait_with_output().expect("it ended"))
}

/// §4e: with an unknown CA the migrate tool blocks for ever without a message, half-way between mute and import.
#[test]
fn silent_tls_hang() {
    let world = World::some(&[1]);
    let key = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    let tls =
        ServerTls { certificate: key.cert.pem(), key: key.signing_key.serialize_pem(), client_ca: None };
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let unknown = serve(Arc::clone(&world.target.tts), listen, Some(tls));
    let unknown = world.runtime().block_on(unknown).expect("loopback");
    // Takes connections and never says a word.
    let silent = TcpListener::bind(listen).expect("loopback");
    let plain = world.target.addr();
    for (address, words) in [
        (unknown.addr, "certificate"),
        (silent.local_addr().expect("bound"), "127.0.0.1"),
        (plain, "insecure"),
    ] {
        let file = world.config(&format!("{}[limits]\nconnect-timeout = \"500ms\"\n", clear("keys")));
        let text = fs::read_to_string(&file).expect("written");
        let (source, target) = text.split_once("[target.tts]").expect("it has a target");
        let target =
            target.replace(&plain.to_string(), &address.to_string()).replacen("insecure = true", "", 1);
        fs::write(&file, format!("{source}[target.tts]{target}")).expect("a file");
        ends(world.start()).expect(4).says(words).says(&address.to_string());
        assert_eq!(world.source.writes(), [""; 0], "{address}: nothing was muted");
    }
}
