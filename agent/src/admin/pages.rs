//! The files of the admin page, embedded in the binary.

use super::http::{Request, Response};
use super::problem::problem;

/// Path, type, content.
const FILES: &[(&str, &str, &[u8])] = &[
    ("/", "text/html; charset=utf-8", include_bytes!("../../../static/index.html")),
    ("/style.css", "text/css; charset=utf-8", include_bytes!("../../../static/style.css")),
    ("/status.js", "text/javascript; charset=utf-8", include_bytes!("../../../static/status.js")),
];

/// A file, or the page itself for a path that is one of the page's own: those have no dot in their last part.
pub(crate) fn page(request: &Request) -> Response {
    let path = if request.path == "/index.html" { "/" } else { &request.path };
    let last = path.rsplit('/').next().unwrap_or(path);
    let file = FILES
        .iter()
        .find(|(name, ..)| *name == path)
        .or_else(|| FILES.first().filter(|_| path.starts_with('/') && !last.contains('.')));
    let Some((_, kind, content)) = file else { return problem(404, "there is no such page") };
    if !request.is_safe() {
        return problem(405, format!("a page does not take {}", shown(&request.method)))
            .with("Allow", "GET, HEAD");
    }
    Response::bytes(200, *content)
        .with("Content-Type", *kind)
        // The files change with the binary only, but a browser cannot know when that is.
        .with("Cache-Control", "no-cache")
}

/// A method is a token, so there is nothing in it to escape; only its length is anybody's choice.
fn shown(method: &str) -> &str {
    method.get(..20).unwrap_or(method)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_served_at_its_own_paths_only() {
        for (path, status) in [
            ("/", 200),
            ("/index.html", 200),
            ("/mappings", 200),
            ("/style.css", 200),
            ("/x.css", 404),
            ("*", 404),
        ] {
            assert_eq!(page(&Request::new("GET", path)).status, status, "{path}");
        }
        let refused = page(&Request::new("POST", "/"));
        assert_eq!((refused.status, refused.header("Allow")), (405, Some("GET, HEAD")));
    }

    #[test]
    fn no_file_has_script_or_style_inside_or_asks_another_host() {
        for (name, _, content) in FILES {
            let text = std::str::from_utf8(content).expect("text");
            assert!(!text.is_empty(), "{name}");
            for forbidden in ["<script>", "<style", "style=", "onclick", "https://", "http://", "eval("] {
                assert!(!text.contains(forbidden), "{name} has {forbidden}");
            }
        }
    }
}
