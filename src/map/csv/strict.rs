//! Watches the structure of CSV go by: quotes that are out of place, and rows without end.

use std::{
    collections::VecDeque,
    io::{self, Read},
};

/// Passes bytes on up to the first that breaks the structure.
///
/// The CSV reader behind it takes any bytes for some CSV: a quote that is never closed, for one value up to the end.
#[derive(Debug)]
pub(super) struct Strict<R> {
    from: R,
    separator: u8,
    longest: usize,
    state: State,
    line: u64,
    /// The byte before.
    last: u8,
    /// First lines of the rows that went by and were not yet asked for. An empty line is no row.
    begun: VecDeque<u64>,
    /// Line of the last quote that opened.
    opened: u64,
    /// Bytes of the row so far.
    row: usize,
    broken: Option<Broken>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// At the first byte of a value.
    Start,
    /// In a value without quotes.
    Bare,
    /// In quotes.
    Quoted,
    /// After a quote in quotes: the end, or the first of two.
    Quote,
}

/// Where and how the structure is broken.
#[derive(Debug, Clone, thiserror::Error)]
#[error("line {line}: {problem}")]
pub(super) struct Broken {
    pub line: u64,
    pub problem: String,
}

impl<R: Read> Strict<R> {
    pub fn new(from: R, separator: u8, longest: usize) -> Self {
        Self {
            from,
            separator,
            longest,
            state: State::Start,
            line: 1,
            last: b'\n',
            begun: VecDeque::new(),
            opened: 1,
            row: 0,
            broken: None,
        }
    }

    /// The first line of the row that is read next.
    pub fn next_begun(&mut self) -> u64 {
        self.begun.pop_front().unwrap_or(self.line)
    }

    fn step(&mut self, byte: u8) -> Result<(), &'static str> {
        let ends = matches!(byte, b'\n' | b'\r');
        if self.row == 0 && !ends {
            self.begun.push_back(self.line);
        }
        self.state = match self.state {
            State::Start if byte == b'"' => {
                self.opened = self.line;
                State::Quoted
            }
            State::Quote if byte == b'"' => State::Quoted,
            State::Quoted if byte == b'"' => State::Quote,
            State::Quoted => State::Quoted,
            _ if ends || byte == self.separator => State::Start,
            State::Quote => {
                return Err("something follows a value in quotes; a quote in a value is written twice");
            }
            State::Bare if byte == b'"' => {
                return Err(
                    "a quote is inside a value without quotes; write the value in quotes, and each of its own twice",
                );
            }
            State::Start | State::Bare => State::Bare,
        };
        self.row = if ends && self.state != State::Quoted { 0 } else { self.row + 1 };
        // An end of a line is `\r\n`, `\n` or `\r`.
        self.line += u64::from(byte == b'\r' || (byte == b'\n' && self.last != b'\r'));
        self.last = byte;
        if self.row > self.longest { Err("this row is too long; is a quote out of place?") } else { Ok(()) }
    }

    /// How many of `bytes` are sound.
    fn sound(&mut self, bytes: &[u8]) -> usize {
        for (index, byte) in bytes.iter().enumerate() {
            let line = self.line;
            if let Err(problem) = self.step(*byte) {
                self.broken = Some(Broken { line, problem: problem.to_owned() });
                return index;
            }
        }
        bytes.len()
    }
}

impl<R: Read> Read for Strict<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.broken.is_none() {
            let read = self.from.read(out)?;
            if read == 0 && !out.is_empty() && self.state == State::Quoted {
                let problem = "a quote opens here that is never closed".to_owned();
                self.broken = Some(Broken { line: self.opened, problem });
            }
            let sound = self.sound(out.get(..read).unwrap_or_default());
            if sound > 0 || self.broken.is_none() {
                return Ok(sound);
            }
        }
        Err(self.broken.clone().map_or_else(|| io::ErrorKind::UnexpectedEof.into(), io::Error::other))
    }
}
