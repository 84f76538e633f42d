//! TLS as users meet it: each way in which it can be wrong is a clear error, and the API key was never sent. The servers
//! check that: they note every byte that they get, in the clear and decrypted.

mod certificates;
mod server;

use std::{
    collections::VecDeque,
    fs,
    process::Stdio,
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use http::StatusCode;
use stackferry::rehearsal::store::Table;

use self::{
    certificates::{Identity, authority, good},
    server::{After, Manner, Server},
};
use crate::world::{APP, Ran, World};

const CONFIG: &str = "[transform]\nsession = \"keep\"\n[limits]\nconnect-timeout = \"2s\"\n";

/// What the configuration says of TLS.
#[derive(Clone, Copy, PartialEq)]
enum Trust {
    /// `ca` names what vouches for this server.
    This,
    /// `ca` names an authority that knows nothing of it.
    Another,
    /// No `ca`: the roots of the system.
    System,
    /// `insecure = true`.
    Nothing,
}

/// Which server is the bad one.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Place {
    Source,
    Target,
    /// The target's Join Server alone; its other components are as they should be.
    TargetsJoinServer,
}

/// One way in which TLS is wrong.
struct Case {
    name: &'static str,
    manner: Manner,
    /// What makes a client trust the server, in PEM.
    trusted_by: String,
    trust: Trust,
    host: &'static str,
    /// What is wrong, and what to do.
    says: &'static [&'static str],
}

fn case(name: &'static str, manner: Manner, trust: Trust, says: &'static [&'static str]) -> Case {
    Case { name, manner, trusted_by: String::new(), trust, host: "127.0.0.1", says }
}

/// A server with this identity that would serve whoever gets through.
fn with(name: &'static str, identity: Identity, trust: Trust, says: &'static [&'static str]) -> Case {
    let manner = Manner::Tls(identity.server().into(), After::Silence);
    Case { trusted_by: identity.trusted_by, ..case(name, manner, trust, says) }
}

fn certificates_that_are_wrong() -> Vec<Case> {
    use Trust::{Another, System, This};
    let ca = &["issued by an unknown CA", "`ca = \"ca.pem\"`"];
    vec![
        with(
            "expired",
            certificates::dated(2020, 2021),
            This,
            &["has expired: it was valid until 2021-01-01T00:00:00Z", "renew the certificate"],
        ),
        with(
            "not yet valid",
            certificates::dated(3000, 3001),
            This,
            &["not valid yet: it is valid from 3000-01-01T00:00:00Z", "set the clock"],
        ),
        with(
            "another host",
            good(&["another.example"]),
            This,
            &["valid for another.example, not for 127.0.0.1", "use one of the names of the certificate"],
        ),
        with(
            "another address",
            good(&["10.1.2.3"]),
            This,
            &["valid for 10.1.2.3, not for 127.0.0.1", "use one of the names"],
        ),
        with(
            "a name, reached by its address",
            good(&["localhost"]),
            This,
            &["valid for localhost, not for 127.0.0.1", "use one of the names of the certificate"],
        ),
        Case {
            host: "localhost",
            ..with(
                "an address, reached by its name",
                good(&["127.0.0.1"]),
                This,
                &["valid for 127.0.0.1, not for localhost", "use one of the names of the certificate"],
            )
        },
        with(
            "a subject and no names",
            certificates::without_names(),
            This,
            &["valid for no name at all", "issue one with the subject alternative name 127.0.0.1"],
        ),
        with("an unknown CA, another in `ca`", good(certificates::HERE), Another, ca),
        with("an unknown CA, none in `ca`", good(certificates::HERE), System, ca),
        with("no intermediate certificate", certificates::without_intermediate(), This, ca),
        with("self-signed", certificates::self_signed(), System, ca),
        with("self-signed, another in `ca`", certificates::self_signed(), Another, ca),
        with(
            "a CA in the place of a server",
            certificates::authority_as_server(),
            This,
            &["it is that of a CA, not of a server", "a certificate from a CA is needed"],
        ),
        with(
            "a certificate for clients",
            certificates::of_a_client(),
            This,
            &["the certificate cannot be used", "a certificate from a CA is needed"],
        ),
    ]
}

/// A ServerHello (RFC 5246 §7.4.1.3) of this version and cipher suite.
fn server_hello(version: [u8; 2], cipher: [u8; 2], random_ends: &[u8]) -> Manner {
    let mut random = vec![7; 32 - random_ends.len()];
    random.extend(random_ends);
    let body = [&version[..], &random, &[0], &cipher, &[0]].concat();
    let length = u8::try_from(body.len()).expect("short");
    Manner::Says([&[0x16, version[0], version[1], 0, length + 4, 2, 0, 0, length], &body[..]].concat())
}

fn old_versions() -> Vec<Case> {
    let refused = &["the server refused the TLS handshake", "before 1.2 is not supported"];
    let old = &["it speaks no TLS of version 1.2 or 1.3", "before 1.2 is not supported"];
    let rsa_aes = [0x00, 0x2F];
    vec![
        case("SSL 3", server_hello([3, 0], rsa_aes, &[]), Trust::System, old),
        case("TLS 1.0", server_hello([3, 1], rsa_aes, &[]), Trust::System, old),
        case("TLS 1.1", server_hello([3, 2], rsa_aes, &[]), Trust::System, old),
        case("an alert about the version", alert([3, 1], 70), Trust::System, old),
        case("an alert about the ciphers", alert([3, 3], 40), Trust::System, refused),
        // RFC 8446 §4.1.3: so a server of TLS 1.3 tells that somebody between made it speak 1.2 or less.
        case(
            "downgraded to 1.2",
            server_hello([3, 3], [0xC0, 0x2F], b"DOWNGRD\x01"),
            Trust::System,
            &["something between makes the server speak an older version", "a proxy or an attacker"],
        ),
        case("a cipher that was not offered", server_hello([3, 3], [0, 0], &[]), Trust::System, refused),
    ]
}

fn alert(version: [u8; 2], what: u8) -> Manner {
    Manner::Says(vec![0x15, version[0], version[1], 0, 2, 2, what])
}

fn no_tls_where_it_should_be() -> Vec<Case> {
    let plain = &["does not speak TLS on this port", "insecure = true"];
    let tls = &["speaks TLS on this port, and `insecure = true` is set", "remove `insecure = true`"];
    let any = good(certificates::HERE);
    let over = |after| Manner::Tls(any.server().into(), after);
    let mut other_protocol = any.server();
    other_protocol.alpn_protocols = vec![b"http/1.1".to_vec()];
    let protocol = Manner::Tls(other_protocol.into(), After::Http1);
    let trusted = |case: Case| Case { trusted_by: any.trusted_by.clone(), ..case };
    vec![
        case(
            "plaintext HTTP/2",
            Manner::Plain(After::Redirect(StatusCode::OK, String::new())),
            Trust::System,
            plain,
        ),
        case("plaintext HTTP/1", Manner::Plain(After::Http1), Trust::System, plain),
        case("SSH", Manner::Greets(b"SSH-2.0-OpenSSH_9.6\r\n"), Trust::System, plain),
        case("TLS, and insecure is set", over(After::Silence), Trust::Nothing, tls),
        case("TLS that says nothing, and insecure is set", Manner::OnlyTls, Trust::Nothing, tls),
        trusted(case(
            "no HTTP/2 by ALPN",
            protocol,
            Trust::This,
            &["refused the TLS handshake", "check the port"],
        )),
        case(
            "an alert about HTTP/2",
            alert([3, 3], 120),
            Trust::System,
            &["it does not offer HTTP/2", "check the port"],
        ),
        trusted(case(
            "HTTP/1 in TLS",
            over(After::Http1),
            Trust::This,
            &["in HTTP/1, not gRPC", "is the gRPC port"],
        )),
        trusted(case(
            "it asks for a client certificate",
            Manner::Tls(any.server_for_known_clients().into(), After::Silence),
            Trust::This,
            &["it asks for a client certificate", "client certificates"],
        )),
    ]
}

fn silence_and_closed_doors() -> Vec<Case> {
    let any = good(certificates::HERE);
    let tls = Manner::Tls(any.server().into(), After::Silence);
    let closed = &["127.0.0.1", "check the"];
    vec![
        case(
            "silence",
            Manner::Plain(After::Silence),
            Trust::System,
            &["did not answer the TLS handshake within 2 s", "check the address"],
        ),
        Case {
            trusted_by: any.trusted_by,
            ..case(
                "silence in TLS",
                tls,
                Trust::This,
                &["did not answer in HTTP/2 within 2 s", "check the address"],
            )
        },
        case(
            "silence without TLS",
            Manner::Plain(After::Silence),
            Trust::Nothing,
            &["within 2 s", "check the address"],
        ),
        case("closed after the greeting", Manner::HangsUp, Trust::System, closed),
        case("closed at once", Manner::ClosesAtOnce, Trust::System, closed),
        case("closed at once, and insecure is set", Manner::ClosesAtOnce, Trust::Nothing, closed),
    ]
}

fn all_cases() -> Vec<Case> {
    let mut cases = certificates_that_are_wrong();
    cases.extend(old_versions());
    cases.extend(no_tls_where_it_should_be());
    cases.extend(silence_and_closed_doors());
    cases
}

/// A world in which one server can be replaced.
struct Stage {
    world: World,
    /// The target as it should be, behind TLS.
    front: Server,
    front_ca: String,
    another_ca: String,
}

impl Stage {
    fn new() -> Self {
        let world = World::some(&[1]);
        let identity = good(certificates::HERE);
        let manner = Manner::Tls(identity.server().into(), After::PassOn(world.target.addr()));
        let front = Server::start(world.runtime(), manner);
        let another_ca = authority().pem();
        Self { front_ca: identity.trusted_by, another_ca, front, world }
    }

    /// Puts `bad` (`host:port`) into its place.
    fn configure(&self, place: Place, bad: &str, trust: Trust, trusted_by: &str) {
        let file = self.world.config(CONFIG);
        let text = fs::read_to_string(&file).expect("written");
        let (source, target) = text.split_once("[target.tts]").expect("it has a target");
        let (head, target) = (source.to_owned(), format!("[target.tts]{target}"));
        let pem = match trust {
            Trust::This => trusted_by.to_owned(),
            Trust::Another => self.another_ca.clone(),
            Trust::System | Trust::Nothing => String::new(),
        };
        // The front's authority is known where the front is needed.
        let pem = if place == Place::TargetsJoinServer { pem + &self.front_ca } else { pem };
        fs::write(self.world.dir.path().join("ca.pem"), &pem).expect("a file");
        let security = match trust {
            Trust::Nothing => "insecure = true",
            _ if pem.is_empty() => "",
            _ => "ca = \"ca.pem\"",
        };
        let at = |section: &str, old: &str, new: &str| {
            section.replacen(&format!("\"{old}\""), &format!("\"{new}\""), 1).replacen(
                "insecure = true",
                security,
                1,
            )
        };
        let old = |side: &crate::world::Side| side.addr().to_string();
        let (source, target) = match place {
            Place::Source => (at(&head, &old(&self.world.source), bad), target),
            Place::Target => (head, at(&target, &old(&self.world.target), bad)),
            Place::TargetsJoinServer => {
                let front = if trust == Trust::Nothing { self.world.target.addr() } else { self.front.addr };
                let other = format!("{front}\"\njoin-server = \"{bad}");
                (head, at(&target, &old(&self.world.target), &other))
            }
        };
        fs::write(&file, source + &target).expect("a file");
        for suffix in ["", "-wal", "-shm", ".key", ".lock"] {
            let _ = fs::remove_file(self.world.dir.path().join(format!("test.journal{suffix}")));
        }
    }

    /// Runs to the end; what hangs is killed, and has no exit code.
    fn run(&self) -> Ran {
        let roots = self.world.dir.path().join("roots.pem");
        fs::write(&roots, &self.another_ca).expect("a file");
        let mut run = self.world.command("run");
        // The system's own roots are those of another authority: the outcome is the same on every machine.
        run.arg("--yes").env("SSL_CERT_FILE", roots).env_remove("SSL_CERT_DIR");
        let mut child = run.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        for _ in 0..1200 {
            if child.try_wait().expect("it runs").is_some() {
                return Ran::of(child.wait_with_output().expect("it ends"));
            }
            thread::sleep(Duration::from_millis(100));
        }
        child.kill().expect("it runs");
        Ran::of(child.wait_with_output().expect("it ends"))
    }

    fn key(&self, place: Place) -> &str {
        let side = if place == Place::Source { &self.world.source } else { &self.world.target };
        &side.tts.settings().api_key
    }
}

/// What is wrong with how a case ended, and whether the API key was sent.
fn play(stage: &Stage, case: &Case, place: Place) -> (Vec<String>, bool) {
    let server = Server::start(stage.world.runtime(), case.manner.clone());
    let at = format!("{}:{}", case.host, server.addr.port());
    stage.configure(place, &at, case.trust, &case.trusted_by);
    let ran = stage.run();
    let mut wrong = Vec::new();
    let mut must = |holds: bool, what: String| {
        if !holds {
            wrong.push(format!("{} as the {place:?}: {what}", case.name));
        }
    };
    // What a user reads, for those who look with --nocapture.
    if place == Place::Target {
        println!("{}: {}", case.name, ran.err.trim_end());
    }
    must(ran.code == Some(4), format!("exit code {:?}, not 4\n{}{}", ran.code, ran.out, ran.err));
    for text in case.says.iter().copied().chain([at.as_str()]) {
        must(ran.err.contains(text), format!("`{text}` is not said:\n{}", ran.err));
    }
    let got = server.got();
    must(got.connections > 0, "nobody came".to_owned());
    let sent = got.has(stage.key(place));
    must(!sent, "the API key was sent".to_owned());
    let writes = [stage.world.source.writes(), stage.world.target.writes()].concat();
    must(writes.is_empty(), format!("something was changed: {writes:?}"));
    (wrong, sent)
}

#[test]
fn whatever_is_wrong_with_tls_is_said_and_the_api_key_is_not_sent() {
    let places = [Place::Source, Place::Target, Place::TargetsJoinServer];
    let cases = all_cases();
    let queue: VecDeque<_> = cases.iter().flat_map(|case| places.map(|place| (case, place))).collect();
    let (total, queue) = (queue.len(), Mutex::new(queue));
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let work = || {
        let stage = Stage::new();
        let (mut wrong, mut sent) = (Vec::new(), 0);
        while let Some((case, place)) = next() {
            let (more, leaked) = play(&stage, case, place);
            wrong.extend(more);
            sent += usize::from(leaked);
        }
        (wrong, sent)
    };
    // Most of the time of a case goes by in waiting.
    let ended: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = (0..6).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(|w| w.join().expect("it ends")).collect()
    });
    let sent: usize = ended.iter().map(|(_, sent)| sent).sum();
    let wrong: Vec<_> = ended.into_iter().flat_map(|(wrong, _)| wrong).collect();
    let line = format!(
        "tls: {total} cases ({} ways, {} places), the API key was sent in {sent}\n",
        cases.len(),
        places.len()
    );
    print!("{line}");
    fs::write(std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("tls-it.txt"), line).expect("a file");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The other way round: the servers see the key when it is sent, and what should work does.
#[test]
fn what_is_right_works_and_the_server_sees_the_api_key() {
    let identity = good(certificates::HERE);
    let mut h2 = identity.server();
    h2.alpn_protocols = vec![b"h2".to_vec()];
    let own = certificates::self_signed();
    for (name, manner, trust, ca) in [
        ("TLS with ALPN", Some(h2), Trust::This, &identity.trusted_by),
        ("TLS without ALPN", Some(identity.server()), Trust::This, &identity.trusted_by),
        ("TLS 1.2", Some(identity.older_server()), Trust::This, &identity.trusted_by),
        ("self-signed and named", Some(own.server()), Trust::This, &own.trusted_by),
        ("plaintext", None, Trust::Nothing, &own.trusted_by),
    ] {
        for place in [Place::Source, Place::Target] {
            let stage = Stage::new();
            let world = &stage.world;
            let side = if place == Place::Source { &world.source } else { &world.target };
            let after = After::PassOn(side.addr());
            let manner = match manner.clone() {
                Some(config) => Manner::Tls(config.into(), after),
                None => Manner::Plain(after),
            };
            let server = Server::start(world.runtime(), manner);
            stage.configure(place, &server.addr.to_string(), trust, ca);
            stage.run().expect(0).says("1 device moved");
            let got = server.got();
            assert!(got.has(stage.key(place)) && got.was_called_with(stage.key(place)), "{name}");
            assert_eq!(got.handshakes > 0, trust == Trust::This, "{name}");
            assert_eq!(world.target.count(Table::Ns, APP), 1, "{name}");
        }
    }
}

#[test]
fn the_api_key_follows_no_redirect() {
    let stage = Stage::new();
    let elsewhere = Server::start(stage.world.runtime(), Manner::Plain(After::Silence));
    for status in [301, 302, 303, 307, 308] {
        let status = StatusCode::from_u16(status).expect("valid");
        let identity = good(certificates::HERE);
        let to = format!("http://{}/", elsewhere.addr);
        let manner = Manner::Tls(identity.server().into(), After::Redirect(status, to));
        let server = Server::start(stage.world.runtime(), manner);
        stage.configure(Place::Target, &server.addr.to_string(), Trust::This, &identity.trusted_by);
        stage.run().expect(1).says(&format!("HTTP status {status}")).says("is the gRPC port");
        assert!(server.got().was_called_with(stage.key(Place::Target)), "it was asked");
        assert_eq!(elsewhere.got().connections, 0);
    }
}

/// A run that has begun does not go on with another server, and does not ask it either.
#[test]
fn the_api_key_is_not_sent_to_another_server_after_a_change_of_the_configuration() {
    let stage = Stage::new();
    stage.world.config(CONFIG);
    stage.world.run().expect(0).says("1 device moved");
    for place in [Place::Source, Place::Target] {
        let elsewhere = Server::start(stage.world.runtime(), Manner::Plain(After::Silence));
        let file = stage.world.config(CONFIG);
        let side = if place == Place::Source { &stage.world.source } else { &stage.world.target };
        let text = fs::read_to_string(&file).expect("written");
        fs::write(&file, text.replace(&side.addr().to_string(), &elsewhere.addr.to_string()))
            .expect("a file");
        for verb in [&["run", "--yes"][..], &["plan"], &["verify"]] {
            let ran = stage.world.call(verb[0], &verb[1..]).expect(6);
            assert!(ran.err.contains("was made for another configuration"), "{}", ran.err);
        }
        assert_eq!(elsewhere.got().connections, 0, "{place:?}");
    }
}
