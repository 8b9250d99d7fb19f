//! From variables to the Gateway's configuration.

use super::*;

const KEY: &str = "0123456789abcdef0123456789abcdef";

fn load(pairs: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    let pairs = [("Gateway__ApiKey", KEY)]
        .iter()
        .filter(|(key, _)| !pairs.iter().any(|(k, _)| k == key))
        .chain(pairs);
    let pairs = pairs.map(|(name, value)| (OsString::from(name), OsString::from(value)));
    Config::load(Reader::new(&DAEMON, pairs, None))
        .map_err(|faults| faults.iter().map(Fault::to_string).collect())
}

fn one_fault(pairs: &[(&str, &str)]) -> String {
    let mut faults = load(pairs).expect_err("faulty");
    assert_eq!(faults.len(), 1, "{faults:?}");
    faults.remove(0)
}

#[test]
fn the_key_alone_suffices_and_defaults_are_the_published_ones() {
    let config = load(&[]).expect("valid");
    assert_eq!(config.api_key.expose(), KEY);
    assert_eq!((config.port, config.bind_address.to_string().as_str()), (17200, "::"));
    assert_eq!(config.caddy_admin_url, "http://localhost:2019");
    assert_eq!((config.caddy_mode, config.caddy_upstream), (CaddyMode::Routes, None));
    assert_eq!(config.allowed_origins, AllowedOrigins::Any);
    assert!(!config.remove_routes_on_tunnel_unavailable);
    assert!(config.allow_remote_update);
    assert_eq!(config.gateway_fqdn, None);
    assert_eq!(config.update_signal_path, Path::new("/data/update-signal"));
    assert!(config.trusted_proxies.trusts([127, 0, 0, 1].into()));
    assert_eq!((config.hold_seconds, config.heartbeat_seconds, config.links), (8, 30, 4));
    assert_eq!((config.max_connections, config.max_streams, config.max_agents), (10_000, 10_000, 64));
    assert!([32 << 20, 128 << 20].contains(&config.memory_budget));
    assert_eq!((config.log.level, config.log.retained), (shared::logging::Level::Information, 30));
    assert_eq!(config.log.size_limit, 104_857_600);
    assert_eq!(config.warnings, [""; 0]);
}

#[test]
fn every_setting_reaches_its_field() {
    let config = load(&[
        ("Gateway__ApiKey", "abcdefghijklmnopqrstuvwxyz0123456789"),
        ("Gateway__Port", "0"),
        ("Gateway__BindAddress", "127.0.0.1"),
        ("Gateway__GatewayFqdn", "GW.Example.com"),
        ("Gateway__CaddyAdminUrl", "http://caddy:2019/"),
        ("Gateway__CaddyMode", "ASK"),
        ("Gateway__CaddyUpstream", "gateway:17200"),
        ("Gateway__RemoveRoutesOnTunnelUnavailable", "true"),
        ("Gateway__AllowedOrigins", "https://a.example.com, http://b:8080/"),
        ("Gateway__TrustedProxies", "192.0.2.1"),
        ("Gateway__HoldSeconds", "1"),
        ("Gateway__HeartbeatIntervalSeconds", "5"),
        ("Gateway__MaxConnections", "16"),
        ("Gateway__MaxStreams", "2"),
        ("Gateway__MaxAgents", "3"),
        ("Gateway__Links", "8"),
        ("Gateway__MemoryBudgetMiB", "9"),
        ("Gateway__AllowRemoteUpdate", "false"),
        ("Gateway__UpdateSignalPath", "/x/y"),
        ("Logging__LogLevel", "Trace"),
        ("Logging__FilePath", ""),
        ("Logging__RetainedFileCountLimit", "1"),
        ("Logging__FileSizeLimitBytes", "65536"),
    ]);
    let config = config.expect("valid");
    assert_eq!(config.api_key.expose(), "abcdefghijklmnopqrstuvwxyz0123456789");
    assert_eq!((config.port, config.bind_address.to_string().as_str()), (0, "127.0.0.1"));
    assert_eq!(config.gateway_fqdn.as_deref(), Some("gw.example.com"));
    assert_eq!((config.caddy_admin_url.as_str(), config.caddy_mode), ("http://caddy:2019", CaddyMode::Ask));
    assert_eq!(config.caddy_upstream.as_deref(), Some("gateway:17200"));
    assert!(config.remove_routes_on_tunnel_unavailable);
    assert!(config.allowed_origins.allows("https://A.example.com"));
    assert!(config.allowed_origins.allows("http://b:8080"));
    assert!(!config.allowed_origins.allows("https://b:8080"));
    assert!(config.trusted_proxies.trusts([192, 0, 2, 1].into()));
    assert!(!config.trusted_proxies.trusts([127, 0, 0, 1].into()));
    assert_eq!((config.hold_seconds, config.heartbeat_seconds, config.links), (1, 5, 8));
    assert_eq!((config.max_connections, config.max_streams, config.max_agents), (16, 2, 3));
    assert_eq!(config.memory_budget, 9 << 20);
    assert!(!config.allow_remote_update);
    assert_eq!(config.update_signal_path, Path::new("/x/y"));
    assert_eq!((config.log.level, config.log.file), (shared::logging::Level::Verbose, None));
    assert_eq!((config.log.retained, config.log.size_limit), (1, 65_536));
}

#[test]
fn the_published_file_of_names_is_understood() {
    let config = load(&[
        ("Gateway__ApiKey", ""),
        ("GATEWAY_API_KEY", KEY),
        ("CADDY_ADMIN_URL", "http://caddy:2019"),
        ("GATEWAY_ALLOW_REMOTE_UPDATE", "false"),
        ("AGENT_API_KEY", "not for the Gateway"),
        ("CONNECTION_STRING", "not for the Gateway"),
        ("ASPNETCORE_URLS", "http://+:17299"),
        ("Gateway__ListenPort", "17200"),
        ("Logging__LogLevel__Default", "Debug"),
    ]);
    let config = config.expect("valid");
    assert_eq!((config.api_key.expose(), config.port), (KEY, 17299));
    assert_eq!((config.caddy_admin_url.as_str(), config.allow_remote_update), ("http://caddy:2019", false));
    let warnings = [
        "Gateway__ListenPort (environment) is no longer used",
        "Logging__LogLevel__Default (environment) is no longer used",
    ];
    assert_eq!(config.warnings, warnings);
}

#[test]
fn a_short_missing_or_unprintable_key_is_refused_without_being_shown() {
    assert_eq!(
        one_fault(&[("Gateway__ApiKey", "")]),
        "Gateway__ApiKey: is required: Key that Agents must present. Make one with: openssl rand -base64 32"
    );
    assert_eq!(
        one_fault(&[("Gateway__ApiKey", "0123456789abcdef0123456789abcde")]),
        "Gateway__ApiKey 01****de (environment): must have at least 32 characters, has 31"
    );
    let fault = one_fault(&[("Gateway__ApiKey", "0123456789abcdef0123456789abcdeä")]);
    assert!(fault.contains("visible ASCII"), "{fault}");
    // As any recipient of a header field drops it.
    let config = load(&[("Gateway__ApiKey", &format!(" {KEY}\n"))]).expect("valid");
    assert_eq!(config.api_key.expose(), KEY);
}

#[test]
fn the_key_of_the_documentation_is_warned_of() {
    let config = load(&[("Gateway__ApiKey", EXAMPLE_KEY)]).expect("valid");
    assert_eq!(config.warnings.len(), 1);
    assert!(config.warnings[0].contains("anybody knows it"), "{:?}", config.warnings);
}

#[test]
fn caddys_address_is_read_strictly() {
    let rows = [
        ("http://localhost:2019", "http://localhost:2019"),
        ("HTTP://Caddy", "http://caddy"),
        ("http://[::1]:2019/", "http://[::1]:2019"),
        ("unix:/run/caddy.sock", "unix:/run/caddy.sock"),
        ("unix//run/caddy.sock|0660", "unix:/run/caddy.sock"),
        ("unix:///run/caddy.sock", "unix:/run/caddy.sock"),
    ];
    for (text, url) in rows {
        assert_eq!(parse_admin_url(text).as_deref(), Ok(url), "{text}");
    }
    let wrong = [
        "localhost:2019",
        "https://localhost:2019",
        "http://",
        "http://localhost:2019/config",
        "http://localhost:0",
        "http://localhost:99999",
        "http://user@localhost",
        "http://localhost?x",
        "unix:relative",
        "unix:/",
        "ftp://x",
    ];
    for text in wrong {
        assert!(parse_admin_url(text).is_err(), "{text}");
    }
}

#[test]
fn what_is_out_of_bounds_is_refused() {
    let rows = [
        ("Gateway__Port", "65536"),
        ("Gateway__BindAddress", "localhost"),
        ("Gateway__CaddyMode", "auto"),
        ("Gateway__CaddyUpstream", "gateway"),
        ("Gateway__AllowedOrigins", "app.example.com"),
        ("Gateway__AllowedOrigins", "https://app.example.com/path"),
        ("Gateway__AllowedOrigins", "null"),
        ("Gateway__TrustedProxies", "caddy"),
        ("Gateway__HoldSeconds", "61"),
        ("Gateway__HeartbeatIntervalSeconds", "4"),
        ("Gateway__HeartbeatIntervalSeconds", "301"),
        ("Gateway__MaxConnections", "15"),
        ("Gateway__Links", "9"),
        ("Gateway__Links", "0"),
        ("Gateway__MemoryBudgetMiB", "7"),
        ("Logging__LogLevel", "loud"),
        ("Logging__FilePath", "/var/log/"),
        ("Gateway__Apikey2", "x"),
    ];
    for (key, value) in rows {
        let fault = one_fault(&[(key, value)]);
        assert!(fault.starts_with(key), "{fault}");
    }
}

#[test]
fn origins_are_compared_as_browsers_write_them() {
    let origins = AllowedOrigins::parse("https://app.example.com:443,http://[::1]:80").expect("valid");
    assert!(origins.allows("https://app.example.com"));
    assert!(origins.allows("http://[::1]"));
    assert_eq!(AllowedOrigins::parse("https://a.test, *"), Ok(AllowedOrigins::Any));
}

#[test]
fn the_banner_shows_no_secret() {
    let config = load(&[]).expect("valid");
    let text = format!("{:?} {config:?}", config.banner());
    assert!(text.contains("01****ef") && !text.contains(KEY), "{text}");
}
