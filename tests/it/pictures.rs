//! Pictures of devices: copied by their bytes, given back by them, fetched without a key.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex},
    thread,
};

use prost_reflect::Value;
use stackferry::{map::path, plan::picture, proto, rehearsal::store::Table};

use crate::world::{APP, Side, World, canaries, dev};

const HERE: &[u8] = b"\x89PNG\r\n\x1a\n a picture of the deployment's own";
const ELSEWHERE: &[u8] = b"\xff\xd8\xff\xe0 a picture in a store elsewhere";

/// A web server that is neither side, and hears what it is asked.
struct Other {
    addr: SocketAddr,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Other {
    /// It gives one picture, and leads to `target` from `/moved`.
    fn start(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let addr = listener.local_addr().expect("bound");
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hears = Arc::clone(&heard);
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut request = Vec::new();
                let mut buffer = [0; 1024];
                while !request.windows(4).any(|w| w == b"\r\n\r\n") {
                    match stream.read(&mut buffer) {
                        Ok(n) if n > 0 => request.extend_from_slice(&buffer[..n]),
                        _ => break,
                    }
                }
                hears.lock().expect("no panic").extend_from_slice(&request);
                let text = String::from_utf8_lossy(&request);
                let (head, body) = if text.starts_with("GET /store/photo.jpg ") {
                    ("200 OK\r\nContent-Type: image/jpeg".to_owned(), ELSEWHERE)
                } else if text.starts_with("GET /moved/photo.jpg ") {
                    (format!("302 Found\r\nLocation: {target}"), &b""[..])
                } else if text.starts_with("GET /page/photo.jpg ") {
                    ("200 OK\r\nContent-Type: image/jpeg".to_owned(), &b"<html>log in first</html>"[..])
                } else {
                    ("404 Not Found".to_owned(), &b""[..])
                };
                let head =
                    format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
                // Who goes away early has had what it wanted.
                let _ = stream.write_all(&[head.as_bytes(), body].concat());
            }
        });
        Self { addr, heard }
    }
}

/// Uploads a picture as a person would.
fn upload(side: &Side, device: &str, image: &[u8]) {
    let mut request = proto::message("UpdateEndDeviceRequest");
    for (at, id) in [("device_id", device), ("application_ids.application_id", APP)] {
        path::set(&mut request, &format!("end_device.ids.{at}"), Value::String(id.to_owned()));
    }
    path::set(&mut request, "end_device.picture.embedded.data", Value::Bytes(image.to_vec().into()));
    path::set(&mut request, "field_mask.paths", Value::List(vec![Value::String("picture".into())]));
    let key = side.tts.settings().api_key.clone();
    side.tts.call("/ttn.lorawan.v3.EndDeviceRegistry/Update", request, Some(&key)).expect("it takes it");
}

/// The bytes of the picture that a side has of a device.
fn bytes(side: &Side, device: &str) -> Option<Vec<u8>> {
    let address = picture::address(&side.record(Table::Is, APP, device)?)?;
    let store = side.tts.store();
    store.get(Table::Files, &address).map(|file| path::bytes(file, "data"))
}

fn refer(side: &Side, device: &str, address: &str) {
    side.edit(Table::Is, APP, device, |is| picture::refer(is, address));
}

fn config(world: &World, allowed: &str) {
    world.config(&format!(
        "[transform]\nsession = \"keep\"\nallow-loss = [\"queued-downlinks\"{allowed}]\n\
         [clear]\nmode = \"delete\"\nwhen = \"verified\"\n"
    ));
}

#[test]
fn a_picture_goes_along_by_its_bytes_and_comes_back() {
    // 20 has an address in a store that has no such file any more.
    let world = World::some(&[0, 1, 4, 5, 20]);
    upload(&world.source, &dev(0), HERE);
    let own = picture::address(&world.source.record(Table::Is, APP, &dev(0)).expect("there")).expect("kept");
    let other = Other::start(format!("http://{}{own}", world.source.addr()));
    refer(&world.source, &dev(1), &format!("http://{}/store/photo.jpg", other.addr));
    refer(&world.source, &dev(4), &format!("http://{}/moved/photo.jpg", other.addr));
    refer(&world.source, &dev(5), &format!("http://{}/page/photo.jpg", other.addr));

    config(&world, "");
    let stopped = "answers 404 Not Found";
    world.call("plan", &[]).expect(3).says(stopped).says("no PNG or JPEG image");
    world.run().expect(3).says("3 devices moved").says(stopped);
    for (number, image) in [(0, HERE), (1, ELSEWHERE), (4, HERE)] {
        assert_eq!(bytes(&world.target, &dev(number)).as_deref(), Some(image), "{number}");
        assert!(world.source.record(Table::Is, APP, &dev(number)).is_none(), "{number} is deleted");
    }
    for number in [5, 20] {
        assert!(world.target.record(Table::Is, APP, &dev(number)).is_none(), "{number} stays");
    }

    // With the loss allowed, what cannot be fetched stays behind, and nothing else.
    config(&world, ", \"picture\"");
    world.run().expect(0);
    for number in [5, 20] {
        let is = world.target.record(Table::Is, APP, &dev(number)).expect("moved");
        assert!(!path::has(&is, "picture"));
    }
    let writes = || (world.source.writes().len(), world.target.writes().len());
    let before = writes();
    world.run().expect(0);
    world.call("verify", &[]).expect(0);
    assert_eq!(writes(), before, "a second run writes nothing");

    world.call("rollback", &["--yes"]).expect(0);
    for (number, image) in [(0, HERE), (1, ELSEWHERE), (4, HERE)] {
        assert_eq!(bytes(&world.source, &dev(number)).as_deref(), Some(image), "{number}");
    }
    assert_eq!(world.target.count(Table::Is, APP), 0);

    let heard = other.heard.lock().expect("no panic").clone();
    canaries::hear("another host", &heard);
    let heard = String::from_utf8_lossy(&heard).to_ascii_lowercase();
    assert!(heard.contains("get /store/photo.jpg"), "{heard}");
    assert!(!heard.contains("authorization") && !heard.contains("nnsxs"), "{heard}");
}
