//! TLS as users meet it: a CA of their own, the wrong one, none, and another host name.

use std::{fs, net::SocketAddr, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use stackferry::rehearsal::{Served, ServerTls, serve, store::Table};

use crate::world::{APP, Ran, World};

const CONFIG: &str = "[transform]\nsession = \"keep\"\n";

/// A certificate authority of its own.
fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate")
}

/// The target of `world` once more, behind TLS with a certificate for `name`.
fn behind_tls(world: &World, ca: &CertifiedIssuer<'static, KeyPair>, name: &str) -> Served {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
    let certificate = params.signed_by(&key, ca).expect("a certificate");
    let tls = ServerTls { certificate: certificate.pem(), key: key.serialize_pem(), client_ca: None };
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    world.runtime().block_on(serve(Arc::clone(&world.target.tts), listen, Some(tls))).expect("loopback")
}

/// Runs with the target behind TLS; `ca` is what the configuration says of it.
fn run(world: &World, at: &Served, ca: Option<&str>) -> Ran {
    let file = world.config(CONFIG);
    let text = fs::read_to_string(&file).expect("written");
    let (source, target) = text.split_once("[target.tts]").expect("it has a target");
    let ca = ca.map_or_else(String::new, |pem| {
        fs::write(world.dir.path().join("ca.pem"), pem).expect("a file");
        "ca = \"ca.pem\"".to_owned()
    });
    let target = target.replace(&world.target.addr().to_string(), &at.addr.to_string()).replacen(
        "insecure = true",
        &ca,
        1,
    );
    fs::write(&file, format!("{source}[target.tts]{target}")).expect("a file");
    world.run()
}

#[test]
fn a_ca_of_ones_own_is_trusted_when_it_is_named() {
    let world = World::some(&[1]);
    let ca = authority();
    let served = behind_tls(&world, &ca, "127.0.0.1");
    run(&world, &served, Some(&ca.pem())).expect(0).says("1 device moved");
}

#[test]
fn a_wrong_ca_no_ca_and_another_name_are_told_apart() {
    let world = World::some(&[1]);
    let (ca, other) = (authority(), authority());
    let served = behind_tls(&world, &ca, "127.0.0.1");
    run(&world, &served, Some(&other.pem())).expect(4).says("ca");
    run(&world, &served, None).expect(4).says("ca = ");
    let elsewhere = behind_tls(&world, &ca, "another.example");
    run(&world, &elsewhere, Some(&ca.pem())).expect(4).says("another.example");
    assert_eq!(world.source.writes(), [""; 0]);
    assert_eq!(world.target.count(Table::Is, APP), 0);
}
