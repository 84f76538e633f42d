//! A simulated LoRaWAN device: it keeps its own keys, nonces and counters, as silicon does.
//!
//! It is the truth that servers must match. It refuses what a certified device refuses: a wrong MIC, a JoinNonce that
//! does not rise (1.0.4 §6.2.3, 1.1 §6.2.3), an FCntDown that does not rise (§4.3.1.5).

mod stored;

use lrwn::FCtrl;
use prost_reflect::DynamicMessage;

use super::{
    lorawan::{
        BadFrame, DataFrame, Frame, JoinAccept, JoinKeys, JoinRequest, Key, MacVersion, REKEY, SessionKeys,
        parse,
    },
    ttn_v2::is_zero,
};
use crate::{
    map::path,
    model::{
        device::{Record, Records},
        ids::{DevAddr, Eui64},
    },
};

pub(super) use stored::root_keys;

/// A device on the simulated air.
#[derive(Debug, Clone)]
pub struct SimDevice {
    identity: Identity,
    version: MacVersion,
    root: Option<JoinKeys>,
    nonces: Nonces,
    session: Option<Session>,
    multicast: bool,
    readable: bool,
}

/// The EUIs that are burnt into a device; a multicast group and many ABP devices have no JoinEUI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Identity {
    /// DevEUI.
    pub dev_eui: Option<Eui64>,
    /// JoinEUI.
    pub join_eui: Option<Eui64>,
}

#[derive(Debug, Clone, Default)]
struct Nonces {
    /// The DevNonce of the last join-request.
    last_dev_nonce: u16,
    /// DevNonces that must not be drawn again (before 1.0.4, where they are drawn).
    used: Vec<u16>,
    /// The JoinNonce of the last accept that was taken.
    last_join_nonce: Option<u32>,
    /// The join-request that waits for its accept.
    joining: Option<JoinRequest>,
}

#[derive(Debug, Clone)]
struct Session {
    dev_addr: DevAddr,
    keys: SessionKeys,
    /// The version in use: a 1.1 device on a 1.0.x network works as 1.0.x (1.1 §6.1.1).
    version: MacVersion,
    next_f_cnt_up: u32,
    /// The only downlink counter of 1.0.x; the network's of 1.1.
    last_n_f_cnt_down: Option<u32>,
    /// The application's downlink counter of 1.1.
    last_a_f_cnt_down: Option<u32>,
    /// FCntDown of the confirmed downlink that the next uplink acknowledges.
    ack_due: Option<u32>,
    /// 1.1 after a join: every uplink carries RekeyInd until RekeyConf comes (1.1 §5.10).
    rekeying: bool,
}

/// What a device took from the air.
#[derive(Clone, PartialEq, Eq)]
pub enum Received {
    /// A join-accept: a new session.
    Joined {
        /// The address in the new session.
        dev_addr: DevAddr,
    },
    /// A downlink.
    Data {
        /// The whole downlink counter.
        f_cnt: u32,
        /// FPort, when there is one.
        f_port: Option<u8>,
        /// The payload, decrypted.
        payload: Vec<u8>,
        /// It acknowledges the last confirmed uplink.
        ack: bool,
    },
}

impl std::fmt::Debug for Received {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Joined { dev_addr } => write!(f, "Joined({dev_addr})"),
            Self::Data { f_cnt, f_port, ack, .. } => {
                write!(f, "Data(f_cnt={f_cnt} f_port={f_port:?} ack={ack})")
            }
        }
    }
}

/// Why a device ignores a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Cannot be read.
    #[error(transparent)]
    Malformed(#[from] BadFrame),
    /// Another device's, an uplink, or a join-accept that was not asked for.
    #[error("not for this device")]
    NotForUs,
    /// Not made with this device's keys.
    #[error("wrong MIC")]
    Mic,
    /// A JoinNonce that was seen before.
    #[error("JoinNonce {got} is not above {last}")]
    JoinNonce {
        /// The last one taken.
        last: u32,
        /// This one.
        got: u32,
    },
    /// An FCntDown that was seen before.
    #[error("FCntDown {got} is not above {last}")]
    Counter {
        /// The last one taken.
        last: u32,
        /// This one.
        got: u32,
    },
}

/// Why the records of a device do not make a simulated one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("device {device}: cannot be simulated: {why}")]
pub struct NotSimulated {
    /// Its `device_id`.
    pub device: String,
    /// What is missing.
    pub why: &'static str,
}

impl SimDevice {
    /// An OTAA device as it leaves the factory. 1.0.x uses the AppKey alone; 1.1 also needs the NwkKey.
    pub fn otaa(
        version: MacVersion,
        dev_eui: Eui64,
        join_eui: Eui64,
        app_key: Key,
        nwk_key: Option<Key>,
    ) -> Self {
        let network = nwk_key.unwrap_or_else(|| app_key.clone());
        let application = if version.is_1_1() { app_key } else { network.clone() };
        Self {
            identity: Identity { dev_eui: Some(dev_eui), join_eui: Some(join_eui) },
            version,
            root: Some(JoinKeys { network, application }),
            nonces: Nonces::default(),
            session: None,
            multicast: false,
            readable: true,
        }
    }

    /// An ABP device at its first start.
    pub fn abp(version: MacVersion, dev_eui: Option<Eui64>, dev_addr: DevAddr, keys: SessionKeys) -> Self {
        Self {
            identity: Identity { dev_eui, join_eui: None },
            version,
            root: None,
            nonces: Nonces::default(),
            session: Some(Session::fresh(dev_addr, keys, version, false)),
            multicast: false,
            readable: true,
        }
    }

    /// The device that these records describe: as if it had seen everything that its servers sent.
    ///
    /// # Errors
    /// When neither root keys nor a session with all its keys are stored, or the MAC version is unknown.
    pub fn from_records(records: &Records) -> Result<Self, NotSimulated> {
        let any = records.present().map(|(_, r)| r).next();
        let device = any.map(Record::device_id).unwrap_or_default();
        let fail = |why| NotSimulated { device: device.clone(), why };
        let ns = records.ns.as_ref().ok_or_else(|| fail("no Network Server record"))?;
        let version = MacVersion::from_number(path::number(&ns.0, "lorawan_version"))
            .ok_or_else(|| fail("its LoRaWAN version is unknown"))?;
        let root = records.js.as_ref().and_then(|js| root_keys(&js.0, version));
        let session = stored::session(&ns.0, records.as_.as_ref().map(|r| &r.0));
        if root.is_none() && session.is_none() {
            return Err(fail("neither root keys nor a whole session"));
        }
        let as_addr = records.as_.as_ref().and_then(Record::session_addr);
        Ok(Self {
            identity: Identity { dev_eui: ns.dev_eui(), join_eui: ns.join_eui() },
            version,
            root,
            nonces: records.js.as_ref().map(|js| stored::nonces(&js.0)).unwrap_or_default(),
            readable: session.as_ref().is_none_or(|s| as_addr == Some(s.dev_addr)),
            session,
            multicast: path::flag(&ns.0, "multicast"),
        })
    }

    /// The device that V2's GetDevice answers (a `handler.Device`), as if it had seen everything that was sent to it. V2 does
    /// not know versions: it is one of LoRaWAN 1.0.2. Its DevNonces begin anew, as V2 does not tell which are used.
    ///
    /// # Errors
    /// When neither a root key nor a whole session is stored.
    pub fn from_v2(device: &DynamicMessage) -> Result<Self, NotSimulated> {
        let lorawan = path::child(device, "lorawan_device");
        let lorawan = lorawan.unwrap_or_else(|| crate::proto::message("lorawan.Device"));
        let held = |field: &str| Some(path::bytes(&lorawan, field)).filter(|bytes| !is_zero(bytes));
        let session = stored::v2_session(&lorawan);
        let app_key = held("app_key").and_then(|key| Key::from_bytes(&key));
        let root = app_key.map(|key| JoinKeys { network: key.clone(), application: key });
        if root.is_none() && session.is_none() {
            let why = "neither a root key nor a whole session";
            return Err(NotSimulated { device: path::string(device, "dev_id"), why });
        }
        Ok(Self {
            identity: Identity {
                dev_eui: held("dev_eui").and_then(|eui| Eui64::from_bytes(&eui)),
                join_eui: Eui64::from_bytes(&path::bytes(&lorawan, "app_eui")),
            },
            version: MacVersion::V1_0_2,
            root,
            nonces: Nonces::default(),
            readable: session.is_none() || held("app_s_key").is_some(),
            session,
            multicast: false,
        })
    }

    /// Its EUIs.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Its address, when it has a session.
    pub fn dev_addr(&self) -> Option<DevAddr> {
        self.session.as_ref().map(|s| s.dev_addr)
    }

    /// True when it can join.
    pub fn joins(&self) -> bool {
        self.root.is_some() && self.identity.dev_eui.is_some() && self.identity.join_eui.is_some()
    }

    /// True for a multicast group, which only receives.
    pub fn is_multicast(&self) -> bool {
        self.multicast
    }

    /// False when the Application Server never could read its payloads: its session has another `dev_addr` than the
    /// Network Server's (none at all, for devices created without one). True again after a join.
    pub fn readable(&self) -> bool {
        self.readable
    }

    /// The highest FCntDown that it has taken in this session: the network's, and the application's of 1.1.
    pub fn f_cnt_down(&self) -> (Option<u32>, Option<u32>) {
        self.session.as_ref().map_or((None, None), |s| (s.last_n_f_cnt_down, s.last_a_f_cnt_down))
    }

    /// True when `f_nwk_s_int_key` is that of its session.
    pub fn has_session_key(&self, f_nwk_s_int_key: &[u8]) -> bool {
        self.session.as_ref().is_some_and(|s| s.keys.f_nwk_s_int.bytes() == f_nwk_s_int_key)
    }

    /// True when its last join-request was not answered: a device tries again until it is.
    pub fn waits_for_accept(&self) -> bool {
        self.nonces.joining.is_some()
    }

    /// FCntUp of its last uplink in this session.
    pub fn last_f_cnt_up(&self) -> Option<u32> {
        self.session.as_ref()?.next_f_cnt_up.checked_sub(1)
    }

    /// A join-request with the next DevNonce. The old session stays until an accept is taken.
    ///
    /// # Errors
    /// When the device cannot join.
    pub fn join_request(&mut self) -> Result<Vec<u8>, Refused> {
        let (Some(root), Identity { dev_eui: Some(dev_eui), join_eui: Some(join_eui) }) =
            (&self.root, self.identity)
        else {
            return Err(Refused::NotForUs);
        };
        let request = JoinRequest { join_eui, dev_eui, dev_nonce: self.nonces.next(self.version) };
        self.nonces.joining = Some(request);
        Ok(request.seal(&root.network)?)
    }

    /// An uplink with the next FCntUp. A device that owes an acknowledgement sends it along.
    ///
    /// # Errors
    /// When the device has no session, or the payload does not fit a frame.
    pub fn uplink(&mut self, f_port: u8, payload: &[u8], confirmed: bool) -> Result<Vec<u8>, Refused> {
        let session = self.session.as_mut().filter(|_| !self.multicast).ok_or(Refused::NotForUs)?;
        let ack = session.ack_due.take();
        let mut frame = DataFrame {
            uplink: true,
            confirmed,
            f_ctrl: FCtrl { ack: ack.is_some(), ..FCtrl::default() },
            dev_addr: session.dev_addr,
            f_cnt: session.next_f_cnt_up,
            f_opts: if session.rekeying { REKEY.to_vec() } else { Vec::new() },
            f_port: Some(f_port),
            payload: payload.to_vec(),
        };
        let keys = &session.keys;
        frame.crypt_payload(if f_port == 0 { &keys.nwk_s_enc } else { &keys.app_s })?;
        if session.version.is_1_1() {
            frame.crypt_f_opts(&keys.nwk_s_enc)?;
        }
        let mic =
            frame.uplink_mic(session.version, ack.unwrap_or(0), &keys.f_nwk_s_int, &keys.s_nwk_s_int)?;
        session.next_f_cnt_up = session.next_f_cnt_up.wrapping_add(1);
        Ok(frame.encode(mic)?)
    }

    /// Forgets all counters of the session, as an ABP device does when it loses power.
    pub fn power_cycle(&mut self) {
        if let Some(session) = &mut self.session {
            *session = Session::fresh(session.dev_addr, session.keys.clone(), session.version, false);
        }
    }

    /// Takes a frame from the air, or refuses it.
    ///
    /// # Errors
    /// Why the device ignores it; nothing has changed then.
    pub fn receive(&mut self, phy: &[u8]) -> Result<Received, Refused> {
        match parse(phy)? {
            Frame::JoinAccept => self.take_accept(phy),
            Frame::Data(frame, mic) if !frame.uplink => {
                let session = self.session.as_mut().ok_or(Refused::NotForUs)?;
                if session.dev_addr != frame.dev_addr {
                    return Err(Refused::NotForUs);
                }
                session.take(frame, mic)
            }
            _ => Err(Refused::NotForUs),
        }
    }

    fn take_accept(&mut self, phy: &[u8]) -> Result<Received, Refused> {
        let (Some(request), Some(root)) = (self.nonces.joining, &self.root) else {
            return Err(Refused::NotForUs);
        };
        let accept = JoinAccept::open(phy, &request, &root.network).ok_or(Refused::Mic)?;
        if let Some(last) = self.nonces.last_join_nonce
            && self.version.counts_nonces()
            && accept.join_nonce <= last
        {
            return Err(Refused::JoinNonce { last, got: accept.join_nonce });
        }
        // Without OptNeg a 1.1 device falls back to 1.0.x, where the NwkKey stands for every root key (1.1 §6.1.1.3).
        let (version, root) = match (self.version.is_1_1(), accept.opt_neg) {
            (true, false) => {
                let all = JoinKeys { network: root.network.clone(), application: root.network.clone() };
                (MacVersion::V1_0_2, all)
            }
            (false, true) => return Err(Refused::Mic),
            _ => (self.version, root.clone()),
        };
        let keys = accept.derive(&request, &root)?;
        self.nonces.joining = None;
        self.nonces.last_join_nonce = Some(accept.join_nonce);
        self.session = Some(Session::fresh(accept.dev_addr, keys, version, version.is_1_1()));
        self.readable = true;
        Ok(Received::Joined { dev_addr: accept.dev_addr })
    }
}

impl Nonces {
    /// A counter from 1.0.4 on. Before it is drawn: here by a full-period generator, which repeats itself as late as
    /// can be, without those that the Join Server remembers.
    fn next(&mut self, version: MacVersion) -> u16 {
        if version.counts_nonces() {
            self.last_dev_nonce = self.last_dev_nonce.wrapping_add(1);
            return self.last_dev_nonce;
        }
        for _ in 0..=u16::MAX {
            self.last_dev_nonce = self.last_dev_nonce.wrapping_mul(25_173).wrapping_add(13_849);
            if !self.used.contains(&self.last_dev_nonce) {
                break;
            }
        }
        self.used.push(self.last_dev_nonce);
        self.last_dev_nonce
    }
}

impl Session {
    fn fresh(dev_addr: DevAddr, keys: SessionKeys, version: MacVersion, rekeying: bool) -> Self {
        Self {
            dev_addr,
            keys,
            version,
            next_f_cnt_up: 0,
            last_n_f_cnt_down: None,
            last_a_f_cnt_down: None,
            ack_due: None,
            rekeying,
        }
    }

    fn take(&mut self, mut frame: DataFrame, mic: [u8; 4]) -> Result<Received, Refused> {
        let application = self.version.is_1_1() && frame.f_port.is_some_and(|port| port > 0);
        let last = if application { self.last_a_f_cnt_down } else { self.last_n_f_cnt_down };
        frame.f_cnt = self.whole_counter(&mut frame, mic, last)?;
        let keys = &self.keys;
        if self.version.is_1_1() {
            frame.crypt_f_opts(&keys.nwk_s_enc)?;
        }
        frame.crypt_payload(if frame.f_port == Some(0) { &keys.nwk_s_enc } else { &keys.app_s })?;
        *(if application { &mut self.last_a_f_cnt_down } else { &mut self.last_n_f_cnt_down }) =
            Some(frame.f_cnt);
        if frame.confirmed {
            self.ack_due = Some(frame.f_cnt);
        }
        self.rekeying &= frame.f_opts != REKEY;
        Ok(Received::Data {
            f_cnt: frame.f_cnt,
            f_port: frame.f_port,
            payload: frame.payload,
            ack: frame.f_ctrl.ack,
        })
    }

    /// The 32-bit counter whose lower half was sent and that the MIC fits: strictly above `last`.
    fn whole_counter(&self, frame: &mut DataFrame, mic: [u8; 4], last: Option<u32>) -> Result<u32, Refused> {
        let same_round = last.unwrap_or(0) & 0xffff_0000 | frame.f_cnt & 0xffff;
        for f_cnt in [same_round, same_round.wrapping_add(0x1_0000)] {
            frame.f_cnt = f_cnt;
            let expected = frame.downlink_mic(
                self.version,
                self.next_f_cnt_up.wrapping_sub(1),
                &self.keys.s_nwk_s_int,
            )?;
            match last {
                _ if expected != mic => {}
                Some(last) if f_cnt <= last => return Err(Refused::Counter { last, got: f_cnt }),
                _ => return Ok(f_cnt),
            }
        }
        Err(Refused::Mic)
    }
}
