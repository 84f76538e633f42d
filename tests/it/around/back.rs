//! The way back: the target as before, the source untouched.

use prost_reflect::Value;
use stackferry::{map::path, rehearsal::store::Table};

use super::scene::{TARGET, config, everything, held, writes};
use crate::world::{APP, World, dev};

fn without_the_one_that_stays(world: &World) {
    for table in [Table::Is, Table::Js, Table::As, Table::Ns] {
        if world.source.record(table, APP, &dev(5)).is_some() {
            world.source.remove(table, APP, &dev(5));
        }
    }
    world.source.remove(Table::Packages, APP, "dev-00005.197");
}

#[test]
fn all_of_it_comes_back_and_goes_again() {
    let world = everything();
    without_the_one_that_stays(&world);
    config(&world, "", "[clear]\nmode = \"delete\"\nwhen = \"verified\"\nintegrations = \"delete\"");
    let (source, target) = (held(&world.source), held(&world.target));
    world.run().expect(0);
    world.call("rollback", &["--dry-run"]).expect(0).says("around the devices: 12 to take back");
    world
        .call("rollback", &["--yes"])
        .expect(0)
        .says("around the devices: 12 taken back")
        .says("acme removed");
    assert_eq!(held(&world.source), source);
    let mut left = held(&world.target);
    // An application's link goes with it only when it is purged; it is empty, which is as good as none.
    let link = left.remove(&format!("Links {TARGET}")).expect("it is not purged");
    assert_eq!(path::stored(&link), Vec::<String>::new());
    assert_eq!(left, target);
    let before = writes(&world);
    world.call("rollback", &["--yes"]).expect(0).says("nothing to bring back");
    assert_eq!(writes(&world), before, "a second rollback writes nothing");
    world.run().expect(0).says("2 devices moved").says("around the devices: 12 copied");
}

#[test]
fn what_somebody_edited_on_the_target_stays_there() {
    let world = everything();
    config(&world, "", "");
    world.run().expect(0);
    world.target.edit(Table::Webhooks, TARGET, "hook-main", |hook| {
        path::set(hook, "format", Value::String("protobuf".into()));
    });
    let rolled = world.call("rollback", &["--yes"]).expect(3);
    assert!(
        rolled.said().contains("webhook hook-main: it was edited on the target since"),
        "{}",
        rolled.said()
    );
    assert_eq!(world.target.count(Table::Webhooks, TARGET), 1);
    assert_eq!(super::scene::downlink_keys(&world).len(), 1, "its key is in use");
    world.target.remove(Table::Webhooks, TARGET, "hook-main");
    world.call("rollback", &["--yes"]).expect(0).says("acme removed");
    assert_eq!(super::scene::downlink_keys(&world).len(), 0);
}

#[test]
fn one_device_comes_back_with_what_is_its_own_and_nothing_else() {
    let world = everything();
    config(&world, "", "[clear]\nmode = \"keys\"");
    let source = held(&world.source);
    world.run().expect(0);
    assert!(world.source.record(Table::Packages, APP, "dev-00001.197").is_none(), "it went with its device");
    world.call("rollback", &["--yes", "--device", "dev-00001"]).expect(0).says("1 device brought back");
    let own = world.source.record(Table::Packages, APP, "dev-00001.197").expect("back");
    assert_eq!(path::string(&own, "package_name"), "lora-cloud-geolocation-v3");
    assert!(world.target.record(Table::Packages, TARGET, "acme-dev-00001.197").is_none());
    assert!(world.target.record(Table::Packages, TARGET, "acme-dev-00003.197").is_some());
    assert_eq!(world.target.count(Table::Webhooks, TARGET), 3);
    assert!(held(&world.source).iter().all(|(name, message)| source[name] == *message));
    world.run().expect(0).says("1 device moved");
    assert!(world.target.record(Table::Packages, TARGET, "acme-dev-00001.197").is_some());
}

#[test]
fn an_application_in_two_halves_has_everything_twice_and_comes_back_from_both() {
    let world = everything();
    without_the_one_that_stays(&world);
    let more = "devices = { ids = [\"dev-00001\"] }\n[[application]]\nsource = \"fleet-lab\"\ntarget = \"acme-2\"\n\
                devices = { ids = [\"dev-00003\"] }\n[transform]\nsession = \"keep\"\n\
                allow-loss = [\"picture\", \"queued-downlinks\"]\n[clear]\nmode = \"keys\"\nintegrations = \"delete\"\n";
    world.config_whole(TARGET, more);
    let source = held(&world.source);
    world.run().expect(0).says("2 devices moved").says("it stays at the source until all devices are done");
    assert_eq!([TARGET, "acme-2"].map(|app| world.target.count(Table::Webhooks, app)), [3, 3]);
    assert_eq!([TARGET, "acme-2"].map(|app| world.target.count(Table::Ns, app)), [1, 1]);
    assert_eq!(world.source.count(Table::Webhooks, APP), 0, "once the second half is done");
    world.call("rollback", &["--yes"]).expect(0).says("acme removed").says("acme-2 removed");
    assert_eq!(held(&world.source), source);
    assert_eq!([TARGET, "acme-2"].map(|app| world.target.count(Table::Is, app)), [0, 0]);
}
