//! Pictures of devices, which go along by their bytes.
//!
//! A record of the Identity Server names addresses in a store of files (`picture.sizes`) that only its own deployment has, and
//! takes bytes (`picture.embedded`), which it never shows. So a picture that was fetched is kept in both forms in the record
//! of the source, and sealed with it (docs/servers.md, Pictures).

use prost_reflect::{DynamicMessage, MapKey, Value};

use super::{finding::Finding, finding::Kind, transform::Found};
use crate::{map::path, model::device::Component, model::device::Record};

/// Where a record has its picture.
pub const PICTURE: &str = "picture";
/// It as it is written.
pub const EMBEDDED: &str = "picture.embedded";
/// The bytes.
const DATA: &str = "picture.embedded.data";
/// What kind of image the bytes are.
const MIME_TYPE: &str = "picture.embedded.mime_type";
/// The addresses of it, as they are read: by side length in pixels, the original under 0.
const SIZES: &str = "picture.sizes";

/// Bytes that a server takes (`Picture.Embedded.data` in `picture.proto`).
pub const MAX: usize = 8 << 20;

/// So much of the bytes tells what they are.
const HEAD: usize = 16;

/// The address to fetch the picture from: the original, or else the largest.
pub fn address(record: &DynamicMessage) -> Option<String> {
    let sizes = path::get(record, SIZES)?;
    let sizes = sizes.as_map()?.iter().filter_map(|(size, file)| match size {
        MapKey::U32(size) => Some((*size, file.as_str()?)),
        _ => None,
    });
    let best = sizes.filter(|(_, file)| !file.is_empty()).max_by_key(|(size, _)| match size {
        0 => u32::MAX,
        size => *size,
    });
    best.map(|(_, file)| file.to_owned())
}

/// The MIME type of an image that servers store: they make everything PNG but JPEG (`pkg/identityserver/picture/picture.go`).
pub fn mime_type(bytes: &[u8]) -> Option<&'static str> {
    if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        Some("image/png")
    } else if bytes.starts_with(&[0xff, 0xd8, 0xff]) {
        Some("image/jpeg")
    } else {
        None
    }
}

/// Puts the bytes beside the addresses. Refuses what is no image.
///
/// # Errors
/// Why it is none.
pub fn embed(record: &mut DynamicMessage, bytes: &[u8]) -> Result<(), &'static str> {
    let mime_type = mime_type(bytes).ok_or("what is there is no PNG or JPEG image")?;
    path::set(record, MIME_TYPE, Value::String(mime_type.to_owned()));
    path::set(record, DATA, Value::Bytes(bytes.to_vec().into()));
    Ok(())
}

/// True when the record holds the bytes of its picture.
pub fn has_bytes(record: &DynamicMessage) -> bool {
    mime_type(&path::bytes(record, DATA)).is_some()
}

/// Keeps only so much of the bytes as says that they are there: a plan holds all devices in memory.
pub fn shorten(found: &mut Found) {
    if let Some(is) = found.records.is.as_mut().filter(|is| has_bytes(&is.0)) {
        let head = path::bytes(&is.0, DATA).into_iter().take(HEAD).collect::<Vec<_>>();
        path::set(&mut is.0, DATA, Value::Bytes(head.into()));
    }
}

/// What tells an upload from all others: the last two parts of its address, whatever the store is called in front of them.
pub fn upload(address: &str) -> String {
    let (rest, file) = address.rsplit_once('/').unwrap_or(("", address));
    let folder = rest.rsplit('/').next().unwrap_or_default();
    format!("{folder}/{file}")
}

/// Makes the record refer to a file, and to nothing else.
pub fn refer(record: &mut DynamicMessage, file: &str) {
    path::clear(record, PICTURE);
    let sizes = [(MapKey::U32(0), Value::String(file.to_owned()))];
    path::set(record, SIZES, Value::Map(sizes.into()));
}

/// True when both records name the same upload.
fn is_same(one: &DynamicMessage, other: &DynamicMessage) -> bool {
    let upload = |record| address(record).map(|address| upload(&address));
    path::has(one, PICTURE) == path::has(other, PICTURE) && upload(one) == upload(other)
}

/// Takes the picture over from a reading in which it was fetched, if it is still the same; `false` when it is another.
pub fn settle(now: &mut Found, known: &Found) -> bool {
    let (Some(now), Some(known)) = (&mut now.records.is, &known.records.is) else { return true };
    let same = is_same(&now.0, &known.0);
    if same {
        path::apply(&mut now.0, &known.0, &[PICTURE]);
    }
    same
}

/// True when a device has a picture whose bytes are not there: it is left behind.
pub fn is_left(found: &Found) -> bool {
    found.records.is.as_ref().is_some_and(|is| path::has(&is.0, PICTURE) && !has_bytes(&is.0))
}

/// Makes two readings of one deployment comparable: of a picture only which upload it is counts.
pub fn same_upload(left: &mut DynamicMessage, right: &mut DynamicMessage) {
    let same = is_same(left, right);
    for message in [left, right] {
        if same {
            path::clear(message, PICTURE);
        } else {
            path::clear(message, EMBEDDED);
        }
    }
}

/// Makes what was written comparable with what is read: bytes become addresses, and nobody can tell which bytes those were, as
/// the server makes another image of them.
pub fn given(written: &mut DynamicMessage, read: &mut DynamicMessage) {
    if has_bytes(written) && address(read).is_some() {
        path::clear(written, PICTURE);
        path::clear(read, PICTURE);
    }
}

/// What to say of a picture that stays behind; `None` when there is none, or it goes along.
pub fn finding(found: &Found, record: &Record, refused: bool) -> Option<Finding> {
    if !path::has(&record.0, PICTURE) || (has_bytes(&record.0) && !refused) {
        return None;
    }
    let (text, fix) = match &found.unfetched {
        _ if refused => (
            "the target takes no pictures of devices (is.end-device-picture.disable-upload)".to_owned(),
            "allow the loss \"picture\"",
        ),
        Some(why) => (
            format!("the picture cannot be fetched: {why}"),
            "name the server that has the source's files (source.tts.asset-server), or allow the loss \"picture\" and upload it \
             on the target by hand",
        ),
        None => (
            "the picture was not fetched: the record holds its address in the source's own store".to_owned(),
            "allow the loss \"picture\" and upload it on the target by hand",
        ),
    };
    Some(Finding::new(Kind::Picture, text).at(Component::Is).paths([PICTURE]).fix(fix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto;

    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n and some pixels, more than are kept for a plan";

    fn with(sizes: &[(u32, &str)]) -> DynamicMessage {
        let mut record = proto::message("EndDevice");
        let sizes = sizes.iter().map(|(size, file)| (MapKey::U32(*size), Value::String((*file).to_owned())));
        path::set(&mut record, SIZES, Value::Map(sizes.collect()));
        record
    }

    fn found(record: DynamicMessage) -> Found {
        let mut found = Found::default();
        found.records.is = Some(Record(record));
        found
    }

    #[test]
    fn the_original_is_fetched_or_else_the_largest() {
        assert_eq!(
            address(&with(&[(64, "/s"), (0, "/original"), (512, "/l")])).as_deref(),
            Some("/original")
        );
        assert_eq!(address(&with(&[(64, "/s"), (512, "/l"), (0, "")])).as_deref(), Some("/l"));
        assert_eq!(address(&proto::message("EndDevice")), None);
    }

    #[test]
    fn what_is_no_image_is_not_embedded() {
        let mut record = with(&[(0, "/a/original.png")]);
        assert!(embed(&mut record, b"<html>log in first</html>").is_err());
        assert!(embed(&mut record, b"GIF89a").is_err());
        assert!(!has_bytes(&record));
        assert_eq!(embed(&mut record, PNG), Ok(()));
        assert_eq!(path::string(&record, MIME_TYPE), "image/png");
        assert_eq!(embed(&mut record, b"\xff\xd8\xff\xe0 a photo"), Ok(()));
        assert_eq!(path::string(&record, MIME_TYPE), "image/jpeg");
    }

    #[test]
    fn a_plan_keeps_that_there_are_bytes() {
        let mut device = found(with(&[(0, "/a/original.png")]));
        embed(&mut device.records.is.as_mut().expect("set").0, PNG).expect("an image");
        shorten(&mut device);
        let is = &device.records.is.as_ref().expect("set").0;
        assert_eq!((path::bytes(is, DATA).len(), has_bytes(is)), (HEAD, true));
    }

    #[test]
    fn a_picture_is_taken_over_from_an_earlier_reading_unless_it_is_another() {
        let mut known = found(with(&[(0, "/assets/blob/p/app.dev.01/original.png")]));
        embed(&mut known.records.is.as_mut().expect("set").0, PNG).expect("an image");
        // The store has moved, the upload is the same.
        let mut now = found(with(&[(0, "https://files.example/p/app.dev.01/original.png")]));
        assert!(settle(&mut now, &known));
        assert!(!is_left(&now));
        let mut now = found(with(&[(0, "/assets/blob/p/app.dev.02/original.png")]));
        assert!(!settle(&mut now, &known));
        assert!(is_left(&now));
        let mut gone = found(proto::message("EndDevice"));
        assert!(!settle(&mut gone, &known) && !is_left(&gone));
    }

    #[test]
    fn what_was_written_is_there_once_it_has_an_address() {
        let mut written = with(&[]);
        embed(&mut written, PNG).expect("an image");
        let mut read = with(&[(0, "/x/y.png")]);
        given(&mut written, &mut read);
        assert!(!path::has(&written, PICTURE) && !path::has(&read, PICTURE));
        let mut written = with(&[]);
        embed(&mut written, PNG).expect("an image");
        let mut without = proto::message("EndDevice");
        given(&mut written, &mut without);
        assert!(path::has(&written, PICTURE), "it is missed");
    }
}
