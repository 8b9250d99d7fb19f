//! `octoporty-gateway init`: makes the key, writes the env file and a Caddyfile, and has Caddy check that.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use shared::hostname::Host;
use shared::settings::command::{EXIT_STOPPED, Flag, Invocation, Subcommand};
use shared::settings::console::{Console, Failure};
use shared::settings::env_file::{EnvFile, PUBLIC, Prepared};
use shared::settings::parse_fqdn;
use shared::settings::setup::{
    self, API_KEY, API_KEY_FILE, FORCE, NON_INTERACTIVE, OUTPUT, ask_until, new_secret,
};

use super::caddyfile::{Caddyfile, Kind};
use crate::config::{Config, DAEMON};

pub(super) const COMMAND: Subcommand = Subcommand::new(
    "init",
    "Writes an env file with everything the Gateway needs and a Caddyfile for the Caddy in front of it, and says what \
     to do next. What is not given by an option is asked for on a terminal; the key is generated.\n\n\
     The env file can be read by systemd (EnvironmentFile=), docker run --env-file, compose (as .env or env_file:) \
     and --env-file of this program, and by a shell. It holds the key and is readable by its owner only. Settings are \
     checked before they are put in place, the Caddyfile too (caddy validate) where Caddy is installed; a file that \
     exists is left alone.\n\n\
     Without --routes, Caddy takes every host name and asks the Gateway which are mapped (Gateway__CaddyMode=ask): a \
     new mapping then changes nothing in Caddy and cuts no connection. With --routes, the Gateway writes one route \
     per mapping through Caddy's admin API, as the earlier program did: for a Caddy that serves other sites with a \
     catch-all.",
)
.options(&[
    Flag::value("--fqdn", "HOST", "The Gateway's own host name, as in gateway.example.com."),
    Flag::value("--email", "ADDRESS", "Where the certificate authority writes to when something is wrong."),
    Flag::switch("--routes", "The Gateway writes Caddy's routes, instead of Caddy asking."),
    API_KEY,
    API_KEY_FILE,
    Flag::value("--port", "PORT", "Port that the Gateway listens on; default: 17200."),
    Flag::value(
        "--upstream",
        "HOST:PORT",
        "Where Caddy finds the Gateway; default: 127.0.0.1 and the port, and then the Gateway listens there only.",
    ),
    OUTPUT,
    Flag::value("--caddyfile", "FILE", "The Caddyfile to write; default: Caddyfile beside the env file."),
    Flag::switch("--no-caddyfile", "Writes no Caddyfile."),
    FORCE,
    NON_INTERACTIVE,
])
.examples(&[
    ("octoporty-gateway init", "Asks for everything."),
    (
        "octoporty-gateway init --fqdn gateway.example.com --email you@example.com --caddyfile /etc/caddy/Caddyfile \
         --force",
        "Sets a whole server up; the Caddyfile that came with the package is kept as Caddyfile.old.",
    ),
    (
        "octoporty-gateway init --fqdn gateway.example.com --upstream gateway:17200 --output .env",
        "For containers: Caddy finds the Gateway by its service name.",
    ),
])
.statuses(&[
    ("0", "The files are written."),
    ("1", "One exists and --force is not given, it cannot be written, or Caddy refuses the Caddyfile."),
    ("2", "Wrong or missing options; nothing was written."),
]);

pub(super) fn run(invocation: &Invocation, console: &mut Console<'_>) -> Result<u8, Failure> {
    let force = invocation.has("--force");
    let asks = console.terminal.input && !invocation.has("--non-interactive");
    let path = setup::output(&DAEMON, invocation);
    let caddy_path = match (invocation.value("--caddyfile"), invocation.has("--no-caddyfile")) {
        (Some(_), true) => {
            return Err(Failure::wrong("--caddyfile and --no-caddyfile contradict each other"));
        }
        (Some(file), false) => Some(PathBuf::from(file)),
        (None, true) => None,
        (None, false) => Some(path.with_file_name("Caddyfile")),
    };
    for file in [Some(&path), caddy_path.as_ref()].into_iter().flatten() {
        if !force && file.symlink_metadata().is_ok() {
            return Err(Failure::failed(format_args!(
                "{} exists; --force replaces it and keeps the old one beside it; --output and --caddyfile write others",
                file.display()
            )));
        }
    }

    let fqdn = match invocation.text("--fqdn")? {
        Some(fqdn) => {
            public_name(fqdn).map_err(|rule| Failure::wrong(format_args!("--fqdn {fqdn:?}: {rule}")))?
        }
        None if asks => {
            ask_until(console, "The Gateway's own host name, as in gateway.example.com", "", public_name)?
        }
        None => return Err(Failure::wrong("init: needs --fqdn HOST, because nobody can be asked here")),
    };
    let email = match invocation.text("--email")? {
        Some(email) => Some(
            parse_email(email).map_err(|rule| Failure::wrong(format_args!("--email {email:?}: {rule}")))?,
        ),
        None if asks => {
            let question = "Your e-mail address, for the certificate authority (nothing: none)";
            let check = |text: &str| if text.is_empty() { Ok(String::new()) } else { parse_email(text) };
            Some(ask_until(console, question, "", check)?).filter(|email| !email.is_empty())
        }
        None => None,
    };
    let (key, made) = match setup::api_key(invocation, console)? {
        Some(key) => (key, false),
        None => (new_secret()?.expose().to_owned(), true),
    };
    let port = invocation.text("--port")?.unwrap_or("17200");
    let upstream = match invocation.text("--upstream")? {
        Some(text) => parse_upstream(text)
            .map_err(|rule| Failure::wrong(format_args!("--upstream {text:?}: {rule}")))?,
        None => format!("127.0.0.1:{port}"),
    };
    let kind = if invocation.has("--routes") { Kind::Routes } else { Kind::Ask };

    let mut file = EnvFile::new();
    let set = |file: &mut EnvFile, key: &str, value: &str| file.set(key, value).map_err(Failure::wrong);
    let heading = "Settings of octoporty-gateway, written by octoporty-gateway init. All of them: octoporty-gateway --help";
    file.comment(heading);
    file.comment("It holds the key: keep it readable by its owner only.");
    file.gap();
    file.comment("The key that Agents must present: the same as AGENT_API_KEY there.");
    set(&mut file, "GATEWAY_API_KEY", &key)?;
    file.comment("The Gateway's own host name.");
    set(&mut file, "Gateway__GatewayFqdn", &fqdn)?;
    file.comment("How Caddy learns host names: ask or routes; it must suit the Caddyfile.");
    set(&mut file, "Gateway__CaddyMode", if kind == Kind::Ask { "ask" } else { "routes" })?;
    if kind == Kind::Routes && invocation.has("--upstream") {
        set(&mut file, "Gateway__CaddyUpstream", &upstream)?;
    }
    if invocation.has("--port") {
        set(&mut file, "Gateway__Port", port)?;
    }
    if is_here(&upstream) {
        file.comment("Caddy is on this machine, so nobody else needs to reach the Gateway without TLS.");
        set(&mut file, "Gateway__BindAddress", "127.0.0.1")?;
    }
    let (prepared, config) = setup::prepare(&DAEMON, Config::load, &path, file.text(), force)?;
    if config.port == 0 {
        return Err(Failure::wrong("--port 0: Caddy must know the port"));
    }
    let caddy = match &caddy_path {
        None => None,
        Some(path) => {
            let text = Caddyfile { fqdn: &fqdn, email: email.as_deref(), upstream: &upstream, kind }.text();
            let prepared = Prepared::new(path, text.as_bytes(), PUBLIC, force).map_err(Failure::failed)?;
            Some((path, validate(prepared.temporary(), console)?, prepared))
        }
    };

    let mut done = |path: &Path, prepared: Prepared, remark: &str| {
        let kept = prepared.put(force).map_err(Failure::failed)?;
        console.say(format_args!("wrote {}{remark}", path.display()))?;
        if let Some(kept) = kept {
            console.say(format_args!("kept the old one as {}", kept.display()))?;
        }
        Ok::<(), Failure>(())
    };
    done(&path, prepared, "")?;
    if let Some((path, validated, prepared)) = caddy {
        let remark = if validated { ", and Caddy says that it is valid" } else { "" };
        done(path, prepared, remark)?;
    }
    next_steps(console, &path, caddy_path.as_deref(), &fqdn, made.then_some(key.as_str()))?;
    Ok(EXIT_STOPPED)
}

/// A name that a certificate authority will certify.
fn public_name(text: &str) -> Result<String, String> {
    let name = parse_fqdn(text)?;
    if name.parse::<IpAddr>().is_ok() || name.contains(':') {
        return Err("must be a host name: certificates are for names".into());
    }
    if !name.contains('.') {
        return Err("must be a full host name, as in gateway.example.com".into());
    }
    Ok(name)
}

/// Good enough for Caddy's file, where it stands as one word: what it leads to, only a letter can tell.
fn parse_email(text: &str) -> Result<String, String> {
    let form = "must be like you@example.com";
    let (user, host) = text.split_once('@').ok_or(form)?;
    let plain = |text: &str| text.bytes().all(|b| b.is_ascii_graphic() && !b"{}\"'`#\\@".contains(&b));
    if user.is_empty() || !host.contains('.') || !plain(user) || !plain(host) {
        return Err(form.into());
    }
    Ok(text.to_owned())
}

fn parse_upstream(text: &str) -> Result<String, String> {
    let host = Host::parse(text.as_bytes()).map_err(|fault| format!("must be HOST:PORT: {fault}"))?;
    match host.port() {
        Some(port) if port != 0 => Ok(host.to_string()),
        _ => Err("must be HOST:PORT, as in gateway:17200".into()),
    }
}

fn is_here(upstream: &str) -> bool {
    upstream.strip_prefix("127.0.0.1:").is_some() || upstream.starts_with("localhost:")
}

/// Whether Caddy has checked the file; `false` when it is not installed. Its words, when it refuses.
fn validate(file: &Path, console: &mut Console<'_>) -> Result<bool, Failure> {
    // Checking makes Caddy set everything up, folders included: not in the home of whoever calls this.
    let scratch = std::env::temp_dir().join(format!("octoporty-caddy-{}", std::process::id()));
    let mut command = Command::new("caddy");
    command.args(["validate", "--adapter", "caddyfile", "--config"]).arg(file);
    for name in ["HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"] {
        command.env(name, &scratch);
    }
    let output = command.stdin(Stdio::null()).output();
    // It may never have been made.
    let _ = std::fs::remove_dir_all(&scratch);
    match output {
        Ok(output) if output.status.success() => Ok(true),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let said = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("nothing");
            Err(Failure::failed(format_args!(
                "nothing was written, because Caddy refuses the Caddyfile: {said}"
            )))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            console.note(format_args!(
                "{}: Caddy is not installed here, so it could not check the Caddyfile",
                DAEMON.program
            ))?;
            Ok(false)
        }
        Err(e) => Err(Failure::failed(format_args!("caddy validate: {e}"))),
    }
}

fn next_steps(
    console: &mut Console<'_>,
    path: &Path,
    caddyfile: Option<&Path>,
    fqdn: &str,
    new_key: Option<&str>,
) -> Result<(), Failure> {
    console.say("\nNext:")?;
    console.say(format_args!("  Let {fqdn} and the names to be published lead to this server in DNS."))?;
    if let Some(caddyfile) = caddyfile {
        let installed = Path::new("/etc/caddy/Caddyfile");
        if caddyfile != installed {
            console.say(format_args!("  cp {} {}", caddyfile.display(), installed.display()))?;
        }
        console.say("  systemctl reload caddy")?;
    }
    if path == Path::new(DAEMON.env_file) && Path::new("/run/systemd/system").is_dir() {
        console.say("  systemctl enable --now octoporty-gateway")?;
    } else {
        console.say(format_args!("  octoporty-gateway --env-file {}", path.display()))?;
    }
    console.say("  On the machine at home:")?;
    console.say(format_args!("    octoporty-agent init --fqdn {fqdn}"))?;
    match new_key {
        // Not where it would end up in somebody's log.
        Some(key) if console.terminal.output => {
            console.say(format_args!("  It asks for the Gateway's key: {key}"))
        }
        _ => console
            .say(format_args!("  It asks for the Gateway's key: GATEWAY_API_KEY in {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_into_the_caddyfile_is_one_harmless_word() {
        for good in ["you@example.com", "a.b+c@mail.example"] {
            assert_eq!(parse_email(good).as_deref(), Ok(good));
        }
        for bad in
            ["", "you", "you@", "@example.com", "you@host", "a b@example.com", "a{b}@example.com", "a@b.c\n}"]
        {
            assert!(parse_email(bad).is_err(), "{bad:?}");
        }
        for bad in
            ["", "gateway", "1.2.3.4", "::1", "[::1]", "https://a.example", "a.example:80", "a b.example"]
        {
            assert!(public_name(bad).is_err(), "{bad:?}");
        }
        assert_eq!(public_name("Gateway.Example.com").as_deref(), Ok("gateway.example.com"));
        assert_eq!(parse_upstream("gateway:17200").as_deref(), Ok("gateway:17200"));
        for bad in ["gateway", "gateway:0", ":17200", "a b:1"] {
            assert!(parse_upstream(bad).is_err(), "{bad:?}");
        }
    }
}
