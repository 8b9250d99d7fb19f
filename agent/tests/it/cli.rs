//! The Agent's command line: what it prints, and its exit status.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use agent::config::DAEMON;
use shared::settings::help::topics;

/// `openssl passwd -6 -salt abcdefgh password`
const HASH: &str =
    "$6$abcdefgh$yVfUwsw5T.JApa8POvClA1pQ5peiq97DUNyXCZN5IrF.BMSkiaLQ5kvpuEm/VQ1Tvh/KV2TcaWh8qinoW5dhA1";

const VALID: [(&str, &str); 4] = [
    ("Agent__GatewayFqdn", "gateway.example.com"),
    ("Agent__ApiKey", "0123456789abcdef0123456789abcdef"),
    ("Agent__JwtSecret", "ABCDEFGHIJKLMNOPQRSTUVWXYZ-0123456789"),
    ("Agent__Auth__PasswordHash", HASH),
];

/// Exit status, standard output and standard error.
fn run(arguments: &[&str], environment: &[(&str, &str)], input: &[u8]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_octoporty-agent"));
    command.args(arguments).env_clear().envs(environment.iter().copied());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program can be run");
    // A program that does not read may have gone: that shows in what it prints.
    let _ = child.stdin.take().expect("piped").write_all(input);
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn version_and_help_are_printed_without_settings() {
    for arguments in [&["--version"][..], &["version"]] {
        let (status, out, err) = run(arguments, &[], b"");
        assert_eq!((status, err.as_str()), (Some(0), ""));
        assert_eq!(out, format!("octoporty-agent {}\n", env!("CARGO_PKG_VERSION")));
    }
    let (status, out, err) = run(&["--help"], &[], b"");
    assert_eq!((status, err.as_str()), (Some(0), ""));
    for word in [
        "SETTINGS",
        "Agent__GatewayFqdn",
        "AGENT_PASSWORD_HASH",
        "hash-password",
        "default: 17201",
        "EXIT STATUS",
    ] {
        assert!(out.contains(word), "{word}");
    }
}

#[test]
fn wrong_arguments_exit_with_2_and_show_the_usage() {
    for arguments in [
        &["--wrong"][..],
        &["hash-pasword"],
        &["hash-password", "secret"],
        &["hash-password", "--check"],
        &["init", "--fdqn", "x"],
    ] {
        let (status, out, err) = run(arguments, &VALID, b"");
        assert_eq!((status, out.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(err.starts_with("octoporty-agent: ") && err.contains("usage: "), "{err}");
    }
}

#[test]
fn a_check_of_valid_settings_exits_with_0_and_shows_no_secret() {
    let (status, out, err) = run(&["--check"], &VALID, b"");
    assert_eq!((status, err.as_str()), (Some(0), ""));
    assert!(out.contains("Agent__GatewayFqdn = \"gateway.example.com\" (environment)"), "{out}");
    assert!(out.ends_with("the settings are valid\n"), "{out}");
    for (_, secret) in &VALID[1..] {
        assert!(!out.contains(secret), "{out}");
    }
}

#[test]
fn nothing_set_exits_with_2_and_says_all_that_is_required() {
    for arguments in [&[][..], &["run"], &["--check"]] {
        let (status, out, err) = run(arguments, &[], b"");
        assert_eq!((status, out.as_str()), (Some(2), ""));
        assert!(err.starts_with("octoporty-agent: 4 settings are wrong:\n"), "{err}");
        for (key, _) in VALID {
            assert!(err.contains(&format!("\n  {key}: is required")), "{err}");
        }
    }
}

#[test]
fn a_key_in_clear_is_refused_with_an_explanation() {
    let mut environment = VALID.to_vec();
    environment.push(("Agent__GatewayUrl", "ws://gateway.example.com/tunnel"));
    let (status, _, err) = run(&["check"], &environment, b"");
    assert_eq!(status, Some(2));
    assert!(err.contains("without TLS the key and all traffic can be read"), "{err}");
}

#[test]
fn a_hash_made_here_is_accepted_here() {
    let (status, out, err) = run(&["hash-password"], &[], "pässword\n".as_bytes());
    assert_eq!((status, err.as_str()), (Some(0), ""));
    let hash = out.trim_end();
    assert!(hash.starts_with("$6$rounds=") && !hash.contains('\n'), "{out}");
    let mut environment = VALID;
    environment[3].1 = hash;
    assert_eq!(run(&["--check"], &environment, b"").0, Some(0));
}

#[test]
fn an_empty_or_endless_password_is_refused() {
    for input in [&b""[..], b"\n", &[b'x'; 1025]] {
        let (status, out, err) = run(&["hash-password"], &[], input);
        assert_eq!((status, out.as_str()), (Some(1), ""));
        assert!(err.starts_with("octoporty-agent: the password is "), "{err}");
    }
}

#[test]
fn healthcheck_fails_while_nobody_listens_or_nobody_knows_where() {
    for port in ["1", "0"] {
        let (status, out, err) = run(&["healthcheck"], &[("Agent__Port", port)], b"");
        assert_eq!((status, out.as_str()), (Some(1), ""));
        assert!(err.starts_with("octoporty-agent: "), "{err}");
    }
}

/// A folder of one test, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("octoporty-agent-cli-{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("a folder");
        Folder(path)
    }

    /// Path of a file in it.
    fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("UTF-8").to_owned()
    }

    /// A file in it.
    fn write(&self, name: &str, content: &str) -> String {
        fs::write(self.0.join(name), content).expect("written");
        self.file(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn init_writes_a_file_that_the_agent_accepts() {
    let folder = Folder::new();
    let (output, key) =
        (folder.file("agent.env"), folder.write("key", "a key of 32 characters, 'quoted' \n"));
    let data = folder.file("data");
    let arguments = [
        "init",
        "--fqdn",
        "Gateway.Example.com",
        "--api-key-file",
        &key,
        "--password-file=-",
        "--port",
        "18201",
        "--data",
        &data,
        "--output",
        &output,
    ];
    let (status, out, err) = run(&arguments, &[], b"pass word\n");
    assert_eq!(
        (status, err.as_str()),
        (
            Some(0),
            "octoporty-agent: warning: the password is short; whoever reaches the admin page can guess\n"
        ),
        "{out}"
    );
    assert!(out.starts_with(&format!("wrote {output}\n")) && out.contains("octoporty-agent doctor"), "{out}");
    let mode = fs::metadata(&output).expect("the file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "only its owner reads it");
    let text = fs::read_to_string(&output).expect("the file");
    assert!(text.contains("\nAGENT_AUTH_PASSWORD_HASH='$6$") && !text.contains("pass word"), "{text}");

    let (status, checked, err) = run(&["check", "--env-file", &output], &[], b"");
    assert_eq!((status, err.as_str()), (Some(0), ""), "{checked}");
    for line in ["Agent__GatewayFqdn = \"Gateway.Example.com\"", "Agent__Port = \"18201\"", "Data Source="] {
        assert!(checked.contains(line), "{line}: {checked}");
    }
    // Also as a shell reads it.
    let script = format!(". {output}; printf %s \"$AGENT_AUTH_PASSWORD_HASH\"");
    let hash = Command::new("sh").arg("-c").arg(script).env_clear().output().expect("a shell").stdout;
    assert!(hash.starts_with(b"$6$rounds="), "{:?}", String::from_utf8_lossy(&hash));
}

#[test]
fn init_makes_keys_that_differ() {
    let folder = Folder::new();
    let password = folder.write("password", "a good password\n");
    let mut secrets = Vec::new();
    for name in ["one", "two"] {
        let output = folder.file(name);
        let arguments = ["init", "--fqdn", "g.example", "--password-file", &password, "--output", &output];
        let (status, out, err) = run(&arguments, &[], b"");
        assert_eq!((status, err.as_str()), (Some(0), ""));
        let text = fs::read_to_string(&output).expect("the file");
        for key in ["AGENT_API_KEY=", "AGENT_JWT_SECRET="] {
            let secret = text.lines().find_map(|line| line.strip_prefix(key)).expect(key).to_owned();
            assert!(!out.contains(&secret), "no secret where it may be logged: {out}");
            secrets.push(secret);
        }
    }
    let count = secrets.len();
    secrets.sort();
    secrets.dedup();
    assert_eq!((count, secrets.len()), (4, 4));
}

#[test]
fn init_overwrites_by_force_only_and_keeps_the_old_file() {
    let folder = Folder::new();
    let (output, password) = (folder.write("agent.env", "old"), folder.write("password", "a good password"));
    let mut arguments =
        vec!["init", "--fqdn", "g.example", "--password-file", &password, "--output", &output];
    let (status, out, err) = run(&arguments, &[], b"");
    assert_eq!((status, out.as_str()), (Some(1), ""));
    assert!(err.contains("exists; --force replaces it"), "{err}");
    assert_eq!(fs::read_to_string(&output).expect("the file"), "old");
    arguments.push("--force");
    let (status, out, err) = run(&arguments, &[], b"");
    assert_eq!((status, err.as_str()), (Some(0), ""));
    assert!(out.contains(&format!("kept the old one as {output}.old")), "{out}");
    assert_eq!(fs::read_to_string(format!("{output}.old")).expect("the old file"), "old");
}

#[test]
fn init_writes_nothing_when_something_is_wrong_or_missing() {
    let folder = Folder::new();
    let (output, password) = (folder.file("agent.env"), folder.write("password", "a good password"));
    let empty = folder.write("empty", "\n");
    let rows: [(&[&str], &str); 8] = [
        (&["--password-file", &password], "needs --fqdn HOST or --gateway-url URL"),
        (&["--fqdn", "g.example"], "needs --password-file FILE"),
        (&["--fqdn", "https://g.example", "--password-file", &password], "bare host name"),
        (&["--gateway-url", "ws://g.example", "--password-file", &password], "without TLS the key"),
        (&["--fqdn", "g.example", "--password-file", &empty], "is empty"),
        (&["--fqdn", "g.example", "--password-file", "/nowhere"], "/nowhere"),
        (
            &["--fqdn", "g.example", "--password-file", &password, "--api-key", "short"],
            "at least 32 characters",
        ),
        (
            &["--fqdn", "g.example", "--password-file", &password, "--port", "http"],
            "whole number from 0 to 65535",
        ),
    ];
    for (more, expected) in rows {
        let arguments = [&["init", "--output", &output][..], more].concat();
        let (status, out, err) = run(&arguments, &[], b"");
        assert_eq!((status, out.as_str()), (Some(2), ""), "{more:?}");
        assert!(err.starts_with("octoporty-agent: ") && err.contains(expected), "{more:?}: {err}");
        assert!(!PathBuf::from(&output).exists(), "{more:?}");
    }
    let left: Vec<_> =
        fs::read_dir(&folder.0).expect("the folder").map(|e| e.expect("an entry").file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

/// Every page of help as `docs/cli.md` shows them.
fn pages() -> String {
    let mut out = String::new();
    let topics = topics(&DAEMON);
    assert!(topics.len() > 4);
    for topic in topics {
        let arguments: Vec<&str> = topic.split_whitespace().chain(["--help"]).collect();
        let (status, page, err) = run(&arguments, &[], b"");
        assert_eq!((status, err.as_str()), (Some(0), ""), "{topic}");
        assert!(
            page.contains("\nEXAMPLES\n    octoporty-agent"),
            "{topic}: an example shows more than a paragraph"
        );
        let level = if topic.is_empty() { "##" } else { "###" };
        let title = format!("octoporty-agent {topic}");
        out.push_str(&format!("{level} {}\n\n```text\n{page}```\n\n", title.trim_end()));
    }
    out
}

/// `OCTOPORTY_WRITE_DOCS=1` writes the document anew instead.
#[test]
fn the_document_shows_the_help_as_it_is() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cli.md");
    let text = fs::read_to_string(&path).expect("docs/cli.md");
    let (begin, end) = ("<!-- octoporty-agent: begin -->\n", "<!-- octoporty-agent: end -->\n");
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

/// What a terminal shows of the program while somebody answers its questions: each with the beginning of the question.
/// The exit status is the last line. `script` is part of every Debian (bsdutils).
fn on_a_terminal(arguments: &str, environment: &[(&str, &str)], answers: &[(&str, &str)]) -> String {
    let program = env!("CARGO_BIN_EXE_octoporty-agent");
    let line = format!("{program} {arguments}; echo status $?");
    let mut command = Command::new("script");
    command.args(["-qc", &line, "/dev/null"]).env_clear().envs(environment.iter().copied());
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("TERM", "xterm");
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("script can be run");
    let (mut input, mut output) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
    let (sender, pieces) = mpsc::channel();
    let reader = thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(count) = output.read(&mut piece) {
            if count == 0 || sender.send(piece[..count].to_vec()).is_err() {
                break;
            }
        }
    });
    let mut shown = String::new();
    let mut looked = 0;
    let mut wait_for = |shown: &mut String, text: &str| {
        while !shown[looked..].contains(text) {
            let piece = pieces.recv_timeout(Duration::from_secs(60));
            let piece = piece.unwrap_or_else(|e| panic!("{e} while waiting for {text:?} in {shown}"));
            shown.push_str(&String::from_utf8_lossy(&piece));
        }
        looked += shown[looked..].find(text).expect("just seen") + text.len();
    };
    for (question, answer) in answers {
        wait_for(&mut shown, question);
        input.write_all(answer.as_bytes()).expect("somebody reads");
    }
    wait_for(&mut shown, "status ");
    drop(input);
    child.wait().expect("it ends");
    reader.join().expect("no panic");
    while let Ok(piece) = pieces.try_recv() {
        shown.push_str(&String::from_utf8_lossy(&piece));
    }
    shown
}

#[test]
fn init_asks_on_a_terminal_and_shows_nothing_of_a_secret() {
    let folder = Folder::new();
    let output = folder.file("agent.env");
    let shown = on_a_terminal(
        &format!("init --output {output}"),
        &[],
        &[
            ("host name, as in gateway.example.com: ", "https://wrong\n"),
            ("must be a bare host name", ""),
            ("host name, as in gateway.example.com: ", "gateway.example.com\n"),
            ("key", "0123456789abcdef0123456789abcdef\n"),
            ("A password for the admin page: ", "correct horsey\x7f\n"),
            ("Once more: ", "something else\n"),
            ("the two differ", ""),
            ("A password for the admin page: ", "correct horse\n"),
            ("Once more: ", "correct horse\n"),
        ],
    );
    assert!(shown.contains("status 0") && shown.contains(&format!("wrote {output}")), "{shown}");
    for secret in ["correct", "horse", "0123456789", "something"] {
        assert!(!shown.contains(secret), "{secret}: {shown}");
    }
    let text = fs::read_to_string(&output).expect("the file");
    for line in
        ["AGENT_GATEWAY_FQDN=gateway.example.com\n", "AGENT_API_KEY=0123456789abcdef0123456789abcdef\n"]
    {
        assert!(text.contains(line), "{text}");
    }
}

#[test]
fn a_password_is_asked_for_on_a_terminal_and_ctrl_c_leaves_the_terminal_as_it_was() {
    let shown = on_a_terminal("hash-password", &[], &[("password: ", "a secret\n")]);
    assert!(
        shown.contains("$6$rounds=") && !shown.contains("secret") && shown.contains("status 0"),
        "{shown}"
    );
    let shown = on_a_terminal("hash-password; stty -a", &[], &[("password: ", "half\x03")]);
    assert!(shown.contains("interrupted") && !shown.contains("half"), "{shown}");
    assert!(shown.contains(" echo ") && shown.contains(" icanon "), "{shown}");
}

#[test]
fn colours_are_for_terminals_and_not_for_those_who_do_not_want_them() {
    let doctor = |more: &[(&str, &str)]| {
        let mut environment = VALID.to_vec();
        environment[0] = ("Agent__GatewayUrl", "ws://127.0.0.1:1/tunnel");
        environment.push(("ConnectionStrings__DefaultConnection", "Data Source=/nowhere/at/all.db"));
        environment.extend_from_slice(more);
        on_a_terminal("doctor", &environment, &[])
    };
    let shown = doctor(&[]);
    assert!(shown.contains("\x1b[31mFAIL\x1b[0m") && shown.contains("status 1"), "{shown}");
    let shown = doctor(&[("NO_COLOR", "1")]);
    assert!(shown.contains("FAIL") && !shown.contains("\x1b["), "{shown}");
}
