//! The messages of The Things Stack, and those of The Things Network Stack V2 (packages `discovery`, `handler`, `lorawan`),
//! by reflection.
//!
//! Everything that a registry stores is handled as a [`DynamicMessage`]: it keeps the fields that this build does not
//! know (see `docs/adr/0001-dynamic-messages.md`), and one path language serves masks, differences and JSON.

use std::sync::LazyLock;

use prost_reflect::{DescriptorPool, DynamicMessage, EnumDescriptor, MessageDescriptor, MethodDescriptor};

/// Package of every message of The Things Stack v3.
pub const PACKAGE: &str = "ttn.lorawan.v3";

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin")).as_slice())
        .expect("the descriptor set was compiled with this binary")
});

/// All descriptors compiled from `proto/`.
pub fn pool() -> &'static DescriptorPool {
    &POOL
}

/// The descriptor of a message by its name inside [`PACKAGE`] (`"EndDevice"`) or its full name.
///
/// # Panics
/// When `proto/` has no such message: names are constants of this program, never input.
pub fn descriptor(name: &str) -> MessageDescriptor {
    find(name, |full| POOL.get_message_by_name(full))
}

/// The descriptor of an enum, by the same names as [`descriptor`]; panics alike.
pub fn enumeration(name: &str) -> EnumDescriptor {
    find(name, |full| POOL.get_enum_by_name(full))
}

fn find<T>(name: &str, get: impl Fn(&str) -> Option<T>) -> T {
    get(&format!("{PACKAGE}.{name}")).or_else(|| get(name)).unwrap_or_else(|| panic!("proto/ has no {name}"))
}

/// An empty message of the given name; panics like [`descriptor`].
pub fn message(name: &str) -> DynamicMessage {
    DynamicMessage::new(descriptor(name))
}

/// The method of a gRPC request path such as `/ttn.lorawan.v3.EndDeviceRegistry/Get`.
pub fn method(path: &str) -> Option<MethodDescriptor> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    POOL.get_service_by_name(service)?.methods().find(|m| m.name() == method)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_is_found_by_its_request_path() {
        let get = method("/ttn.lorawan.v3.EndDeviceRegistry/Get").expect("known");
        assert_eq!(get.output().name(), "EndDevice");
        assert!(method("/ttn.lorawan.v3.EndDeviceRegistry/Nope").is_none());
        assert!(method("nonsense").is_none());
    }
}
