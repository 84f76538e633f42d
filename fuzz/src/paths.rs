//! Field paths that come from elsewhere: field masks, the words of servers, the configuration.

use std::sync::LazyLock;

use prost_reflect::DynamicMessage;
use stackferry::{
    map::{diff, generate, mask, owner, path},
    model::{device::Component, secret},
    proto,
};

/// Paths, one a line. Following one never fails, and what is followed is where the others say it is.
pub fn paths(data: &[u8]) {
    static DEVICES: LazyLock<Vec<DynamicMessage>> =
        LazyLock::new(|| Component::ALL.map(|component| generate::device(1, component)).to_vec());
    let text = String::from_utf8_lossy(data);
    let paths: Vec<&str> = text.lines().take(16).collect();
    let descriptor = proto::descriptor("EndDevice");
    for path in &paths {
        let canonical = path::canonical(&descriptor, path);
        assert!(path::covers(canonical, path) && path::covers(path, path));
        let exists = path::exists(&descriptor, path);
        assert!(exists || path::message_at(&descriptor, path).is_none(), "{path}");
        let _ = (secret::is_secret_path(path), owner::owners(path));
        for component in Component::ALL {
            let _ = owner::is_writable(component, path);
            let _ = mask::cover(mask::allowed(owner::set_rpc(component)), path);
        }
    }
    for device in DEVICES.iter() {
        one(device, &paths);
    }
}

fn one(device: &DynamicMessage, paths: &[&str]) {
    for path in paths {
        let _ = (path::string(device, path), path::bytes(device, path), path::number(device, path));
        let _ = (path::flag(device, path), path::child(device, path));
        let held = path::get(device, path).map(|value| value.into_owned());
        assert!(held.is_none() || path::exists(&device.descriptor_of(), path), "{path}");
        let mut changed = device.clone();
        path::touch(&mut changed, path);
        path::clear(&mut changed, path);
        if path::has(&changed, path) {
            // Only the value of a wrapper stays, at its default, for as long as the wrapper does.
            assert!(path.ends_with("value"), "{path} is still there");
        }
    }
    let projected = path::project(device, paths);
    for path in paths {
        let value = |message| path::get(message, path).map(|value| value.into_owned());
        assert_eq!(value(&projected), value(device), "{path}");
    }
    // A mask takes over what it names, and nothing else differs from before.
    let mut applied = projected.clone();
    path::apply(&mut applied, device, paths);
    assert!(
        diff::diff_paths(&applied, device, paths).is_empty() || paths.iter().any(|p| !path::has(device, p))
    );
}

/// So that the message type need not be named.
trait Described {
    fn descriptor_of(&self) -> prost_reflect::MessageDescriptor;
}

impl Described for DynamicMessage {
    fn descriptor_of(&self) -> prost_reflect::MessageDescriptor {
        prost_reflect::ReflectMessage::descriptor(self)
    }
}
