//! Lists `src/applets/*` so that the table in `src/applets/mod.rs` can be checked against the files when it is compiled:
//! a file without a row, or a row without a file, does not build.

use std::path::Path;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=src/applets");
    let mut names: Vec<String> = Vec::new();
    for entry in fs::read_dir("src/applets")? {
        let name = entry?.file_name().to_string_lossy().trim_end_matches(".rs").to_string();
        if name != "mod" {
            names.push(name.replace('_', "-").replace("static-ipam", "static"));
        }
    }
    names.sort();
    let out = env::var("OUT_DIR").map_err(io::Error::other)?;
    fs::write(Path::new(&out).join("applet_files.rs"), format!("&{names:?}"))
}
