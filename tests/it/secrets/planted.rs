//! The search can find: what is planted is caught, in every form, wherever it is searched.

use std::{
    fs,
    os::unix::process::ExitStatusExt as _,
    panic::{AssertUnwindSafe, catch_unwind},
    process::{ExitStatus, Output},
};

use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use prost_reflect::{Value, bytes::Bytes};
use stackferry::{
    map::path,
    rehearsal::store::{Table, device_key},
};

use super::{JSON, fleet, loud, select};
use crate::world::{
    APP, LOSSES, Ran, World, dev,
    search::{Found, Search, Secret, forms},
};

#[test]
fn the_search_finds_a_canary_in_every_form() {
    let canary: Vec<u8> = (0_u8..16).map(|n| if n < 4 { 0xFF } else { n * 13 }).collect();
    let reversed: Vec<u8> = canary.iter().rev().copied().collect();
    let search = Search::new(&[Secret::new("canary", canary.clone())]);
    let finds = |text: &[u8]| search.find(text).into_iter().map(|(_, form)| form).collect::<Vec<_>>();
    let around = |text: &str| [b"\x00before ", text.as_bytes(), b" after"].concat();
    assert_eq!(finds(b"nothing at all"), [""; 0]);
    assert_eq!(finds(&[b"x", &canary[..], b"y"].concat()), ["raw"]);
    assert_eq!(finds(&canary[..15]), [""; 0], "a part is not the whole");
    let hex = hex::encode(&canary);
    assert_eq!(finds(&around(&hex)), ["hex"]);
    assert_eq!(finds(&[around(&hex), vec![0xFF]].concat()), ["hex"], "in what is no text");
    assert_eq!(finds(&around(&hex.to_uppercase())), ["HEX"]);
    assert_eq!(finds(&around(&format!("{}\n  {}", &hex[..20], &hex[20..]))), ["hex"], "wrapped");
    let spaced = |by: &str| canary.iter().map(|b| format!("{b:02X}")).collect::<Vec<_>>().join(by);
    assert_eq!(finds(&around(&spaced(":"))), ["HEX"]);
    assert_eq!(finds(&around(&format!("{canary:?}"))), ["decimal list"]);
    assert_eq!(finds(&around(&format!("{canary:#?}"))), ["decimal list"]);
    assert_eq!(finds(&around(&format!("{canary:#04x?}"))), ["0x list"]);
    assert_eq!(finds(&around(&format!("{:?}", Bytes::from(canary.clone())))), ["escaped"]);
    assert_eq!(finds(&reversed), ["reversed"]);
    assert_eq!(finds(&around(&hex::encode(&reversed))), ["reversed hex"]);
    assert_eq!(finds(&around(&hex::encode_upper(&reversed))), ["reversed HEX"]);
    for before in 0..7 {
        let longer = |key: &[u8]| [&vec![b'#'; before], key, &vec![b'!'; 7 - before]].concat();
        let (there, back) = (longer(&canary), longer(&reversed));
        assert_eq!(finds(&around(&BASE64_STANDARD.encode(&there))), ["base64"], "{before}");
        assert_eq!(finds(&around(&BASE64_URL_SAFE_NO_PAD.encode(&there))), ["base64url"], "{before}");
        assert_eq!(finds(&around(&BASE64_STANDARD.encode(&back))), ["reversed base64"], "{before}");
        assert_eq!(finds(&around(&BASE64_URL_SAFE_NO_PAD.encode(&back))), ["reversed base64url"], "{before}");
    }
}

/// A secret of each kind that a server can come to hold is a canary at once: of the fixture, made by the server, an API key.
#[test]
fn what_is_planted_in_an_output_or_a_file_is_caught_in_every_form() {
    let world = World::some(&[1]);
    world.canaries().plant();
    let mut record = world.source.record(Table::Js, APP, &dev(1)).expect("in the fixture");
    let of_fixture = path::bytes(&record, "root_keys.app_key.key");
    let made = b"\x8f\xf3\x01made by it\xfe".to_vec();
    path::set(&mut record, "root_keys.nwk_key.key", Value::Bytes(made.clone().into()));
    world.target.tts.store().put(Table::Js, "an-app.a-device", record).expect("memory");
    let mut planted = 0;
    for secret in [of_fixture, made, world.target.tts.settings().api_key.clone().into_bytes()] {
        for (form, text) in forms(&secret) {
            let heard = |out: &[u8], err: &[u8]| {
                let output =
                    Output { status: ExitStatus::from_raw(0), stdout: out.into(), stderr: err.into() };
                catch_unwind(AssertUnwindSafe(|| Ran::of(output)))
            };
            let text = [b"before ", &text[..], b" after"].concat();
            assert!(heard(&text, b"").is_err(), "{form} in stdout");
            assert!(heard(b"", &text).is_err(), "{form} in stderr");
            assert!(heard(b"before", b"after").is_ok());
            let file = world.dir.path().join("test.journal-leak");
            fs::write(&file, &text).expect("a file");
            let found = world.canaries().find_in_files(world.dir.path());
            assert!(found.iter().any(|f| f.starts_with("test.journal-leak holds")), "{form}: {found:?}");
            assert!(found.iter().any(|f| f.contains("can be read by others")), "{found:?}");
            fs::remove_file(file).expect("it is there");
            planted += 1;
        }
    }
    assert!(planted > 40);
    assert_eq!(world.canaries().find_in_files(world.dir.path()), [""; 0]);
}

/// One key is leaked on purpose: it is also the ID of its device, which everything prints and the journal holds in the
/// clear.
#[test]
fn a_leaked_canary_is_caught_in_output_and_journal() {
    let world = fleet();
    world.canaries().leak_on_purpose();
    let js = world.source.record(Table::Js, APP, &dev(1)).expect("in the fixture");
    let canary = hex::encode(path::bytes(&js, "root_keys.app_key.key"));
    for table in [Table::Is, Table::Js, Table::As, Table::Ns] {
        let mut record = world.source.record(table, APP, &dev(1)).expect("in the fixture");
        path::set(&mut record, "ids.device_id", Value::String(canary.clone()));
        world.source.remove(table, APP, &dev(1));
        world.source.tts.store().put(table, &device_key(APP, &canary), record).expect("memory");
    }
    let file = world.config(&format!("{LOSSES}session = \"keep\"\n"));
    select(&file, &[2, 4]);
    let text =
        fs::read_to_string(&file).expect("written").replace("ids = [", &format!("ids = [\"{canary}\", "));
    fs::write(file, text).expect("a file");
    let key = format!("fixture Js {APP}.{}.root_keys.app_key.key", dev(1));
    let caught: Found = [(key, "hex")].into();
    let search = world.canaries();
    let ran = loud(&world, "run", &["--yes", "-v"]).expect(0);
    assert_eq!(search.find(ran.err.as_bytes()), caught);
    let json = loud(&world, "status", JSON).expect(0);
    assert_eq!(search.find(json.out.as_bytes()), caught);
    let journal = search.find_in_files(world.dir.path());
    let held = |file: &str| journal.contains(&format!("{file} holds {caught:?}"));
    assert!(held("test.journal"), "{journal:?}");
}
