//! The CSV of The Things Stack for end devices: what its Console and `ttn-lw-cli end-devices create --format
//! the-things-stack-csv` take, and what people keep in spreadsheets. `import` reads a fleet from it.
//!
//! The form is that of the CSV File Reference of The Things Stack and of the reader of 3.32.1 (`pkg/devicetemplates`): a
//! header that names the columns, `;` or `,` between them (whichever the first line has, `;` first), quotes around what
//! holds the separator, two quotes for one. It is read as strictly: a quote in the wrong place would make one value of
//! many rows, and their devices would be lost without a word. Beyond it, the keys of LoRaWAN 1.1 sessions have columns, and
//! columns that are not known are named instead of ignored.
//!
//! An empty cell holds nothing. Rows are read one at a time; a row longer than [`MAX_ROW`] is an error. No error shows a
//! value: when a row is out of step, any column may hold a key.
//!
//! Two things are left to `import`, as the format has no place for them: the application, and the session key ID that a
//! session needs on LoRaWAN 1.1.

mod columns;
mod strict;
#[cfg(test)]
mod tests;

use std::io::{self, Chain, Cursor, Read};

use columns::Column;
use prost_reflect::Value;
use strict::{Broken, Strict};

use super::path;
use crate::{
    model::{device::Record, ids::Eui64},
    proto,
};

/// The longest row, in bytes: many times what the longest values of all columns take.
pub const MAX_ROW: usize = 64 << 10;

/// One device.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Its first line in the file, from 1.
    pub line: u64,
    /// An `EndDevice` with what the row says, of all four components together.
    pub record: Record,
    /// The paths that the row says something about, each once; also where that is a default and so stores nothing.
    pub paths: Vec<String>,
}

/// Why a file, or a row of it, cannot be used. It names the place and never the value.
#[derive(Debug, thiserror::Error)]
pub enum CsvError {
    /// The file cannot be read.
    #[error("the CSV file cannot be read: {0}")]
    Read(#[source] io::Error),
    /// A line is not what it should be.
    #[error("line {line}: {problem}")]
    Line {
        /// From 1.
        line: u64,
        /// What is wrong.
        problem: String,
    },
    /// A row has no device's name.
    #[error("line {line}: a device needs an `id` or a `dev_eui`")]
    Nameless {
        /// Of the row, from 1.
        line: u64,
    },
    /// A value is not what its column takes.
    #[error("line {line}, column {position} (`{column}`): {problem}")]
    Value {
        /// Of the row, from 1.
        line: u64,
        /// Of the column, from 1.
        position: usize,
        /// Its name.
        column: &'static str,
        /// What is wrong, and at which character.
        problem: String,
    },
}

/// Reads the devices of a file, one at a time.
///
/// After a [`CsvError::Value`] or [`CsvError::Nameless`] the next row can be read; after any other error there is none.
#[derive(Debug)]
pub struct Reader<R> {
    rows: csv::Reader<Strict<Chain<Cursor<Vec<u8>>, R>>>,
    columns: Vec<Option<&'static Column>>,
    unknown: Vec<String>,
    row: csv::ByteRecord,
    /// Its first line.
    line: u64,
    ended: bool,
}

impl<R: Read> Reader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// When there is none, it names no known column, or one twice.
    pub fn new(from: R) -> Result<Self, CsvError> {
        let (head, rest) = first_line(from).map_err(CsvError::Read)?;
        let head = match head.as_slice() {
            [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => {
                return Err(line(1, "this is UTF-16 text: save it as CSV in UTF-8"));
            }
            [0xef, 0xbb, 0xbf, text @ ..] => text.to_vec(),
            _ => head,
        };
        let separator = if head.contains(&b';') || !head.contains(&b',') { b';' } else { b',' };
        let strict = Strict::new(Cursor::new(head).chain(rest), separator, MAX_ROW);
        let rows = csv::ReaderBuilder::new()
            .delimiter(separator)
            .has_headers(false)
            .flexible(true)
            .from_reader(strict);
        let (columns, unknown) = (Vec::new(), Vec::new());
        let mut reader = Self { rows, columns, unknown, row: csv::ByteRecord::new(), line: 1, ended: false };
        if !reader.read_row()? {
            return Err(line(1, "the file is empty, and must begin with the names of its columns"));
        }
        reader.header()?;
        Ok(reader)
    }

    /// The columns that are not known here, as the header calls them: what they hold is in no record. One whose name looks
    /// like a value is called by its number.
    pub fn unknown_columns(&self) -> &[String] {
        &self.unknown
    }

    fn header(&mut self) -> Result<(), CsvError> {
        let at = self.line;
        for (index, name) in self.row.iter().enumerate() {
            let name = String::from_utf8_lossy(name);
            let column = columns::find(name.trim());
            let same = |other: &&&Column| column.is_some_and(|column| column.path == other.path);
            if let Some(first) = self.columns.iter().flatten().find(same) {
                return Err(line(
                    at,
                    format!("`{}` after `{}` is the same column twice", name.trim(), first.name),
                ));
            }
            if column.is_none() {
                self.unknown.push(columns::shown(name.trim(), index + 1));
            }
            self.columns.push(column);
        }
        if self.columns.iter().all(Option::is_none) {
            let names = columns::NAMES.map(|name| format!("`{name}`")).join(", ");
            let problem =
                format!("the first line must name the columns, and no known one is in it ({names}, …)");
            return Err(line(at, problem));
        }
        Ok(())
    }

    /// The device in the row that was read; `None` when it has nothing but separators.
    fn device(&self) -> Result<Option<Row>, CsvError> {
        let at = self.line;
        if self.row.iter().all(|cell| cell.trim_ascii().is_empty()) {
            return Ok(None);
        }
        let mut message = proto::message("EndDevice");
        let mut paths: Vec<String> = Vec::new();
        for (index, (cell, column)) in self.row.iter().zip(&self.columns).enumerate() {
            let Some(column) = *column else { continue };
            let fail =
                |problem| CsvError::Value { line: at, position: index + 1, column: column.name, problem };
            let Some(value) = column.read(cell).map_err(fail)? else { continue };
            column.store(&mut message, value, &mut paths);
        }
        if !path::has(&message, "ids.device_id") {
            // As The Things Stack names devices that have no ID.
            let Some(eui) = Eui64::from_bytes(&path::bytes(&message, "ids.dev_eui")) else {
                return Err(CsvError::Nameless { line: at });
            };
            let id = format!("eui-{}", eui.to_string().to_ascii_lowercase());
            path::set(&mut message, "ids.device_id", Value::String(id));
            paths.push("ids.device_id".to_owned());
        }
        Ok(Some(Row { line: at, record: Record(message), paths }))
    }

    /// Reads a row; false at the end.
    fn read_row(&mut self) -> Result<bool, CsvError> {
        let read = self.rows.read_byte_record(&mut self.row).map_err(broken)?;
        self.line = self.rows.get_mut().next_begun();
        Ok(read)
    }

    fn next_row(&mut self) -> Result<Option<Row>, CsvError> {
        while self.read_row()? {
            let (has, needs) = (self.row.len(), self.columns.len());
            if has != needs {
                return Err(line(
                    self.line,
                    format!("this row has {has} values, and the header {needs} columns"),
                ));
            }
            if let Some(row) = self.device()? {
                return Ok(Some(row));
            }
        }
        Ok(None)
    }
}

impl<R: Read> Iterator for Reader<R> {
    type Item = Result<Row, CsvError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.next_row().transpose();
        self.ended = !matches!(next, Some(Ok(_) | Err(CsvError::Value { .. } | CsvError::Nameless { .. })));
        next
    }
}

/// The bytes up to the first end of a line, which tell the separator, and the rest.
fn first_line<R: Read>(mut from: R) -> io::Result<(Vec<u8>, R)> {
    let mut head = Vec::new();
    let mut byte = [0];
    // One more than fits: the row is then found to be too long.
    while head.len() <= MAX_ROW && !matches!(head.last(), Some(b'\n' | b'\r')) {
        match from.read(&mut byte) {
            Ok(0) => break,
            Ok(_) => head.extend(byte),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok((head, from))
}

fn line(line: u64, problem: impl Into<String>) -> CsvError {
    CsvError::Line { line, problem: problem.into() }
}

fn broken(error: csv::Error) -> CsvError {
    let error = match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        // It reads bytes and rows of any length, so it has no errors of its own.
        _ => io::Error::other("the rows cannot be read"),
    };
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Broken>()) {
        Some(broken) => line(broken.line, broken.problem.clone()),
        None => CsvError::Read(error),
    }
}
