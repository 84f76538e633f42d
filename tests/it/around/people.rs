//! Who works on an application: each with the rights of the source and the name of the target.

use std::fs;

use stackferry::{
    map::path,
    plan::{
        belongings::{collaborator, rights},
        contacts,
    },
    proto,
    rehearsal::{Fault, Settings, store::Table},
};
use tonic::Code;

use super::{
    crash::run_and_kill,
    scene::{TARGET, config_of, writes},
};
use crate::world::{APP, World};

const PEOPLE: &str = "[people]\nusers = { \"alice\" = \"alice-nl\", \"jane\" = \"admin\" }\norganizations = { \"acme\" = \"acme-eu\" }";
const ONLY: &str = "copy = [\"collaborators\"]";
const INFO: &str = "RIGHT_APPLICATION_INFO";
const READ: &str = "RIGHT_APPLICATION_TRAFFIC_READ";
const ALL: &str = "RIGHT_APPLICATION_ALL";

fn key(app: &str, account: &str) -> String {
    format!("app:{app}/{}", account.replace("user ", "usr:").replace("organization ", "org:"))
}

fn collaborate(side: &crate::world::Side, app: &str, account: &str, some: &[&str]) {
    let mut member = proto::message("Collaborator");
    collaborator::write(&mut member, "ids.", account);
    path::set(&mut member, "rights", rights::value(some.iter().copied()));
    side.tts.store().put(Table::Collaborators, &key(app, account), member).expect("memory");
}

/// The collaborators of an application: name and rights.
fn who(side: &crate::world::Side, app: &str) -> Vec<(String, Vec<String>)> {
    let store = side.tts.store();
    let prefix = format!("app:{app}/");
    let all = store.iter(Table::Collaborators).filter(|(key, _)| key.starts_with(&prefix));
    all.map(|(_, member)| (collaborator::name(member), rights::names(member))).collect()
}

fn one(account: &str, rights: &[&str]) -> (String, Vec<String>) {
    (account.to_owned(), rights.iter().map(|r| (*r).to_owned()).collect())
}

fn settings(users: &[&str], organizations: &[&str]) -> Settings {
    let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Settings { users: own(users), organizations: own(organizations), ..Settings::default() }
}

/// A device, and an application of four people: `admin` of the source owns it.
fn team() -> World {
    let source = settings(&["alice", "bob", "jane"], &["acme"]);
    let world = World::with(source, settings(&["alice-nl"], &["acme-eu"])).with_devices(&[1]);
    let old: Vec<_> = who(&world.source, APP).into_iter().map(|(name, _)| name).collect();
    for account in old {
        world.source.tts.store().remove(Table::Collaborators, &key(APP, &account)).expect("memory");
    }
    collaborate(&world.source, APP, "user alice", &[READ, INFO]);
    collaborate(&world.source, APP, "organization acme", &[ALL]);
    collaborate(&world.source, APP, "user jane", &["RIGHT_ALL"]);
    world
}

/// Gives the source's application contacts who are not its owner.
fn set_contacts(world: &World) {
    let mut application = world.source.tts.store().get(Table::Applications, APP).cloned().expect("there");
    let wanted = [
        ("administrative_contact", "user alice".to_owned()),
        ("technical_contact", "organization acme".to_owned()),
    ];
    let write = contacts::write(&wanted);
    path::apply(&mut application, &write.message, &write.paths);
    world.source.tts.store().put(Table::Applications, APP, application).expect("memory");
}

/// Who the contacts of an application are.
fn contacts_of(side: &crate::world::Side, app: &str) -> Vec<String> {
    let application = side.tts.store().get(Table::Applications, app).cloned().expect("it is there");
    contacts::of(&application).into_iter().map(|(_, name)| name).collect()
}

#[test]
fn people_have_the_same_rights_under_the_names_of_the_target() {
    let world = team();
    config_of(&world, &[1], ONLY, PEOPLE);
    set_contacts(&world);
    let before = who(&world.source, APP);
    let plan = world.call("plan", &[]).expect(0);
    plan.says("+ collaborators to be copied: 2 (organization acme, user alice)")
        .says("= collaborators there, as at the source: 1 (user jane)")
        .says("+ contacts to be copied: 2 (administrative, technical)");
    world.call("rehearse", &[]).expect(0).says("around the devices: 4 copied");
    assert_eq!(writes(&world), (0, 0));

    world.run().expect(0).says("around the devices: 4 copied");
    assert_eq!(contacts_of(&world.target, TARGET), ["user alice-nl", "organization acme-eu"]);
    let expected = [
        one("organization acme-eu", &[ALL]),
        one("user admin", &["RIGHT_ALL"]),
        one("user alice-nl", &[INFO, READ]),
    ];
    assert_eq!(who(&world.target, TARGET), expected);
    let done = writes(&world);
    world.run().expect(0).says("around the devices: 3 there before");
    assert_eq!(writes(&world), done, "S6");
    world.call("verify", &[]).expect(0).says("around the devices: 3 as written");

    world.call("status", &[]).expect(0).says("around the devices: 3 in the journal: 3 done");
    let status = world.call("status", &["--output", "json"]).expect(0);
    assert!(
        status.out.contains(r#""id":"user jane""#) && status.out.contains(r#""there_before":true"#),
        "{}",
        status.out
    );

    collaborate(&world.target, TARGET, "user alice-nl", &[ALL]);
    world.call("verify", &[]).expect(3).says("collaborator user alice: rights");
    world.call("rollback", &["--yes"]).expect(3).says("it was edited on the target since it was written");
    collaborate(&world.target, TARGET, "user alice-nl", &[READ, INFO]);
    world.call("rollback", &["--yes"]).expect(0).says("acme removed");
    assert_eq!(who(&world.target, TARGET), [one("user admin", &["RIGHT_ALL"])]);
    assert_eq!(contacts_of(&world.target, TARGET), ["user admin", "user admin"]);
    assert_eq!(who(&world.source, APP), before, "the source is untouched");
}

#[test]
fn one_who_is_nobody_on_the_target_stops_neither_the_others_nor_a_device() {
    let world = team();
    collaborate(&world.source, APP, "user bob", &[INFO]);
    let file = || world.dir.path().join("move.toml");
    config_of(&world, &[1], ONLY, PEOPLE);
    let plan = world.call("plan", &[]).expect(3);
    plan.says("x collaborators not copied: 1 (user bob)")
        .says(
            "unmapped-person: collaborator user bob: [people] does not say which user of the target this is",
        )
        .says("add users = { \"bob\" = \"ID ON THE TARGET\" } to [people]");
    world.run().expect(3).says("1 device moved").says("collaborator user bob not copied");
    assert_eq!(who(&world.target, TARGET).len(), 3);
    // Said later, by either way: the journal does not mind.
    let text = fs::read_to_string(file()).expect("there");
    fs::write(file(), text.replace("allow-loss = [", "allow-loss = [\"unmapped-person\", ")).expect("ours");
    world.run().expect(0);
    world.call("plan", &[]).expect(0).says("- collaborators left behind: 1 (user bob)");
    fs::write(file(), text.replace("\"alice\"", "\"bob\" = \"bob-nl\", \"alice\"")).expect("ours");
    world.run().expect(3).says("collaborator user bob");
    assert_eq!(who(&world.target, TARGET).len(), 3, "the target has no such user");
}

#[test]
fn who_is_there_with_other_rights_keeps_them() {
    let world = team();
    // The target's owner is whom the source lets look only.
    collaborate(&world.source, APP, "user jane", &[INFO]);
    config_of(&world, &[1], ONLY, PEOPLE);
    world
        .call("plan", &[])
        .expect(0)
        .says("! collaborators there with other values, which stay: 1 (user jane)")
        .says("integration-differs: collaborator user jane");
    world.run().expect(0);
    assert!(who(&world.target, TARGET).contains(&one("user admin", &["RIGHT_ALL"])));
}

#[test]
fn nobody_is_given_what_the_key_itself_does_not_have() {
    let world = team();
    collaborate(&world.source, APP, "user jane", &[INFO]);
    config_of(&world, &[1], ONLY, PEOPLE);
    world.target.tts.on_call(|call| {
        (call.method.ends_with("ApplicationAccess/SetCollaborator"))
            .then_some(Fault::Status(Code::PermissionDenied))
    });
    world.run().expect(3).says("1 device moved").says("collaborator user alice");
    assert_eq!(who(&world.target, TARGET), [one("user admin", &["RIGHT_ALL"])]);
    world.target.tts.unhook();
    world.run().expect(0);
    assert_eq!(who(&world.target, TARGET).len(), 3);
}

#[test]
fn a_kill_at_any_call_resumes_to_the_same_end_there_and_back() {
    let world = team();
    config_of(&world, &[1], ONLY, PEOPLE);
    set_contacts(&world);
    let before = who(&world.source, APP);
    let mut kills = 0;
    for n in 1.. {
        let there = run_and_kill(&world, "run", n, n % 2 == 0);
        world.run().expect(0);
        assert_eq!(who(&world.target, TARGET).len(), 3, "after a kill at call {n}");
        assert_eq!(contacts_of(&world.target, TARGET), ["user alice-nl", "organization acme-eu"], "{n}");
        let back = run_and_kill(&world, "rollback", n, n % 2 == 1);
        world.call("rollback", &["--yes"]).expect(0);
        assert_eq!(
            who(&world.target, TARGET),
            [one("user admin", &["RIGHT_ALL"])],
            "after a kill at call {n}"
        );
        assert_eq!(who(&world.source, APP), before);
        if !there && !back {
            break;
        }
        kills += usize::from(there) + usize::from(back);
    }
    assert_eq!(
        kills,
        4 + 3,
        "two are made, two contacts set, and given back at once, and two are taken back"
    );
}

#[test]
fn an_answer_that_is_lost_makes_nobody_twice_and_leaves_nobody_out() {
    let world = team();
    config_of(&world, &[1], ONLY, PEOPLE);
    world.target.tts.on_call(|call| {
        call.method.ends_with("ApplicationAccess/SetCollaborator").then_some(Fault::CutAfter)
    });
    world.run().expect(0).says("around the devices: 2 copied");
    assert_eq!(who(&world.target, TARGET).len(), 3);
    world.target.tts.unhook();
    let done = writes(&world);
    world.run().expect(0);
    assert_eq!(writes(&world), done, "S6");
}

#[test]
fn without_people_they_are_counted_and_stay() {
    let world = team();
    config_of(&world, &[1], "", "");
    world.call("plan", &[]).expect(0).says("collaborators are not copied: 3 at the source");
    config_of(&world, &[1], "copy = [\"collaborators\"]", "");
    world.call("plan", &[]).expect(2).says("nobody has said who the collaborators are on the target");
    config_of(&world, &[1], "", "[people]\nusers = { \"alice\" = \"x-y\", \"Bob\" = \"x-y\" }");
    let refused = world.call("plan", &[]).expect(2);
    refused.says("`people.users` holds `Bob`, which is no ID").says("two of `people.users` become `x-y`");
}

#[test]
fn who_may_not_see_rights_is_told_so() {
    let world = team();
    config_of(&world, &[1], ONLY, PEOPLE);
    for account in ["user alice", "user jane", "organization acme"] {
        collaborate(&world.source, APP, account, &[]);
    }
    world.call("plan", &[]).expect(0).says("not-copied: collaborators were not looked at");
}
