//! What is sealed comes back as it was.

use proptest::prelude::*;

use super::*;
use crate::plan::sealed::{copy_from_bytes, copy_to_bytes, found_from_bytes, found_to_bytes};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]

    #[test]
    fn a_sealed_device_comes_back_as_it_was(seed: u64, rough: bool, external_js: bool, other in any::<Option<bool>>()) {
        let mut found = generated(seed);
        if rough {
            roughen(&mut found, seed);
        }
        for component in Component::ALL {
            if let Some(Record(message)) = found.records.slot(component) {
                *message = newer(message);
            }
        }
        found.external_js = external_js;
        found.elsewhere = other.map(|_| (Component::As, "other.example".to_owned())).into_iter().collect();
        found.hosts.known_as = vec!["alias".to_owned()];
        let back = found_from_bytes(&found_to_bytes(&found)).expect("its own form");
        prop_assert!(back.records == found.records);
        prop_assert_eq!(&back.hosts, &found.hosts);
        prop_assert_eq!(&back.elsewhere, &found.elsewhere);
        prop_assert_eq!(back.external_js, found.external_js);
        for (component, record) in back.records.present() {
            prop_assert_eq!(record.0.unknown_fields().count(), 1, "{}", component);
        }

        let copy = transform(&found, SessionMode::Keep).copy;
        prop_assert!(copy_from_bytes(&copy_to_bytes(&copy)).expect("its own form") == copy);
    }

    #[test]
    fn damaged_seals_are_refused_not_misread(seed in 0_u64..20, at in any::<prop::sample::Index>()) {
        let bytes = found_to_bytes(&generated(seed));
        let cut = &bytes[..at.index(bytes.len())];
        prop_assert!(found_from_bytes(cut).is_err());
        prop_assert!(copy_from_bytes(&bytes).is_err());
    }
}

#[test]
fn a_seal_of_a_newer_version_is_refused() {
    let bytes = found_to_bytes(&generated(0));
    let newer = String::from_utf8(bytes.to_vec()).expect("JSON").replace("\"format\":1", "\"format\":3");
    let error = found_from_bytes(newer.as_bytes()).expect_err("newer").to_string();
    // The second has a device of V2 in it, the first none: anything else is damage.
    let wrong = String::from_utf8(bytes.to_vec()).expect("JSON").replace("\"format\":1", "\"format\":2");
    assert!(found_from_bytes(wrong.as_bytes()).is_err());
    assert_eq!(error, "the sealed snapshot has format 3, this build reads 1 and 2");
}
