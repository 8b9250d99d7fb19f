//! The Agent's command line: what it prints, and its exit status.

use std::io::Write;
use std::process::{Command, Stdio};

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
    for arguments in
        [&["--wrong"][..], &["hash-pasword"], &["hash-password", "secret"], &["hash-password", "--check"]]
    {
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
