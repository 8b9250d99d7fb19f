//! What the fuzz targets ask of every input (`fuzz/src`), asked of their seeds, and of what is made of them by cutting
//! and by changing single bytes.

use std::fs;
use std::panic;
use std::path::Path;

#[path = "../../../fuzz/src/lib.rs"]
#[allow(unreachable_pub)]
pub(crate) mod checks;

/// Bytes that mean something to one parser or another.
const TELLING: [u8; 12] = [0, b'\t', b'\n', b'\r', b' ', b',', b':', b'0', b'"', 0x7f, 0x80, 0xff];

#[test]
fn the_seeds_hold_what_the_fuzz_targets_ask() {
    for (name, check) in checks::TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name);
        let seeds = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let mut count = 0;
        for seed in seeds {
            let path = seed.expect("an entry").path();
            let seed = fs::read(&path).expect("a seed");
            let ask = |input: &[u8]| {
                if panic::catch_unwind(|| check(input)).is_err() {
                    panic!("{}, made into {}", path.display(), input.escape_ascii());
                }
            };
            ask(&seed);
            // Long ones are there for a bound, and say nothing more in pieces.
            if seed.len() <= 512 {
                for at in 0..seed.len() {
                    ask(&seed[..at]);
                    let mut changed = seed.clone();
                    for byte in TELLING {
                        changed[at] = byte;
                        ask(&changed);
                    }
                }
            }
            count += 1;
        }
        assert!(count >= 5, "{name}: {count} seeds");
    }
}
