//! The files of the admin page, embedded in the binary by `build.rs`.
//!
//! A browser asks each time whether a file has changed and is told so by the name of its content, so a page is never
//! put together from two versions of the Agent.

use super::http::{Request, Response};
use super::problem::problem;

struct File {
    path: &'static str,
    /// Names the content.
    tag: &'static str,
    plain: &'static [u8],
    gzip: &'static [u8],
}

const FILES: &[File] = &include!(concat!(env!("OUT_DIR"), "/pages.rs"));

/// The preview of the landing page shows HTML that is being written. It has no origin, so it reaches neither the page
/// around it nor the API; no script in that HTML runs, for none is from here; and nothing is loaded from elsewhere. A
/// `srcdoc` would have the policy of the page around it, which allows no styles within HTML.
const PREVIEW_POLICY: &str = "sandbox allow-scripts; default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; \
                              img-src data:; font-src data:; form-action 'none'; base-uri 'none'; frame-ancestors 'self'";

/// A file, or the page itself for a path that is one of the page's own: those have no dot in their last part.
pub(crate) fn page(request: &Request) -> Response {
    let path = if request.path == "/index.html" { "/" } else { &request.path };
    let last = path.rsplit('/').next().unwrap_or(path);
    let own = path.starts_with('/') && !last.contains('.');
    let find = |path: &str| FILES.iter().find(|file| file.path == path);
    let Some(file) = find(path).or_else(|| find("/").filter(|_| own)) else {
        return problem(404, "there is no such page");
    };
    if !request.is_safe() {
        return problem(405, format!("a page does not take {}", shown(&request.method)))
            .with("Allow", "GET, HEAD");
    }
    let compressed = takes_gzip(request);
    // RFC 9110 8.8.3: what differs in its bytes has another tag.
    let tag = format!("\"{}{}\"", file.tag, if compressed { "-gz" } else { "" });
    let known = request.header("if-none-match").is_some_and(|tags| names(tags, &tag));
    let response = if known {
        Response::empty(304)
    } else {
        let response = Response::bytes(200, if compressed { file.gzip } else { file.plain });
        if compressed { response.with("Content-Encoding", "gzip") } else { response }
    };
    let response = response
        .with("Content-Type", kind(file.path))
        .with("ETag", tag)
        .with("Vary", "Accept-Encoding")
        // The files change with the binary only, but a browser cannot know when that is.
        .with("Cache-Control", "no-cache");
    if file.path.starts_with("/preview.") {
        // What has no origin is another one, also to the script that belongs to it.
        return response
            .with("Content-Security-Policy", PREVIEW_POLICY)
            .with("X-Frame-Options", "SAMEORIGIN")
            .with("Cross-Origin-Resource-Policy", "cross-origin");
    }
    response
}

fn kind(path: &str) -> &'static str {
    match path.rsplit_once('.').map(|(_, end)| end) {
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "text/html; charset=utf-8",
    }
}

/// RFC 9110 12.5.3: named, or covered by `*`, and not with a weight of zero.
fn takes_gzip(request: &Request) -> bool {
    let accepted = request.header("accept-encoding").unwrap_or_default();
    let weight = |coding: &str| {
        accepted.split(',').find_map(|part| {
            let (name, weight) = part.split_once(';').unwrap_or((part, "q=1"));
            let weight = weight.trim().trim_start_matches(['q', 'Q']).trim_start_matches('=');
            name.trim().eq_ignore_ascii_case(coding).then(|| weight.parse().unwrap_or(0.0))
        })
    };
    weight("gzip").or_else(|| weight("*")).is_some_and(|weight: f32| weight > 0.0)
}

/// RFC 9110 13.1.2: a list of tags, compared weakly, or `*`.
fn names(tags: &str, tag: &str) -> bool {
    tags.split(',').map(str::trim).any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one) == tag)
}

/// A method is a token, so there is nothing in it to escape; only its length is anybody's choice.
fn shown(method: &str) -> &str {
    method.get(..20).unwrap_or(method)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::http::Body;

    /// Of everything a browser may load, as it is sent to one that knows no gzip.
    const MOST_BYTES: usize = 200_000;

    fn body(response: &Response) -> &[u8] {
        match &response.body {
            Body::Bytes(bytes) => bytes,
            Body::Stream(_) => panic!("a page is there before it is sent"),
        }
    }

    fn text(path: &str) -> &'static str {
        let file = FILES.iter().find(|file| file.path == path).unwrap_or_else(|| panic!("no {path}"));
        std::str::from_utf8(file.plain).expect("text")
    }

    #[test]
    fn the_page_is_served_at_its_own_paths_only() {
        for (path, status) in [
            ("/", 200),
            ("/index.html", 200),
            ("/mappings", 200),
            ("/mappings/new", 200),
            ("/gateway/caddy-config", 200),
            ("/css/base.css", 200),
            ("/js/main.js", 200),
            ("/x.css", 404),
            ("/js/../js/main.js", 404),
            ("/.env", 404),
            ("*", 404),
        ] {
            assert_eq!(page(&Request::new("GET", path)).status, status, "{path}");
        }
        assert_eq!(body(&page(&Request::new("GET", "/mappings/new"))), text("/").as_bytes());
        let refused = page(&Request::new("POST", "/"));
        assert_eq!((refused.status, refused.header("Allow")), (405, Some("GET, HEAD")));
    }

    #[test]
    fn types_are_those_that_browsers_insist_on() {
        for (path, expected) in [
            ("/", "text/html; charset=utf-8"),
            ("/settings", "text/html; charset=utf-8"),
            ("/js/main.js", "text/javascript; charset=utf-8"),
            ("/css/base.css", "text/css; charset=utf-8"),
            ("/favicon.svg", "image/svg+xml"),
        ] {
            assert_eq!(page(&Request::new("GET", path)).header("Content-Type"), Some(expected), "{path}");
        }
    }

    #[test]
    fn a_file_that_has_not_changed_is_not_sent_again() {
        let ask = |encoding: &str, tags: &str| {
            let request = Request::new("GET", "/js/main.js");
            page(&request.field("Accept-Encoding", encoding).field("If-None-Match", tags))
        };
        let first = ask("gzip", "");
        let tag = first.header("ETag").expect("a tag").to_owned();
        assert_eq!((first.status, first.header("Cache-Control")), (200, Some("no-cache")));
        for tags in [tag.clone(), format!("\"a\", {tag}"), format!("W/{tag}"), "*".into()] {
            let again = ask("gzip", &tags);
            assert_eq!(
                (again.status, body(&again).len(), again.header("ETag")),
                (304, 0, Some(&*tag)),
                "{tags}"
            );
            assert!(again.header("Content-Encoding").is_none() && again.header("Vary").is_some());
        }
        assert_eq!(ask("gzip", "\"another\"").status, 200);
        // The plain one has other bytes.
        assert_eq!(ask("", &tag).status, 200);
    }

    #[test]
    fn files_are_compressed_for_those_who_take_it() {
        for (accepted, expected) in [
            ("gzip, deflate, br", true),
            ("GZIP;q=0.5", true),
            ("*", true),
            ("br;q=1, gzip;q=0", false),
            ("gzip;q=0, *", false),
            ("deflate", false),
            ("", false),
        ] {
            let response = page(&Request::new("GET", "/").field("Accept-Encoding", accepted));
            assert_eq!(response.header("Content-Encoding") == Some("gzip"), expected, "{accepted}");
            assert_eq!(body(&response).starts_with(&[0x1f, 0x8b]), expected, "{accepted}");
            assert_eq!(response.header("Vary"), Some("Accept-Encoding"));
        }
    }

    #[test]
    fn no_file_has_script_or_style_inside_or_asks_another_host() {
        assert!(FILES.len() > 30, "only {} files", FILES.len());
        for file in FILES {
            let text = text(file.path);
            assert!(!text.is_empty(), "{}", file.path);
            for forbidden in [
                "<script>",
                "<style",
                "style=",
                "onclick=\"",
                "eval(",
                "innerHTML",
                "outerHTML",
                "insertAdjacent",
            ] {
                assert!(!text.contains(forbidden), "{} has {forbidden}", file.path);
            }
            for (at, _) in text.match_indices("://") {
                let around = &text[at.saturating_sub(6)..(at + 18).min(text.len())];
                let harmless = ["://www.w3.org/", "://app.example.com", "://${"];
                assert!(harmless.iter().any(|word| around.contains(word)), "{}: {around}", file.path);
            }
        }
    }

    #[test]
    fn what_a_file_imports_is_there() {
        let mut seen = 0;
        for file in FILES {
            let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
            for (start, end) in
                [("}from\"", "\""), ("import(\"", "\""), ("import\"", "\""), ("href=\"/", "\"")]
            {
                for part in text(file.path).split(start).skip(1) {
                    let name = part.split(end).next().unwrap_or_default();
                    let path = match start {
                        "href=\"/" if name.contains('.') => format!("/{name}"),
                        "href=\"/" => continue,
                        _ => resolve(folder, name),
                    };
                    assert!(FILES.iter().any(|one| one.path == path), "{} asks for {path}", file.path);
                    seen += 1;
                }
            }
        }
        assert!(seen > 100, "only {seen} found");
    }

    fn resolve(folder: &str, name: &str) -> String {
        let mut parts: Vec<&str> = folder.split('/').collect();
        for part in name.split('/') {
            match part {
                "." => {}
                ".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        parts.join("/")
    }

    #[test]
    fn the_whole_page_is_small() {
        let total: usize = FILES.iter().map(|file| file.plain.len()).sum();
        let compressed: usize = FILES.iter().map(|file| file.gzip.len()).sum();
        assert!(total < MOST_BYTES, "{total} bytes, {compressed} compressed");
        assert!(compressed < total / 2, "{compressed} of {total} bytes compressed");
    }
}
