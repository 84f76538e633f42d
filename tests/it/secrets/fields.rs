//! Every field of the protos that could hold a key is known: as a secret, or as none with a reason.

use std::collections::{BTreeMap, BTreeSet};

use prost_reflect::{Kind, MessageDescriptor};
use stackferry::{model::secret::is_secret_path, proto};

/// Fields that hold bytes, or are named like a secret, and are none.
const HARMLESS: &[(&str, &str)] = &[
    ("access_key_id", "the name of a key of AWS"),
    ("app_eui", "on the air in the clear"),
    ("application_server_kek_label", "the name of a key"),
    ("certificate", "a certificate"),
    ("context", "the tracing context of an event"),
    ("data_rates", "of a band"),
    ("decoded_payload", "what a formatter made of a measurement"),
    ("decoded_payload_warnings", "as above"),
    ("decoder", "a payload function"),
    ("dev_addr", "on the air in the clear"),
    ("dev_addr_prefix", "on the air in the clear"),
    ("dev_addr_prefixes", "on the air in the clear"),
    ("dev_eui", "on the air in the clear"),
    ("dev_nonce", "on the air in the clear"),
    ("documentation_url", "a page for people"),
    ("encoder", "a payload function"),
    ("encrypted", "a join-accept as it is on the air"),
    ("encrypted_fine_timestamp", "needs a key of the gateway's maker"),
    ("encrypted_fine_timestamp_key_id", "the name of a key"),
    ("eui", "on the air in the clear"),
    ("f_opts", "MAC commands as they are on the air"),
    ("forwarder_gateway_eui", "an identifier"),
    ("forwarder_net_id", "an identifier"),
    ("home_net_id", "an identifier"),
    ("home_network_net_id", "an identifier"),
    ("home_ns_id", "an identifier"),
    ("info_url", "a page for people"),
    ("join_eui", "on the air in the clear"),
    ("join_nonce", "a counter"),
    ("kek_label", "the name of a key; findings show it on purpose"),
    ("key_id", "the name of a key"),
    ("logo_url", "a picture for people"),
    ("mic", "on the air in the clear"),
    ("net_id", "an identifier"),
    ("network_server_kek_label", "the name of a key"),
    ("normalized_payload", "what a formatter made of a measurement"),
    ("normalized_payload_warnings", "as above"),
    ("ns_id", "an identifier"),
    ("payload", "a frame as it is on the air"),
    ("payload_format", "the kind of payload functions"),
    ("public_key", "the public half"),
    ("rejected_data_rate_ranges", "of a band"),
    ("root_key_id", "the name of a key"),
    ("session_id", "the name of a session of the Console"),
    ("session_key_id", "the name of a session"),
    ("tls_ca", "a certificate"),
    ("tls_client_cert", "a certificate"),
    ("token_id", "the name of a token"),
    ("token_type", "a kind of token"),
    ("uplink_token", "where a gateway was connected"),
    ("url", "a page for people"),
    ("used_app_nonces", "a counter"),
    ("used_dev_nonces", "on the air in the clear"),
    ("user_agent", "the name of a program"),
    ("user_id", "an identifier"),
    ("user_session_id", "the name of a session of the Console"),
];

/// What a secret is called.
const WORDS: &[&str] = &[
    "key",
    "secret",
    "pass",
    "token",
    "code",
    "auth",
    "cred",
    "user",
    "header",
    "payload",
    "nonce",
    "cert",
    "pem",
    "kek",
    "url",
    "data",
    "private",
    "session",
    "template_fields",
];

/// The messages of The Things Stack and of V2.
fn messages() -> impl Iterator<Item = MessageDescriptor> {
    let packages = [proto::PACKAGE, "discovery", "handler", "lorawan"];
    proto::pool().all_messages().filter(move |m| packages.contains(&m.package_name()))
}

/// Bytes of any name, and texts, maps and structures that are named like secrets; messages are looked into by themselves.
fn suspects() -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for message in messages() {
        for field in message.fields() {
            let is_map = field.is_map();
            let text = match field.kind() {
                Kind::Bytes => true,
                Kind::String => WORDS.iter().any(|word| field.name().contains(word)),
                Kind::Message(inner) if is_map && inner.map_entry_value_field().kind() == Kind::Bytes => true,
                Kind::Message(inner) => {
                    let well_known = [
                        "google.protobuf.Struct",
                        "google.protobuf.StringValue",
                        "google.protobuf.BytesValue",
                    ];
                    let holds = is_map || well_known.contains(&inner.full_name());
                    holds && WORDS.iter().any(|word| field.name().contains(word))
                }
                _ => false,
            };
            if text && !message.is_map_entry() {
                found.entry(field.name().to_owned()).or_default().insert(message.name().to_owned());
            }
        }
    }
    found
}

/// `value` is a secret by what it stands in.
fn stands_in_secrets(holders: &BTreeSet<String>) -> bool {
    holders.iter().all(|holder| ["Secret", "EndDeviceAuthenticationCode"].contains(&holder.as_str()))
}

#[test]
fn every_field_that_could_hold_a_key_is_known() {
    let suspects = suspects();
    assert!(suspects.len() > 60, "{}", suspects.len());
    let harmless: BTreeMap<_, _> = HARMLESS.iter().copied().collect();
    let unknown: Vec<_> = suspects
        .iter()
        .filter(|(name, holders)| {
            let known = is_secret_path(name) || harmless.contains_key(name.as_str());
            let stands_in_one = *name == "value" && stands_in_secrets(holders);
            !(known || stands_in_one)
        })
        .collect();
    assert!(unknown.is_empty(), "secret (src/model/secret.rs) or harmless (this file)? {unknown:#?}");
    for (name, why) in &harmless {
        assert!(!is_secret_path(name), "{name} is not both");
        assert!(suspects.contains_key(*name), "{name} ({why}) is not there any more");
    }
    // What holds a `Secret` is secret as a whole.
    for message in messages() {
        for field in message.fields() {
            if let Kind::Message(inner) = field.kind()
                && ["Secret", "KeyEnvelope", "EndDeviceAuthenticationCode"].contains(&inner.name())
            {
                assert!(is_secret_path(field.name()), "{}.{}", message.name(), field.name());
            }
        }
    }
}
