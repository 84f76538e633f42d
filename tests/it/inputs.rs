//! Everything in `fuzz/corpus/` through the functions that the fuzz targets call.

use std::{fs, path::Path};

#[path = "../../fuzz/src/lib.rs"]
mod targets;

#[test]
fn the_corpus_of_every_fuzz_target_holds_what_must_hold() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, target) in targets::TARGETS {
        let folder = fs::read_dir(corpus.join(name)).unwrap_or_else(|e| panic!("no corpus of {name}: {e}"));
        let mut count = 0;
        for entry in folder {
            let path = entry.expect("an entry").path();
            let bytes = fs::read(&path).expect("readable");
            // The output of a test that fails ends with the input that it failed on.
            println!("{}", path.display());
            target(&bytes);
            count += 1;
        }
        assert!(count >= 5, "only {count} inputs of {name}");
    }
}
