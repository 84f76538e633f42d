//! End devices in a file of JSON: one after the other, as `ttn-lw-migrate` and `ttn-lw-cli` write them and the Console
//! reads them, or in lists. `import` reads a fleet from it.

use std::io::{self, BufRead, BufReader, Read};

use serde::Deserialize as _;
use serde_json::Value as Json;

use super::{JsonError, from_json_with_unknown};
use crate::{model::device::Record, proto};

/// The longest device, in bytes of JSON: the largest answer of a server.
pub const MAX_DEVICE: usize = 16 << 20;

/// One device of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Device {
    /// The line at which it begins, from 1.
    pub line: u64,
    /// An `EndDevice`, of all four components together.
    pub record: Record,
    /// JSON paths that the message has no field for, as [`super::Parsed`] has them.
    pub unknown_fields: Vec<String>,
}

/// Why a file, or a device of it, cannot be used. It names the place and never the value.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file cannot be read.
    #[error("the JSON file cannot be read: {0}")]
    Read(#[source] io::Error),
    /// It is not JSON, or not of devices.
    #[error("line {line}, column {column}: {problem}")]
    Json {
        /// From 1.
        line: u64,
        /// In bytes, from 1.
        column: u64,
        /// What is wrong.
        problem: String,
    },
    /// A device is not what the API has.
    #[error("the device at line {line}: {source}")]
    Device {
        /// Where it begins, from 1.
        line: u64,
        /// What is wrong.
        source: JsonError,
    },
}

/// Reads the devices of a file, one at a time.
///
/// After a [`FileError::Device`] the next one can be read; after any other error there is none.
#[derive(Debug)]
pub struct Devices<R> {
    source: Source<BufReader<R>>,
    place: Place,
}

/// What may come next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// A device or a list, or the end.
    Outside,
    /// The first device of a list, or its end.
    Begun,
    /// In a list, after a device: a comma, or its end.
    After,
    /// A device, after a comma.
    Comma,
    /// Nothing.
    Ended,
}

impl<R: Read> Devices<R> {
    /// Reads nothing yet.
    pub fn new(from: R) -> Self {
        let source = Source { from: BufReader::new(from), line: 1, column: 1, left: usize::MAX };
        Self { source, place: Place::Outside }
    }

    fn device(&mut self) -> Result<Option<Device>, FileError> {
        if !self.seek_device()? {
            return Ok(None);
        }
        let line = self.source.line;
        self.source.left = MAX_DEVICE;
        let read = Json::deserialize(&mut serde_json::Deserializer::from_reader(&mut self.source));
        let json = read.map_err(|error| self.not_json(error))?;
        self.source.left = usize::MAX;
        self.place = if self.place == Place::Outside { Place::Outside } else { Place::After };
        let parsed = from_json_with_unknown(&proto::descriptor("EndDevice"), &json)
            .map_err(|source| FileError::Device { line, source })?;
        Ok(Some(Device { line, record: Record(parsed.message), unknown_fields: parsed.unknown_fields }))
    }

    /// Goes to the brace that begins the next device; false at the end of the file.
    fn seek_device(&mut self) -> Result<bool, FileError> {
        loop {
            let next = self.source.peek().map_err(FileError::Read)?;
            self.place = match (self.place, next) {
                (Place::Ended, _) => return Ok(false),
                (Place::Outside, None) => return Ok(false),
                (_, None) => return Err(self.source.fail("the file ends inside a list")),
                (place, Some(b' ' | b'\t' | b'\n' | b'\r')) => place,
                (Place::Outside | Place::Begun | Place::Comma, Some(b'{')) => return Ok(true),
                (Place::Outside, Some(b'[')) => Place::Begun,
                (Place::Begun | Place::After, Some(b']')) => Place::Outside,
                (Place::After, Some(b',')) => Place::Comma,
                (Place::After, _) => return Err(self.source.fail("`,` or `]` is needed here")),
                _ => return Err(self.source.fail("a device, in braces, is needed here")),
            };
            self.source.pass();
        }
    }

    /// The words of the JSON reader, which quote nothing, without its own count of lines.
    fn not_json(&self, error: serde_json::Error) -> FileError {
        if error.is_io() {
            let error = io::Error::from(error);
            return match error.get_ref() {
                Some(inner) if inner.is::<TooLong>() => self.source.fail(&inner.to_string()),
                _ => FileError::Read(error),
            };
        }
        if error.is_eof() {
            return self.source.fail("the file ends inside a device");
        }
        let text = error.to_string();
        self.source.fail(text.split(" at line ").next().unwrap_or("this is not JSON"))
    }
}

impl<R: Read> Iterator for Devices<R> {
    type Item = Result<Device, FileError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.device().transpose();
        if !matches!(next, Some(Ok(_) | Err(FileError::Device { .. }))) {
            self.place = Place::Ended;
        }
        next
    }
}

/// The bytes of a file, counted.
#[derive(Debug)]
struct Source<R> {
    from: R,
    line: u64,
    column: u64,
    /// How many bytes a device may still have.
    left: usize,
}

#[derive(Debug, thiserror::Error)]
#[error("this device is longer than 16 MiB")]
struct TooLong;

impl<R: BufRead> Source<R> {
    /// The next byte, which stays the next one.
    fn peek(&mut self) -> io::Result<Option<u8>> {
        loop {
            match self.from.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return read.map(|bytes| bytes.first().copied()),
            }
        }
    }

    /// Takes the byte that was peeked at.
    fn pass(&mut self) {
        let _ = self.read(&mut [0]);
    }

    fn fail(&self, problem: &str) -> FileError {
        FileError::Json { line: self.line, column: self.column, problem: problem.to_owned() }
    }
}

impl<R: BufRead> Read for Source<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Err(io::Error::other(TooLong));
        }
        let most = out.len().min(self.left);
        let read = self.from.read(out.get_mut(..most).unwrap_or_default())?;
        self.left = if self.left == usize::MAX { self.left } else { self.left - read };
        for byte in out.iter().take(read) {
            (self.line, self.column) =
                if *byte == b'\n' { (self.line + 1, 1) } else { (self.line, self.column + 1) };
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{map::generate, map::json::to_json, model::device::Component};

    fn ids(text: &str) -> Vec<Result<String, String>> {
        let devices = Devices::new(text.as_bytes());
        devices.map(|d| d.map(|d| d.record.device_id()).map_err(|e| e.to_string())).collect()
    }

    fn device(id: &str) -> String {
        format!("{{\"ids\": {{\"device_id\": \"{id}\"}}}}")
    }

    #[test]
    fn devices_may_follow_each_other_or_stand_in_lists() {
        let (a, b, c) = (device("a"), device("b"), device("c"));
        for text in [
            format!("{a}\n{b}\n{c}\n"),
            format!("{a}{b}{c}"),
            format!("[{a}, {b},{c}]\n"),
            format!("\n[ ]{a} [{b}]\r\n[\n{c}\n]"),
        ] {
            assert_eq!(ids(&text), [Ok("a".into()), Ok("b".into()), Ok("c".into())], "{text}");
        }
        assert_eq!(ids(" \n"), []);
    }

    #[test]
    fn what_the_old_tool_exports_is_read_whole() {
        let export = include_str!("../../../tests/fixtures/tts-export-100.jsonl");
        let devices: Vec<_> = Devices::new(export.as_bytes()).collect::<Result<_, _>>().expect("devices");
        assert_eq!(devices.len(), 100);
        for (device, (index, line)) in devices.iter().zip(export.lines().enumerate()) {
            assert_eq!(device.line, index as u64 + 1);
            assert_eq!(to_json(&device.record.0), serde_json::from_str::<Json>(line).expect("JSON"));
        }
    }

    #[test]
    fn a_file_that_was_cut_is_an_error_and_not_fewer_devices() {
        let whole = format!("[{},\n{}]", device("a"), device("b"));
        for end in 1..whole.len() {
            let read = ids(&whole[..end]);
            assert!(read.last().is_some_and(Result::is_err), "{end} {read:?}");
        }
        let read = ids(&whole[..whole.len() - 1]);
        assert_eq!(read.last(), Some(&Err("line 2, column 28: the file ends inside a list".into())));
    }

    #[test]
    fn a_device_that_cannot_be_used_does_not_hide_the_next() {
        let bad = "{\"ids\": {\"device_id\": \"x\", \"dev_eui\": \"CANARY\"}}";
        let read = ids(&format!("{}\n{bad}\n{}", device("a"), device("b")));
        assert_eq!(read.len(), 3);
        assert!(read[1].as_ref().is_err_and(|e| e.starts_with("the device at line 2: ids.dev_eui: ")));
        assert!(!format!("{read:?}").contains("CANARY"));
    }

    #[test]
    fn what_is_no_device_ends_the_file() {
        for (text, error) in [
            ("null", "line 1, column 1: a device, in braces, is needed here"),
            ("[{}\n{}]", "line 2, column 1: `,` or `]` is needed here"),
            ("[{},]", "line 1, column 5: a device, in braces, is needed here"),
            ("{\"name\" \"x\"}", "line 1, column 10: expected `:`"),
            ("{\"a\": 1e999}", "line 1, column 13: number out of range"),
        ] {
            let read = ids(text);
            assert_eq!(read.last(), Some(&Err(error.to_owned())), "{text}");
        }
    }

    #[test]
    fn a_device_without_end_is_not_read_to_its_end() {
        let endless = "{\"name\": \"".as_bytes().chain(io::repeat(b'x'));
        let mut devices = Devices::new(endless);
        let error = devices.next().expect("an error").expect_err("no end").to_string();
        assert!(error.ends_with("this device is longer than 16 MiB"), "{error}");
        assert!(devices.next().is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn any_device_is_read_as_it_was_written(seeds in prop::collection::vec(any::<u64>(), 1..4), pretty: bool, list: bool) {
            let written: Vec<_> =
                seeds.iter().map(|seed| to_json(&generate::device(*seed, Component::ALL[(*seed % 4) as usize]))).collect();
            let one = |json: &Json| if pretty { format!("{json:#}") } else { json.to_string() };
            let text = written.iter().map(one).collect::<Vec<_>>().join(if list { "," } else { "\n" });
            let text = if list { format!("[{text}]") } else { text };
            let read: Vec<_> = Devices::new(text.as_bytes()).collect::<Result<_, _>>().expect("devices");
            let read: Vec<_> = read.iter().map(|device| to_json(&device.record.0)).collect();
            prop_assert_eq!(read, written);
        }
    }
}
