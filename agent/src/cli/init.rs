//! `octoporty-agent init`: asks for what only the Operator knows, makes up the rest, and writes the env file.

use std::path::Path;

use shared::settings::command::{EXIT_STOPPED, Flag, Invocation, Subcommand};
use shared::settings::console::{Console, Failure};
use shared::settings::env_file::EnvFile;
use shared::settings::parse_fqdn;
use shared::settings::setup::{
    self, API_KEY, API_KEY_FILE, FORCE, NON_INTERACTIVE, OUTPUT, ask_until, first_line, new_secret,
};

use super::hash_password::hash;
use crate::config::{Config, DAEMON, DATABASE};

pub(super) const COMMAND: Subcommand = Subcommand::new(
    "init",
    "Writes an env file with everything the Agent needs, and says what to do next. What is not given by an option is \
     asked for on a terminal; keys are generated.\n\n\
     The file can be read by systemd (EnvironmentFile=), docker run --env-file, compose (as .env or env_file:) and \
     --env-file of this program, and by a shell. It holds secrets and is readable by its owner only. The settings in \
     it are checked before it is put in place, and a file that exists is left alone.",
)
.options(&[
    Flag::value("--fqdn", "HOST", "The Gateway's host name, as in gateway.example.com."),
    Flag::value(
        "--gateway-url",
        "URL",
        "Where the Gateway is, if not at wss://HOST/tunnel; several are separated by commas.",
    ),
    API_KEY,
    API_KEY_FILE,
    Flag::value(
        "--password-file",
        "FILE",
        "Reads the password of the admin page from the first line of FILE; - is standard input. Only its hash is \
         written.",
    ),
    Flag::value("--port", "PORT", "Port of the admin page; default: 17201."),
    Flag::value("--bind", "ADDRESS", "Address that the admin page listens on; default: all."),
    Flag::value("--name", "NAME", "What this Agent is called; default: the name of the machine."),
    Flag::value("--data", "DIRECTORY", "Where the database is; it is created at the first start."),
    OUTPUT,
    FORCE,
    NON_INTERACTIVE,
])
.examples(&[
    ("octoporty-agent init", "Asks for everything."),
    (
        "octoporty-agent init --fqdn gateway.example.com --api-key-file key.txt",
        "Asks for the password only.",
    ),
    (
        "octoporty-agent init --non-interactive --fqdn gateway.example.com --api-key-file key.txt --password-file \
         password.txt --output agent.env",
        "Asks nothing: for scripts.",
    ),
])
.statuses(&[
    ("0", "The file is written."),
    ("1", "It exists and --force is not given, or it cannot be written."),
    ("2", "Wrong or missing options; nothing was written."),
]);

/// Shortest password that is taken without a word.
const SHORT: usize = 10;

pub(super) fn run(invocation: &Invocation, console: &mut Console<'_>) -> Result<u8, Failure> {
    let force = invocation.has("--force");
    let asks = console.terminal.input && !invocation.has("--non-interactive");
    let path = setup::output(&DAEMON, invocation);
    if !force && path.symlink_metadata().is_ok() {
        return Err(Failure::failed(format_args!(
            "{} exists; --force replaces it and keeps the old one beside it, --output writes another",
            path.display()
        )));
    }

    let url = invocation.text("--gateway-url")?;
    let fqdn = match invocation.text("--fqdn")? {
        Some(fqdn) => Some(fqdn.to_owned()),
        None if url.is_some() => None,
        None if asks => {
            let question = "The Gateway's host name, as in gateway.example.com";
            Some(ask_until(console, question, "", parse_fqdn)?)
        }
        None => return Err(needs("--fqdn HOST or --gateway-url URL")),
    };
    let (key, made) = match setup::api_key(invocation, console)? {
        Some(key) => (key, false),
        None if asks => {
            let answer = console.ask_hidden(
                "The Gateway's key (printed by octoporty-gateway init; nothing: make a new one for both)",
            )?;
            let answer = String::from_utf8_lossy(&answer).trim().to_owned();
            if answer.is_empty() { (new_secret()?.expose().to_owned(), true) } else { (answer, false) }
        }
        None => (new_secret()?.expose().to_owned(), true),
    };
    let password = match invocation.value("--password-file") {
        Some(file) => first_line("--password-file", &file.to_owned(), console)?,
        None if asks => ask_password(console)?,
        None => return Err(needs("--password-file FILE")),
    };
    let hash = hash(&password)?.to_string();

    let mut file = EnvFile::new();
    let set = |file: &mut EnvFile, key: &str, value: &str| file.set(key, value).map_err(Failure::wrong);
    file.comment(
        "Settings of octoporty-agent, written by octoporty-agent init. All of them: octoporty-agent --help",
    );
    file.comment("It holds secrets: keep it readable by its owner only.");
    file.gap();
    if let Some(fqdn) = &fqdn {
        file.comment("The Gateway's host name.");
        set(&mut file, "AGENT_GATEWAY_FQDN", fqdn)?;
    }
    if let Some(url) = url {
        file.comment("Where the Gateway is.");
        set(&mut file, "AGENT_GATEWAY_URL", url)?;
    }
    file.gap();
    file.comment("The same as GATEWAY_API_KEY of the Gateway.");
    set(&mut file, "AGENT_API_KEY", &key)?;
    file.comment("Signs who is logged in at the admin page. A new one ends all sessions.");
    set(&mut file, "AGENT_JWT_SECRET", new_secret()?.expose())?;
    file.comment("The password of the admin page, hashed. Another one: octoporty-agent hash-password");
    file.comment("The single quotes must stay: compose and shells would expand what follows each $.");
    set(&mut file, "AGENT_AUTH_PASSWORD_HASH", &hash)?;
    file.gap();
    for (option, key) in
        [("--port", "Agent__Port"), ("--bind", "Agent__BindAddress"), ("--name", "Agent__Name")]
    {
        if let Some(value) = invocation.text(option)? {
            set(&mut file, key, value)?;
        }
    }
    if let Some(directory) = invocation.text("--data")? {
        let database = Path::new(directory).join(DATABASE);
        set(&mut file, "CONNECTION_STRING", &format!("Data Source={}", database.display()))?;
    }

    let (prepared, config) = setup::prepare(&DAEMON, Config::load, &path, file.text(), force)?;
    for warning in &config.warnings {
        console.note(format_args!("{}: warning: {warning}", DAEMON.program))?;
    }
    let kept = prepared.put(force).map_err(Failure::failed)?;
    console.say(format_args!("wrote {}", path.display()))?;
    if let Some(kept) = kept {
        console.say(format_args!("kept the old one as {}", kept.display()))?;
    }
    if password.len() < SHORT {
        console.note(format_args!(
            "{}: warning: the password is short; whoever reaches the admin page can guess",
            DAEMON.program
        ))?;
    }
    next_steps(console, &path, &config, made.then_some(key.as_str()))?;
    Ok(EXIT_STOPPED)
}

fn needs(what: &str) -> Failure {
    Failure::wrong(format_args!("init: needs {what}, because nobody can be asked here"))
}

/// Twice, because nobody sees what is typed.
fn ask_password(console: &mut Console<'_>) -> Result<Vec<u8>, Failure> {
    loop {
        let first = console.ask_hidden("A password for the admin page")?;
        if first.is_empty() {
            console.note("  it must not be empty")?;
            continue;
        }
        if first == console.ask_hidden("Once more")? {
            return Ok(first);
        }
        console.note("  the two differ")?;
    }
}

fn next_steps(
    console: &mut Console<'_>,
    path: &Path,
    config: &Config,
    new_key: Option<&str>,
) -> Result<(), Failure> {
    let file = path.display();
    console.say("\nNext:")?;
    if let Some(key) = new_key {
        let host = config.gateway_urls.first().map_or("gateway.example.com", |url| url.host.as_str());
        console
            .say("  On the Gateway's server, with the key that was made here (AGENT_API_KEY in the file):")?;
        console.say(format_args!("    octoporty-gateway init --fqdn {host} --api-key-file KEYFILE"))?;
        // Not where it would end up in somebody's log.
        if console.terminal.output {
            console.say(format_args!("    the key: {key}"))?;
        }
    }
    console.say("  Walk the way to the Gateway:")?;
    console.say(format_args!("    octoporty-agent doctor --env-file {file}"))?;
    console.say("  Run the Agent:")?;
    if path == Path::new(DAEMON.env_file) && Path::new("/run/systemd/system").is_dir() {
        console.say("    systemctl enable --now octoporty-agent")?;
    } else {
        console.say(format_args!("    octoporty-agent --env-file {file}"))?;
    }
    if config.port != 0 {
        console.say(format_args!("  Its admin page is http://localhost:{} then.", config.port))?;
    }
    Ok(())
}
