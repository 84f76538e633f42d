//! Durations, rates and sizes as users write them.

use std::{fmt, num::NonZeroU32, str::FromStr, time::Duration};

/// Calls per time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub calls: NonZeroU32,
    /// In which time.
    pub per: Duration,
}

/// Not a quantity; the text says what one looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct QuantityError(pub &'static str);

const RATE: QuantityError = QuantityError("a rate looks like \"100/min\": calls per s, min or h");
const DURATION: QuantityError = QuantityError("a duration looks like \"30s\", \"2m\" or \"1h30m\"");
const SIZE: QuantityError = QuantityError("a size looks like \"16MiB\", \"500kB\" or \"4096B\"");

impl FromStr for Rate {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let (calls, unit) = text.split_once('/').ok_or(RATE)?;
        let calls = calls.trim().parse().map_err(|_| RATE)?;
        let seconds = match unit.trim() {
            "s" | "sec" | "second" => 1,
            "m" | "min" | "minute" => 60,
            "h" | "hour" => 3600,
            _ => return Err(RATE),
        };
        Ok(Self { calls, per: Duration::from_secs(seconds) })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.per.as_secs() {
            60 => "min",
            3600 => "h",
            _ => "s",
        };
        write!(f, "{}/{unit}", self.calls)
    }
}

/// A duration longer than zero and not longer than a day.
pub fn duration(text: &str) -> Result<Duration, QuantityError> {
    let parsed: jiff::SignedDuration = text.parse().map_err(|_| DURATION)?;
    let duration = Duration::try_from(parsed).map_err(|_| DURATION)?;
    if duration.is_zero() || duration > Duration::from_secs(24 * 3600) {
        return Err(QuantityError("a duration is longer than 0 s and at most 24 h"));
    }
    Ok(duration)
}

/// A size in bytes: 64 KiB to 1 GiB.
pub fn size(text: &str) -> Result<usize, QuantityError> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| SIZE)?;
    let unit: u64 = match unit.trim() {
        "B" => 1,
        "kB" | "KB" => 1000,
        "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "GiB" => 1 << 30,
        _ => return Err(SIZE),
    };
    let bytes = number.checked_mul(unit).ok_or(SIZE)?;
    if !(64 << 10..=1 << 30).contains(&bytes) {
        return Err(QuantityError("the size is between 64KiB and 1GiB"));
    }
    usize::try_from(bytes).map_err(|_| SIZE)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_rate_survives_text(calls in 1u32.., unit in "s|min|h") {
            let text = format!("{calls}/{unit}");
            prop_assert_eq!(text.parse::<Rate>().map(|r| r.to_string()), Ok(text));
        }

        #[test]
        fn no_text_panics(text in ".{0,12}|[0-9]{1,25}[a-zA-Z/]{0,4}") {
            let _ = text.parse::<Rate>();
            let _ = duration(&text);
            let _ = size(&text);
        }
    }

    #[test]
    fn quantities_are_what_they_say() {
        assert_eq!("100/min".parse::<Rate>().map(|r| (r.calls.get(), r.per.as_secs())), Ok((100, 60)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(size("16MiB"), Ok(16 << 20));
        assert_eq!(size("500 kB"), Ok(500_000));
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for rate in ["0/min", "-1/s", "100", "100/day", "/s", "1e3/s"] {
            assert!(rate.parse::<Rate>().is_err(), "{rate}");
        }
        for text in ["30", "", "-5s", "0s", "25h", "soon"] {
            assert!(duration(text).is_err(), "{text}");
        }
        for text in ["16", "16mb", "1B", "2GiB", "99999999999999999999GiB", "99999999999GiB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
