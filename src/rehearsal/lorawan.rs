//! LoRaWAN frames and keys, as a device and a network both need them: LoRaWAN 1.0.x and 1.1 on top of `lrwn`.
//!
//! Byte order, MIC blocks and key derivation are those of the LoRaWAN L2 1.0.4 and 1.1 specifications, with the
//! erratum on the encryption of FOpts (`FOpts Encryption, Usage of FCntDwn`).

use std::fmt;

use lrwn::{
    AES128Key, DLSettings, EUI64, FCtrl, FHDR, FRMPayload, FType, JoinAcceptPayload, JoinRequestPayload,
    JoinType, MACCommand, MACCommandSet, MACPayload, MHDR, Major, NetID, Payload, PhyPayload, keys,
};
use zeroize::ZeroizeOnDrop;

use crate::model::ids::{DevAddr, Eui64, NetId};

/// Data rate index of every simulated uplink; it goes into the MIC of LoRaWAN 1.1 (SF7 at 125 kHz in EU868).
pub const TX_DATA_RATE: u8 = 5;
/// Channel index of every simulated uplink; it goes into the MIC of LoRaWAN 1.1.
pub const TX_CHANNEL: u8 = 0;
/// MAC command `RekeyInd` of a LoRaWAN 1.1 device, and `RekeyConf` of its network: CID, then the minor version.
pub const REKEY: [u8; 2] = [0x0b, 0x01];

/// A frame that cannot be read or built; the text says which part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed LoRaWAN frame: {0}")]
pub struct BadFrame(pub &'static str);

/// An AES-128 key: redacted in `Debug`, wiped when dropped.
#[derive(Clone, PartialEq, Eq, ZeroizeOnDrop)]
pub struct Key([u8; 16]);

impl Key {
    /// From these bytes.
    pub fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// From a stored field; `None` when it does not hold 16 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The bytes, to be stored in a registry.
    pub fn bytes(&self) -> &[u8; 16] {
        &self.0
    }

    fn lrwn(&self) -> AES128Key {
        AES128Key::from_bytes(self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A MAC version, in the order of the specifications (which is not that of the enum numbers of The Things Stack).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MacVersion {
    /// LoRaWAN 1.0.0.
    V1_0_0,
    /// LoRaWAN 1.0.1.
    V1_0_1,
    /// LoRaWAN 1.0.2.
    V1_0_2,
    /// LoRaWAN 1.0.3.
    V1_0_3,
    /// LoRaWAN 1.0.4.
    V1_0_4,
    /// LoRaWAN 1.1.
    V1_1,
}

impl MacVersion {
    const NUMBERS: [(Self, i32); 6] = [
        (Self::V1_0_0, 1),
        (Self::V1_0_1, 2),
        (Self::V1_0_2, 3),
        (Self::V1_0_3, 5),
        (Self::V1_0_4, 6),
        (Self::V1_1, 4),
    ];

    /// From the number of `ttn.lorawan.v3.MACVersion`; `None` for `MAC_UNKNOWN`.
    pub fn from_number(number: u64) -> Option<Self> {
        Self::NUMBERS.iter().find(|(_, n)| u64::try_from(*n) == Ok(number)).map(|(v, _)| *v)
    }

    /// The number of `ttn.lorawan.v3.MACVersion`.
    pub fn number(self) -> i32 {
        Self::NUMBERS.iter().find(|(v, _)| *v == self).map_or(0, |(_, n)| *n)
    }

    /// True where DevNonce and JoinNonce are counters: 1.0.4 and 1.1 (upstream `macspec.IncrementDevNonce`).
    pub fn counts_nonces(self) -> bool {
        self >= Self::V1_0_4
    }

    /// True for 1.1: two root keys, three network session keys, separate downlink counters.
    pub fn is_1_1(self) -> bool {
        self == Self::V1_1
    }
}

/// The two root keys of a join, after it was decided which key plays which part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinKeys {
    /// For MIC, join-accept and network session keys.
    pub network: Key,
    /// For the AppSKey.
    pub application: Key,
}

impl JoinKeys {
    /// Which stored root key plays which part: the table in upstream `pkg/joinserver/joinserver.go`, `HandleJoin`.
    ///
    /// 1.1 needs both. 1.0.x uses the NwkKey for everything when there is one, else the AppKey; but the AppKey again
    /// where the root keys came from the CLI, which used to make both for every version.
    pub fn choose(
        version: MacVersion,
        app: Option<Key>,
        nwk: Option<Key>,
        root_key_id: &str,
    ) -> Option<Self> {
        if version.is_1_1() {
            return Some(Self { network: nwk?, application: app? });
        }
        let key = nwk.filter(|_| root_key_id != "ttn-lw-cli-generated").or(app)?;
        Some(Self { network: key.clone(), application: key })
    }
}

/// The keys of one session. LoRaWAN 1.0.x has one network key, which stands in all three places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionKeys {
    /// FNwkSIntKey, or NwkSKey.
    pub f_nwk_s_int: Key,
    /// SNwkSIntKey, or NwkSKey.
    pub s_nwk_s_int: Key,
    /// NwkSEncKey, or NwkSKey.
    pub nwk_s_enc: Key,
    /// AppSKey.
    pub app_s: Key,
}

/// What a join-request says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JoinRequest {
    /// JoinEUI (AppEUI in 1.0.x).
    pub join_eui: Eui64,
    /// DevEUI.
    pub dev_eui: Eui64,
    /// DevNonce.
    pub dev_nonce: u16,
}

/// What a join-accept says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JoinAccept {
    /// JoinNonce (AppNonce in 1.0.x), 24 bits.
    pub join_nonce: u32,
    /// NetID of the home network.
    pub net_id: NetId,
    /// The device's address in the new session.
    pub dev_addr: DevAddr,
    /// OptNeg: the session is one of LoRaWAN 1.1.
    pub opt_neg: bool,
    /// RX1 delay in seconds.
    pub rx_delay: u8,
}

/// A data frame. `f_cnt` is the whole 32-bit counter, of which 16 bits are sent; `f_opts` and `payload` are as they
/// are on the air (encrypted or not).
#[derive(Clone, PartialEq, Eq)]
pub struct DataFrame {
    /// Device to network.
    pub uplink: bool,
    /// Wants an acknowledgement.
    pub confirmed: bool,
    /// ADR, ACK, FPending …
    pub f_ctrl: FCtrl,
    /// Device address.
    pub dev_addr: DevAddr,
    /// Frame counter.
    pub f_cnt: u32,
    /// MAC commands in the header, at most 15 bytes.
    pub f_opts: Vec<u8>,
    /// FPort; `None` when there is no payload.
    pub f_port: Option<u8>,
    /// FRMPayload.
    pub payload: Vec<u8>,
}

impl fmt::Debug for DataFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { uplink, confirmed, dev_addr, f_cnt, f_port, .. } = self;
        write!(
            f,
            "DataFrame({dev_addr} uplink={uplink} confirmed={confirmed} f_cnt={f_cnt} f_port={f_port:?})"
        )
    }
}

/// What came over the air, as far as it can be read without keys.
#[derive(Debug)]
pub enum Frame {
    /// A join-request with its MIC.
    JoinRequest(JoinRequest),
    /// A join-accept, encrypted.
    JoinAccept,
    /// A data frame and its MIC; only the lower 16 bits of `f_cnt` are known.
    Data(DataFrame, [u8; 4]),
    /// A rejoin-request or a proprietary frame. The Network Server of 3.32 refuses rejoin-requests
    /// (upstream `pkg/networkserver/grpc_gsns.go`, `handleRejoinRequest`).
    Other,
}

/// Reads a PHY payload.
///
/// # Errors
/// When it is not a LoRaWAN R1 frame.
pub fn parse(phy: &[u8]) -> Result<Frame, BadFrame> {
    let PhyPayload { mhdr, payload, mic } = read(phy)?;
    Ok(match (payload, mic) {
        (Payload::JoinRequest(join), Some(_)) => Frame::JoinRequest(JoinRequest {
            join_eui: Eui64(join.join_eui.to_be_bytes()),
            dev_eui: Eui64(join.dev_eui.to_be_bytes()),
            dev_nonce: join.dev_nonce,
        }),
        (Payload::Raw(_), Some(_)) if mhdr.f_type == FType::JoinAccept => Frame::JoinAccept,
        (Payload::MACPayload(mac), Some(mic)) => {
            let f_opts = mac.fhdr.f_opts.to_vec().map_err(|_| BadFrame("FOpts"))?;
            let payload = mac.frm_payload.map_or(Ok(Vec::new()), |p| p.to_vec());
            let frame = DataFrame {
                uplink: matches!(mhdr.f_type, FType::ConfirmedDataUp | FType::UnconfirmedDataUp),
                confirmed: matches!(mhdr.f_type, FType::ConfirmedDataUp | FType::ConfirmedDataDown),
                f_ctrl: mac.fhdr.f_ctrl,
                dev_addr: DevAddr(mac.fhdr.devaddr.to_be_bytes()),
                f_cnt: mac.fhdr.f_cnt,
                f_opts,
                f_port: mac.f_port,
                payload: payload.map_err(|_| BadFrame("FRMPayload"))?,
            };
            Frame::Data(frame, mic)
        }
        _ => Frame::Other,
    })
}

fn read(phy: &[u8]) -> Result<PhyPayload, BadFrame> {
    PhyPayload::from_slice(phy).map_err(|_| BadFrame("not a frame of LoRaWAN R1"))
}

fn write(phy: &PhyPayload) -> Result<Vec<u8>, BadFrame> {
    phy.to_vec().map_err(|_| BadFrame("does not fit a PHY payload"))
}

fn header(f_type: FType) -> MHDR {
    MHDR { f_type, major: Major::LoRaWANR1 }
}

impl JoinRequest {
    /// The PHY payload, with a MIC by the network root key.
    ///
    /// # Errors
    /// Never, for a key of 16 bytes; the signature follows `lrwn`.
    pub fn seal(&self, key: &Key) -> Result<Vec<u8>, BadFrame> {
        let mut phy = PhyPayload {
            mhdr: header(FType::JoinRequest),
            payload: Payload::JoinRequest(JoinRequestPayload {
                join_eui: eui(self.join_eui),
                dev_eui: eui(self.dev_eui),
                dev_nonce: self.dev_nonce,
            }),
            mic: None,
        };
        phy.set_join_request_mic(&key.lrwn()).map_err(|_| BadFrame("MIC of a join-request"))?;
        write(&phy)
    }

    /// True when `phy`, the frame that this was parsed from, has a MIC by `key`.
    pub fn has_mic(phy: &[u8], key: &Key) -> bool {
        read(phy).is_ok_and(|phy| phy.validate_join_request_mic(&key.lrwn()).unwrap_or(false))
    }
}

impl JoinAccept {
    /// The PHY payload that answers `request`: with a MIC, then encrypted by the network root key.
    ///
    /// # Errors
    /// When `rx_delay` is over 15.
    pub fn seal(&self, request: &JoinRequest, network_key: &Key) -> Result<Vec<u8>, BadFrame> {
        let failed = |_| BadFrame("join-accept");
        let mut phy = PhyPayload {
            mhdr: header(FType::JoinAccept),
            payload: Payload::JoinAccept(JoinAcceptPayload {
                join_nonce: self.join_nonce,
                home_netid: NetID::from_be_bytes(self.net_id.0),
                devaddr: addr(self.dev_addr),
                dl_settings: DLSettings { opt_neg: self.opt_neg, rx2_dr: 0, rx1_dr_offset: 0 },
                rx_delay: self.rx_delay,
                cflist: None,
            }),
            mic: None,
        };
        let mic_key = self.mic_key(request.dev_eui, network_key)?;
        phy.set_join_accept_mic(JoinType::Join, &eui(request.join_eui), request.dev_nonce, &mic_key)
            .map_err(failed)?;
        phy.encrypt_join_accept_payload(&network_key.lrwn()).map_err(failed)?;
        write(&phy)
    }

    /// Decrypts the answer to `request` and checks its MIC; `None` when it is not an answer to it.
    pub fn open(phy: &[u8], request: &JoinRequest, network_key: &Key) -> Option<Self> {
        let mut phy = read(phy).ok()?;
        phy.decrypt_join_accept_payload(&network_key.lrwn()).ok()?;
        let Payload::JoinAccept(payload) = &phy.payload else { return None };
        let mut net_id = payload.home_netid.to_le_bytes();
        net_id.reverse();
        let accept = Self {
            join_nonce: payload.join_nonce,
            net_id: NetId(net_id),
            dev_addr: DevAddr(payload.devaddr.to_be_bytes()),
            opt_neg: payload.dl_settings.opt_neg,
            rx_delay: payload.rx_delay,
        };
        let mic_key = accept.mic_key(request.dev_eui, network_key).ok()?;
        phy.validate_join_accept_mic(JoinType::Join, &eui(request.join_eui), request.dev_nonce, &mic_key)
            .ok()?
            .then_some(accept)
    }

    /// 1.1 protects the accept by the JSIntKey (specification 1.1 §6.1.1.3), 1.0.x by the root key itself.
    fn mic_key(&self, dev_eui: Eui64, network_key: &Key) -> Result<AES128Key, BadFrame> {
        if !self.opt_neg {
            return Ok(network_key.lrwn());
        }
        keys::get_js_int_key(&eui(dev_eui), &network_key.lrwn()).map_err(|_| BadFrame("JSIntKey"))
    }

    /// The keys of the session that this accept starts.
    ///
    /// # Errors
    /// Never, for keys of 16 bytes; the signature follows `lrwn`.
    pub fn derive(&self, request: &JoinRequest, root: &JoinKeys) -> Result<SessionKeys, BadFrame> {
        let args = (self, request);
        let f_nwk_s_int = session_key(args, keys::get_f_nwk_s_int_key, &root.network)?;
        let app_s = session_key(args, keys::get_app_s_key, &root.application)?;
        Ok(if self.opt_neg {
            SessionKeys {
                f_nwk_s_int,
                s_nwk_s_int: session_key(args, keys::get_s_nwk_s_int_key, &root.network)?,
                nwk_s_enc: session_key(args, keys::get_nwk_s_enc_key, &root.network)?,
                app_s,
            }
        } else {
            SessionKeys {
                s_nwk_s_int: f_nwk_s_int.clone(),
                nwk_s_enc: f_nwk_s_int.clone(),
                f_nwk_s_int,
                app_s,
            }
        })
    }
}

impl DataFrame {
    /// Encrypts or decrypts `payload` in place: by the AppSKey, on FPort 0 by the NwkSEncKey.
    ///
    /// # Errors
    /// When the payload is longer than a frame can hold.
    pub fn crypt_payload(&mut self, key: &Key) -> Result<(), BadFrame> {
        self.payload = lrwn::encrypt_frm_payload(
            &key.lrwn(),
            self.uplink,
            &addr(self.dev_addr),
            self.f_cnt,
            &self.payload,
        )
        .map_err(|_| BadFrame("FRMPayload"))?;
        Ok(())
    }

    /// Encrypts or decrypts `f_opts` in place, which LoRaWAN 1.1 does with the NwkSEncKey.
    ///
    /// # Errors
    /// When there are more than 15 bytes.
    pub fn crypt_f_opts(&mut self, key: &Key) -> Result<(), BadFrame> {
        let a_f_cnt_down = !self.uplink && self.f_port.is_some_and(|port| port > 0);
        let to = addr(self.dev_addr);
        self.f_opts =
            lrwn::encrypt_f_opts(&key.lrwn(), a_f_cnt_down, self.uplink, &to, self.f_cnt, &self.f_opts)
                .map_err(|_| BadFrame("FOpts"))?;
        Ok(())
    }

    /// The MIC of an uplink. `conf_f_cnt` is the counter of the confirmed downlink that it acknowledges (1.1).
    ///
    /// # Errors
    /// When the frame cannot be encoded.
    pub fn uplink_mic(
        &self,
        version: MacVersion,
        conf_f_cnt: u32,
        f_nwk_s_int: &Key,
        s_nwk_s_int: &Key,
    ) -> Result<[u8; 4], BadFrame> {
        let mut phy = self.phy();
        let (f_key, s_key) = (f_nwk_s_int.lrwn(), s_nwk_s_int.lrwn());
        phy.set_uplink_data_mic(lrwn_version(version), conf_f_cnt, TX_DATA_RATE, TX_CHANNEL, &f_key, &s_key)
            .map_err(|_| BadFrame("MIC of an uplink"))?;
        phy.mic.ok_or(BadFrame("MIC of an uplink"))
    }

    /// The MIC of a downlink. `conf_f_cnt` is the counter of the confirmed uplink that it acknowledges (1.1).
    ///
    /// # Errors
    /// When the frame cannot be encoded.
    pub fn downlink_mic(
        &self,
        version: MacVersion,
        conf_f_cnt: u32,
        s_nwk_s_int: &Key,
    ) -> Result<[u8; 4], BadFrame> {
        let mut phy = self.phy();
        phy.set_downlink_data_mic(lrwn_version(version), conf_f_cnt, &s_nwk_s_int.lrwn())
            .map_err(|_| BadFrame("MIC of a downlink"))?;
        phy.mic.ok_or(BadFrame("MIC of a downlink"))
    }

    /// The PHY payload with this MIC.
    ///
    /// # Errors
    /// When the frame cannot be encoded.
    pub fn encode(&self, mic: [u8; 4]) -> Result<Vec<u8>, BadFrame> {
        write(&PhyPayload { mic: Some(mic), ..self.phy() })
    }

    fn phy(&self) -> PhyPayload {
        let f_opts = if self.f_opts.is_empty() { vec![] } else { vec![MACCommand::Raw(self.f_opts.clone())] };
        PhyPayload {
            mhdr: header(match (self.uplink, self.confirmed) {
                (true, true) => FType::ConfirmedDataUp,
                (true, false) => FType::UnconfirmedDataUp,
                (false, true) => FType::ConfirmedDataDown,
                (false, false) => FType::UnconfirmedDataDown,
            }),
            payload: Payload::MACPayload(MACPayload {
                fhdr: FHDR {
                    devaddr: addr(self.dev_addr),
                    f_ctrl: self.f_ctrl.clone(),
                    f_cnt: self.f_cnt,
                    f_opts: MACCommandSet::new(f_opts),
                },
                f_port: self.f_port,
                frm_payload: (!self.payload.is_empty()).then(|| FRMPayload::Raw(self.payload.clone())),
            }),
            mic: None,
        }
    }
}

/// One derivation of `lrwn`, whose error type is none of ours.
fn session_key<E>(
    (accept, request): (&JoinAccept, &JoinRequest),
    derive: impl Fn(bool, &AES128Key, &NetID, &EUI64, u32, u16) -> Result<AES128Key, E>,
    root: &Key,
) -> Result<Key, BadFrame> {
    let net_id = NetID::from_be_bytes(accept.net_id.0);
    let join_eui = eui(request.join_eui);
    derive(accept.opt_neg, &root.lrwn(), &net_id, &join_eui, accept.join_nonce, request.dev_nonce)
        .map(|key| Key(key.to_bytes()))
        .map_err(|_| BadFrame("session key"))
}

fn lrwn_version(version: MacVersion) -> lrwn::MACVersion {
    if version.is_1_1() { lrwn::MACVersion::LoRaWAN1_1 } else { lrwn::MACVersion::LoRaWAN1_0 }
}

fn eui(eui: Eui64) -> EUI64 {
    EUI64::from_be_bytes(eui.0)
}

fn addr(addr: DevAddr) -> lrwn::DevAddr {
    lrwn::DevAddr::from_be_bytes(addr.0)
}

#[cfg(test)]
#[path = "lorawan_tests.rs"]
mod tests;
