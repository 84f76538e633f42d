//! Five calls a second are all that V2 gives: as few as can be, and never more than that.

use stackferry::rehearsal::{V2Settings, store::Table};
use tonic::Code;

use crate::world::v2::{PLAIN, V2World};

#[test]
fn a_device_without_a_session_costs_one_call_and_its_share_of_pages() {
    let world = V2World::plain(48);
    // Slow enough that calls queue, as they always do at five a second.
    let config = world.config(PLAIN);
    let text = std::fs::read_to_string(&config).expect("ours").replace("100000/s", "20/s");
    std::fs::write(&config, text).expect("ours");
    let before = world.calls().len();
    world.run().expect(0);
    let calls = world.calls().split_off(before);
    assert_eq!(world.target_keys(Table::Ns).len(), 48);
    let count = |rpc: &str| calls.iter().filter(|c| *c == &format!("ApplicationManager/{rpc}")).count();
    assert_eq!((count("SetDevice"), count("GetDevice"), count("GetApplication")), (48, 0, 1), "{calls:?}");
    let pages = count("GetDevicesForApplication");
    assert!(pages < 24, "{pages} pages were read");
}

#[test]
fn the_limit_of_v2_is_kept_and_never_met() {
    let world = V2World::with(V2Settings { rate_limit: Some(5), ..V2Settings::default() });
    let listing = std::fs::read(crate::world::fixture("ttn-v2-fleet.json")).expect("the fixture");
    world.v2.load_devices(&listing, crate::world::v2::V2_APP).expect("a listing");
    let config = world.config(&PLAIN.replace(
        "source = \"fleet-v2\"",
        "source = \"fleet-v2\"\ndevices = { glob = [\"node-00*\", \"abp-00*\"] }",
    ));
    let text = std::fs::read_to_string(&config).expect("ours").replace("source = \"100000/s\"", "");
    std::fs::write(&config, text).expect("ours");
    world.run().expect(0);
    let refused = world.v2.calls().iter().filter(|c| c.code == Some(Code::ResourceExhausted)).count();
    assert_eq!(refused, 0, "V2 was stormed");
}
