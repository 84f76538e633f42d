//! The table of docs/servers.md, V2 SetDevice, row by row, and who may call what.

use prost_reflect::Value;

use super::{
    samples::{FLEET, KEY, identifier, settings, v2},
    stored::is_zero,
    *,
};

mod set_device;

#[track_caller]
fn refused<T>(result: Result<T, Status>, code: Code, text: &str) {
    let status = result.map(|_| ()).expect_err("refused");
    assert_eq!((status.code(), status.message()), (code, text));
}

fn ids(list: &DynamicMessage) -> Vec<String> {
    let devices = path::get(list, "devices").map(|v| v.into_owned());
    let devices = devices.as_ref().and_then(|v| v.as_list()).unwrap_or_default();
    devices.iter().filter_map(Value::as_message).map(|device| path::string(device, "dev_id")).collect()
}

#[test]
fn each_key_may_do_what_its_rights_say_and_errors_have_the_codes_of_v2() {
    let v2 = v2();
    v2.load_devices(FLEET, "fleet").expect("a listing");
    let get =
        |app: &str, metadata: &[(&str, &str)]| v2.manager("GetDevice", identifier(app, Some("x1")), metadata);
    get("fleet", &[("key", KEY)]).expect("the devices right");
    get("fleet", &[("key", "devices")]).expect("without the issuer");
    refused(get("fleet", &[]), Code::InvalidArgument, "Metadata not valid: neither token nor key present");
    refused(
        get("fleet", &[("authorization", "Bearer x")]),
        Code::InvalidArgument,
        "Metadata not valid: neither token nor key present",
    );
    refused(get("fleet", &[("key", "ttn-account-v2.wrong")]), Code::Unknown, "Invalid access key");
    refused(get("fleet", &[("key", "ttn-account-v2.other")]), Code::Unknown, "Invalid access key");
    refused(get("nobodys", &[("key", KEY)]), Code::Unknown, "Application not found");
    refused(
        get("fleet", &[("key", "ttn-account-v9.devices")]),
        Code::Unknown,
        "Auth server \"ttn-account-v9\" not registered",
    );
    let bad_token = "permission denied: unable to parse token: token contains an invalid number of segments";
    refused(get("fleet", &[("key", KEY), ("token", "")]), Code::PermissionDenied, bad_token);
    refused(get("fleet", &[("key", KEY), ("token", "x.y")]), Code::PermissionDenied, bad_token);
    refused(
        get("fleet", &[("key", "ttn-account-v2.settings")]),
        Code::PermissionDenied,
        "permission denied: No \"devices\" rights to Application \"fleet\"",
    );
    refused(
        get("unreg", &[("key", KEY)]),
        Code::NotFound,
        "Application not registered to this Handler: handler:application:unreg not found",
    );
    let application = |key| v2.manager("GetApplication", identifier("fleet", None), &[("key", key)]);
    application("ttn-account-v2.settings").expect("the settings right");
    refused(
        application(KEY),
        Code::PermissionDenied,
        "permission denied: No \"settings\" rights to Application \"fleet\"",
    );
}

#[test]
fn a_list_is_sorted_paged_and_without_counters_and_a_device_has_them() {
    let v2 = v2();
    assert_eq!(v2.load_devices(FLEET, "fleet").expect("a listing"), 61);
    let whole = v2.list(&[]).expect("a list");
    let all = ids(&whole.message);
    assert!(all.len() == 61 && all.is_sorted());
    let header = |name: &str, n: usize| (name.to_owned(), n.to_string());
    assert_eq!(whole.headers, [header("total", 61), header("selected", 61)]);
    let page = v2.list(&[("limit", "10"), ("offset", "55")]).expect("a page");
    assert_eq!(
        (ids(&page.message).as_slice(), page.headers),
        (&all[55..], vec![header("total", 61), header("selected", 6)])
    );
    assert_eq!(ids(&v2.list(&[("limit", "0")]).expect("0 is none").message).len(), 61);
    refused(v2.list(&[("offset", "-1")]), Code::Unknown, "strconv.ParseUint: parsing \"-1\": invalid syntax");

    let original: serde_json::Value = serde_json::from_slice(FLEET).expect("JSON");
    let mut counted = 0;
    for (listed, json) in path::get(&whole.message, "devices")
        .and_then(|v| v.as_list().map(<[Value]>::to_vec))
        .expect("devices")
        .iter()
        .filter_map(Value::as_message)
        .zip(original["devices"].as_array().expect("devices"))
    {
        let half = stored::lorawan(listed);
        assert_eq!(path::string(listed, "dev_id"), json["dev_id"].as_str().expect("an ID"));
        assert_eq!((path::number(&half, "f_cnt_up"), path::number(&half, "last_seen")), (0, 0));
        assert!(stored::ALWAYS.iter().all(|(field, length)| path::bytes(&half, field).len() == *length));
        let got = v2.get(&path::string(listed, "dev_id")).expect("it is there");
        let has_session = !is_zero(&path::bytes(&half, "nwk_s_key"));
        let up = path::number(&got, "lorawan_device.f_cnt_up");
        assert_eq!(up > 0, has_session);
        counted += usize::from(up > 0);
    }
    assert!(counted > 20, "{counted} have a session");
    let again = TtnV2::new(settings()).expect("memory");
    again.load_devices(FLEET, "fleet").expect("a listing");
    assert_eq!(again.get("abp-003").expect("there"), v2.get("abp-003").expect("there"));
}

#[test]
fn discovery_knows_the_handler_of_registered_applications() {
    let v2 = v2();
    let ask = |method: &str, message: &str, fields: &[(&str, &str)]| {
        let mut request = proto::message(&format!("discovery.{message}"));
        for (field, text) in fields {
            path::set(&mut request, field, Value::String((*text).to_owned()));
        }
        v2.call(&format!("/discovery.Discovery/{method}"), request, &[]).map(|reply| reply.message)
    };
    let found = ask("GetByAppID", "GetByAppIDRequest", &[("app_id", "fleet")]).expect("announced");
    assert_eq!(path::string(&found, "service_name"), "handler");
    assert!(!path::has(&found, "metadata"));
    refused(
        ask("GetByAppID", "GetByAppIDRequest", &[("app_id", "unreg")]),
        Code::NotFound,
        "discovery:app_id:unreg not found",
    );
    let fields = [("id", "ttn-handler-rehearsal"), ("service_name", "handler")];
    let found = ask("Get", "GetRequest", &fields).expect("announced");
    let metadata = path::get(&found, "metadata").map(|v| v.into_owned());
    assert_eq!(metadata.and_then(|v| v.as_list().map(<[Value]>::len)), Some(2));
    refused(
        ask("Get", "GetRequest", &[("id", "nope"), ("service_name", "handler")]),
        Code::NotFound,
        "discovery:announcement:handler:nope not found",
    );
}

#[test]
fn a_state_file_keeps_devices_and_what_they_have_counted() {
    let dir = tempfile::tempdir().expect("a folder");
    let settings = V2Settings { state: Some(dir.path().join("v2.state")), ..settings() };
    let first = TtnV2::new(settings.clone()).expect("opens");
    first.load_devices(FLEET, "fleet").expect("a listing");
    let before = first.get("abp-003").expect("there");
    drop(first);
    let second = TtnV2::new(settings).expect("opens again");
    assert_eq!(second.get("abp-003").expect("still there"), before);
}

#[test]
fn hooks_see_each_call_and_may_refuse_it_with_any_text() {
    let v2 = v2();
    v2.on_call(|call| (call.entity == "end device:fleet.a1").then_some(Fault::Text(Code::Internal, "why")));
    refused(v2.get("a1"), Code::Internal, "why");
    refused(v2.get("a2"), Code::NotFound, "handler:device:fleet:a2 not found");
    let calls: Vec<_> = v2.calls().into_iter().map(|c| (c.method, c.code, c.is_write)).collect();
    let get = || "/handler.ApplicationManager/GetDevice".to_owned();
    assert_eq!(calls, [(get(), Some(Code::Internal), false), (get(), Some(Code::NotFound), false)]);
}

#[test]
fn what_is_shown_of_it_has_no_key() {
    let v2 = v2();
    v2.load_devices(FLEET, "fleet").expect("a listing");
    let fleet = &v2.settings().applications[0];
    let shown = format!("{v2:?} {:?} {fleet:?} {:?}", v2.settings(), fleet.keys);
    assert!(!shown.contains("ttn-account-v2") && shown.contains("rate_limit"), "{shown}");
    let generated = AccessKey::generate(&["devices"]);
    assert_eq!(generated.key.len(), KEY.len() - "devices".len() + 43, "as the account server made them");
    assert!(!format!("{generated:?}").contains(&generated.key));
}

/// A V2 with a rate limit, on a clock that goes on only while something waits.
struct Limited(Arc<TtnV2>);

impl Limited {
    fn new() -> Self {
        let mut settings = V2Settings { rate_limit: Some(5), ..settings() };
        settings.applications[0].keys[2].subject = Some("somebody".to_owned());
        Self(TtnV2::new(settings).expect("memory"))
    }

    /// One call: how it ended, and how long it took, in milliseconds.
    async fn call(&self, dev_id: &str, key: &str) -> (Code, String, u128) {
        let start = Instant::now();
        let mut metadata = MetadataMap::new();
        metadata.insert("key", key.parse().expect("a header"));
        let request = identifier("fleet", Some(dev_id));
        let path = "/handler.ApplicationManager/GetDevice";
        let mut call = self.0.announce(path, &request);
        let status = Stack::apply(&*self.0, &mut call, request, &metadata).await.expect_err("no devices");
        (status.code(), status.message().to_owned(), start.elapsed().as_millis())
    }
}

#[tokio::test(start_paused = true)]
async fn five_calls_a_second_are_served_and_a_later_one_waits_or_is_refused() {
    let v2 = Limited::new();
    for _ in 0..5 {
        let (code, _, time) = v2.call("nope", KEY).await;
        assert_eq!((code, time), (Code::NotFound, 0), "also what is not found counts");
    }
    let refused = (Code::ResourceExhausted, "Rate limit for client \"fleet\" reached".to_owned(), 0);
    assert_eq!(v2.call("nope", KEY).await, refused);
    // What does not get past the identifiers and the key costs nothing.
    tokio::time::advance(std::time::Duration::from_secs(1)).await;
    for _ in 0..9 {
        assert_eq!(v2.call("Bad ID", KEY).await.0, Code::InvalidArgument);
        assert_eq!(v2.call("nope", "wrong").await.0, Code::Unknown);
    }
    for _ in 0..5 {
        assert_eq!(v2.call("nope", KEY).await.0, Code::NotFound);
    }
    tokio::time::advance(std::time::Duration::from_millis(600)).await;
    let (code, _, time) = v2.call("nope", KEY).await;
    assert_eq!((code, time), (Code::NotFound, 400), "it waits in the server");
}

#[tokio::test(start_paused = true)]
async fn two_keys_of_an_application_share_its_calls() {
    let v2 = Limited::new();
    for key in ["devices", "all", "devices", "all", "devices"] {
        assert_eq!(v2.call("nope", key).await.0, Code::NotFound);
    }
    let refused = (Code::ResourceExhausted, "Rate limit for application \"fleet\" reached".to_owned(), 0);
    assert_eq!(v2.call("nope", "all").await, refused, "though this one has used two of its five");
}
