//! The Gateway's command line: what it prints, and its exit status.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::thread;

use gateway::config::DAEMON;
use shared::settings::help::topics;

const KEY: (&str, &str) = ("Gateway__ApiKey", "0123456789abcdef0123456789abcdef");

/// Exit status, standard output and standard error.
fn run(arguments: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_octoporty-gateway"));
    command.args(arguments).env_clear().envs(environment.iter().copied()).stdin(Stdio::null());
    let output = command.output().expect("the program can be run");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn version_and_help_are_printed_without_settings() {
    for arguments in [&["--version"][..], &["-V"], &["version"]] {
        let (status, out, err) = run(arguments, &[]);
        assert_eq!((status, err.as_str()), (Some(0), ""));
        assert_eq!(out, format!("octoporty-gateway {}\n", env!("CARGO_PKG_VERSION")));
    }
    for arguments in [&["--help"][..], &["-h"], &["run", "--help"]] {
        let (status, out, err) = run(arguments, &[]);
        assert_eq!((status, err.as_str()), (Some(0), ""));
        for word in [
            "SYNOPSIS",
            "SETTINGS",
            "Gateway__ApiKey",
            "Gateway__CaddyAdminUrl",
            "default: 17200",
            "EXIT STATUS",
        ] {
            assert!(out.contains(word), "{word}");
        }
    }
}

#[test]
fn wrong_arguments_exit_with_2_and_show_the_usage() {
    for arguments in [&["--wrong"][..], &["start"], &["run", "more"], &["--env-file"]] {
        let (status, out, err) = run(arguments, &[KEY]);
        assert_eq!((status, out.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(err.starts_with("octoporty-gateway: ") && err.contains("usage: "), "{err}");
    }
}

#[test]
fn a_check_of_valid_settings_exits_with_0_and_shows_no_secret() {
    for arguments in [&["--check"][..], &["check"], &["run", "--check"]] {
        let (status, out, err) =
            run(arguments, &[KEY, ("Gateway__Port", "17299"), ("Gateway__DebugJson", "true")]);
        assert_eq!(status, Some(0), "{err}");
        assert!(out.contains("Gateway__ApiKey = 01****ef (environment)"), "{out}");
        assert!(out.contains("Gateway__Port = \"17299\" (environment)"), "{out}");
        assert!(out.ends_with("the settings are valid\n"), "{out}");
        assert_eq!(err, "octoporty-gateway: warning: Gateway__DebugJson (environment) is no longer used\n");
    }
}

#[test]
fn wrong_settings_exit_with_2_and_are_all_reported() {
    let environment =
        [("Gateway__ApiKey", "too-short-secret"), ("Gateway__Port", "x"), ("Gateway__Prot", "1")];
    for arguments in [&[][..], &["run"], &["--check"]] {
        let (status, out, err) = run(arguments, &environment);
        assert_eq!((status, out.as_str()), (Some(2), ""));
        assert!(err.starts_with("octoporty-gateway: 3 settings are wrong:\n"), "{err}");
        for line in [
            "  Gateway__Prot (environment): is not a setting; did you mean Gateway__Port?\n",
            "  Gateway__ApiKey to****et (environment): must have at least 32 characters, has 16\n",
            "  Gateway__Port \"x\" (environment): must be a whole number from 0 to 65535\n",
        ] {
            assert!(err.contains(line), "{err}");
        }
        assert!(!err.contains("too-short-secret"), "{err}");
    }
}

#[test]
fn settings_are_read_from_a_file() {
    let path = std::env::temp_dir().join(format!("octoporty-gateway-{}.env", process::id()));
    let file = TempFile(path);
    fs::write(&file.0, "export GATEWAY_API_KEY='0123456789abcdef0123456789abcdef'\nGateway__Port=x\n")
        .expect("written");
    let name = file.0.to_str().expect("UTF-8");
    let (status, _, err) = run(&["--env-file", name, "--check"], &[]);
    assert_eq!(status, Some(2));
    assert!(err.contains(&format!("Gateway__Port \"x\" ({name}:2): must be")), "{err}");
    // The environment wins.
    let (status, out, err) = run(&["--env-file", name, "--check"], &[("Gateway__Port", "0")]);
    assert_eq!(status, Some(0), "{err}");
    assert!(out.contains(&format!("Gateway__ApiKey = 01****ef ({name}:1)")), "{out}");
}

struct TempFile(PathBuf);

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn healthcheck_asks_the_configured_port() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let port = listener.local_addr().expect("bound").port().to_string();
    let server = thread::spawn(move || {
        for answer in ["HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 503 Service Unavailable\r\n\r\n"] {
            let (mut stream, _) = listener.accept().expect("asked");
            let mut head = [0; 1024];
            let count = stream.read(&mut head).expect("a request");
            assert!(head[..count].starts_with(b"GET /health HTTP/1.1\r\n"));
            stream.write_all(answer.as_bytes()).expect("still there");
        }
    });
    // Only the port matters: the check must not fail because of another setting.
    let environment = [("Gateway__Port", port.as_str())];
    assert_eq!(run(&["healthcheck"], &environment), (Some(0), String::new(), String::new()));
    let (status, _, err) = run(&["healthcheck"], &environment);
    assert_eq!(status, Some(1));
    assert!(err.contains("503"), "{err}");
    server.join().expect("answered");
    // Nobody listens any more.
    assert_eq!(run(&["healthcheck"], &environment).0, Some(1));
}

/// A folder of one test, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("octoporty-gateway-cli-{}-{name}", process::id()));
        fs::create_dir_all(&path).expect("a folder");
        Folder(path)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("UTF-8").to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// With the path of the machine, where Caddy is.
fn run_with_path(arguments: &[&str]) -> (Option<i32>, String, String) {
    let path = std::env::var("PATH").expect("a PATH");
    run(arguments, &[("PATH", &path)])
}

fn caddy_is_here() -> bool {
    let path = std::env::var_os("PATH").expect("a PATH");
    std::env::split_paths(&path).any(|folder| folder.join("caddy").exists())
}

#[test]
fn init_writes_settings_and_a_caddyfile_that_suit_each_other() {
    for (name, more, mode) in [("ask", &[][..], "ask"), ("routes", &["--routes"], "routes")] {
        let folder = Folder::new(name);
        let output = folder.file("gateway.env");
        let arguments =
            ["init", "--fqdn", "Gateway.Example.com", "--email", "me@example.com", "--output", &output];
        let (status, out, err) = run_with_path(&[&arguments[..], more].concat());
        assert_eq!(status, Some(0), "{err}");
        assert_eq!(caddy_is_here(), out.contains("Caddy says that it is valid"), "{out}{err}");
        let secrets = fs::read_to_string(&output).expect("the env file");
        assert_eq!(fs::metadata(&output).expect("it").permissions().mode() & 0o777, 0o600);
        let key = secrets.lines().find_map(|line| line.strip_prefix("GATEWAY_API_KEY=")).expect("a key");
        assert!(key.len() >= 32 && !out.contains(key), "no secret where it may be logged: {out}");
        let caddyfile = fs::read_to_string(folder.file("Caddyfile")).expect("the Caddyfile");
        assert!(caddyfile.contains("\ngateway.example.com {\n"), "{caddyfile}");
        assert_eq!(caddyfile.contains("ask http://127.0.0.1:17200/caddy/ask"), mode == "ask", "{caddyfile}");
        let (status, checked, err) = run(&["check", "--env-file", &output], &[]);
        assert_eq!((status, err.as_str()), (Some(0), ""));
        assert!(checked.contains(&format!("Gateway__CaddyMode = \"{mode}\"")), "{checked}");
        assert!(checked.contains("Gateway__BindAddress = \"127.0.0.1\""), "{checked}");
    }
}

#[test]
fn init_without_caddy_says_that_nobody_checked() {
    let folder = Folder::new("no-caddy");
    let output = folder.file("gateway.env");
    let arguments = ["init", "--fqdn", "g.example.com", "--upstream", "gateway:17200", "--output", &output];
    let (status, out, err) = run(&arguments, &[("PATH", &folder.file("empty"))]);
    assert_eq!(status, Some(0), "{err}");
    assert!(err.contains("Caddy is not installed here"), "{err}");
    assert!(!out.contains("valid"), "{out}");
    assert!(!fs::read_to_string(&output).expect("the file").contains("BindAddress"), "Caddy is elsewhere");
}

#[test]
fn init_puts_nothing_in_place_that_caddy_refuses() {
    let folder = Folder::new("refused");
    // A Caddy that says no.
    let fake = folder.file("caddy");
    fs::write(&fake, "#!/bin/sh\necho 'Error: line 3: no such directive' >&2\nexit 1\n").expect("written");
    fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).expect("executable");
    let output = folder.file("gateway.env");
    let path = format!("{}:{}", folder.0.display(), std::env::var("PATH").expect("a PATH"));
    let (status, out, err) =
        run(&["init", "--fqdn", "g.example.com", "--output", &output], &[("PATH", &path)]);
    assert_eq!((status, out.as_str()), (Some(1), ""));
    assert!(err.contains("line 3: no such directive"), "{err}");
    assert_eq!(fs::read_dir(&folder.0).expect("the folder").count(), 1, "only the fake is there");
}

#[test]
fn init_leaves_files_alone_that_exist() {
    let folder = Folder::new("exists");
    let (output, caddyfile) = (folder.file("gateway.env"), folder.file("Caddyfile"));
    fs::write(&caddyfile, "old").expect("written");
    let (status, _, err) = run_with_path(&["init", "--fqdn", "g.example.com", "--output", &output]);
    assert_eq!(status, Some(1));
    assert!(err.contains("Caddyfile exists"), "{err}");
    assert!(!Path::new(&output).exists());
    let arguments = ["init", "--fqdn", "g.example.com", "--output", &output, "--no-caddyfile"];
    assert_eq!(run_with_path(&arguments).0, Some(0));
    assert_eq!(fs::read_to_string(&caddyfile).expect("it"), "old");
    let arguments = ["init", "--fqdn", "g.example.com", "--output", &output, "--force"];
    assert_eq!(run_with_path(&arguments).0, Some(0));
    assert_eq!(fs::read_to_string(format!("{caddyfile}.old")).expect("the old one"), "old");
}

#[test]
fn init_refuses_what_would_not_work() {
    let folder = Folder::new("wrong");
    let output = folder.file("gateway.env");
    let rows: [(&[&str], &str); 7] = [
        (&[], "needs --fqdn HOST"),
        (&["--fqdn", "1.2.3.4"], "must be a host name"),
        (&["--fqdn", "g.example.com", "--email", "me"], "you@example.com"),
        (&["--fqdn", "g.example.com", "--port", "0"], "Caddy must know the port"),
        (&["--fqdn", "g.example.com", "--api-key", "short"], "at least 32 characters"),
        (&["--fqdn", "g.example.com", "--upstream", "gateway"], "must be HOST:PORT"),
        (&["--fqdn", "g.example.com", "--emial", "x"], "did you mean --email?"),
    ];
    for (more, expected) in rows {
        let (status, out, err) = run_with_path(&[&["init", "--output", &output][..], more].concat());
        assert_eq!((status, out.as_str()), (Some(2), ""), "{more:?}");
        assert!(err.contains(expected), "{more:?}: {err}");
        assert_eq!(fs::read_dir(&folder.0).expect("the folder").count(), 0, "{more:?}");
    }
}

/// Every page of help as `docs/cli.md` shows them.
fn pages() -> String {
    let mut out = String::new();
    let topics = topics(&DAEMON);
    assert!(topics.len() > 4);
    for topic in topics {
        let arguments: Vec<&str> = topic.split_whitespace().chain(["--help"]).collect();
        let (status, page, err) = run(&arguments, &[]);
        assert_eq!((status, err.as_str()), (Some(0), ""), "{topic}");
        assert!(
            page.contains("\nEXAMPLES\n    octoporty-gateway"),
            "{topic}: an example shows more than a paragraph"
        );
        let level = if topic.is_empty() { "##" } else { "###" };
        let title = format!("octoporty-gateway {topic}");
        out.push_str(&format!("{level} {}\n\n```text\n{page}```\n\n", title.trim_end()));
    }
    out
}

/// `OCTOPORTY_WRITE_DOCS=1` writes the document anew instead.
#[test]
fn the_document_shows_the_help_as_it_is() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cli.md");
    let text = fs::read_to_string(&path).expect("docs/cli.md");
    let (begin, end) = ("<!-- octoporty-gateway: begin -->\n", "<!-- octoporty-gateway: end -->\n");
    let (before, rest) = text.split_once(begin).expect("a beginning");
    let (shown, after) = rest.split_once(end).expect("an end");
    let expected = pages();
    if std::env::var_os("OCTOPORTY_WRITE_DOCS").is_some() {
        fs::write(&path, format!("{before}{begin}{expected}{end}{after}")).expect("written");
    } else if shown != expected {
        let differs = shown.lines().zip(expected.lines()).find(|(a, b)| a != b);
        panic!("docs/cli.md is out of date at {differs:?}; OCTOPORTY_WRITE_DOCS=1 writes it anew");
    }
}
