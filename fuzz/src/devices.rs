//! Files of end devices.

use prost_reflect::DynamicMessage;
use stackferry::{
    map::{csv, json, owner, path},
    proto,
};

use super::{Slowly, hex_runs};

/// A file of JSON: one device after the other, or lists of them.
pub fn tts_json(data: &[u8]) {
    let read: Vec<_> = json::Devices::new(data).collect();
    let slowly: Vec<_> = json::Devices::new(Slowly(data)).collect();
    assert_eq!(format!("{read:?}"), format!("{slowly:?}"), "the pieces of the file matter");
    let text = String::from_utf8_lossy(data);
    let lines = text.matches('\n').count() as u64 + 1;
    for device in read {
        match device {
            Ok(device) => {
                assert!((1..=lines).contains(&device.line));
                survives_json(&device.record.0);
                shows_no_key(&text, &format!("{device:?}"));
            }
            Err(error) => shows_no_key(&text, &format!("{error} {error:?}")),
        }
    }
}

/// Keys, as devices have them, that are in the file once.
fn shows_no_key(text: &str, shown: &str) {
    for (at, _) in text.match_indices("\"key\"") {
        let after = text[at + 5..].trim_start().strip_prefix(':').map(str::trim_start);
        let Some(value) = after.and_then(|after| after.strip_prefix('"')) else { continue };
        let key = value.split('"').next().unwrap_or_default();
        let single = key.len() >= 24 && key.bytes().all(|b| b.is_ascii_alphanumeric());
        if single && text.matches(key).count() == 1 {
            assert!(!shown.contains(key), "a key is shown: {shown}");
        }
    }
}

/// A message that was read is written, and read as the same again.
pub(super) fn survives_json(message: &DynamicMessage) {
    let written = json::to_json(message);
    let again = json::from_json_with_unknown(&proto::descriptor("EndDevice"), &written)
        .unwrap_or_else(|error| panic!("what was written cannot be read: {error}: {written}"));
    assert_eq!(again.unknown_fields, Vec::<String>::new());
    assert_eq!(json::to_json(&again.message), written);
    assert_eq!(path::stored(&again.message), path::stored(message));
}

/// A file of CSV.
pub fn tts_csv(data: &[u8]) {
    let all = |reader: Result<csv::Reader<Slowly<'_>>, csv::CsvError>| -> String {
        reader.map_or_else(|error| format!("{error:?}"), |reader| format!("{:?}", reader.collect::<Vec<_>>()))
    };
    let text = String::from_utf8_lossy(data);
    let lines = text.matches(['\n', '\r']).count() as u64 + 1;
    let reader = match csv::Reader::new(data) {
        Ok(reader) => reader,
        Err(error) => {
            shows_no_run(&text, &format!("{error} {error:?}"));
            assert!(csv::Reader::new(Slowly(data)).is_err());
            return;
        }
    };
    shows_no_run(&text, &reader.unknown_columns().join(" "));
    let rows: Vec<_> = reader.collect();
    assert_eq!(format!("{rows:?}"), all(csv::Reader::new(Slowly(data))), "the pieces of the file matter");
    for row in rows {
        match row {
            Ok(row) => {
                assert!((1..=lines).contains(&row.line));
                assert!(!row.record.device_id().is_empty());
                for at in path::stored(&row.record.0) {
                    let said = row.paths.iter().any(|path| path::covers(path, &at));
                    assert!(said && !owner::owners(&at).is_empty(), "{at}");
                }
                survives_json(&row.record.0);
                // An ID is shown, whatever it looks like.
                let id = row.record.device_id();
                shows_no_run(&text, &format!("{row:?}").replace(&id, ""));
            }
            Err(error) => shows_no_run(&text, &format!("{error} {error:?}")),
        }
    }
}

/// Everything that may be a key.
fn shows_no_run(text: &str, shown: &str) {
    for key in hex_runs(text, 32) {
        assert!(!shown.contains(key), "a key is shown: {shown}");
    }
}
