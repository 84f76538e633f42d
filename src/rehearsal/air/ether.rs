//! One simulated air over several networks: gateways of all of them hear every device.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use jiff::Timestamp;
use prost_reflect::DynamicMessage;

use super::{Downlink, Dropped, Heard, NetworkFacts, Uplink, downlink, uplink, v2};
use crate::{
    map::path,
    rehearsal::{
        device::{Received, Refused, SimDevice},
        store::{Store, Table},
    },
};

/// A network whose gateways hear the simulated devices.
pub trait Network: Send + Sync {
    /// Its NetID and addresses.
    fn facts(&self) -> NetworkFacts;
    /// Runs `work` on what its servers have stored, while nothing else changes it.
    fn with_store(&self, work: &mut dyn FnMut(&mut Store));
}

/// A network that is a store and nothing else.
#[derive(Debug, Clone)]
pub struct SharedNetwork {
    /// Its NetID and addresses.
    pub facts: NetworkFacts,
    /// Its servers' store.
    pub store: Arc<Mutex<Store>>,
}

impl SharedNetwork {
    /// An empty network with these facts.
    pub fn new(facts: NetworkFacts) -> Self {
        Self { facts, store: Arc::new(Mutex::new(Store::in_memory())) }
    }
}

impl Network for SharedNetwork {
    fn facts(&self) -> NetworkFacts {
        self.facts.clone()
    }

    fn with_store(&self, work: &mut dyn FnMut(&mut Store)) {
        work(&mut self.store.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// What became of one transmission.
#[derive(Debug)]
pub struct Answer {
    /// Who took the frame, by the name of the network, and who dropped it why.
    pub heard: Vec<(String, Result<Heard, Dropped>)>,
    /// The network that answered, if one did.
    pub answered_by: Option<String>,
    /// What the device took of the answers, in order.
    pub received: Vec<Received>,
}

impl Answer {
    /// The payload that this network's Application Server read from the frame, when it read one.
    pub fn payload_at(&self, network: &str) -> Option<&[u8]> {
        self.heard.iter().find(|(name, _)| name == network).and_then(|(_, heard)| match heard {
            Ok(Heard { uplink: Uplink::Data { payload: Ok(payload), .. }, .. }) => Some(payload.as_slice()),
            _ => None,
        })
    }
}

/// What must not happen on the air.
#[derive(Debug, thiserror::Error)]
pub enum EtherError {
    /// Two networks think that the device is theirs: the breach of "never live twice" that a device would see.
    #[error("{} networks answered one frame: {}", .0.len(), .0.join(", "))]
    Twice(Vec<String>),
    /// The device refuses an answer, such as one with a repeated counter.
    #[error("the device refused what {network} sent: {why}")]
    Refused {
        /// Who sent it.
        network: String,
        /// Why it was refused.
        why: Refused,
    },
    /// The device cannot send this.
    #[error("the device cannot send this: {0}")]
    Device(Refused),
    /// No network has this name.
    #[error("no network `{0}` on this air")]
    Unknown(String),
    /// The network refused a downlink of the application.
    #[error("{network} does not take a downlink for the device: {why}")]
    Downlink {
        /// Who refused.
        network: String,
        /// Why.
        why: Dropped,
    },
}

type Clock = Box<dyn Fn() -> Timestamp + Send + Sync>;

/// The air: every transmission of a device reaches every network.
pub struct Ether {
    networks: Vec<(String, Arc<dyn Network>)>,
    clock: Clock,
}

impl fmt::Debug for Ether {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.networks()).finish()
    }
}

impl Default for Ether {
    fn default() -> Self {
        Self::new(Timestamp::now)
    }
}

impl Ether {
    /// An air without networks, on this clock.
    pub fn new(clock: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self { networks: Vec::new(), clock: Box::new(clock) }
    }

    /// Puts up gateways of a network.
    pub fn add(&mut self, name: &str, network: Arc<dyn Network>) {
        self.networks.push((name.to_owned(), network));
    }

    /// The names of all networks.
    pub fn networks(&self) -> impl Iterator<Item = &str> {
        self.networks.iter().map(|(name, _)| name.as_str())
    }

    /// The device sends a join-request.
    ///
    /// # Errors
    /// When it cannot join, refuses an answer, or two networks answer.
    pub fn join(&self, device: &mut SimDevice) -> Result<Answer, EtherError> {
        let phy = device.join_request().map_err(EtherError::Device)?;
        self.transmit(device, &phy)
    }

    /// The device sends data.
    ///
    /// # Errors
    /// When it has no session, refuses an answer, or two networks answer.
    pub fn uplink(
        &self,
        device: &mut SimDevice,
        f_port: u8,
        payload: &[u8],
        confirmed: bool,
    ) -> Result<Answer, EtherError> {
        let phy = device.uplink(f_port, payload, confirmed).map_err(EtherError::Device)?;
        self.transmit(device, &phy)
    }

    /// An application of `network` sends data to the device. `None`: it waits in the queue there.
    ///
    /// # Errors
    /// When the network does not know the device, or the device refuses the frame.
    pub fn downlink(
        &self,
        network: &str,
        device: &mut SimDevice,
        down: Downlink<'_>,
    ) -> Result<Option<Received>, EtherError> {
        let (_, of) = self
            .networks
            .iter()
            .find(|(name, _)| name == network)
            .ok_or_else(|| EtherError::Unknown(network.to_owned()))?;
        let now = (self.clock)();
        let mut too_late = false;
        let sent = within(of.as_ref(), |store| {
            if v2::is_v2(store) {
                return v2::downlink(store, device.identity(), down).map(|()| None);
            }
            let key =
                find(store, device).ok_or(Dropped::Rule("no Network Server record is this device's"))?;
            too_late = store.get(Table::Ns, &key).is_some_and(|ns| has_sent_since(device, ns));
            let (application_id, device_id) = key.split_once('.').unwrap_or((&key, ""));
            downlink(store, now, application_id, device_id, down)
        });
        let name = || network.to_owned();
        match sent {
            Err(why) => Err(EtherError::Downlink { network: name(), why }),
            Ok(None) => Ok(None),
            // The windows of an older uplink, which a copied MAC state still counts with, are over for the device.
            Ok(Some(_)) if too_late => Ok(None),
            Ok(Some(phy)) => match device.receive(&phy) {
                Ok(received) => Ok(Some(received)),
                Err(why) => Err(EtherError::Refused { network: name(), why }),
            },
        }
    }

    fn transmit(&self, device: &mut SimDevice, phy: &[u8]) -> Result<Answer, EtherError> {
        let now = (self.clock)();
        let heard: Vec<(String, Result<Heard, Dropped>)> = self
            .networks
            .iter()
            .map(|(name, network)| {
                let facts = network.facts();
                (name.clone(), within(network.as_ref(), |store| uplink(store, &facts, now, phy)))
            })
            .collect();
        let answering: Vec<(&String, &Heard)> = heard
            .iter()
            .filter_map(|(name, heard)| {
                heard.as_ref().ok().filter(|h| !h.downlinks.is_empty()).map(|h| (name, h))
            })
            .collect();
        if answering.len() > 1 {
            return Err(EtherError::Twice(answering.iter().map(|(name, _)| (*name).clone()).collect()));
        }
        let mut received = Vec::new();
        for (name, heard) in &answering {
            for down in &heard.downlinks {
                let refused = |why| EtherError::Refused { network: (*name).clone(), why };
                received.push(device.receive(down).map_err(refused)?);
            }
        }
        let answered_by = answering.first().map(|(name, _)| (*name).clone());
        Ok(Answer { heard, answered_by, received })
    }
}

/// True for a class A device that has sent an uplink which this network has not heard: it listens after that one only.
fn has_sent_since(device: &SimDevice, ns: &DynamicMessage) -> bool {
    let always_listens = path::flag(ns, "multicast") || path::number(ns, "mac_state.device_class") > 0;
    let heard = path::get(ns, "mac_state.recent_uplinks");
    let heard = heard.as_ref().and_then(|v| v.as_list()?.last()?.as_message());
    let heard = heard.map(|up| path::number(up, "payload.mac_payload.full_f_cnt"));
    !always_listens && device.last_f_cnt_up().map(u64::from) != heard
}

/// Runs `work` once on the store of a network and hands its result out.
fn within<T>(
    network: &dyn Network,
    work: impl FnOnce(&mut Store) -> Result<T, Dropped>,
) -> Result<T, Dropped> {
    let mut work = Some(work);
    let mut result = Err(Dropped::Rule("the network did not run"));
    network.with_store(&mut |store| {
        if let Some(work) = work.take() {
            result = work(store);
        }
    });
    result
}

/// The device's record at the Network Server: by EUIs, or by its session where it has no DevEUI.
fn find(store: &Store, device: &SimDevice) -> Option<String> {
    let identity = device.identity();
    let bytes = |at: &str, record| path::bytes(record, at);
    store
        .iter(Table::Ns)
        .find(|(_, ns)| match identity.dev_eui {
            Some(eui) => {
                bytes("ids.dev_eui", ns) == eui.0
                    && identity.join_eui.is_none_or(|join| bytes("ids.join_eui", ns) == join.0)
            }
            None => {
                device.dev_addr().is_some_and(|addr| bytes("session.dev_addr", ns) == addr.0)
                    && device.has_session_key(&bytes("session.keys.f_nwk_s_int_key.key", ns))
            }
        })
        .map(|(key, _)| key.to_owned())
}
