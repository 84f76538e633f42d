use std::fs;

use proptest::prelude::*;

use super::*;
use crate::model::ids::AppId;

/// A literal that must never be seen again.
const CANARY: &str = "NNSXS.CANARYCANARYCANARYCANARY.CANARYCANARYCANARYCANARYCANARYCANARY";

const VARIABLES: [(&str, &str); 7] = [
    ("SOURCE_API_KEY", CANARY),
    ("TARGET_API_KEY", CANARY),
    ("JOIN_API_KEY", CANARY),
    ("STREET_LIGHTS_API_KEY", CANARY),
    ("STREET_LIGHTS_ACCESS_KEY", CANARY),
    ("SEAL_KEY", CANARY),
    ("EMPTY", ""),
];

fn env() -> Env {
    Env::fixed(VARIABLES)
}

/// What the examples name besides; a variable of the old tool takes the place of keys elsewhere.
fn env_of_examples() -> Env {
    Env::fixed(
        VARIABLES.into_iter().chain([("TTNV2_APP_ACCESS_KEY", CANARY), ("PARKING_ACCESS_KEY", CANARY)]),
    )
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config")
}

/// Checks a text as if it were a file in a folder with the given other files.
fn check(text: &str, env: &Env) -> Result<Config, Diagnostics> {
    Config::parse(Path::new("migration.toml"), text.as_bytes(), env, Depth::Secrets)
}

fn errors(text: &str) -> String {
    match check(text, &env()) {
        Ok(_) => "no error".to_owned(),
        Err(found) => found.render(false),
    }
}

/// A file with one part that a test is about.
fn with(part: &str) -> String {
    let sides = "[source.tts]\naddress = \"a.example.com\"\napi-key = { env = \"SOURCE_API_KEY\" }\n\
                 [target.tts]\naddress = \"b.example.com\"\napi-key = { env = \"TARGET_API_KEY\" }\n";
    let application = "[[application]]\nsource = \"my-app\"\n";
    format!("{part}\n{sides}{}", if part.contains("[[application]]") { "" } else { application })
}

fn valid(part: &str) -> Config {
    check(&with(part), &env()).unwrap_or_else(|found| panic!("{found}"))
}

#[test]
fn every_worked_example_loads() {
    let mut count = 0;
    for entry in fs::read_dir(examples()).expect("config/") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let config = Config::load(&path, &env_of_examples()).unwrap_or_else(|found| panic!("{found}"));
            assert!(config.warnings.is_empty(), "{}", config.warnings);
            count += 1;
        }
    }
    assert!(count >= 10, "{count}");
}

#[test]
fn the_quickstart_says_what_it_shows() {
    let config =
        Config::load(&examples().join("quickstart.toml"), &Env::fixed([("", ""); 0])).expect("valid");
    let (Side::Rehearsal(source), Side::Rehearsal(target)) = (&config.source, &config.target) else {
        panic!("both sides are embedded");
    };
    assert_eq!(source.devices.as_deref(), Some(&*examples().join("quickstart/tts-fleet-100.jsonl")));
    assert_ne!(source.dev_addr_prefixes, target.dev_addr_prefixes);
    assert_eq!(config.journal.path, examples().join("quickstart.journal"));
    assert_eq!((config.clear.mode, config.clear.when), (ClearMode::Keys, Some(ClearWhen::Verified)));
    assert!(config.transform.allows("picture") && config.transform.allows("queued-downlinks"));
    assert!(!config.transform.allows("unknown-fields"));
}

#[test]
fn defaults_are_the_safe_ones() {
    let config = valid("");
    assert_eq!(
        config.clear,
        Clear {
            mode: ClearMode::Mute,
            when: None,
            hold: false,
            max_devices: 1000,
            integrations: ClearIntegrations::Nothing,
            api_keys: ClearApiKeys::Nothing,
            gateways: ClearGateways::Nothing
        }
    );
    assert_eq!(config.journal.path, Path::new("migration.journal"));
    assert_eq!(config.applications[0].target, config.applications[0].source);
    assert_eq!(config.applications[0].devices, Devices::All);
    assert_eq!(config.transform, Transform::default());
    let Side::Tts(stack) = &config.source else { panic!("tts") };
    assert_eq!(stack.join_server.to_string(), "a.example.com:8884");
    assert_eq!(config.limits.max_message, 16 << 20);
}

#[test]
fn values_are_typed() {
    let config = valid(
        "[transform]\nsession = 'drop'\nmac-version = '1.0.3'\nphy-version = '1.0.3-a'\nabp-reset = 'valve-1'\n\
         frequency-plan = { A = 'B', default = 'C' }\ndevice-id = { prefix = 'x-', from = 'eui' }\n\
         [limits]\nsource = '100/min'\ndeadline = '1m'\nmax-message = '1MiB'\n[rollout]\nin-flight = 0x10\n",
    );
    let transform = &config.transform;
    assert_eq!(transform.session, SessionMode::Drop);
    assert_eq!(versions(&transform.mac_version), ["*=MAC_V1_0_3"]);
    assert_eq!(versions(&transform.phy_version), ["*=PHY_V1_0_3_REV_A"]);
    assert_eq!(transform.frequency_plans.get("A").map(String::as_str), Some("B"));
    assert_eq!(transform.frequency_plans.len(), 1);
    assert_eq!(transform.default_frequency_plan.as_deref(), Some("C"));
    assert_eq!(transform.device_id, DeviceIdRule { prefix: "x-".into(), from: IdFrom::Eui, rename: false });
    assert_eq!(config.limits.source.map(|rate| rate.to_string()).as_deref(), Some("100/min"));
    assert_eq!(config.rollout.in_flight, 16);
}

fn versions(versions: &[(glob::Pattern, String)]) -> Vec<String> {
    versions.iter().map(|(shape, version)| format!("{shape}={version}")).collect()
}

#[test]
fn versions_go_by_the_longest_shape() {
    let config = valid(
        "[transform]\nmac-version = { default = '1.0.2', 'meter-*' = '1.0.3', 'my-app/meter-*' = '1.0.1', '*' = '1.0' }\n\
         device-id = { rename = 'auto' }\n",
    );
    let found = versions(&config.transform.mac_version);
    assert_eq!(found, ["my-app/meter-*=MAC_V1_0_1", "meter-*=MAC_V1_0_3", "*=MAC_V1_0", "*=MAC_V1_0_2"]);
    assert!(config.transform.device_id.rename);
}

#[test]
fn plaintext_has_another_port_and_a_warning() {
    let text = with("").replace("[target", "insecure = true\n[target");
    let config = check(&text, &env()).expect("valid");
    let Side::Tts(stack) = &config.source else { panic!("tts") };
    assert_eq!(stack.identity_server.port, PLAINTEXT_PORT);
    insta::assert_snapshot!(config.warnings.render(false));
    let local = check(&text.replace("a.example.com", "localhost"), &env()).expect("valid");
    assert!(local.warnings.is_empty());
}

#[test]
fn variables_override_keys() {
    let overrides = Env::fixed([
        ("SOURCE_API_KEY", CANARY),
        ("TARGET_API_KEY", CANARY),
        ("STACKFERRY_SOURCE_ADDRESS", "c.example.com:1"),
        ("STACKFERRY_IN_FLIGHT", "3"),
        ("STACKFERRY_JOURNAL", "elsewhere.journal"),
    ]);
    let config = check(&with(""), &overrides).expect("valid");
    let Side::Tts(stack) = &config.source else { panic!("tts") };
    assert_eq!(stack.network_server.to_string(), "c.example.com:1");
    assert_eq!(config.rollout.in_flight, 3);
    assert_eq!(config.journal.path, Path::new("elsewhere.journal"));
}

#[test]
fn every_override_names_a_key_of_the_reference() {
    for over in OVERRIDES {
        let mut keys = <raw::RawConfig as read::Section>::KEYS;
        for part in over.key.split('.') {
            let key = keys.iter().find(|key| key.name == part).unwrap_or_else(|| panic!("{}", over.key));
            // The names in it are the user's.
            if key.kind == "table of strings" {
                break;
            }
            keys = key.keys;
        }
    }
}

#[test]
fn a_variable_with_a_bad_value_is_named() {
    let bad = Env::fixed([
        ("SOURCE_API_KEY", CANARY),
        ("TARGET_API_KEY", CANARY),
        ("STACKFERRY_TARGET_ADDRESS", "https://b.example.com"),
        ("STACKFERRY_IN_FLIGHT", "many"),
    ]);
    insta::assert_snapshot!(check(&with(""), &bad).expect_err("bad values").render(false));
}

#[test]
fn the_example_of_every_key_is_valid() {
    /// The examples of a section and of all sections in it, but for those named in `without`.
    fn write(keys: &[read::Key], header: &str, without: &[&str], text: &mut String) {
        text.push_str(header);
        let keys = || keys.iter().filter(|key| !without.contains(&key.name));
        for key in keys().filter(|key| !key.example.is_empty()) {
            text.push_str(&format!("\n{} = {}", key.name, key.example));
        }
        for key in keys().filter(|key| key.example.is_empty() && !key.keys.is_empty()) {
            let name = read::join(header.trim_matches(['\n', '[', ']']), key.name);
            let header = if key.kind == "list" { format!("\n[[{name}]]") } else { format!("\n[{name}]") };
            write(key.keys, &header, without, text);
        }
    }
    // `other` and `app-id` belong to the source alone, `owner` to the target; both sides have only one kind of stack.
    let keys = <raw::RawConfig as read::Section>::KEYS;
    let (sides, rest): (Vec<_>, Vec<_>) =
        keys.iter().partition(|key| ["source", "target"].contains(&key.name));
    for (source, target) in [("tts", "tts"), ("rehearsal", "rehearsal"), ("ttn-v2", "tts")] {
        let mut text = String::new();
        for side in &sides {
            let (name, without): (_, &[&str]) = match side.name {
                "source" => (source, &["owner", "state", "discovery-insecure"]),
                _ => (target, &["other", "app-id", "stack", "state"]),
            };
            let stack = side.keys.iter().find(|key| key.name == name).expect("known");
            let header = format!("\n[{}.{}]", side.name, stack.name);
            write(stack.keys, &header, without, &mut text);
        }
        // `stack = "ttn-v2"` of the example.
        let v2 = source != "tts";
        for key in rest.iter().filter(|key| !key.keys.is_empty()) {
            let header =
                if key.kind == "list" { format!("\n[[{}]]", key.name) } else { format!("\n[{}]", key.name) };
            let without: &[&str] = match (key.name, v2) {
                ("gateways", true) => &["ids", "file", "glob", "owner", "cups-redirect"],
                ("clear", true) => &["gateways"],
                ("gateways", false) => &["ids", "file", "glob", "list"],
                ("application", true) => &["copy"],
                ("integrations", true) => &["keys-file"],
                (_, true) => &[],
                (_, false) => &["access-key"],
            };
            write(key.keys, &header, without, &mut text);
        }
        let found = Config::parse(&examples().join("examples.toml"), text.as_bytes(), &env(), Depth::Files);
        let config = found.unwrap_or_else(|found| panic!("{text}\n{found}"));
        assert_eq!((config.clear.mode, config.rollout.in_flight), (ClearMode::Keys, 16));
        assert_eq!(config.transform.allow_loss.len(), 2);
    }
}

/// Broken files, each with what is reported.
#[test]
fn broken_files() {
    let with_application = |part: &str| with(&format!("[[application]]\nsource = \"my-app\"\n{part}"));
    let cases = [
        ("empty", String::new()),
        ("no_toml", "[source.tts\naddress = \n".to_owned()),
        ("unclosed_secret", with("").replace("{ env = \"SOURCE_API_KEY\" }", &format!("\"{CANARY}"))),
        ("bare_secret", with("").replace("{ env = \"SOURCE_API_KEY\" }", CANARY)),
        ("literal_secret", with("").replace("{ env = \"SOURCE_API_KEY\" }", &format!("\"{CANARY}\""))),
        ("literal_v2_secret", with("").replace("{ env = \"SOURCE_API_KEY\" }", "'ttn-account-v2.CANARY'")),
        ("plain_literal_secret", with("").replace("{ env = \"SOURCE_API_KEY\" }", "'CANARY'")),
        ("misspelt_literal_secret", with("").replace("api-key = { env = \"SOURCE_API_KEY\" }", "api_key = 'CANARY'")),
        ("other_name_literal_secret", with("").replace("api-key = { env = \"SOURCE_API_KEY\" }", "credential = 'CANARY'")),
        ("secret_in_comment", with("# api-key = 'CANARY' \u{1}")),
        ("unclosed_plain_secret", with("").replace("{ env = \"SOURCE_API_KEY\" }", "\"CANARY")),
        ("secret_as_application", with(&format!("[[application]]\nsource = '{CANARY}'"))),
        ("secret_as_variable", with("").replace("SOURCE_API_KEY", "CANARY/+CANARY==")),
        ("secret_in_address", with("").replace("a.example.com", "https://me:CANARY@a.example.com/api/v3")),
        ("variable_not_set", with("").replace("SOURCE_API_KEY", "NOT_SET").replace("TARGET_API_KEY", "EMPTY")),
        ("two_secrets", with("").replace("env = \"SOURCE", "file = \"no-such.key\", env = \"SOURCE")),
        ("no_secret", with("").replace("env = \"SOURCE_API_KEY\"", "")),
        ("unknown_keys", with("[transform]\nsesion = 'keep'\nsomething = 1\n[clera]\nmode = 'keys'")),
        ("wrong_types", with("[rollout]\nin-flight = 'many'\nmax-failures = -1\n[clear]\nhold = 'yes'\nmode = 1")),
        ("bad_words", with("[clear]\nmode = 'key'\nwhen = 'now'\n[transform]\nsession = 'Auto'\nallow-loss = ['pictures', 'all']")),
        ("bad_quantities", with("[limits]\nsource = '100'\ntarget = '0/s'\ndeadline = '30'\nmax-message = '16'\n[rollout]\nin-flight = 0")),
        ("bad_transform", with("[transform]\nfrequency-plan = { EU = '' }\ndevice-id = { prefix = 'Acme_', rename = 'yes' }\nattributes = { 'A b' = 'c' }\nmac-version = '2.0'\nphy-version = { '[a' = '1.0.2-b', default = '9' }")),
        ("both_sides_wrong", "[source]\naddress = 'x'\n[target.tts]\n[target.rehearsal]\n[[application]]\n".to_owned()),
        ("unknown_stack", with("").replace("[source.tts]", "[source.ttn]")),
        ("not_in_this_release", with("[source.chirpstack]\nanything = 1\n[rollout]\nbatches = [1, '10%']\ngate = { seen = '80%' }")),
        ("ttn_v2", "[source.ttn-v2]\naccess-key = 'ttn-account-v2.CANARY'\ndiscovery-server = 'http://a'\ndiscovery-insecure = true\nhandler = 'b:x'\n[target.rehearsal]\nstack = 'ttn-v2'\n[[application]]\nsource = 'My_App'\n[[application]]\nsource = 'my_app'\ndevices = { ids = ['a_b', 'a__b'] }\ncopy = ['formatters', 'webhooks']\n[clear]\nmode = 'mute'".to_owned()),
        ("ttn_v2_needs", "[source.ttn-v2]\napp-id = 'my_app'\n[target.rehearsal]".to_owned()),
        ("ttn_v2_keys_at_tts", with("[[application]]\nsource = 'app-1'\naccess-key = { env = 'SOURCE_API_KEY' }")),
        ("file_side", "[source.file]\npath = 'devices.json'\n[target.file]\n[[application]]\nsource = 'my-app'".to_owned()),
        ("gateways", with("[gateways]\nids = []\nglob = 'roof-*'\nid = { prefix = 'Acme_' }\napi-keys = ['LNS']\nclear = 'delete'")),
        ("gateways_that_go", with("[gateways]\nids = ['roof-1']\napi-keys = ['cups']\ncups-redirect = true\nwait = '2d'\n[clear]\ngateways = 'delete'")),
        ("gateways_of_ttn_v2_that_go", "[source.ttn-v2]\napp-id = 'my_app'\naccess-key = { env = 'SOURCE_API_KEY' }\n[target.rehearsal]\n[gateways]\nlist = [{ id = 'roof-1', eui = '58A0CBFFFE800001', frequency-plan = 'EU_863_870_TTN' }]\ncups-redirect = true\n[clear]\ngateways = 'delete'".to_owned()),
        ("gateway_list", with("[gateways]\nlist = [{ id = 'roof-1', eui = '58A0' }, { id = 'Roof', eui = '58A0CBFFFE800001', frequency-plan = 'EU_863_870_TTN' }]\nkeys-file = 'x.csv'")),
        ("gateways_of_ttn_v2", "[source.ttn-v2]\napp-id = 'my_app'\naccess-key = { env = 'SOURCE_API_KEY' }\n[target.rehearsal]\n[gateways]\nglob = '*'".to_owned()),
        ("gateways_of_nobody", with("[gateways]\nowner = { user = 'jane', organization = 'acme' }\napi-keys = ['lns']\nkeys-file = 'no-such/keys.csv'\n[journal]\npath = 'x'")),
        ("bad_address", with("").replace("b.example.com", "b.example.com:99999")),
        ("missing_keys", "[source.tts]\njoin-server = 'js.example.com'\n[target.tts]\naddress = 'b'\n[[application]]\n".to_owned()),
        ("missing_files", with("").replace("[target.tts]", "ca = '~/ca.pem'\n[target.tts]\nca = 'no-such.pem'")),
        ("owner", with("").replace("[target.tts]", "owner = { user = 'jane' }\n[target.tts]\nowner = { user = 'jane', organization = 'ACME' }")),
        ("ids", with("[[application]]\nsource = 'My_App'\ntarget = 'my-app-'\ndevices = { ids = ['dev-1', 'Dev 2'] }")),
        ("device_filter", with_application("devices = 'dev-1'")),
        ("two_filters", with_application("devices = { ids = [], glob = '[a' }")),
        ("device_file", with_application("devices = { file = 'no-such.txt' }")),
        ("people", with("[people]\nusers = { 'alice' = 'al-nl', 'bob' = 'al-nl', 'Eve' = '' }\norganizations = 'acme'")),
        ("collaborators", with_application("copy = ['collaborators']")),
        ("keys_of_nobody", with("[integrations]\nkeys-file = 'keys.csv'\n[clear]\napi-keys = 'delete'")),
        ("copy", with_application("copy = ['formatter', 'api-keys']\naccess-key = 'CANARY'")),
        ("same_target", with("[[application]]\nsource = 'app-1'\ntarget = 'app-9'\n[[application]]\nsource = 'app-2'\ntarget = 'app-9'")),
        ("same_source", with("[[application]]\nsource = 'app-1'\ntarget = 'app-8'\n[[application]]\nsource = 'app-1'\ntarget = 'app-9'")),
        ("same_device", with("[[application]]\nsource = 'app-1'\ntarget = 'app-8'\ndevices = { ids = ['dev-1', 'dev-2'] }\n[[application]]\nsource = 'app-1'\ntarget = 'app-9'\ndevices = { ids = 'dev-2' }")),
        ("to_itself", with("").replace("b.example.com", "A.example.com:8884")),
        ("chain", with("[[application]]\nsource = 'app-1'\ntarget = 'app-2'\n[[application]]\nsource = 'app-2'\ntarget = 'app-3'").replace("b.example", "a.example")),
        ("standard_input_twice", with("[[application]]\nsource = 'app-1'\ndevices = { file = '-' }\n[[application]]\nsource = 'app-2'\ndevices = { file = '-' }")),
        ("same_files", "[source.rehearsal]\nstate = 'x.state'\ndev-addr-prefixes = '26012345/7'\n[target.rehearsal]\nstate = 'x.state'\nnet-id = '13'\n[journal]\npath = 'migration.toml'\n[[application]]\nsource = 'my-app'".to_owned()),
        ("plaintext_with_ca", with("").replace("[target.tts]", "ca = 'config/ca.pem'\ninsecure = true\n[target.tts]")),
        ("duplicate_key", with("[clear]\nmode = 'keys'\nmode = 'delete'")),
    ];
    for (name, text) in cases {
        let shown = errors(&text);
        assert!(!shown.contains("CANARY"), "{name} shows the secret:\n{shown}");
        insta::with_settings!({ omit_expression => true, description => text.replace("CANARY", "…") }, {
            insta::assert_snapshot!(format!("broken_{name}"), shown);
        });
    }
}

#[test]
fn positions_count_from_one() {
    let found = check(&with("transform = { 'größe' = 1, mode = 2 }"), &env()).expect_err("unknown keys");
    let places: Vec<_> = found.iter().map(|item| found.position(item)).collect();
    assert_eq!(places, [Some((1, 15)), Some((1, 28))]);
}

#[test]
fn a_file_that_cannot_be_read_is_an_error() {
    let found = Config::load(Path::new("no/such.toml"), &env()).expect_err("no file");
    assert!(found.render(false).contains("cannot read the configuration"), "{found}");
    let found = Config::parse(Path::new("x.toml"), b"# \xff\n", &env(), Depth::Secrets).expect_err("no text");
    assert!(found.render(false).contains("not UTF-8"), "{found}");
}

#[test]
fn secrets_may_be_missing_when_nothing_is_connected_to() {
    let nothing = Env::fixed([("", ""); 0]);
    assert!(check(&with(""), &nothing).is_err());
    let offline = Config::parse(Path::new("x.toml"), with("").as_bytes(), &nothing, Depth::Files);
    assert!(offline.is_ok());
}

#[test]
fn a_text_alone_is_checked_without_a_look_at_what_it_names() {
    let text = with(
        "[journal]\npath = 'no/such/folder/x.journal'\nseal-key = { file = 'no/such.key' }\n\
         [[application]]\nsource = 'my-app'\ndevices = { file = '/dev/zero' }\n",
    );
    let text = text.replace("b.example.com\"\n", "b.example.com\"\nca = 'no/such.pem'\n");
    let problems = Config::problems(Path::new("x.toml"), text.as_bytes());
    assert!(problems.is_empty(), "{problems}");
    assert!(Config::problems(Path::new("x.toml"), b"[source.tts").has_errors());
}

#[test]
fn colour_is_only_on_request() {
    let found = check("x = 1", &env()).expect_err("unknown key");
    assert!(found.render(true).contains('\u{1b}'));
    assert!(!found.render(false).contains('\u{1b}'));
}

#[test]
fn a_fingerprint_says_what_changed() {
    let before = valid("").fingerprint();
    assert_eq!(changes(&before, &before), [""; 0]);
    assert_eq!(
        changes(&before, &valid("[rollout]\nin-flight = 1\n[limits]\ntarget = '9/s'").fingerprint()),
        [""; 0]
    );
    let after = check(
        &with("[[application]]\nsource = 'my-app'\ndevices = { glob = 'm*' }\n[transform]\nsession = 'keep'\nabp-reset = 'dev-1'")
            .replace("b.example", "c.example"),
        &env(),
    );
    insta::assert_snapshot!(changes(&before, &after.expect("valid").fingerprint()).join("\n"));
    assert!(!format!("{before:?}").contains("API_KEY"));
}

proptest! {
    /// Whatever happens to a file: no panic, a configuration or a reason why not, and never the secret.
    #[test]
    fn damage_is_reported_and_shows_no_secret(
        which in 0usize..7,
        damage in prop::collection::vec((any::<prop::sample::Index>(), 0u8..3, any::<u8>()), 1..6),
        literal in prop::option::of(prop::sample::select(vec![CANARY, "CANARY+/0=="])),
    ) {
        let names = ["quickstart", "minimal", "one-device", "tts-to-tts", "cloud-move", "several-applications", "external-join-server"];
        let path = examples().join(format!("{}.toml", names[which]));
        let mut bytes = fs::read(&path).expect("an example");
        for (at, what, byte) in damage {
            let at = at.index(bytes.len());
            match what {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
        }
        if let Some(secret) = literal {
            let line = format!("\napi-key = \"{secret}\"\n");
            let at = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(0);
            bytes.splice(at..at, line.bytes());
        }
        match Config::parse(&path, &bytes, &env(), Depth::Secrets) {
            Ok(config) => prop_assert!(!config.warnings.has_errors()),
            Err(found) => {
                prop_assert!(found.has_errors());
                for text in [found.render(false), found.render(true), format!("{found:?}")] {
                    prop_assert!(!text.contains("CANARY"), "{}", text);
                }
                prop_assert!(found.iter().all(|item| found.position(item).is_none_or(|(line, column)| line > 0 && column > 0)));
            }
        }
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,80}|[\\[\\]{}=\"'a-c.,#\\n -]{0,60}") {
        let found = check(&text, &env());
        prop_assert!(found.is_err_and(|found| found.has_errors() && !found.render(false).is_empty()));
    }

    /// Valid values come out as they went in.
    #[test]
    fn valid_files_survive(
        ids in prop::collection::btree_set("[a-z0-9]{3,12}", 1..12),
        in_flight in 1u64..=256,
        max_devices in 0u64..100_000,
        mode in prop::sample::select(vec![("nothing", ClearMode::Nothing), ("mute", ClearMode::Mute), ("keys", ClearMode::Keys), ("delete", ClearMode::Delete)]),
        losses in prop::collection::btree_set(prop::sample::select(LOSSES.as_slice()), 0..6),
        port in 1u16..,
        plan in "[A-Z]{2}_[0-9]{3}(_TTN)?",
    ) {
        let quoted = |names: &mut dyn Iterator<Item = &str>| names.map(|n| format!("\"{n}\"")).collect::<Vec<_>>().join(", ");
        let text = format!(
            "[[application]]\nsource = 'my-app'\ndevices.ids = [{}]\n[rollout]\nin-flight = {in_flight}\n\
             [clear]\nmode = '{}'\nmax-devices = {max_devices}\n[transform]\nallow-loss = [{}]\nfrequency-plan.A = '{plan}'\n",
            quoted(&mut ids.iter().map(String::as_str)), mode.0, quoted(&mut losses.iter().map(|l| l.0)),
        );
        let text = with(&text).replace("a.example.com", &format!("a.example.com:{port}"));
        let config = check(&text, &env()).map_err(|found| TestCaseError::fail(found.render(false)))?;
        prop_assert_eq!(config.rollout.in_flight as u64, in_flight);
        prop_assert_eq!(config.clear.max_devices, max_devices);
        prop_assert_eq!(config.clear.mode, mode.1);
        prop_assert_eq!(config.transform.allow_loss, losses.iter().map(|l| l.0).collect());
        prop_assert_eq!(&config.transform.frequency_plans["A"], &plan);
        let listed: Vec<String> = config.applications[0].devices.listed().into_iter().flatten().map(ToString::to_string).collect();
        prop_assert_eq!(listed, ids.into_iter().collect::<Vec<_>>());
        let Side::Tts(stack) = &config.source else { return Err(TestCaseError::fail("tts")) };
        prop_assert_eq!(stack.identity_server.port, port);
    }
}

#[test]
fn a_shape_takes_what_fits_and_names_its_target() {
    let config = valid(
        "[[application]]\nsource = \"meter-*\"\ntarget = \"acme-*-eu\"\n[[application]]\nsource = \"*\"\n",
    );
    let id = |text: &str| AppId::unchecked(text);
    let [meters, rest] = &config.applications[..] else { panic!("two") };
    assert!(meters.takes(&id("meter-1")) && !meters.takes(&id("valve-1")) && rest.takes(&id("valve-1")));
    assert_eq!(meters.of(id("meter-1")).target, id("acme-meter-1-eu"));
    assert_eq!(rest.of(id("valve-1")).target, id("valve-1"));
    assert_eq!(meters.source_of(&id("acme-meter-1-eu")), Some(id("meter-1")));
    assert_eq!(meters.source_of(&id("acme-valve-1-eu")), None);
    assert!(config.fingerprint().iter().any(|(name, _)| name == "application * to *: devices"));
}

#[test]
fn a_shape_that_would_do_harm_is_refused() {
    let app = |source: &str, target: &str| {
        format!("[[application]]\nsource = \"{source}\"\ntarget = \"{target}\"\n")
    };
    let target = "`application[0].target` cannot be used";
    assert!(errors(&with(&app("*", "one"))).contains(target));
    assert!(errors(&with(&app("*", "-*"))).contains(target));
    assert!(errors(&with(&app("a[", "*"))).contains("`application[0].source` cannot be used"));
    let twice = app("meter-*", "a-*") + &app("meter-*", "b-*");
    assert!(errors(&with(&twice)).contains("a device of `meter-*` would move twice"));
    let one = with(&app("*", "acme-*")).replace("b.example.com", "a.example.com");
    assert!(errors(&one).contains("`*` would take the applications of the target too"));
    let v2 = "[source.ttn-v2]\naccess-key = { env = \"SOURCE_API_KEY\" }\n[target.tts]\naddress = \"b.example.com\"\n\
              api-key = { env = \"TARGET_API_KEY\" }\n[transform]\nfrequency-plan = { default = \"EU_863_870_TTN\" }\n";
    let v2 = format!("{v2}{}", app("*", "*"));
    assert!(
        errors(&v2).contains("`application[0].source` cannot be a shape of IDs with V2"),
        "{}",
        errors(&v2)
    );
}
