//! Where the client is killed.

use std::{fmt, str::FromStr};

/// When, seen from a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The call has arrived and is never applied.
    Before,
    /// The call is applied and never answered.
    Applied,
    /// The answer is with the client's system; what the client still made of it is up to the scheduler.
    Replied,
}

/// One point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// The n-th call to either server, from 1.
    Call(Moment, usize),
    /// At the entry of the n-th system call that changes a file of the journal: it does not happen.
    Write(usize),
    /// Right after the n-th such call: it has happened, and nothing else.
    Written(usize),
    /// Right after the n-th transaction of the journal became durable.
    Committed(usize),
    /// Never.
    Nowhere,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call(Moment::Before, n) => write!(f, "before-call-{n}"),
            Self::Call(Moment::Applied, n) => write!(f, "applied-call-{n}"),
            Self::Call(Moment::Replied, n) => write!(f, "replied-call-{n}"),
            Self::Write(n) => write!(f, "before-write-{n}"),
            Self::Written(n) => write!(f, "after-write-{n}"),
            Self::Committed(n) => write!(f, "after-commit-{n}"),
            Self::Nowhere => write!(f, "nowhere"),
        }
    }
}

impl FromStr for Point {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "nowhere" {
            return Ok(Self::Nowhere);
        }
        let wrong = || format!("`{text}` is no point: try before-call-12 or after-write-3");
        let (kind, n) = text.rsplit_once('-').ok_or_else(wrong)?;
        let n = n.parse().map_err(|_| wrong())?;
        Ok(match kind {
            "before-call" => Self::Call(Moment::Before, n),
            "applied-call" => Self::Call(Moment::Applied, n),
            "replied-call" => Self::Call(Moment::Replied, n),
            "before-write" => Self::Write(n),
            "after-write" => Self::Written(n),
            "after-commit" => Self::Committed(n),
            _ => return Err(wrong()),
        })
    }
}

#[test]
fn a_point_is_read_as_it_is_written() {
    let calls = [Moment::Before, Moment::Applied, Moment::Replied].map(|moment| Point::Call(moment, 12));
    for point in
        calls.into_iter().chain([Point::Write(3), Point::Written(4), Point::Committed(5), Point::Nowhere])
    {
        assert_eq!(point.to_string().parse(), Ok(point));
    }
    assert!("around-call-3".parse::<Point>().is_err());
}
