//! Identifiers of the field: EUIs, DevAddr, NetID, and the IDs that stacks give to applications and devices.

use std::{fmt, str::FromStr};

/// Why a text or byte string is not the identifier it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not the right number of hexadecimal digits.
    #[error("`{text}` is not {what}: {digits} hexadecimal digits are needed")]
    Hex {
        /// What was expected, such as `a DevEUI`.
        what: &'static str,
        /// What was found.
        text: String,
        /// How many digits it should have.
        digits: usize,
    },
    /// Not an ID that The Things Stack takes.
    #[error("`{0}` is not an ID: 3 to 36 of a-z, 0-9 and single dashes between them")]
    Id(String),
    /// Not an ID that The Things Network Stack V2 can have.
    #[error("`{0}` is no ID of V2: 2 to 36 of a-z and 0-9, with single dashes or underscores between them")]
    V2(String),
    /// Not a DevAddr prefix.
    #[error("`{0}` is not a DevAddr prefix such as 26000000/7")]
    Prefix(String),
}

/// Fixed-length identifiers that are written in upper-case hexadecimal.
macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $len:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// From bytes in transmission order of the API (most significant first); `None` when the length differs.
            pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode_upper(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let mut bytes = [0; $len];
                hex::decode_to_slice(text, &mut bytes).map_err(|_| IdError::Hex {
                    what: $what,
                    text: text.to_owned(),
                    digits: 2 * $len,
                })?;
                Ok(Self(bytes))
            }
        }
    };
}

hex_id!(
    /// An EUI-64: DevEUI, JoinEUI or gateway EUI, most significant byte first.
    Eui64, 8, "an EUI"
);
hex_id!(
    /// A device address (LoRaWAN 1.0.3 §6.1.1), most significant byte first.
    DevAddr, 4, "a DevAddr"
);
hex_id!(
    /// A network identifier (LoRaWAN Backend Interfaces 1.0 §2).
    NetId, 3, "a NetID"
);

/// A block of device addresses such as `26000000/7`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DevAddrPrefix {
    /// First address of the block.
    pub addr: DevAddr,
    /// How many leading bits are fixed, 0 to 32.
    pub bits: u8,
}

impl DevAddrPrefix {
    /// True when `addr` lies in the block.
    pub fn contains(&self, addr: DevAddr) -> bool {
        let mask = u32::MAX.checked_shl(32 - u32::from(self.bits)).unwrap_or(0);
        let value = |a: DevAddr| u32::from_be_bytes(a.0);
        value(addr) & mask == value(self.addr) & mask
    }

    /// From the five bytes of the API: the address, then the number of bits (`ttnpb` `DevAddrPrefix`).
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (addr, bits) = bytes.split_at_checked(4)?;
        match *bits {
            [bits @ 0..=32] => Some(Self { addr: DevAddr::from_bytes(addr)?, bits }),
            _ => None,
        }
    }
}

impl fmt::Display for DevAddrPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.bits)
    }
}

impl FromStr for DevAddrPrefix {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let bad = || IdError::Prefix(text.to_owned());
        let (addr, bits) = text.split_once('/').ok_or_else(bad)?;
        let bits: u8 = bits.parse().map_err(|_| bad())?;
        if bits > 32 {
            return Err(bad());
        }
        Ok(Self { addr: addr.parse().map_err(|_| bad())?, bits })
    }
}

/// IDs that users choose.
macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// An ID as the source has it, whether or not The Things Stack would take it.
            pub fn unchecked(id: impl Into<String>) -> Self {
                Self(id.into())
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                if is_id(text) { Ok(Self(text.to_owned())) } else { Err(IdError::Id(text.to_owned())) }
            }
        }
    };
}

text_id!(
    /// An application ID.
    AppId
);
text_id!(
    /// An end device ID, unique in its application.
    DeviceId
);

/// The rule for IDs of The Things Stack: `^[a-z0-9](?:[-]?[a-z0-9]){2,}$`, at most 36 (`identifiers.proto`).
pub fn is_id(text: &str) -> bool {
    let bytes = text.as_bytes();
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let letters = bytes.iter().filter(|b| plain(b)).count();
    (3..=36).contains(&bytes.len())
        && letters >= 3
        && bytes.first().is_some_and(plain)
        && bytes.last().is_some_and(plain)
        && bytes.windows(2).all(|w| w != b"--")
        && bytes.iter().all(|b| plain(b) || *b == b'-')
}

/// The rule for IDs of The Things Network Stack V2: `^[0-9a-z](?:[_-]?[0-9a-z]){1,35}$` (docs/servers.md, V2 devices).
pub fn is_v2_id(text: &str) -> bool {
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let letters = bytes.iter().filter(|b| plain(b)).count();
    (2..=36).contains(&letters)
        && bytes.first().is_some_and(plain)
        && bytes.last().is_some_and(plain)
        && bytes.windows(2).all(|w| w.iter().any(plain))
        && bytes.iter().all(|b| plain(b) || matches!(b, b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn is_v2_id_agrees_with_the_pattern_of_v2(text in "[a-c0_A-]{0,8}|[a-z0-9_-]{30,75}|([a-z][_-]){33,37}[a-z]") {
            let pattern = regex::Regex::new("^[0-9a-z](?:[_-]?[0-9a-z]){1,35}$").expect("valid");
            prop_assert_eq!(is_v2_id(&text), pattern.is_match(&text));
        }

        #[test]
        fn is_id_agrees_with_the_pattern_of_the_stack(text in "[a-c0_A-]{0,8}|[a-z0-9-]{30,40}") {
            let pattern = regex::Regex::new("^[a-z0-9](?:[-]?[a-z0-9]){2,}$").expect("valid");
            prop_assert_eq!(is_id(&text), pattern.is_match(&text) && text.len() <= 36);
        }

        #[test]
        fn an_eui_survives_text(bytes: [u8; 8]) {
            prop_assert_eq!(Eui64(bytes).to_string().parse::<Eui64>(), Ok(Eui64(bytes)));
        }
    }

    #[test]
    fn a_prefix_covers_its_block_and_nothing_else() {
        let block: DevAddrPrefix = "26000000/7".parse().expect("valid");
        assert!(block.contains("260B1234".parse().expect("valid")));
        assert!(!block.contains("28000000".parse().expect("valid")));
        let everything: DevAddrPrefix = "00000000/0".parse().expect("valid");
        assert!(everything.contains(DevAddr([0xff; 4])));
        assert_eq!(DevAddrPrefix::from_bytes(&[1, 0, 0, 0, 8]), "01000000/8".parse().ok());
        assert!("26000000/33".parse::<DevAddrPrefix>().is_err());
    }

    #[test]
    fn a_wrong_eui_says_what_is_needed() {
        let error = "70B3".parse::<Eui64>().expect_err("too short").to_string();
        assert_eq!(error, "`70B3` is not an EUI: 16 hexadecimal digits are needed");
    }
}
