//! The sweep can fail: what it looks for is planted, and found.

use prost_reflect::Value;
use stackferry::{map::path, rehearsal::store::Table};

use super::{
    cases::Case,
    outcome,
    point::{Moment, Point},
    scene::{Air, Scene, play},
};
use crate::world::{APP, dev};

fn case() -> Case {
    Case::named("mute-source+keep+keys+verified+go+no+1").expect("a case")
}

#[test]
fn a_run_that_is_not_started_again_is_noticed() {
    let expected = play(&case(), Point::Nowhere, Air::Quiet, false).expect("nothing is wrong");
    let mut noticed = 0;
    for n in (4..expected.calls.len() - 8).step_by(8) {
        let point = Point::Call(Moment::Applied, n);
        let mut scene = Scene::new(&case(), point, Air::Quiet, false);
        let stage = &case().stages()[0];
        scene.world.config(&stage.config);
        let ran = scene.start(stage);
        assert_eq!(ran.code, None, "{point}: it was killed");
        let differences = outcome::differences(&expected.stored, &outcome::whole(&scene.world));
        assert!(!differences.is_empty(), "{point}: half a run looks like a whole one");
        noticed += 1;
    }
    assert!(noticed > 4, "{noticed} of {} calls", expected.calls.len());
}

#[test]
fn a_device_that_is_live_twice_is_noticed() {
    let mut scene = Scene::new(&case(), Point::Nowhere, Air::Traffic(1), false);
    let kept = scene.world.source.record(Table::Ns, APP, &dev(2)).expect("it is there");
    for stage in case().stages() {
        scene.stage(&stage).expect("nothing is wrong");
    }
    scene.judge(&case()).expect("nothing is wrong");
    scene.world.source.tts.store().put(Table::Ns, &format!("{APP}.{}", dev(2)), kept).expect("memory");
    let why = scene.judge(&case()).expect_err("its session is live at the source again");
    assert!(why.contains("S2") || why.contains("networks answered"), "{why}");
}

#[test]
fn a_device_that_is_live_nowhere_is_noticed() {
    let mut scene = Scene::new(&case(), Point::Nowhere, Air::Traffic(1), false);
    for stage in case().stages() {
        scene.stage(&stage).expect("nothing is wrong");
    }
    scene.world.target.edit(Table::Ns, APP, &dev(4), |ns| {
        path::set_wrapped(ns, "mac_settings.schedule_downlinks", Value::Bool(false));
    });
    let why = scene.judge(&case()).expect_err("it is muted on both sides");
    assert!(why.contains("device"), "{why}");
}
