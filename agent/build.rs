//! Puts the files of the admin page into the binary: short, compressed, and with the names of their contents.
//!
//! The page itself needs no build step: `static/` works as it is. What is left out here, comments and spaces, is for
//! those who read the source; a browser on the other end of a slow line does without.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::{Compression, GzBuilder};
use sha2::{Digest, Sha256};

fn main() {
    let folder = Path::new(&variable("CARGO_MANIFEST_DIR")).join("../static");
    let out = PathBuf::from(variable("OUT_DIR"));
    println!("cargo:rerun-if-changed={}", folder.display());
    let mut paths = Vec::new();
    files(&folder, &mut paths);
    paths.sort();
    let mut table = String::from("[\n");
    for (number, path) in paths.iter().enumerate() {
        let inside = path.strip_prefix(&folder).expect("found below it").to_str().expect("a name in ASCII");
        let name = if inside == "index.html" { "/".to_owned() } else { format!("/{inside}") };
        let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let served = match path.extension().and_then(|e| e.to_str()) {
            Some("js") => short(inside, minifier::js::minify(&text)),
            Some("css") => short(inside, minifier::css::minify(&text)),
            _ => text,
        };
        let hash = Sha256::digest(served.as_bytes());
        let tag: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let (plain, gzip) = (out.join(format!("{number}.plain")), out.join(format!("{number}.gz")));
        // No time of day in it, so that the same sources give the same binary.
        let mut encoder = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
        encoder.write_all(served.as_bytes()).expect("into memory");
        fs::write(&gzip, encoder.finish().expect("into memory")).expect("OUT_DIR can be written");
        fs::write(&plain, served).expect("OUT_DIR can be written");
        table += &format!(
            "    File {{ path: {name:?}, tag: {tag:?}, plain: include_bytes!({plain:?}), \
             gzip: include_bytes!({gzip:?}) }},\n"
        );
    }
    fs::write(out.join("pages.rs"), table + "]\n").expect("OUT_DIR can be written");
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|e| panic!("{name}, which cargo sets: {e}"))
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
        let path = entry.expect("an entry of the folder").path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
}

fn short(name: &str, minified: Result<impl ToString, &str>) -> String {
    minified.unwrap_or_else(|e| panic!("{name}: {e}")).to_string()
}
