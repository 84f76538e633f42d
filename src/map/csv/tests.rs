//! What is read is what was written, and what cannot be read is named.

use proptest::prelude::*;

use super::*;
use crate::map::{json, owner};

fn rows(text: &str) -> Vec<Result<Row, String>> {
    match Reader::new(text.as_bytes()) {
        Ok(reader) => reader.map(|row| row.map_err(|error| error.to_string())).collect(),
        Err(error) => vec![Err(error.to_string())],
    }
}

fn row(text: &str) -> Row {
    rows(text).remove(0).expect("a row")
}

fn error(text: &str) -> String {
    rows(text).pop().expect("a row").expect_err("no row")
}

/// Every column, for a device of LoRaWAN 1.0 with root keys and a session.
const ALL: &str = "\
id;dev_eui;join_eui;name;description;frequency_plan_id;lorawan_version;lorawan_phy_version;brand_id;model_id;\
hardware_version;firmware_version;band_id;app_key;nwk_key;rx1_delay;supports_32_bit_f_cnt;dev_addr;app_s_key;\
f_nwk_s_int_key;s_nwk_s_int_key;nwk_s_enc_key;last_f_cnt_up;last_n_f_cnt_down;last_a_f_cnt_down;supports_class_c;vendor_id;vendor_profile_id
meter-1;70b3d57ed7ea0001;70B3D57ED0FFFFFF;Meter \u{2603};\"in the hall;\nsecond floor, \"\"left\"\"\";EU_863_870_TTN;MAC_V1_0_4;RP002_V1_0_3;acme;m-1;\
1.0.4;1.1;EU_863_870;CA11A7CA11A7CA11A7CA11A7CA11A701;CA11A7CA11A7CA11A7CA11A7CA11A702;RX_DELAY_5;false;260B1234;CA11A7CA11A7CA11A7CA11A7CA11A703;\
CA11A7CA11A7CA11A7CA11A7CA11A704;CA11A7CA11A7CA11A7CA11A7CA11A705;CA11A7CA11A7CA11A7CA11A7CA11A706;12;0;4294967295;TRUE;1AC;2
";

#[test]
fn every_column_has_its_place() {
    let row = row(ALL);
    assert_eq!(row.line, 2);
    let key = |n: u8| serde_json::json!({ "key": format!("CA11A7CA11A7CA11A7CA11A7CA11A70{n}") });
    let expected = serde_json::json!({
        "ids": {"device_id": "meter-1", "dev_eui": "70B3D57ED7EA0001", "join_eui": "70B3D57ED0FFFFFF"},
        "name": "Meter \u{2603}", "description": "in the hall;\nsecond floor, \"left\"",
        "frequency_plan_id": "EU_863_870_TTN", "lorawan_version": "MAC_V1_0_4", "lorawan_phy_version": "RP002_V1_0_3",
        "version_ids": {"brand_id": "acme", "model_id": "m-1", "hardware_version": "1.0.4", "firmware_version": "1.1", "band_id": "EU_863_870"},
        "lora_alliance_profile_ids": {"vendor_id": 0x1ac, "vendor_profile_id": 2},
        "supports_class_c": true, "supports_join": true,
        "root_keys": {"app_key": key(1), "nwk_key": key(2)},
        "mac_settings": {"rx1_delay": "RX_DELAY_5", "supports_32_bit_f_cnt": false},
        "session": {
            "dev_addr": "260B1234", "last_f_cnt_up": 12, "last_a_f_cnt_down": u32::MAX,
            "keys": {"app_s_key": key(3), "f_nwk_s_int_key": key(4), "s_nwk_s_int_key": key(5), "nwk_s_enc_key": key(6)},
        },
    });
    let expected = json::from_json(&proto::descriptor("EndDevice"), &expected).expect("a device");
    assert_eq!(json::to_json(&row.record.0), json::to_json(&expected));
    // A counter of 0 is said, and stores nothing.
    assert!(row.paths.contains(&"session.last_n_f_cnt_down".to_owned()));
    let paths: std::collections::BTreeSet<_> = row.paths.iter().collect();
    assert_eq!((paths.len(), row.paths.len()), (29, 29));
}

#[test]
fn commas_separate_where_the_header_has_no_semicolon() {
    let row =
        row("\u{feff}id,dev_eui,app_eui,name\r\nmeter-1,1111111111111111,2222222222222222,\"a, b\"\r\n");
    assert_eq!(row.record.join_eui().map(|eui| eui.to_string()).as_deref(), Some("2222222222222222"));
    assert_eq!(path::string(&row.record.0, "name"), "a, b");
}

#[test]
fn a_device_without_an_id_is_called_by_its_eui() {
    let row = row("dev_eui\n111111111111111A\n");
    assert_eq!(row.record.device_id(), "eui-111111111111111a");
    assert_eq!(row.paths, ["ids.dev_eui", "ids.device_id"]);
    assert_eq!(error("id;dev_eui;name\n;;x\n"), "line 2: a device needs an `id` or a `dev_eui`");
}

#[test]
fn empty_cells_say_nothing_and_empty_rows_are_none() {
    let read = rows("id;dev_eui;app_key;name\n\n;;;\nmeter-1; ;;\n");
    let [Ok(row)] = read.as_slice() else { panic!("{read:?}") };
    let ends = rows("\r\rid\r\na-1\r\r\nb-2\n\r\nc-3");
    assert_eq!(ends.iter().flatten().map(|row| row.line).collect::<Vec<_>>(), [4, 6, 8]);
    assert_eq!((row.line, row.paths.as_slice()), (4, &["ids.device_id".to_owned()][..]));
    assert!(!path::flag(&row.record.0, "supports_join"));
}

#[test]
fn columns_that_are_not_known_are_named() {
    let reader = Reader::new("id;Serial no;11112222;dev_eui\n".as_bytes()).expect("a header");
    assert_eq!(reader.unknown_columns(), ["Serial no", "column 3"]);
}

#[test]
fn a_header_must_be_one() {
    assert!(error("").contains("the file is empty"));
    assert!(error("\n\n").contains("the file is empty"));
    let headless = "meter-1;1111111111111111;CA11A7CA11A7CA11A7CA11A7CA11A701\n";
    let found = error(headless);
    assert!(
        found.starts_with("line 1: the first line must name the columns") && !found.contains("CA11A7"),
        "{found}"
    );
    assert_eq!(error("id;name;id\n"), "line 1: `id` after `id` is the same column twice");
    assert_eq!(error("join_eui;id;app_eui\n"), "line 1: `app_eui` after `join_eui` is the same column twice");
    let utf16: Vec<u8> = "\u{feff}id\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let found = Reader::new(utf16.as_slice()).map(drop).expect_err("no text").to_string();
    assert_eq!(found, "line 1: this is UTF-16 text: save it as CSV in UTF-8");
}

#[test]
fn a_bad_value_is_named_by_its_place_alone() {
    let of = |column: &str, value: &str| error(&format!("id;{column}\n\nb-2;{value}\n"));
    for (column, value, problem) in [
        ("dev_eui", "CA11A7", "16 hexadecimal digits are needed, and there are 6"),
        (
            "app_key",
            "CA11A7XA11A7CA11A7CA11A7CA11A701",
            "32 hexadecimal digits are needed, and character 7 is none",
        ),
        ("dev_addr", "\u{e9}", "8 hexadecimal digits are needed, and character 1 is none"),
        ("last_f_cnt_up", "4294967296", "a number from 0 to 4294967295 is needed"),
        ("last_f_cnt_up", "+1", "a number from 0 to 4294967295 is needed, and character 1 is no digit"),
        ("vendor_id", "1G", "a hexadecimal number up to FFFFFFFF is needed, and character 2 is no digit"),
        ("supports_class_c", "yes", "`true` or `false` is needed"),
        ("lorawan_version", "MAC_CA11A7", "this is no MACVersion, such as `MAC_V1_0_4`"),
        ("lorawan_version", "99", "this is no MACVersion, such as `MAC_V1_0_4`"),
        ("rx1_delay", "RX_DELAY_16", "this is no RxDelay, such as `RX_DELAY_15`"),
    ] {
        assert_eq!(of(column, value), format!("line 3, column 2 (`{column}`): {problem}"));
    }
}

#[test]
fn after_a_bad_value_the_next_row_is_read() {
    let read = rows("dev_eui;name\ninvalid;a\n;b\n2222222222222222;c\n");
    assert!(matches!(read.as_slice(), [Err(_), Err(_), Ok(row)] if row.line == 4), "{read:?}");
}

#[test]
fn a_quote_out_of_place_ends_the_file_instead_of_eating_it() {
    let first = "id;dev_eui;name\na-1;1111111111111111;x\n";
    for (rest, problem) in [
        (
            "b-2;2222222222222222;\"Bob\nc-3;3333333333333333;y\n",
            "line 3: a quote opens here that is never closed",
        ),
        ("b-2;2222222222222222;Bob \"the\" x\n", "line 3: a quote is inside a value without quotes"),
        (
            "b-2;2222222222222222;\"Bob\nc-3;3333333333333333;\"y\n",
            "line 4: something follows a value in quotes",
        ),
        ("b-2;2222222222222222\n", "line 3: this row has 2 values, and the header 3 columns"),
        ("b-2;2222222222222222;x;y\n", "line 3: this row has 4 values, and the header 3 columns"),
    ] {
        let read = rows(&format!("{first}{rest}"));
        assert!(matches!(read.as_slice(), [Ok(_), Err(found)] if found.starts_with(problem)), "{read:?}");
    }
}

#[test]
fn a_row_without_end_is_not_read_to_its_end() {
    let endless = "id;name\na-1;\"".as_bytes().chain(io::repeat(b'x'));
    let mut reader = Reader::new(endless).expect("a header");
    let error = reader.next().expect("an error").expect_err("no end").to_string();
    assert_eq!(error, "line 2: this row is too long; is a quote out of place?");
    assert!(reader.next().is_none());
    assert!(Reader::new(io::repeat(b'x')).is_err());
}

/// Gives one byte at a time.
struct Slowly<'a>(&'a [u8]);

impl Read for Slowly<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let most = out.len().min(1);
        self.0.read(&mut out[..most])
    }
}

/// A device, in the words of a file: each column's path and its text, `None` for an empty cell.
fn cells() -> impl Strategy<Value = Vec<(&'static str, &'static str, Option<String>)>> {
    let column = |name, path, pattern: &'static str| {
        (Just(name), Just(path), prop::option::weighted(0.8, pattern.prop_map(String::from)))
    };
    (
        (Just("id"), Just("ids.device_id"), "[a-z0-9]{3,8}".prop_map(Some)),
        column("dev_eui", "ids.dev_eui", "[0-9A-F]{16}"),
        column("name", "name", "[a-zA-Z;,\"\u{e9}\n][a-z;,\" \n]{0,12}"),
        column("app_key", "root_keys.app_key.key", "[0-9A-F]{32}"),
        column("dev_addr", "session.dev_addr", "[0-9A-F]{8}"),
        column("app_s_key", "session.keys.app_s_key.key", "[0-9A-F]{32}"),
        column("lorawan_version", "lorawan_version", "MAC_V1_(0(_[1-4])?|1)"),
        column("rx1_delay", "mac_settings.rx1_delay", "RX_DELAY_(0|[1-9]|1[0-5])"),
    )
        .prop_map(|(a, b, c, d, e, f, g, h)| vec![a, b, c, d, e, f, g, h])
        .prop_shuffle()
}

fn text_of(message: &prost_reflect::DynamicMessage, at: &str) -> Option<String> {
    let mut json = json::to_json(message);
    for segment in at.split('.') {
        json = json.get_mut(segment)?.take();
    }
    // The one enum that JSON writes as a number.
    let delay = json.as_u64().map(|number| format!("RX_DELAY_{number}"));
    json.as_str().map(str::to_owned).or(delay)
}

proptest! {
    #[test]
    fn what_a_spreadsheet_writes_is_read(
        device in cells(), comma: bool, crlf: bool, always_quoted: bool, bom: bool,
    ) {
        let quotes = if always_quoted { csv::QuoteStyle::Always } else { csv::QuoteStyle::Necessary };
        let ends = if crlf { csv::Terminator::CRLF } else { csv::Terminator::Any(b'\n') };
        let mut file = csv::WriterBuilder::new()
            .delimiter(if comma { b',' } else { b';' })
            .quote_style(quotes)
            .terminator(ends)
            .from_writer(if bom { "\u{feff}".as_bytes().to_vec() } else { Vec::new() });
        file.write_record(device.iter().map(|(name, ..)| name)).expect("written");
        file.write_record(device.iter().map(|(.., text)| text.as_deref().unwrap_or_default())).expect("written");
        let file = file.into_inner().expect("written");
        let read: Vec<_> = Reader::new(file.as_slice()).expect("a header").collect::<Result<_, _>>().expect("rows");
        let slowly: Vec<_> = Reader::new(Slowly(&file)).expect("a header").collect::<Result<_, _>>().expect("rows");
        prop_assert_eq!(&read, &slowly);
        let [row] = read.as_slice() else { return Err(TestCaseError::fail("one row")) };
        for (_, at, text) in &device {
            // Spaces before a text are not part of it.
            let text = text.as_deref().map(str::trim_start).filter(|text| !text.is_empty());
            prop_assert_eq!(text_of(&row.record.0, at), text.map(str::to_owned), "{}", at);
            prop_assert_eq!(row.paths.iter().any(|path| path == at), text.is_some(), "{}", at);
        }
    }

    /// Whatever the bytes: an end, and no error that shows a key.
    #[test]
    fn damage_is_named_and_shows_no_key(
        damage in prop::collection::vec((any::<prop::sample::Index>(), 0u8..3, any::<u8>()), 1..8),
    ) {
        let mut bytes = ALL.as_bytes().to_vec();
        for (at, what, byte) in damage {
            let at = at.index(bytes.len());
            match what {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
        }
        let shown = match Reader::new(bytes.as_slice()) {
            Ok(reader) => {
                let unknown = reader.unknown_columns().join(" ");
                unknown + &reader.map(|row| format!("{row:?} ")).collect::<String>()
            }
            Err(error) => error.to_string(),
        };
        prop_assert!(!shown.contains("A11A7CA1"), "{}", shown);
    }
}

#[test]
fn each_path_belongs_to_a_component() {
    for at in row(ALL).paths {
        assert!(!owner::owners(&at).is_empty(), "{at}");
    }
}
