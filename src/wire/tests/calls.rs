//! Calls that go well, that are refused, and that are tried again.

use std::num::NonZeroU32;

use serde_json::json;

use super::{
    server::{Reply, Server},
    *,
};

#[tokio::test]
async fn a_call_carries_key_agent_and_deadline_and_brings_its_answer() {
    let headers = vec![("x-total-count", "7".into()), ("warning", "restricted rights".into())];
    let server = Server::start(move |_, _| Reply::Message(device("meter-1"), headers.clone())).await;
    let client = client(server.endpoint.clone());
    let answer = get(&client).await.expect("answers");
    assert_eq!(path::string(&answer.message, "ids.device_id"), "meter-1");
    assert_eq!(answer.total_count, Some(7));
    assert_eq!(answer.warnings, ["restricted rights"]);
    let header = |name: &'static str| {
        server.each(|s| s.headers.get(name).map(|v| v.to_str().expect("text").to_owned()))
    };
    assert_eq!(server.each(|s| s.path.clone()), [GET]);
    assert_eq!(header("authorization"), [Some(format!("Bearer {KEY}"))]);
    assert_eq!(header("user-agent"), [Some(format!("stackferry/{}", env!("CARGO_PKG_VERSION")))]);
    assert_eq!(header("grpc-timeout"), [Some("800m".to_owned())]);
    assert_eq!(header("te"), [Some("trailers".to_owned())]);
    let sent = DynamicMessage::decode(
        proto::descriptor("GetEndDeviceRequest"),
        &server.each(|s| s.body.clone())[0][5..],
    );
    assert_eq!(sent.ok(), Some(get_request()));
    get(&client).await.expect("answers again");
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn calls_side_by_side_share_one_connection() {
    let server = Server::start(|_, _| Reply::Message(device("meter-1"), vec![])).await;
    let client = client(server.endpoint.clone());
    let calls: Vec<_> = (0..20)
        .map(|_| {
            tokio::spawn({
                let client = client.clone();
                async move { get(&client).await }
            })
        })
        .collect();
    for call in calls {
        call.await.expect("no panic").expect("answers");
    }
    assert_eq!((server.calls(), server.connections()), (20, 1));
}

#[tokio::test]
async fn a_refusal_is_typed_and_names_its_device() {
    let server = Server::start(|_, _| {
        let missing = json!({"missing": ["RIGHT_APPLICATION_DEVICES_READ_KEYS"], "uid": "fleet"});
        Reply::refused(Code::PermissionDenied, "pkg/auth/rights", "insufficient_application_rights", missing)
    })
    .await;
    let error = get(&client(server.endpoint.clone())).await.expect_err("denied");
    let right = "RIGHT_APPLICATION_DEVICES_READ_KEYS".to_owned();
    assert_eq!(*error.kind(), Kind::Denied { missing: vec![right] });
    assert!(error.is("pkg/auth/rights", "insufficient_application_rights"));
    assert_eq!(error.outcome(), Outcome::NotApplied);
    assert_eq!(
        error.to_string(),
        format!(
            "device `meter-1` of application `fleet`: NsEndDeviceRegistry/Get at the target {}: refused (pkg/auth/rights:insufficient_application_rights)",
            server.endpoint
        )
    );
    assert_eq!(
        error.hint().as_deref(),
        Some(
            "add to the API key, in the target's Console, Applications > fleet > API keys: RIGHT_APPLICATION_DEVICES_READ_KEYS (\"view device keys in application\")"
        )
    );
    assert_eq!(server.calls(), 1);
}

#[tokio::test]
async fn a_safe_call_is_repeated_when_the_connection_is_cut() {
    let server =
        Server::start(|n, _| if n == 0 { Reply::Cut } else { Reply::Message(device("meter-1"), vec![]) })
            .await;
    let (settings, log) = observed(settings());
    get(&client_with(server.endpoint.clone(), settings)).await.expect("the second attempt");
    assert_eq!((server.calls(), server.connections()), (2, 2));
    let calls: Vec<_> = log.lines().into_iter().filter(|l| l.starts_with("call")).collect();
    assert_eq!(
        calls,
        [
            "call 1 device `meter-1` of application `fleet` unreachable",
            "call 2 device `meter-1` of application `fleet` ok"
        ]
    );
}

#[tokio::test]
async fn a_create_whose_outcome_is_unknown_is_sent_once() {
    for reply in [
        || Reply::Cut,
        || Reply::Reset(h2::Reason::INTERNAL_ERROR),
        || Reply::Hang,
        || Reply::refused(Code::Unavailable, "pkg/cluster", "peer_unavailable", json!({})),
    ] {
        let server = Server::start(move |_, _| reply()).await;
        let settings = Settings { deadline: Duration::from_millis(100), ..settings() };
        let error = create(&client_with(server.endpoint.clone(), settings)).await.expect_err("fails");
        assert_eq!(error.outcome(), Outcome::Unknown, "{error}");
        assert_eq!(server.calls(), 1, "{error}");
        assert!(error.to_string().ends_with("; it is not known whether it took effect"), "{error}");
    }
}

#[tokio::test]
async fn a_create_that_was_surely_not_applied_is_sent_again() {
    for first in [|| Reply::Reset(h2::Reason::REFUSED_STREAM), || Reply::rate_limited(&[])] {
        let server = Server::start(
            move |n, _| if n == 0 { first() } else { Reply::Message(device("meter-1"), vec![]) },
        )
        .await;
        create(&client(server.endpoint.clone())).await.expect("the second attempt");
        assert_eq!(server.calls(), 2);
    }
}

#[tokio::test]
async fn a_create_waits_for_a_server_that_is_not_there_yet() {
    let (settings, log) = observed(settings());
    let (listener, port) = listener().await;
    drop(listener);
    let error = create(&client_with(plaintext(port), settings)).await.expect_err("nobody there");
    assert_eq!(
        (error.kind(), error.outcome(), error.attempts()),
        (&Kind::Unreachable, Outcome::NotApplied, 3)
    );
    assert!(error.to_string().contains("cannot connect to 127.0.0.1"), "{error}");
    assert!(error.to_string().ends_with("after 3 attempts"), "{error}");
    assert_eq!(log.lines().iter().filter(|l| l.starts_with("call")).count(), 3);
}

#[tokio::test]
async fn a_server_that_says_go_away_is_called_on_a_new_connection() {
    let server = Server::start(|_, _| Reply::GoAway(device("meter-1"))).await;
    let client = client(server.endpoint.clone());
    for _ in 0..5 {
        create(&client).await.expect("answers");
    }
    assert_eq!(server.calls(), 5, "none is sent twice");
    assert!(server.connections() > 1);
}

#[tokio::test]
async fn a_connection_that_lingers_after_go_away_takes_no_new_calls() {
    let server = Server::start(|n, _| match n {
        0 => Reply::Hang,
        1 => Reply::GoAway(device("meter-1")),
        _ => Reply::Message(device("meter-1"), vec![]),
    })
    .await;
    let client = client(server.endpoint.clone());
    // The first call keeps the old connection open.
    let lingering = tokio::spawn({
        let client = client.clone();
        async move { create(&client).await }
    });
    while server.calls() == 0 {
        tokio::task::yield_now().await;
    }
    create(&client).await.expect("answers");
    tokio::time::sleep(Duration::from_millis(20)).await;
    create(&client).await.expect("answers on a new connection");
    assert_eq!((server.calls(), server.connections()), (3, 2));
    assert!(!lingering.is_finished());
    lingering.abort();
}

#[tokio::test]
async fn a_slow_answer_ends_with_the_deadline_of_the_call() {
    let server = Server::start(|_, _| Reply::Hang).await;
    let call =
        Call { deadline: Some(Duration::from_millis(50)), repeat: Repeat::Never, ..Call::safe(about()) };
    let error = client(server.endpoint.clone()).unary(GET, get_request(), call).await.expect_err("too slow");
    assert_eq!((error.kind(), error.message()), (&Kind::Deadline, "no answer within 50 ms"));
    assert_eq!(error.outcome(), Outcome::Unknown);
}

#[tokio::test]
async fn after_silence_the_next_attempt_uses_a_new_connection() {
    let server =
        Server::start(|n, _| if n == 1 { Reply::Hang } else { Reply::Message(device("meter-1"), vec![]) })
            .await;
    let client =
        client_with(server.endpoint.clone(), Settings { deadline: Duration::from_millis(100), ..settings() });
    get(&client).await.expect("answers");
    // The acknowledgement of SETTINGS and the like are through before the silent call starts.
    tokio::time::sleep(Duration::from_millis(20)).await;
    get(&client).await.expect("the second attempt");
    assert_eq!((server.calls(), server.connections()), (3, 2));
}

#[tokio::test]
async fn a_rate_limit_is_waited_out_and_an_empty_bucket_holds_the_next_call() {
    let limit = |available: &str| {
        vec![
            ("x-rate-limit-limit", "1200".to_owned()),
            ("x-rate-limit-available", available.to_owned()),
            ("x-rate-limit-retry", "0".to_owned()),
        ]
    };
    let server = Server::start(move |n, _| match n {
        0 => Reply::rate_limited(&[
            ("x-rate-limit-limit", "1200"),
            ("x-rate-limit-available", "0"),
            ("x-rate-limit-retry", "0"),
        ]),
        1 => Reply::Message(device("meter-1"), limit("0")),
        _ => Reply::Message(device("meter-1"), limit("1199")),
    })
    .await;
    let (settings, log) = observed(settings());
    let client = client_with(server.endpoint.clone(), settings);
    let started = std::time::Instant::now();
    create(&client).await.expect("after the wait");
    create(&client).await.expect("after another");
    create(&client).await.expect("at once");
    // 1200 a minute: 50 ms each.
    assert!(started.elapsed() >= Duration::from_millis(100), "{:?}", started.elapsed());
    let waits = log.lines().iter().filter(|l| *l == "wait the server's rate limit").count();
    assert!((2..=4).contains(&waits), "{waits}");
    assert_eq!(server.calls(), 4);
}

#[tokio::test]
async fn a_limit_that_takes_longer_than_the_policy_is_an_error_at_once() {
    let server = Server::start(|_, _| {
        Reply::rate_limited(&[("x-rate-limit-retry", "1000000"), ("x-rate-limit-limit", "1")])
    })
    .await;
    let retry = RetryPolicy { total: Duration::from_secs(5), ..settings().retry };
    let client = client_with(server.endpoint.clone(), Settings { retry, ..settings() });
    let started = std::time::Instant::now();
    let error = create(&client).await.expect_err("too long");
    assert_eq!((error.kind(), error.outcome()), (&Kind::RateLimited, Outcome::NotApplied));
    assert!(error.to_string().contains("would hold this call for"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(1));
    assert_eq!(server.calls(), 1);
}

#[tokio::test]
async fn a_fixed_rate_spaces_the_calls_of_all_components() {
    let server = Server::start(|_, _| Reply::Message(device("meter-1"), vec![])).await;
    let other = Server::start(|_, _| Reply::Message(device("meter-1"), vec![])).await;
    let limit = NonZeroU32::new(20).map(|n| Rate::new(n, Duration::from_secs(1)));
    let client = client_with(server.endpoint.clone(), Settings { limit, ..settings() });
    let component = client.at(other.endpoint.clone()).expect("no file to read");
    let started = std::time::Instant::now();
    for client in [&client, &component, &client] {
        get(client).await.expect("answers");
    }
    assert!(started.elapsed() >= Duration::from_millis(100), "{:?}", started.elapsed());
}

#[tokio::test]
async fn paths_that_an_older_server_refuses_are_left_out_and_remembered() {
    let mask_of = |seen: &server::Seen| {
        let request = DynamicMessage::decode(proto::descriptor("GetEndDeviceRequest"), &seen.body[5..])
            .expect("decodes");
        crate::map::mask::of(&request)
    };
    let server = Server::start(move |_, seen| {
        let refused: Vec<_> = mask_of(seen).into_iter().filter(|p| p.contains("new")).collect();
        if refused.is_empty() {
            return Reply::Message(device("meter-1"), vec![]);
        }
        // One at a time, and with a path that nobody sent.
        let paths = json!({"forbidden_paths": [refused[0], "never_sent"]});
        Reply::refused(Code::InvalidArgument, "pkg/rpcmiddleware/validator", "field_mask_paths", paths)
    })
    .await;
    let client = client(server.endpoint.clone());
    let paths: Vec<String> = ["session", "new", "session.newer"].map(String::from).to_vec();
    for _ in 0..2 {
        let (_, dropped) =
            client.unary_masked(GET, get_request(), &paths, Call::safe(about())).await.expect("answers");
        assert_eq!(dropped, ["new", "session.newer"]);
    }
    assert_eq!(server.calls(), 4);
    assert_eq!(server.each(mask_of).last(), Some(&vec!["session".to_owned()]));
}

#[tokio::test]
async fn a_server_that_refuses_paths_that_were_not_sent_does_not_make_a_loop() {
    let server = Server::start(|_, _| {
        Reply::refused(
            Code::InvalidArgument,
            "pkg/rpcmiddleware/validator",
            "field_mask_paths",
            json!({"forbidden_paths": ["session"]}),
        )
    })
    .await;
    let client = client(server.endpoint.clone());
    let paths = ["session.keys".to_owned()];
    let error =
        client.unary_masked(GET, get_request(), &paths, Call::safe(about())).await.expect_err("no end");
    assert_eq!((error.kind(), server.calls()), (&Kind::Protocol, 1));
}

#[tokio::test]
async fn a_write_of_which_no_path_is_left_is_not_sent() {
    const SET: &str = "/ttn.lorawan.v3.NsEndDeviceRegistry/Set";
    let server = Server::start(|_, _| {
        Reply::refused(
            Code::InvalidArgument,
            "pkg/rpcmiddleware/validator",
            "field_mask_paths",
            json!({"forbidden_paths": ["new"]}),
        )
    })
    .await;
    let client = client(server.endpoint.clone());
    let request = proto::message("SetEndDeviceRequest");
    let error = client
        .unary_masked(SET, request, &["new".to_owned()], Call::safe(about()))
        .await
        .expect_err("nothing left");
    assert_eq!((error.kind(), server.calls()), (&Kind::ForbiddenPaths(vec!["new".into()]), 1));
    assert_eq!(error.outcome(), Outcome::NotApplied);
}
