//! The landing page of the Gateway's own host: its default, and the hash by which both sides compare theirs.

use std::fmt::Write;

use md5::{Digest, Md5};

/// The page while no operator has written another. It needs nothing from elsewhere.
pub const DEFAULT: &str = include_str!("landing/default.html");

/// Hash of a page: MD5 over its UTF-8 bytes, 32 hexadecimal digits in lower case. It tells versions of an operator's
/// own page apart, and has the form that scripts written for the earlier program know; it protects nothing.
pub fn hash(html: &str) -> String {
    Md5::digest(html.as_bytes()).iter().fold(String::with_capacity(32), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string does not fail");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_that_of_rfc_1321() {
        assert_eq!(hash(""), "d41d8cd98f00b204e9800998ecf8427e");
        assert_eq!(hash("message digest"), "f96b697d7cb7938d525a2f31aaf161d0");
    }

    #[test]
    fn the_default_page_needs_nothing_from_elsewhere() {
        assert!(DEFAULT.contains("<h1>Octoporty Gateway</h1>"));
        for outside in ["http:", "https:", "src=", "url(", "@import", "<script", "<link", "//"] {
            assert!(!DEFAULT.contains(outside), "{outside}");
        }
    }
}
