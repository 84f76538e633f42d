//! The radio side of the embedded Network, Join and Application Server, and of V2.
//!
//! A PHY payload comes in; the records of the store change as those of The Things Stack 3.32 would (upstream
//! `pkg/networkserver`, `pkg/joinserver`, `pkg/applicationserver`); PHY payloads go out. There are no gateways, no
//! deduplication and no timers: what the real servers schedule is sent at once.
//!
//! Left out, as no stored field that a migration carries depends on it: ADR and all MAC commands but RekeyInd and
//! RekeyConf, CFLists, retransmissions of an uplink, requeuing after a confirmed downlink was not acknowledged,
//! ping slots (class B behaves like class C), and rejoin-requests, which 3.32 refuses.

mod data;
mod downlink;
mod ether;
mod fields;
mod join;
mod v2;

use std::io;

use jiff::Timestamp;

use super::{
    lorawan::{BadFrame, Frame, parse},
    store::Store,
};
use crate::model::ids::{DevAddrPrefix, NetId};

pub use downlink::{Downlink, downlink};
pub use ether::{Answer, Ether, EtherError, Network, SharedNetwork};
pub use fields::may_send;

/// What a Network Server knows of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkFacts {
    /// Its NetID.
    pub net_id: NetId,
    /// The blocks from which it takes the addresses of joining devices. None means the whole address space.
    pub dev_addr_prefixes: Vec<DevAddrPrefix>,
}

/// An uplink that a network took.
#[derive(Clone, PartialEq, Eq)]
pub struct Heard {
    /// The application of the device.
    pub application_id: String,
    /// The device.
    pub device_id: String,
    /// What it was.
    pub uplink: Uplink,
    /// The PHY payloads that the network sends back: none while the device is muted.
    pub downlinks: Vec<Vec<u8>>,
}

/// What a network took.
#[derive(Clone, PartialEq, Eq)]
pub enum Uplink {
    /// A join-request: the Join Server has consumed its nonces.
    Join,
    /// A data frame.
    Data {
        /// The whole counter.
        f_cnt: u32,
        /// The payload as the Application Server decrypted it, or why it could not.
        payload: Result<Vec<u8>, &'static str>,
    },
}

impl std::fmt::Debug for Heard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { application_id, device_id, uplink, downlinks } = self;
        write!(f, "Heard({application_id}.{device_id} {uplink:?}, {} downlinks)", downlinks.len())
    }
}

impl std::fmt::Debug for Uplink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Join => f.write_str("join"),
            Self::Data { f_cnt, payload: Ok(_) } => write!(f, "f_cnt={f_cnt} decrypted"),
            Self::Data { f_cnt, payload: Err(why) } => write!(f, "f_cnt={f_cnt} not decrypted: {why}"),
        }
    }
}

/// Why a network did not take a frame, or did not send one.
#[derive(Debug, thiserror::Error)]
pub enum Dropped {
    /// Refused by a rule of the servers.
    #[error("{0}")]
    Rule(&'static str),
    /// Cannot be read or built.
    #[error(transparent)]
    Frame(#[from] BadFrame),
    /// The store could not be written.
    #[error("cannot store: {0}")]
    Store(#[from] io::Error),
}

/// A gateway of this network received `phy` at `now`.
///
/// # Errors
/// Why no server takes it: an unknown device, a used nonce or counter, a wrong MIC.
pub fn uplink(store: &mut Store, net: &NetworkFacts, now: Timestamp, phy: &[u8]) -> Result<Heard, Dropped> {
    let is_v2 = v2::is_v2(store);
    match parse(phy)? {
        Frame::JoinRequest(request) if is_v2 => v2::join(store, net, now, phy, &request),
        Frame::Data(frame, mic) if is_v2 && frame.uplink => v2::data(store, now, frame, mic),
        Frame::JoinRequest(request) => join::handle(store, net, now, phy, &request),
        Frame::Data(frame, mic) if frame.uplink => data::handle(store, now, frame, mic),
        _ => Err(Dropped::Rule("not an uplink")),
    }
}

#[cfg(test)]
pub(super) mod samples;
#[cfg(test)]
mod tests;
