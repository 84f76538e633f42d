//! Known answers: those of the tests of The Things Stack 3.32 (`pkg/crypto/*_test.go`), and a second implementation.

use aes::{
    Aes128,
    cipher::{BlockCipherEncrypt as _, KeyInit as _},
};
use proptest::prelude::*;

use super::*;

const ONES: Key = Key([1; 16]);

fn hex16(text: &str) -> Key {
    Key::from_bytes(&hex::decode(text).expect("hexadecimal")).expect("16 bytes")
}

fn frame(uplink: bool, payload: &[u8]) -> DataFrame {
    DataFrame {
        uplink,
        confirmed: false,
        f_ctrl: FCtrl::default(),
        dev_addr: DevAddr([1, 2, 3, 4]),
        f_cnt: 1,
        f_opts: vec![],
        f_port: Some(1),
        payload: payload.to_vec(),
    }
}

#[test]
fn session_keys_are_derived_as_the_stack_derives_them() {
    let root = hex16("BEC499C69E9C939E413B66396163 6C61".replace(' ', "").as_str());
    let keys = JoinKeys { network: root.clone(), application: root.clone() };
    let request = JoinRequest {
        join_eui: Eui64([0, 0, 0, 0x12, 0x23, 0x22, 0x42, 0x42]),
        dev_eui: Eui64([0, 0x42, 0, 0x42, 0x13, 0x42, 0x43, 0x41]),
        dev_nonce: 0x7369,
    };
    let mut accept = JoinAccept {
        join_nonce: 0x00AE_3B1C,
        net_id: NetId([2, 1, 1]),
        dev_addr: DevAddr([0; 4]),
        opt_neg: true,
        rx_delay: 1,
    };
    let new = accept.derive(&request, &keys).expect("derives");
    assert!(new.app_s == hex16("B035CCE24E4A040EB5CECBF21724412D"));
    assert!(new.f_nwk_s_int == hex16("379084E7CE22FF191BFF4B77536F2AA3"));
    assert!(new.s_nwk_s_int == hex16("63C59309D53485BC5164DBF71627AEB9"));
    assert!(new.nwk_s_enc == hex16("CE07A009A3970AC0519A099ED53E550B"));
    let js_int = accept.mic_key(request.dev_eui, &root).expect("derives");
    assert!(js_int.to_bytes() == *hex16("CB8E9EE114C3FB5CE472A5AA13AB1855").bytes());

    accept.opt_neg = false;
    let old = accept.derive(&request, &keys).expect("derives");
    assert!(old.app_s == hex16("8C1E0543A229088DE6F84E74BB46BD62"));
    assert!(old.f_nwk_s_int == hex16("0DB924EE6AF90698E05FC7CE48303C01"));
    assert!(old.s_nwk_s_int == old.f_nwk_s_int && old.nwk_s_enc == old.f_nwk_s_int);
}

#[test]
fn join_messages_match_known_answers() {
    let request = JoinRequest {
        join_eui: Eui64([1, 2, 3, 4, 5, 6, 7, 8]),
        dev_eui: Eui64([1, 2, 3, 4, 5, 6, 7, 8]),
        dev_nonce: 0x0102,
    };
    let phy = request.seal(&ONES).expect("seals");
    assert_eq!(phy[19..], [0xe6, 0xe1, 0x0c, 0x55]);
    assert!(JoinRequest::has_mic(&phy, &ONES));
    assert!(!JoinRequest::has_mic(&phy, &Key([2; 16])));

    let accept = JoinAccept {
        join_nonce: 0x01_0203,
        net_id: NetId([1, 2, 3]),
        dev_addr: DevAddr([1, 2, 3, 4]),
        opt_neg: false,
        rx_delay: 1,
    };
    let phy = accept.seal(&request, &ONES).expect("seals");
    // The stack's vector has an arbitrary MIC in it, so only the plain text before it is comparable: by decrypting.
    let mut mic = [0; 16];
    mic.copy_from_slice(&phy[1..]);
    let mut block = aes::Block::from(mic);
    Aes128::new(&(*ONES.bytes()).into()).encrypt_block(&mut block);
    assert_eq!(block[..12], [3, 2, 1, 3, 2, 1, 4, 3, 2, 1, 0, 1]);
    let message = [&[0x20][..], &block[..12]].concat();
    assert_eq!(block[12..], cmac(&ONES, &message)[..4]);
    assert_eq!(JoinAccept::open(&phy, &request, &ONES), Some(accept));
    assert_eq!(JoinAccept::open(&phy, &request, &Key([2; 16])), None);
}

#[test]
fn an_accept_of_1_1_is_bound_to_its_request() {
    let request = JoinRequest { join_eui: Eui64([1; 8]), dev_eui: Eui64([2; 8]), dev_nonce: 7 };
    let accept = JoinAccept {
        join_nonce: 9,
        net_id: NetId([0, 0, 0x13]),
        dev_addr: DevAddr([1, 2, 3, 4]),
        opt_neg: true,
        rx_delay: 5,
    };
    let phy = accept.seal(&request, &ONES).expect("seals");
    assert_eq!(JoinAccept::open(&phy, &request, &ONES), Some(accept));
    assert_eq!(JoinAccept::open(&phy, &JoinRequest { dev_nonce: 8, ..request }, &ONES), None);
}

#[test]
fn payloads_and_options_are_encrypted_as_the_stack_does() {
    for (uplink, payload, f_opts) in [
        (true, [0xCF, 0xF3, 0x0B, 0x4E], [0x23, 0x61, 0x5F, 0x18]),
        (false, [0x4E, 0x75, 0xF4, 0x40], [0xB2, 0xDB, 0xE3, 0x91]),
    ] {
        let mut frame = frame(uplink, &[1, 2, 3, 4]);
        frame.crypt_payload(&ONES).expect("encrypts");
        assert_eq!(frame.payload, payload);
        // The stack's vector for FOpts of a downlink is for the network's counter: no FPort.
        frame.f_port = None;
        frame.f_opts = vec![1, 2, 3, 4];
        frame.crypt_f_opts(&ONES).expect("encrypts");
        assert_eq!(frame.f_opts, f_opts);
    }
}

#[test]
fn data_mics_match_known_answers() {
    let frame = frame(true, &[1, 2, 3, 4]);
    let old = frame.uplink_mic(MacVersion::V1_0_3, 0, &ONES, &ONES).expect("computes");
    assert_eq!(old, [0x3B, 0x07, 0x31, 0x82]);
    let new = frame.uplink_mic(MacVersion::V1_1, 0, &ONES, &ONES).expect("computes");
    assert_eq!(new[2..], [0x3B, 0x07]);
    for version in [MacVersion::V1_0_3, MacVersion::V1_1] {
        assert_eq!(frame.downlink_mic(version, 0, &ONES), Ok([0xA5, 0x60, 0x9F, 0xA9]));
    }
}

/// AES-CMAC (RFC 4493), written for this test: `lrwn` has its own.
fn cmac(key: &Key, message: &[u8]) -> [u8; 16] {
    let cipher = Aes128::new(&(*key.bytes()).into());
    let encrypt = |bytes: [u8; 16]| {
        let mut block = aes::Block::from(bytes);
        cipher.encrypt_block(&mut block);
        u128::from_be_bytes(block.into())
    };
    let double = |n: u128| (n << 1) ^ if n >> 127 == 1 { 0x87 } else { 0 };
    let k1 = double(encrypt([0; 16]));
    let mut chunks: Vec<&[u8]> = message.chunks(16).collect();
    let last = chunks.pop().unwrap_or_default();
    let mut padded = [0; 16];
    padded[..last.len()].copy_from_slice(last);
    let tail = if last.len() == 16 {
        u128::from_be_bytes(padded) ^ k1
    } else {
        padded[last.len()] = 0x80;
        u128::from_be_bytes(padded) ^ double(k1)
    };
    let whole = chunks.iter().map(|c| u128::from_be_bytes((*c).try_into().expect("16 bytes")));
    whole.chain([tail]).fold(0, |state, block| encrypt((state ^ block).to_be_bytes())).to_be_bytes()
}

fn block(first: [u8; 5], direction: u8, frame: &DataFrame, length: usize) -> Vec<u8> {
    let mut addr = frame.dev_addr.0;
    addr.reverse();
    let length = u8::try_from(length).expect("a frame");
    [&first[..], &[direction], &addr, &frame.f_cnt.to_le_bytes(), &[0, length]].concat()
}

proptest! {
    /// The MIC of both versions and directions against the blocks B0 and B1 of the specification (1.1 §4.4).
    #[test]
    fn mics_agree_with_a_second_implementation(
        f_key: [u8; 16], s_key: [u8; 16], dev_addr: [u8; 4], f_cnt: u32, conf: u32, ack: bool, confirmed: bool,
        payload in prop::collection::vec(any::<u8>(), 1..200), f_opts in prop::collection::vec(any::<u8>(), 0..15),
    ) {
        let (f_key, s_key) = (Key(f_key), Key(s_key));
        let f_ctrl = FCtrl { ack, ..FCtrl::default() };
        for uplink in [true, false] {
            let frame = DataFrame {
                uplink, confirmed, f_ctrl: f_ctrl.clone(), dev_addr: DevAddr(dev_addr), f_cnt,
                f_opts: f_opts.clone(), f_port: Some(3), payload: payload.clone(),
            };
            let phy = frame.encode([0; 4]).expect("encodes");
            let message = &phy[..phy.len() - 4];
            let conf_bytes = if ack { (conf as u16).to_le_bytes() } else { [0; 2] };
            let mac = |first: [u8; 5], key: &Key| {
                cmac(key, &[&block(first, u8::from(!uplink), &frame, message.len())[..], message].concat())
            };
            let plain = [0x49, 0, 0, 0, 0];
            let bound = [0x49, conf_bytes[0], conf_bytes[1], 0, 0];
            if uplink {
                let old = frame.uplink_mic(MacVersion::V1_0_2, conf, &f_key, &s_key).expect("computes");
                prop_assert_eq!(&old[..], &mac(plain, &f_key)[..4]);
                let new = frame.uplink_mic(MacVersion::V1_1, conf, &f_key, &s_key).expect("computes");
                let sent = [0x49, conf_bytes[0], conf_bytes[1], TX_DATA_RATE, TX_CHANNEL];
                prop_assert_eq!(&new[..2], &mac(sent, &s_key)[..2]);
                prop_assert_eq!(&new[2..], &mac(plain, &f_key)[..2]);
            } else {
                let old = frame.downlink_mic(MacVersion::V1_0_2, conf, &s_key).expect("computes");
                prop_assert_eq!(&old[..], &mac(plain, &s_key)[..4]);
                let new = frame.downlink_mic(MacVersion::V1_1, conf, &s_key).expect("computes");
                prop_assert_eq!(&new[..], &mac(bound, &s_key)[..4]);
            }
        }
    }

    #[test]
    fn a_data_frame_is_read_back(
        f_cnt: u16, uplink: bool, confirmed: bool, f_opts in prop::collection::vec(any::<u8>(), 0..15),
        payload in prop::collection::vec(any::<u8>(), 1..50), mic: [u8; 4],
    ) {
        let mut sent = frame(uplink, &payload);
        sent.f_cnt = f_cnt.into();
        sent.confirmed = confirmed;
        sent.f_opts = f_opts;
        let Frame::Data(mut got, got_mic) = parse(&sent.encode(mic).expect("encodes")).expect("parses") else {
            panic!("not a data frame")
        };
        got.f_ctrl.f_opts_len = 0;
        prop_assert_eq!(got_mic, mic);
        prop_assert!(got == sent);
    }

    #[test]
    fn no_bytes_make_the_parser_panic(phy in prop::collection::vec(any::<u8>(), 0..60)) {
        let _ = parse(&phy);
    }
}

#[test]
fn nothing_shows_a_key() {
    assert_eq!(
        format!("{:?}", JoinKeys { network: ONES, application: ONES }),
        "JoinKeys { network: [redacted], application: [redacted] }"
    );
}
