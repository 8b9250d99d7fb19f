//! Settings as an operator meets them: everything that is wrong is said at once, with the exit status that tells a
//! service manager whether trying again may help.

use std::net::{Ipv4Addr, TcpListener};

use e2e::daemon::{Ended, Program, run};
use e2e::world::{Agent, Folder, Gateway, JWT_SECRET, KEY, PASSWORD_HASH, Settings};

const GATEWAY: &[(&str, &str)] = &[("Gateway__ApiKey", KEY), ("Logging__FilePath", "")];
const AGENT: &[(&str, &str)] = &[
    ("Agent__GatewayUrl", "ws://127.0.0.1:1/tunnel"),
    ("Agent__ApiKey", KEY),
    ("Agent__JwtSecret", JWT_SECRET),
    ("Agent__Auth__PasswordHash", PASSWORD_HASH),
    ("Logging__FilePath", ""),
];

/// The settings above with others instead.
fn with<'s>(base: &[(&'s str, &'s str)], more: &[(&'s str, &'s str)]) -> Vec<(&'s str, &'s str)> {
    let replaced = |key: &str| more.iter().any(|(k, _)| *k == key);
    base.iter().filter(|(key, _)| !replaced(key)).chain(more).copied().collect()
}

fn status(ended: &Ended) -> Option<i32> {
    ended.status.code()
}

#[test]
fn valid_settings_pass_the_check() {
    for (program, settings) in [(Program::Gateway, GATEWAY), (Program::Agent, AGENT)] {
        let ended = run(program, &["--check"], settings);
        assert_eq!(status(&ended), Some(0), "{ended:?}");
        assert!(!ended.out.contains(KEY) && !ended.err.contains(KEY), "a secret is shown: {ended:?}");
    }
}

#[test]
fn all_faults_are_reported_at_once() {
    let ended = run(
        Program::Gateway,
        &["--check"],
        &[
            ("Gateway__ApiKey", "short"),
            ("Gateway__Port", "99999"),
            ("Gateway__HoldSeconds", "soon"),
            ("Gateway__Prot", "1"),
        ],
    );
    assert_eq!(status(&ended), Some(2), "{ended:?}");
    for named in
        ["Gateway__ApiKey", "32", "Gateway__Port", "99999", "Gateway__HoldSeconds", "soon", "Gateway__Prot"]
    {
        assert!(ended.err.contains(named), "{named:?} is not in {}", ended.err);
    }
    let ended = run(Program::Agent, &[], &[]);
    assert_eq!(status(&ended), Some(2), "{ended:?}");
    for named in ["Agent__GatewayUrl", "Agent__ApiKey", "Agent__JwtSecret", "Agent__Auth__PasswordHash"] {
        assert!(ended.err.contains(named), "{named:?} is not in {}", ended.err);
    }
}

#[test]
fn help_lists_every_setting_and_version_is_one_line() {
    for (program, key) in
        [(Program::Gateway, "Gateway__HoldSeconds"), (Program::Agent, "Agent__GatewayCaFile")]
    {
        let help = run(program, &["--help"], &[]);
        assert_eq!(status(&help), Some(0), "{help:?}");
        assert!(help.out.contains(key), "{}", help.out);
        let version = run(program, &["--version"], &[]);
        assert_eq!((status(&version), version.out.lines().count()), (Some(0), 1), "{version:?}");
        assert!(version.out.contains(program.name()), "{}", version.out);
        let wrong = run(program, &["--no-such-option"], &[]);
        assert_eq!(status(&wrong), Some(2), "{wrong:?}");
    }
}

#[test]
fn a_key_never_travels_in_clear_unless_told_so() {
    let url = ("Agent__GatewayUrl", "ws://gateway.example.com/tunnel");
    let refused = run(Program::Agent, &["--check"], &with(AGENT, &[url]));
    assert_eq!(status(&refused), Some(2), "{refused:?}");
    for named in ["Agent__GatewayUrl", "wss://", "Agent__AllowInsecureGateway"] {
        assert!(refused.err.contains(named), "{named:?} is not in {}", refused.err);
    }
    let allowed =
        run(Program::Agent, &["--check"], &with(AGENT, &[url, ("Agent__AllowInsecureGateway", "true")]));
    assert_eq!(status(&allowed), Some(0), "{allowed:?}");
    for near in [
        "ws://127.0.0.1:17200/tunnel",
        "ws://[::1]:17200",
        "ws://192.168.1.5",
        "ws://10.0.0.1",
        "ws://localhost",
        "wss://gateway.example.com",
    ] {
        let ended = run(Program::Agent, &["--check"], &with(AGENT, &[("Agent__GatewayUrl", near)]));
        assert_eq!(status(&ended), Some(0), "{near}: {ended:?}");
    }
}

#[test]
fn a_file_of_settings_is_read_and_the_environment_goes_first() {
    let folder = Folder::new();
    let file = folder
        .write("gateway.env", &format!("# a comment\nexport GATEWAY_API_KEY='{KEY}'\nGateway__Port=99999\n"));
    let wrong = run(Program::Gateway, &["--env-file", &file, "--check"], &[]);
    assert_eq!(status(&wrong), Some(2), "{wrong:?}");
    assert!(wrong.err.contains("gateway.env:3"), "where it stands: {}", wrong.err);
    let right = run(Program::Gateway, &["--env-file", &file, "--check"], &[("Gateway__Port", "0")]);
    assert_eq!(status(&right), Some(0), "{right:?}");
    let missing = run(Program::Gateway, &["--env-file", "/no/such/file.env", "--check"], GATEWAY);
    assert_ne!(status(&missing), Some(0), "{missing:?}");
    assert!(missing.err.contains("/no/such/file.env"), "{}", missing.err);
}

#[test]
fn the_published_names_are_understood() {
    let settings = [
        ("AGENT_GATEWAY_FQDN", "gateway.example.com"),
        ("AGENT_API_KEY", KEY),
        ("AGENT_JWT_SECRET", JWT_SECRET),
        ("AGENT_AUTH_PASSWORD_HASH", PASSWORD_HASH),
        ("CONNECTION_STRING", "Data Source=/tmp/x.db"),
        ("agent__HEARTBEATintervalSeconds", "60"),
        ("ASPNETCORE_ENVIRONMENT", "Production"),
        ("LANG", "C"),
    ];
    let ended = run(Program::Agent, &["--check"], &settings);
    assert_eq!(status(&ended), Some(0), "{ended:?}");
}

#[test]
fn a_missing_ca_file_stops_the_start() {
    let folder = Folder::new();
    let empty = folder.write("empty.pem", "no certificate in here\n");
    for file in ["/no/such/ca.pem", &empty] {
        let ended = run(Program::Agent, &[], &with(AGENT, &[("Agent__GatewayCaFile", file)]));
        assert_eq!(status(&ended), Some(2), "{ended:?}");
        assert!(ended.err.contains("Agent__GatewayCaFile") && ended.err.contains(file), "{}", ended.err);
    }
}

#[test]
fn a_taken_port_is_named_with_the_key_that_changes_it() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = taken.local_addr().expect("bound").port().to_string();
    let settings = with(
        GATEWAY,
        &[("Gateway__Port", &port), ("Gateway__BindAddress", "127.0.0.1"), ("Gateway__CaddyMode", "off")],
    );
    let gateway = run(Program::Gateway, &[], &settings);
    assert_eq!(status(&gateway), Some(1), "{gateway:?}");
    assert!(gateway.err.contains(&port) && gateway.err.contains("Gateway__Port"), "{}", gateway.err);

    let folder = Folder::new();
    let database = format!("Data Source={}/a.db", folder.path().display());
    let settings = with(
        AGENT,
        &[
            ("Agent__Port", &port),
            ("Agent__BindAddress", "127.0.0.1"),
            ("ConnectionStrings__DefaultConnection", &database),
        ],
    );
    let agent = run(Program::Agent, &[], &settings);
    assert_eq!(status(&agent), Some(1), "{agent:?}");
    assert!(agent.err.contains(&port) && agent.err.contains("Agent__Port"), "{}", agent.err);
}

#[test]
fn a_database_that_cannot_be_opened_is_named() {
    let folder = Folder::new();
    let damaged = folder.write("damaged.db", &"this is no database. ".repeat(500));
    for (path, named) in [(damaged.as_str(), "damaged.db"), ("/proc/no/such/folder/x.db", "/proc/no")] {
        let connection = format!("Data Source={path}");
        let settings =
            with(AGENT, &[("ConnectionStrings__DefaultConnection", &connection), ("Agent__Port", "0")]);
        let ended = run(Program::Agent, &[], &settings);
        assert!(matches!(status(&ended), Some(1 | 2)), "{ended:?}");
        assert!(ended.err.contains(named), "{named:?} is not in {}", ended.err);
    }
}

#[test]
fn secrets_never_reach_the_log() {
    let folder = Folder::new();
    let gateway = Gateway::start(Settings::gateway());
    let mut settings = Settings::agent();
    settings.set("Agent__GatewayUrl", format!("ws://{}/tunnel", gateway.address()));
    settings
        .set("ConnectionStrings__DefaultConnection", format!("Data Source={}/a.db", folder.path().display()));
    let agent = Agent::start(settings);
    agent.wait_connected();
    for daemon in [&gateway.daemon, &agent.daemon] {
        let said = daemon.lines().join("\n");
        assert!(!said.is_empty());
        for secret in [KEY, JWT_SECRET, PASSWORD_HASH, e2e::world::PASSWORD] {
            assert!(!said.contains(secret), "{}: a secret in {said}", daemon.name());
        }
    }
}
