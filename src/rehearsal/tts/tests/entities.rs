//! Applications, gateways, keys, collaborators, and who may ask.

use std::time::SystemTime;

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::*;

#[test]
fn an_application_is_deleted_restored_and_purged() {
    let server = Server::new();
    server.create_application("second").expect("new");
    let missing = "NotFound pkg/identityserver/store:application_not_found";
    let call = |method: &str| {
        server.call(&format!("ApplicationRegistry/{method}"), json!({"application_id": "second"}), "")
    };
    assert!(call("Restore").expect_err("not deleted").starts_with(missing));
    call("Delete").expect("there");
    assert!(call("Delete").expect_err("deleted").starts_with(missing));
    call("Restore").expect("deleted");
    assert!(call("Restore").expect_err("restored").starts_with(missing));
    call("Delete").expect("there");
    call("Purge").expect("deleted");
    server.create_application("second").expect("free again");
    let update = json!({"application": {"ids": {"application_id": "absent"}, "name": "x"}});
    assert!(
        server.call("ApplicationRegistry/Update", update, "name").expect_err("absent").starts_with(missing)
    );
    let error = server.create_application("webhook").expect_err("reserved");
    assert!(error.contains("pkg/identityserver/blocklist:forbidden_id"), "{error}");
}

#[test]
fn a_collaborator_exists_and_one_has_all_rights() {
    let server = Server::new();
    let set = |user: &str, rights: &[&str]| {
        let collaborator = json!({"ids": {"user_ids": {"user_id": user}}, "rights": rights});
        let request = json!({"application_ids": {"application_id": "meters"}, "collaborator": collaborator});
        server.call("ApplicationAccess/SetCollaborator", request, "")
    };
    assert!(set("nobody", &["RIGHT_APPLICATION_INFO"]).expect_err("absent").contains("account_not_found"));
    set("alice", &["RIGHT_APPLICATION_INFO"]).expect("a user");
    let error = set("admin", &[]).expect_err("the last one");
    assert!(
        error.starts_with("FailedPrecondition pkg/identityserver:application_needs_collaborator"),
        "{error}"
    );
}

#[test]
fn absent_webhooks_are_deleted_and_absent_gateways_are_not() {
    let server = Server::new();
    let hook = json!({"application_ids": {"application_id": "meters"}, "webhook_id": "none-1"});
    server.call("ApplicationWebhookRegistry/Delete", hook, "").expect("as good as deleted");
    let error =
        server.call("GatewayRegistry/Delete", json!({"gateway_id": "none-1"}), "").expect_err("absent");
    assert!(error.starts_with("NotFound pkg/identityserver/store:gateway_not_found"), "{error}");
    let batch = json!({"gateway_ids": [{"gateway_id": "none-1"}]});
    let error = server.call("GatewayBatchRegistry/Delete", batch, "").expect_err("absent");
    assert!(error.starts_with("NotFound pkg/identityserver:some_gateways_not_found"), "{error}");
}

#[test]
fn callers_without_a_valid_key_are_told_apart() {
    let server = Server::new();
    let ask = |key: Option<&str>| {
        let request = json!({"application_ids": {"application_id": "meters"}});
        server
            .call_as(key, "ApplicationRegistry/Get", request, "name")
            .map_or_else(|e| e, |_| "OK".to_owned())
    };
    let expired = server.0.create_key(
        EntityKind::Application,
        "meters",
        &["APPLICATION_INFO"],
        Some(SystemTime::UNIX_EPOCH),
    );
    let own = server.0.settings().api_key.clone();
    assert_eq!(ask(Some(&own)), "OK");
    assert_eq!(ask(Some(&server.key(&["APPLICATION_INFO"]))), "OK");
    for (key, error) in [
        (None, "Unauthenticated pkg/identityserver:unauthenticated"),
        (Some("nonsense".to_owned()), "InvalidArgument pkg/auth:token"),
        (Some(format!("{own}x")), "Unauthenticated pkg/identityserver:invalid_authorization"),
        (Some(expired.expect("memory")), "Unauthenticated pkg/identityserver:api_key_expired"),
        (Some(server.key(&[])), "PermissionDenied pkg/auth/rights:no_application_rights"),
    ] {
        let answer = ask(key.as_deref());
        assert!(answer.starts_with(error), "{answer} instead of {error}");
    }
}

#[test]
fn an_older_server_refuses_what_it_does_not_know() {
    let settings = Settings { refused_paths: vec!["mac_settings".to_owned()], ..Settings::default() };
    let server = Server(Tts::new(settings).expect("memory"));
    let get =
        |paths: &str| server.call("NsEndDeviceRegistry/Get", json!({"end_device_ids": ids("pump-1")}), paths);
    let refused = "InvalidArgument pkg/rpcmiddleware/validator:field_mask_paths";
    assert!(get("mac_settings.adr").expect_err("below").starts_with(refused));
    assert!(!get("session").expect_err("no such application").starts_with(refused));
}

#[test]
fn an_address_is_given_from_the_blocks() {
    let server = Server::new();
    for _ in 0..20 {
        let answer = server.call("Ns/GenerateDevAddr", json!({}), "").expect("always");
        let address = STANDARD.decode(answer["dev_addr"].as_str().expect("base64")).expect("base64");
        assert_eq!(address.first(), Some(&1), "the block is 01000000/8");
    }
}
