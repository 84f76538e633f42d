//! What a message must be before anybody looks at who sends it.

use std::sync::LazyLock;

use prost_reflect::{DynamicMessage, Value};
use regex::Regex;
use tonic::Status;

use crate::map::path;

static ID: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new("^[0-9a-z](?:[_-]?[0-9a-z]){1,35}$").expect("the rule of V2 is a regular expression")
});

const FORMAT: &str = "has wrong format. IDs can contain lowercase letters, numbers, dashes and underscores and should have a \
                      maximum length of 36";

/// Fields of fixed length, their lengths, and the Go type that reads them.
const LENGTHS: &[(&str, usize, &str)] = &[
    ("app_eui", 8, "EUI64"),
    ("dev_eui", 8, "EUI64"),
    ("dev_addr", 4, "DevAddr"),
    ("nwk_s_key", 16, "AES128Key"),
    ("app_s_key", 16, "AES128Key"),
    ("app_key", 16, "AES128Key"),
    ("used_dev_nonces", 2, "DevNonce"),
    ("used_app_nonces", 3, "AppNonce"),
];

/// Refuses EUIs, keys and addresses of a wrong length. The Go types refuse them while the message is read; an EUI of no
/// bytes is not on the wire at all.
///
/// # Errors
/// `INTERNAL`, as gRPC answers for a message that cannot be read.
pub(super) fn lengths(request: &DynamicMessage) -> Result<(), Status> {
    let Some(lorawan) = path::child(request, "lorawan_device") else { return Ok(()) };
    for (field, length, what) in LENGTHS {
        let Some(value) = path::get(&lorawan, field) else { continue };
        let fits = |value: &Value| value.as_bytes().is_none_or(|bytes| bytes.len() == *length);
        if !value.as_list().map_or_else(|| fits(&value), |list| list.iter().all(fits)) {
            return Err(Status::internal(format!(
                "grpc: error unmarshalling request: ttn/core: Invalid length for {what}"
            )));
        }
    }
    Ok(())
}

/// Refuses malformed identifiers, and a device without its LoRaWAN half.
///
/// # Errors
/// `INVALID_ARGUMENT`.
pub(super) fn identifiers(rpc: &str, request: &DynamicMessage) -> Result<(), Status> {
    let own = |field: &str, what: &str| id(&path::string(request, field), what);
    let checked = match rpc.split_once('/').map(|(_, method)| method) {
        Some("GetDevice" | "DeleteDevice") => own("app_id", "AppID")
            .and_then(|()| own("dev_id", "DevID"))
            .map_err(|e| format!("Invalid Device Identifier: {e}")),
        Some("SetDevice") => own("app_id", "AppID")
            .and_then(|()| own("dev_id", "DevID"))
            .and_then(|()| lorawan_device(request))
            .map_err(|e| format!("Invalid Device: {e}")),
        Some("GetApplication") => {
            own("app_id", "AppID").map_err(|e| format!("Application Identifier not valid: {e}"))
        }
        _ => own("app_id", "AppID").map_err(|e| format!("Invalid Application Identifier: {e}")),
    };
    checked.map_err(Status::invalid_argument)
}

fn lorawan_device(device: &DynamicMessage) -> Result<(), String> {
    let lorawan = path::child(device, "lorawan_device").ok_or("Device not valid: can not be empty")?;
    id(&path::string(&lorawan, "app_id"), "AppID")?;
    id(&path::string(&lorawan, "dev_id"), "DevID")
}

fn id(text: &str, what: &str) -> Result<(), String> {
    match text {
        "" => Err(format!("{what} not valid: can not be empty")),
        text if ID.is_match(text) => Ok(()),
        _ => Err(format!("{what} not valid: {FORMAT}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_up_to_36_letters_and_digits_and_separators_are_not_counted() {
        let separated = ["a"; 36].join("-");
        for good in ["a1", "a-b_c", "0123456789abcdefghijklmnopqrstuvwxyz", &separated] {
            assert_eq!(id(good, "DevID"), Ok(()), "{good}");
        }
        for bad in ["a", "A1", "a--b", "-a", "a-", "a b", "a.b", &"a".repeat(37)] {
            assert!(id(bad, "DevID").is_err_and(|e| e.contains("has wrong format")), "{bad}");
        }
        assert!(id("", "DevID").is_err_and(|e| e.ends_with("can not be empty")));
    }
}
