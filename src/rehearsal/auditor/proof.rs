//! The end of every safety test: the device itself shows that it is served, by exactly one side.

use std::fmt;

use crate::rehearsal::{
    air::{Answer, Downlink, Ether, EtherError},
    device::{Received, SimDevice},
};

const UP: &[u8] = b"alive?";
const DOWN: &[u8] = b"alive!";
const F_PORT: u8 = 42;

/// What a device has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// The network that serves it.
    pub network: String,
    /// It joined as well.
    pub joined: bool,
}

/// Lets the device send, receive and (OTAA) join, and returns the one network that serves it.
///
/// Shown are: exactly one network answers its next uplink and reads the payload; the next downlink of the application
/// there has a counter that the device takes, as it has seen no higher one; its next join is accepted by that network
/// alone, and the new session works. A device without a session joins first, and so does one whose last join-request was
/// not answered and that no network hears.
///
/// # Errors
/// What failed, with the device's DevEUI or DevAddr.
pub fn prove_alive(ether: &Ether, device: &mut SimDevice) -> Result<Proof, String> {
    let name = name(device);
    prove(ether, device).map_err(|why| format!("device {name}: {why}"))
}

fn name(device: &SimDevice) -> String {
    let addr = device.dev_addr().map(|addr| addr.to_string());
    device.identity().dev_eui.map(|eui| eui.to_string()).or(addr).unwrap_or_default()
}

fn prove(ether: &Ether, device: &mut SimDevice) -> Result<Proof, String> {
    if device.is_multicast() {
        return prove_group(ether, device);
    }
    // A device whose last join-request was not answered goes on asking, and need not be heard meanwhile.
    let unheard = device.waits_for_accept() && !is_heard(ether, device)?;
    if device.dev_addr().is_none() || unheard {
        let network = prove_join(ether, device)?;
        prove_session(ether, device, Some(&network))?;
        return Ok(Proof { network, joined: true });
    }
    let network = prove_session(ether, device, None)?;
    if device.joins() {
        let joined = prove_join(ether, device)?;
        if joined != network {
            return Err(format!("its session is at {network}, but {joined} accepts its join"));
        }
        prove_session(ether, device, Some(&network))?;
    }
    Ok(Proof { network, joined: device.joins() })
}

/// True when a network has a session for its next uplink.
fn is_heard(ether: &Ether, device: &mut SimDevice) -> Result<bool, String> {
    if device.dev_addr().is_none() {
        return Ok(false);
    }
    let answer = ether.uplink(device, F_PORT, UP, false).map_err(failed("its next uplink"))?;
    Ok(answer.heard.iter().any(|(_, heard)| heard.is_ok()))
}

/// One confirmed uplink, answered and read by one network, and one downlink from there.
fn prove_session(ether: &Ether, device: &mut SimDevice, at: Option<&str>) -> Result<String, String> {
    let answer = ether.uplink(device, F_PORT, UP, true).map_err(failed("its next uplink"))?;
    let network = answered(&answer, "its next confirmed uplink")?;
    if at.is_some_and(|at| at != network) {
        return Err(format!("it joined another network than {network}, which answers its uplink"));
    }
    if !answer.received.iter().any(|r| matches!(r, Received::Data { ack: true, .. })) {
        return Err(format!("{network} did not acknowledge its uplink"));
    }
    read_by(&answer, &network, device)?;

    let down = Downlink { f_port: F_PORT, payload: DOWN, confirmed: false };
    let mut got = ether.downlink(&network, device, down).map_err(failed("its next downlink"))?;
    for _ in 0..MOST_WAITING {
        if got.as_ref().is_some_and(|got| is_ours(got, device)) {
            break;
        }
        // Class A: it waits for an uplink, behind what was queued before.
        let answer =
            ether.uplink(device, F_PORT, UP, false).map_err(failed("an uplink to fetch a downlink"))?;
        got = answer.received.into_iter().find(|r| matches!(r, Received::Data { f_port: Some(_), .. }));
    }
    match got {
        Some(got) if is_ours(&got, device) => Ok(network),
        Some(_) => Err(format!("the downlink of {network} is not what was sent")),
        None => Err(format!("{network} sends no downlink")),
    }
}

/// How many downlinks may wait in front of ours.
const MOST_WAITING: usize = 16;

/// What the AS encrypts with another address than the device's is unreadable, before a migration as after it.
fn is_ours(got: &Received, device: &SimDevice) -> bool {
    matches!(got, Received::Data { f_port: Some(F_PORT), payload, .. } if payload == DOWN || !device.readable())
}

fn read_by(answer: &Answer, network: &str, device: &SimDevice) -> Result<(), String> {
    match answer.payload_at(network) {
        Some(payload) if payload == UP || !device.readable() => Ok(()),
        Some(_) => Err(format!("{network} decrypts its uplink to something else")),
        None => Err(format!("{network} answers its uplink but cannot decrypt it: {}", heard(answer))),
    }
}

fn prove_join(ether: &Ether, device: &mut SimDevice) -> Result<String, String> {
    let answer = ether.join(device).map_err(failed("its next join"))?;
    let network = answered(&answer, "its next join-request")?;
    match answer.received.first() {
        Some(Received::Joined { .. }) => Ok(network),
        _ => Err(format!("{network} answered its join-request with something else")),
    }
}

fn prove_group(ether: &Ether, device: &mut SimDevice) -> Result<Proof, String> {
    let down = Downlink { f_port: F_PORT, payload: DOWN, confirmed: false };
    let mut serving = Vec::new();
    let mut silent = Vec::new();
    for network in ether.networks().map(str::to_owned).collect::<Vec<_>>() {
        let mut sent = ether.downlink(&network, device, down);
        if matches!(sent, Ok(None)) {
            // What was queued with counters that are used up by now is counted anew first, and goes out with the next one.
            sent = ether.downlink(&network, device, down);
        }
        match sent {
            Ok(Some(_)) => serving.push(network),
            Ok(None) => silent.push(format!("{network}: it waits")),
            // It is sent to, with a counter that the first of them has used.
            Err(EtherError::Refused { .. }) if !serving.is_empty() => serving.push(network),
            Err(EtherError::Downlink { why, .. }) => silent.push(format!("{network}: {why}")),
            Err(why) => return Err(why.to_string()),
        }
    }
    match serving.len() {
        0 => Err(format!("no network sends to this group: {}", silent.join("; "))),
        1 => Ok(Proof { network: serving.remove(0), joined: false }),
        _ => Err(format!("several networks send to this group: {}", serving.join(", "))),
    }
}

fn answered(answer: &Answer, what: &str) -> Result<String, String> {
    answer.answered_by.clone().ok_or_else(|| format!("no network answers {what}: {}", heard(answer)))
}

fn heard(answer: &Answer) -> String {
    let one = |(network, heard): &(String, Result<_, _>)| match heard {
        Ok(heard) => format!("{network}: {heard:?}"),
        Err(why) => format!("{network}: {why}"),
    };
    answer.heard.iter().map(one).collect::<Vec<_>>().join("; ")
}

fn failed(what: &'static str) -> impl Fn(EtherError) -> String {
    move |why: EtherError| format!("{what} failed: {why}")
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "served by {}", self.network)
    }
}
