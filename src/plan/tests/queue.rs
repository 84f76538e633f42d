//! Downlinks that wait at the source are named in full, but for their payload.

use super::*;

const QUEUE: &str = "session.queued_application_downlinks";

fn waiting(f_port: u32, confirmed: bool) -> DynamicMessage {
    let mut item = proto::message("ApplicationDownlink");
    path::set(&mut item, "f_port", Value::U32(f_port));
    path::set(&mut item, "f_cnt", Value::U32(7));
    path::set(&mut item, "frm_payload", bytes(b"a-secret-of-the-application"));
    path::set(&mut item, "confirmed", Value::Bool(confirmed));
    item
}

fn finding(items: Vec<DynamicMessage>, allowed: &[Kind]) -> Option<Finding> {
    let mut found = (0..40)
        .map(generated)
        .find(|f| f.records.ns.as_ref().is_some_and(|r| path::has(&r.0, "session")))
        .expect("a device with a session");
    for queue in [QUEUE, "queued_application_downlinks", "pending_session.queued_application_downlinks"] {
        path::clear(ns(&mut found), queue);
    }
    if !items.is_empty() {
        path::set(ns(&mut found), QUEUE, Value::List(items.into_iter().map(Value::Message).collect()));
    }
    let wishes = Wishes { allowed: allowed.to_vec(), ..wishes(SessionMode::Keep) };
    let findings = transform::device(&found, &facts(), &wishes).findings;
    findings.into_iter().find(|f| f.kind == Kind::QueuedDownlinks)
}

#[test]
fn what_waits_is_told_without_its_payload() {
    let mut timed = waiting(9, false);
    path::set(&mut timed, "class_b_c.absolute_time.seconds", Value::I64(4_000_000_000));
    let items = vec![waiting(1, false), waiting(2, true), waiting(1, true), timed];
    let found = finding(items, &[]).expect("a finding");
    let text = "4 downlinks wait in the source's queue (2 on FPort 1, FPort 2, FPort 9; 2 confirmed; 1 for a given time)";
    assert_eq!(found.text, text);
    assert!(found.blocks() && found.paths == [QUEUE], "{found}");
    assert!(!format!("{found} {}", found.fix).contains("secret-of"), "no payload");
}

#[test]
fn one_waits_and_none_is_no_finding() {
    let one = finding(vec![waiting(3, false)], &[Kind::QueuedDownlinks]).expect("a finding");
    assert_eq!(one.text, "1 downlink waits in the source's queue (FPort 3)");
    assert!(!one.blocks(), "its loss is allowed");
    assert!(finding(Vec::new(), &[]).is_none());
}
