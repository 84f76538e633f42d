//! Compiles `proto/` to one descriptor set, in Rust: no protoc to install.

use std::{env, error::Error, fs, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let root = Path::new("proto");
    let mut files = Vec::new();
    for folder in ["ttn/lorawan/v3", "ttn/v2"] {
        for entry in fs::read_dir(root.join(folder))? {
            files.push(entry?.path());
        }
    }
    files.sort();
    let set =
        protox::Compiler::new([root])?.include_imports(true).open_files(files)?.encode_file_descriptor_set();
    fs::write(Path::new(&env::var("OUT_DIR")?).join("descriptors.bin"), set)?;
    Ok(())
}
