//! Sub-commands of the Agent beside a running one, and without.

use e2e::daemon::{self, Daemon, Ended, Program};
use e2e::journal::{PATIENCE, until};
use e2e::sample;
use e2e::upstream::Upstream;
use e2e::world::{Agent, Folder, Gateway, KEY, PASSWORD, Settings, World};
use serde_json::{Value, json};

/// Runs a sub-command with these settings.
fn run(environment: &[(String, String)], arguments: &[&str]) -> Ended {
    let environment: Vec<_> = environment.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    daemon::run(Program::Agent, arguments, &environment)
}

/// What it printed, if all went well.
fn good(environment: &[(String, String)], arguments: &[&str]) -> String {
    let ended = run(environment, arguments);
    assert_eq!(ended.status.code(), Some(0), "{arguments:?}: {ended:?}");
    ended.out
}

/// What it complained of, with this exit status.
fn bad(environment: &[(String, String)], arguments: &[&str], status: i32) -> String {
    let ended = run(environment, arguments);
    assert_eq!(ended.status.code(), Some(status), "{arguments:?}: {ended:?}");
    assert!(ended.err.starts_with("octoporty-agent: "), "{arguments:?}: {ended:?}");
    assert!(!ended.err.contains("panicked"), "{ended:?}");
    ended.err
}

fn domains(agent: &Agent) -> Vec<String> {
    let rows = agent.call("GET", "/api/v1/mappings", None).json();
    let rows = rows.as_array().expect("a list");
    rows.iter().map(|row| row["externalDomain"].as_str().expect("a name").to_owned()).collect()
}

#[test]
fn mappings_are_managed_beside_a_running_agent() {
    let world = World::start();
    let agent = world.agent();
    let env = agent.environment();
    let upstream = Upstream::start();
    sample::install(&upstream);

    assert!(good(&env, &["mappings", "list"]).starts_with("there are no mappings"));
    let target = format!("http://127.0.0.1:{}", upstream.port());
    let said = good(&env, &["mappings", "add", "App.example.com", &target, "--description", "an app"]);
    assert!(said.starts_with(&format!("added app.example.com -> {target}, ")), "{said}");
    assert!(said.contains("(the running Agent at http://127.0.0.1:"), "{said}");
    // It is served, not only stored.
    assert_eq!(world.get("app.example.com", "/hello").text(), "hello\n");

    let table = good(&env, &["mappings", "list"]);
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 2, "{table}");
    assert!(
        lines[0].starts_with("DOMAIN") && lines[1].starts_with("app.example.com  http://127.0.0.1:"),
        "{table}"
    );
    assert!(lines[1].ends_with("an app") && !table.contains('\x1b'), "{table}");
    let listed: Value = serde_json::from_str(&good(&env, &["mappings", "list", "--json"])).expect("JSON");
    assert_eq!(listed[0]["externalDomain"], "app.example.com");

    let id = listed[0]["id"].as_str().expect("an id");
    good(&env, &["mappings", "set", id, "--host-header", "target", "--disable"]);
    assert_eq!(world.get("app.example.com", "/hello").status(), 404);
    let said = good(
        &env,
        &["mappings", "set", "app.example.com", "--enable", "--domain", "b.example.com", "--json"],
    );
    let saved: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!((&saved["externalDomain"], &saved["hostHeader"]), (&json!("b.example.com"), &json!("target")));
    assert_eq!(world.get("b.example.com", "/hello").status(), 200);

    let said = good(&env, &["mappings", "rm", "b.example.com"]);
    assert!(said.starts_with("deleted b.example.com ("), "{said}");
    assert_eq!(domains(agent), [""; 0]);
}

#[test]
fn without_a_running_agent_the_database_is_changed_and_that_is_said() {
    let mut world = World::start();
    let env = world.agent().environment();
    world.agents[0].daemon.kill();
    let said = good(&env, &["mappings", "add", "app.example.com", "http://nas:80"]);
    assert!(said.contains("no Agent is running"), "{said}");
    // The same rules as through the API.
    let refused = bad(&env, &["mappings", "add", "APP.example.com", "http://nas:80"], 1);
    assert!(refused.contains("already has a mapping"), "{refused}");
    let refused = bad(&env, &["mappings", "add", "b.example.com", "http://169.254.169.254:80"], 1);
    assert!(refused.contains("internalHost: ") && refused.contains("link-local"), "{refused}");
    world.agents[0].start_again();
    assert_eq!(domains(world.agent()), ["app.example.com"]);
}

#[test]
fn what_is_wrong_with_a_command_is_said_with_its_exit_status() {
    let world = World::start();
    let env = world.agent().environment();
    for (arguments, status, said) in [
        (&["mappings"][..], 2, "needs one of list, add, set, rm, import or export"),
        (&["mappings", "lst"], 2, "did you mean mappings list?"),
        (&["mappings", "add", "a.example"], 2, "needs DOMAIN TARGET"),
        (&["mappings", "add", "a.example", "nas"], 2, "has no port"),
        (
            &["mappings", "add", "a.example", "http://nas:1", "--descripton", "x"],
            2,
            "did you mean --description?",
        ),
        (&["mappings", "set", "a.example"], 2, "no option says what to change"),
        (&["mappings", "set", "a.example", "--enable", "--disable"], 2, "contradict"),
        (&["mappings", "set", "a.example", "--enable"], 1, "there is no mapping \"a.example\""),
        (&["mappings", "rm", "a.example"], 1, "there is no mapping \"a.example\""),
        (&["mappings", "add", "a b", "http://nas:1"], 1, "externalDomain: "),
        (&["mappings", "list", "--agent-url", "http://127.0.0.1:1"], 2, "needs --password-file"),
    ] {
        let err = bad(&env, arguments, status);
        assert!(err.contains(said), "{arguments:?}: {err}");
    }
    // Settings of another Agent do not fit the one that runs.
    let mut other = env.clone();
    other.iter_mut().filter(|(k, _)| k == "Agent__JwtSecret").for_each(|(_, v)| *v = "x".repeat(40));
    let err = bad(&other, &["mappings", "list"], 1);
    assert!(err.contains("another Agent__JwtSecret"), "{err}");
    // Something else at the port.
    let upstream = Upstream::start();
    let mut other = env.clone();
    other.iter_mut().filter(|(k, _)| k == "Agent__Port").for_each(|(_, v)| *v = upstream.port().to_string());
    let err = bad(&other, &["mappings", "list"], 1);
    assert!(err.contains("is no Agent that works"), "{err}");
    // No settings at all.
    let err = bad(&[], &["mappings", "list"], 2);
    assert!(err.contains("settings are wrong"), "{err}");
}

#[test]
fn an_agent_elsewhere_is_asked_with_the_password() {
    let world = World::start();
    world.agent().map("app.example.com", 8080);
    let url = format!("http://{}", world.agent().api());
    let (right, wrong) =
        (world.folder().write("right", PASSWORD), world.folder().write("wrong", "something else"));
    let arguments = ["mappings", "list", "--agent-url", &url, "--password-file"];
    let table = good(&[], &[&arguments[..], &[&right]].concat());
    assert!(table.contains("app.example.com"), "{table}");
    let err = bad(&[], &[&arguments[..], &[&wrong]].concat(), 1);
    assert!(err.contains("cannot log in"), "{err}");
}

#[test]
fn the_health_check_needs_nothing_but_the_binary() {
    let world = World::start();
    let port = world.agent().api().port().to_string();
    // No PATH, no shell, no other setting.
    let ended = daemon::run(Program::Agent, &["healthcheck"], &[("Agent__Port", &port)]);
    assert_eq!((ended.status.code(), ended.out.as_str(), ended.err.as_str()), (Some(0), "", ""));
    let port = world.gateway().address().port().to_string();
    let ended = daemon::run(Program::Gateway, &["healthcheck"], &[("Gateway__Port", &port)]);
    assert_eq!((ended.status.code(), ended.out.as_str(), ended.err.as_str()), (Some(0), "", ""));
}

#[test]
fn a_backup_of_a_running_agent_can_be_restored_once_it_has_stopped() {
    let mut world = World::start();
    let env = world.agent().environment();
    world.agent().map("kept.example.com", 8080);
    let file = world.folder().path().join("copy.db");
    let file = file.to_str().expect("UTF-8");
    let said = good(&env, &["backup", file]);
    assert!(said.starts_with(&format!("wrote {file} (")), "{said}");
    // One that is there is not overwritten.
    let err = bad(&env, &["backup", file], 1);
    assert!(err.contains("exists"), "{err}");
    let folder = world.folder().path().to_str().expect("UTF-8").to_owned();
    let said: Value = serde_json::from_str(&good(&env, &["backup", &folder, "--json"])).expect("JSON");
    let dated = said["file"].as_str().expect("a file");
    assert!(dated.starts_with(&format!("{folder}/octoporty-2")) && dated.ends_with(".db"), "{dated}");
    assert_eq!(said["bytes"].as_u64(), std::fs::metadata(dated).ok().map(|file| file.len()));

    world.agent().map("new.example.com", 8080);
    // While the Agent runs nothing is changed.
    bad(&env, &["restore", file], 1);
    assert_eq!(domains(world.agent()), ["kept.example.com", "new.example.com"]);
    world.agents[0].daemon.kill();
    let wrong = world.folder().write("wrong.db", "no database");
    let err = bad(&env, &["restore", &wrong], 1);
    assert!(err.contains("wrong.db"), "{err}");
    let said = good(&env, &["restore", file]);
    assert!(
        said.contains("with 1 mappings") && said.contains("kept the database that was there as "),
        "{said}"
    );
    world.agents[0].start_again();
    assert_eq!(domains(world.agent()), ["kept.example.com"]);
}

#[test]
fn a_backup_needs_no_setting_but_the_database() {
    let folder = Folder::new();
    let database = format!("Data Source={}/none.db", folder.path().display());
    let env = vec![("CONNECTION_STRING".to_owned(), database)];
    let err = bad(&env, &["backup", "/nowhere/x.db"], 1);
    assert!(err.contains("none.db"), "{err}");
    assert_eq!(std::fs::read_dir(folder.path()).expect("the folder").count(), 0, "no database is made");
}

#[test]
fn init_check_run_and_add_lead_to_a_service_that_is_served() {
    let gateway = Gateway::start(Settings::gateway());
    let folder = Folder::new();
    let (env_file, data) = (folder.path().join("agent.env"), folder.path().join("not/yet/there"));
    let text = |path: &std::path::Path| path.to_str().expect("UTF-8").to_owned();
    let (env_file, data) = (text(&env_file), text(&data));
    let password = folder.write("password", PASSWORD);
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port();
    let url = format!("ws://{}/tunnel", gateway.address());
    let arguments = [
        "init",
        "--non-interactive",
        "--gateway-url",
        &url,
        "--api-key",
        KEY,
        "--password-file",
        &password,
        "--port",
        &port.to_string(),
        "--bind",
        "127.0.0.1",
        "--data",
        &data,
        "--output",
        &env_file,
    ];
    good(&[], &arguments);
    good(&[], &["check", "--env-file", &env_file]);
    good(&[], &["doctor", "--env-file", &env_file]);
    let mut command = daemon::command(Program::Agent);
    command.args(["--env-file", &env_file]);
    let mut agent = Daemon::spawn("agent of init", &mut command, [("Logging__FilePath", "")]);
    assert_eq!(agent.address().port(), port);
    good(&[], &["healthcheck", "--env-file", &env_file]);
    let upstream = Upstream::start();
    sample::install(&upstream);
    let target = format!("127.0.0.1:{}", upstream.port());
    good(&[], &["mappings", "add", "app.example.com", &target, "--env-file", &env_file]);
    until("the service", PATIENCE, || {
        (gateway.visitor("app.example.com").get("/hello").status() == 200).then_some(())
    });
}

#[test]
fn mappings_are_exported_and_imported_all_or_nothing() {
    let world = World::start();
    let env = world.agent().environment();
    for name in ["a", "b"] {
        good(&env, &["mappings", "add", &format!("{name}.example.com"), "http://nas:8080"]);
    }
    let file = world.folder().path().join("mappings.json");
    let file = file.to_str().expect("UTF-8");
    assert!(good(&env, &["mappings", "export", file]).starts_with(&format!("wrote 2 mappings to {file}")));
    let err = bad(&env, &["mappings", "export", file], 1);
    assert!(err.contains("exists; --force"), "{err}");
    let printed: Value = serde_json::from_str(&good(&env, &["mappings", "export"])).expect("JSON");
    assert_eq!(printed["mappings"].as_array().map(Vec::len), Some(2), "{printed}");

    good(&env, &["mappings", "rm", "a.example.com"]);
    good(&env, &["mappings", "set", "b.example.com", "--target", "http://nas:9"]);
    good(&env, &["mappings", "add", "c.example.com", "http://nas:3"]);
    let said = good(&env, &["mappings", "import", file, "--replace", "--dry-run"]);
    for line in [
        "would be added a.example.com -> http://nas:8080",
        "would be changed b.example.com -> http://nas:8080",
        "would be deleted c.example.com -> http://nas:3",
        "0 unchanged (the running Agent",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    assert_eq!(domains(world.agent()), ["b.example.com", "c.example.com"], "nothing was changed");
    let said = good(&env, &["mappings", "import", file]);
    assert!(said.starts_with("added a.example.com") && !said.contains("would"), "{said}");
    assert_eq!(domains(world.agent()), ["a.example.com", "b.example.com", "c.example.com"]);

    let wrong = json!([
        { "externalDomain": "d.example.com", "internalHost": "nas", "internalPort": 1 },
        { "externalDomain": "not a name", "internalHost": "nas", "internalPort": 0 },
    ]);
    let wrong = world.folder().write("wrong.json", &wrong.to_string());
    let ended = run(&env, &["mappings", "import", &wrong]);
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.err.starts_with("nothing was imported; 2 of"), "{ended:?}");
    assert!(ended.err.contains("externalDomain: ") && ended.err.contains("internalPort: "), "{ended:?}");
    assert_eq!(domains(world.agent()).len(), 3);
    let text = world.folder().write("text.json", "this is no JSON");
    let err = bad(&env, &["mappings", "import", &text], 1);
    assert!(err.contains("JSON"), "{err}");
    let err = bad(&env, &["mappings", "import", "/nowhere.json"], 1);
    assert!(err.contains("/nowhere.json"), "{err}");
}

#[test]
fn an_agent_at_any_free_port_is_not_taken_for_one_that_does_not_run() {
    let world = World::start();
    let mut env = world.agent().environment();
    env.iter_mut().filter(|(k, _)| k == "Agent__Port").for_each(|(_, v)| *v = "0".into());
    let said = good(&env, &["mappings", "add", "app.example.com", "http://nas:80"]);
    assert!(said.contains("Agent__Port is 0") && !said.contains("no Agent is running"), "{said}");
}
