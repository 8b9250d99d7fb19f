//! From variables to the Agent's configuration.

use shared::logging::{Level, LogFile};

use super::*;

const KEY: &str = "0123456789abcdef0123456789abcdef";
const JWT: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ-0123456789";
/// `openssl passwd -6 -salt abcdefgh password`
const HASH: &str =
    "$6$abcdefgh$yVfUwsw5T.JApa8POvClA1pQ5peiq97DUNyXCZN5IrF.BMSkiaLQ5kvpuEm/VQ1Tvh/KV2TcaWh8qinoW5dhA1";

const VALID: [(&str, &str); 5] = [
    ("Agent__GatewayFqdn", "gateway.example.com"),
    ("Agent__ApiKey", KEY),
    ("Agent__JwtSecret", JWT),
    ("Agent__Auth__PasswordHash", HASH),
    ("ConnectionStrings__DefaultConnection", "Data Source=/x/y.db"),
];

/// What is valid, with changes.
fn load(pairs: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    let pairs = VALID.iter().filter(|(key, _)| !pairs.iter().any(|(k, _)| k == key)).chain(pairs);
    let pairs = pairs.map(|(name, value)| (OsString::from(name), OsString::from(value)));
    Config::load(Reader::new(&DAEMON, pairs, None))
        .map_err(|faults| faults.iter().map(Fault::to_string).collect())
}

fn one_fault(pairs: &[(&str, &str)]) -> String {
    let mut faults = load(pairs).expect_err("faulty");
    assert_eq!(faults.len(), 1, "{faults:?}");
    faults.remove(0)
}

fn urls(config: &Config) -> Vec<String> {
    config.gateway_urls.iter().map(GatewayUrl::to_string).collect()
}

#[test]
fn four_settings_suffice_and_defaults_are_the_published_ones() {
    let config = load(&[]).expect("valid");
    assert_eq!(urls(&config), ["wss://gateway.example.com/tunnel"]);
    assert_eq!(config.gateway_fqdn.as_deref(), Some("gateway.example.com"));
    assert_eq!((config.api_key.expose(), config.jwt_secret.expose()), (KEY, JWT));
    assert_eq!(config.password_hash.expose(), HASH);
    assert_eq!((config.port, config.bind_address.to_string().as_str()), (17201, "::"));
    assert_eq!((config.heartbeat_seconds, config.reconnect_delay, config.max_reconnect_delay), (30, 5, 300));
    assert_eq!((config.gateway_ca_file, config.links), (None, None));
    assert!([16 << 20, 64 << 20].contains(&config.memory_budget));
    assert_eq!(config.database, Path::new("/x/y.db"));
    assert_eq!(
        (config.request_log_days, config.request_log_rows, config.log_query_strings),
        (30, 200_000, true)
    );
    assert!(config.metrics_token.is_none());
    assert!(!config.name.is_empty());
    assert_eq!(config.log.level, Level::Information);
    let file = config.log.file.expect("a default");
    assert_eq!((file.path.as_path(), file.explicit), (Path::new("/var/log/octoporty/agent-.log"), false));
    assert_eq!(config.warnings, [""; 0]);
}

#[test]
fn every_setting_reaches_its_field() {
    let config = load(&[
        ("Agent__GatewayUrl", "ws://127.0.0.1:17200/tunnel, wss://B.example.com"),
        ("Agent__Port", "0"),
        ("Agent__BindAddress", "127.0.0.1"),
        ("Agent__Name", "Home"),
        ("Agent__HeartbeatIntervalSeconds", "300"),
        ("Agent__ReconnectDelaySeconds", "1"),
        ("Agent__MaxReconnectDelaySeconds", "2"),
        ("Agent__Links", "2"),
        ("Agent__MemoryBudgetMiB", "8"),
        ("Agent__RequestLogDays", "1"),
        ("Agent__RequestLogRows", "0"),
        ("Agent__LogQueryStrings", "false"),
        ("Agent__MetricsToken", "0123456789abcdef"),
        ("Logging__FilePath", "/x/agent-.log"),
    ]);
    let config = config.expect("valid");
    assert_eq!(urls(&config), ["ws://127.0.0.1:17200/tunnel", "wss://b.example.com/tunnel"]);
    assert_eq!((config.port, config.bind_address.to_string().as_str()), (0, "127.0.0.1"));
    assert_eq!(config.name, "Home");
    assert_eq!((config.heartbeat_seconds, config.reconnect_delay, config.max_reconnect_delay), (300, 1, 2));
    assert_eq!((config.links, config.memory_budget), (Some(2), 8 << 20));
    assert_eq!((config.request_log_days, config.request_log_rows, config.log_query_strings), (1, 0, false));
    assert_eq!(config.metrics_token, Some(Secret::new("0123456789abcdef")));
    assert_eq!(config.log.file, Some(LogFile { path: "/x/agent-.log".into(), explicit: true }));
}

#[test]
fn the_published_env_file_is_understood() {
    let pairs = [
        ("AGENT_GATEWAY_FQDN", "gateway.yourdomain.com"),
        ("AGENT_API_KEY", "your-secure-api-key-at-least-32-characters-long"),
        ("AGENT_JWT_SECRET", "your-jwt-secret-at-least-32-characters-long"),
        ("AGENT_AUTH_PASSWORD_HASH", HASH),
        ("AGENT_PASSWORD_HASH", HASH),
        ("CONNECTION_STRING", "Data Source=/custom/path/octoporty.db"),
        ("GATEWAY_API_KEY", "not for the Agent"),
        ("Agent__Auth__Username", "admin"),
        ("Agent__Auth__Password", "secret"),
    ];
    let pairs = pairs.map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let config = Config::load(Reader::new(&DAEMON, pairs, None)).expect("valid");
    assert_eq!(urls(&config), ["wss://gateway.yourdomain.com/tunnel"]);
    assert_eq!(config.database, Path::new("/custom/path/octoporty.db"));
    assert_eq!(
        config.warnings,
        [
            "Agent__Auth__Password (environment) is no longer used",
            "Agent__Auth__Username (environment) is no longer used",
            "Agent__ApiKey is the example from the documentation: anybody knows it",
            "Agent__JwtSecret is the example from the documentation: anybody knows it",
        ]
    );
}

#[test]
fn nothing_set_lists_everything_that_is_required() {
    let faults = Config::load(Reader::new(&DAEMON, [], None)).expect_err("faulty");
    let names: Vec<&str> = faults.iter().map(|fault| fault.name.as_str()).collect();
    assert_eq!(
        names,
        ["Agent__GatewayFqdn", "Agent__ApiKey", "Agent__JwtSecret", "Agent__Auth__PasswordHash"]
    );
}

#[test]
fn addresses_of_gateways_are_read_strictly() {
    let rows = [
        ("wss://gateway.example.com/tunnel", "wss://gateway.example.com/tunnel"),
        ("WSS://Gateway.Example.com.:443", "wss://gateway.example.com/tunnel"),
        ("https://gateway.example.com/", "wss://gateway.example.com/tunnel"),
        ("http://[::1]:17200/a/b", "ws://[::1]:17200/a/b"),
        ("ws://10.0.0.1:80", "ws://10.0.0.1/tunnel"),
    ];
    for (text, url) in rows {
        let parsed = GatewayUrl::parse(text).expect(text);
        assert_eq!(parsed.to_string(), url);
        assert_eq!(GatewayUrl::parse(url), Ok(parsed));
    }
    let v6 = GatewayUrl::parse("ws://[::1]:17200").expect("valid");
    assert_eq!((v6.host.as_str(), v6.port, v6.authority().as_str()), ("::1", 17200, "[::1]:17200"));
    let wrong = [
        "",
        "gateway.example.com",
        "ftp://gateway.example.com",
        "wss://",
        "wss:///tunnel",
        "wss://user:password@gateway.example.com",
        "wss://gateway.example.com:0",
        "wss://gateway.example.com:65536",
        "wss://gateway.example.com/tunnel?key=x",
        "wss://gateway.example.com#x",
        "wss://gateway.example.com/a b",
        "wss://*.example.com",
        "wss://[::1",
        "wss://1.2.3",
    ];
    for text in wrong {
        assert!(GatewayUrl::parse(text).is_err(), "{text}");
    }
}

#[test]
fn without_tls_only_the_private_network_is_reached() {
    let near = [
        "localhost",
        "gateway.localhost",
        "gateway",
        "127.0.0.1",
        "127.9.9.9",
        "[::1]",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "[fd00::1]",
        "[fe80::1]",
        "[::ffff:192.168.1.1]",
        "169.254.1.1",
    ];
    for host in near {
        assert!(load(&[("Agent__GatewayUrl", &format!("ws://{host}:17200"))]).is_ok(), "{host}");
    }
    for host in [
        "gateway.example.com",
        "203.0.113.7",
        "172.32.0.1",
        "[2001:db8::1]",
        "nas.local",
        "localhost.example.com",
    ] {
        let url = format!("ws://{host}/tunnel");
        let fault = one_fault(&[("Agent__GatewayUrl", &url)]);
        assert!(
            fault.contains("without TLS the key") && fault.contains("Agent__AllowInsecureGateway"),
            "{fault}"
        );
        let config =
            load(&[("Agent__GatewayUrl", &url), ("Agent__AllowInsecureGateway", "true")]).expect(host);
        assert_eq!(config.warnings.len(), 1, "{:?}", config.warnings);
        assert!(load(&[("Agent__GatewayUrl", &format!("wss://{host}/tunnel"))]).is_ok(), "{host}");
    }
}

#[test]
fn several_gateways_are_named_once_each() {
    let config =
        load(&[("Agent__GatewayUrl", "wss://a.test,https://a.test/tunnel,,wss://b.test")]).expect("valid");
    assert_eq!(urls(&config), ["wss://a.test/tunnel", "wss://b.test/tunnel"]);
    assert_eq!(config.warnings.len(), 2, "{:?}", config.warnings);
    let fault = one_fault(&[("Agent__GatewayUrl", "wss://a.test, b.test")]);
    assert!(fault.contains("\"b.test\" has no scheme"), "{fault}");
    let many = (0..17).map(|n| format!("wss://g{n}.test")).collect::<Vec<_>>().join(",");
    assert!(one_fault(&[("Agent__GatewayUrl", &many)]).contains("at most 16"));
    one_fault(&[("Agent__GatewayUrl", ",")]);
}

#[test]
fn a_password_in_an_address_is_not_shown() {
    let fault = one_fault(&[("Agent__GatewayUrl", "wss://me:hunter2@gateway.example.com")]);
    assert!(!fault.contains("hunter2"), "{fault}");
    let fault = one_fault(&[("ConnectionStrings__DefaultConnection", "Server=x;Password=hunter2")]);
    assert!(!fault.contains("hunter2"), "{fault}");
}

#[test]
fn the_gateway_url_wins_over_the_host_name_and_a_faulty_name_is_reported_once() {
    let config = load(&[("Agent__GatewayUrl", "wss://other.example.com")]).expect("valid");
    assert_eq!(urls(&config), ["wss://other.example.com/tunnel"]);
    assert_eq!(config.gateway_fqdn.as_deref(), Some("gateway.example.com"));
    let fault = one_fault(&[("Agent__GatewayFqdn", "https://gateway.example.com")]);
    assert!(fault.contains("bare host name"), "{fault}");
}

#[test]
fn a_hash_that_lost_its_dollars_gets_a_hint() {
    let rest = &HASH[12..];
    let rows = [
        ("=5000", "expanded"),
        ("/VQ1Tvh", "expanded"),
        ("$6$", "expanded"),
        ("6.BMSkiaLQ5kvpuEm", "expanded"),
        ("$6$abcdefgh$short", "expanded"),
        (&format!("$$6$$abcdefgh$${rest}"), "doubled"),
        (&format!("'{HASH}"), "quote"),
        ("$2b$12$abcdefghijklmnopqrstuv", "bcrypt"),
        (&format!("$5$abcdefgh${rest}"), "SHA-256 crypt"),
        (&format!("$6$abcdefgh${rest}x"), "hash-password"),
        ("my password in clear", "hash-password"),
    ];
    for (text, hint) in rows {
        let fault = one_fault(&[("Agent__Auth__PasswordHash", text)]);
        assert!(fault.contains(hint), "{text}: {fault}");
        assert!(text.len() < 20 || !fault.contains(text), "{fault}");
    }
    let slow = format!("$6$rounds=100000000$abcdefgh${rest}");
    assert_eq!(load(&[("Agent__Auth__PasswordHash", &slow)]).expect("valid").warnings.len(), 1);
}

#[test]
fn the_longest_delay_is_not_below_the_first() {
    let fault =
        one_fault(&[("Agent__ReconnectDelaySeconds", "60"), ("Agent__MaxReconnectDelaySeconds", "59")]);
    assert!(fault.starts_with("Agent__MaxReconnectDelaySeconds \"59\""), "{fault}");
    // The default gives way.
    let config = load(&[("Agent__ReconnectDelaySeconds", "600")]).expect("valid");
    assert_eq!((config.reconnect_delay, config.max_reconnect_delay), (600, 600));
}

#[test]
fn what_is_out_of_bounds_is_refused() {
    let long = "x".repeat(65);
    let rows = [
        ("Agent__ApiKey", "short"),
        ("Agent__JwtSecret", "short"),
        ("Agent__Port", "-1"),
        ("Agent__HeartbeatIntervalSeconds", "4"),
        ("Agent__ReconnectDelaySeconds", "0"),
        ("Agent__MaxReconnectDelaySeconds", "86401"),
        ("Agent__Links", "9"),
        ("Agent__MemoryBudgetMiB", "7"),
        ("Agent__RequestLogDays", "0"),
        ("Agent__MetricsToken", "short"),
        ("Agent__Name", &long),
        ("Agent__Name", "a\u{1b}b"),
        ("Agent__GatewayCaFile", "/nonexistent/ca.pem"),
        ("Agent__HeartbeatSeconds", "30"),
        ("ConnectionStrings__Default", "Data Source=x"),
    ];
    for (key, value) in rows {
        let fault = one_fault(&[(key, value)]);
        assert!(fault.starts_with(key), "{fault}");
    }
}

#[test]
fn connection_strings_name_a_file() {
    let rows = [
        ("Data Source=/x/y.db", "/x/y.db"),
        ("data source = x.db ; Cache=Shared", "x.db"),
        ("Mode=ReadWrite;DataSource=/x/y.db;", "/x/y.db"),
        ("Filename='/x y/z.db'", "/x y/z.db"),
        ("Data Source=\"a=b.db\"", "a=b.db"),
    ];
    for (text, path) in rows {
        assert_eq!(parse_connection_string(text), Ok(path.into()), "{text}");
    }
    for text in [
        "/x/y.db",
        "Server=x;Database=y",
        "Data Source=",
        "Data Source=:memory:",
        "Data Source=file:x?mode=ro",
        "Data Source=/x/",
        "Data Source=/",
    ] {
        assert!(parse_connection_string(text).is_err(), "{text}");
    }
}

#[test]
fn the_default_database_is_where_it_can_be_written() {
    assert_eq!(default_database(true, |_| panic!("not asked")), Path::new("/app/data/octoporty.db"));
    assert_eq!(default_database(false, |_| true), Path::new("/var/lib/octoporty/octoporty.db"));
    assert_eq!(default_database(false, |_| false), Path::new("./octoporty.db"));
    assert!(writable(&std::env::temp_dir().join("not/there/yet")));
    assert!(!writable(Path::new("/proc/self")));
    let told = [("ConnectionStrings__DefaultConnection", ""), ("DOTNET_RUNNING_IN_CONTAINER", "true")];
    assert_eq!(load(&told).expect("valid").database, Path::new("/app/data/octoporty.db"));
}

#[test]
fn a_file_of_certificates_must_have_one() {
    let directory = std::env::temp_dir().join(format!("octoporty-ca-{}", process::id()));
    fs::create_dir(&directory).expect("a fresh directory");
    let check = |name: &str, content: &str| {
        let path = directory.join(name);
        fs::write(&path, content).expect("written");
        ca_file(path.to_str().expect("UTF-8")).map(|found| assert_eq!(found, path))
    };
    let certificate = include_str!("ca.pem");
    assert_eq!(check("good", certificate), Ok(()));
    assert_eq!(check("two", &format!("some text\n{certificate}\n{certificate}")), Ok(()));
    for (name, content) in [
        ("empty", ""),
        ("text", "hello"),
        ("cut", &certificate[..certificate.len() / 2]),
        ("key", "-----BEGIN PRIVATE KEY-----\nMAAwADAA\n-----END PRIVATE KEY-----\n"),
        ("junk", "-----BEGIN CERTIFICATE-----\nMAAwADAA\n-----END CERTIFICATE-----\n"),
    ] {
        assert!(check(name, content).is_err(), "{name}");
    }
    fs::remove_dir_all(&directory).expect("removed");
}

#[test]
fn the_banner_shows_no_secret() {
    let config = load(&[]).expect("valid");
    let text = format!("{:?} {config:?}", config.banner());
    for secret in [KEY, JWT, HASH, &HASH[12..]] {
        assert!(!text.contains(secret), "{text}");
    }
    assert!(text.contains("(\"PasswordHash\", \"$6****..\")"), "{text}");
}

#[test]
fn the_hash_may_stand_in_the_quotes_that_docker_run_takes_for_a_part_of_it() {
    for quoted in [format!("'{HASH}'"), format!("\"{HASH}\""), format!(" '{HASH}' ")] {
        let mut pairs = VALID.to_vec();
        pairs.retain(|(name, _)| *name != "Agent__Auth__PasswordHash");
        pairs.push(("Agent__Auth__PasswordHash", &quoted));
        let config = load(&pairs).unwrap_or_else(|faults| panic!("{quoted}: {faults:?}"));
        assert_eq!(config.password_hash.expose(), HASH);
    }
}
