//! Settings from sources to values and faults, with a table of their own.

use std::path::PathBuf;
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use super::command::{COMMON, Flag, Invocation, Subcommand, parse};
use super::help::{help, topics};
use super::*;

static DAEMON: Daemon = Daemon {
    program: "octoporty-test",
    version: "1.2.3",
    summary: "a test",
    description: "First paragraph.\n\nSecond paragraph.",
    settings: &[
        Setting::secret("Test__Key", 8, "The key.").required().aliases(&["TEST_KEY", "TEST_OLD_KEY"]),
        Setting::number("Test__Port", 17200, 0, 65535, "The port."),
        Setting::number_or("Test__Budget", "much", 8, 64, "The budget."),
        Setting::switch("Test__Switch", true, "The switch."),
        Setting::text("Test__Name", "A name", "nobody", "The name.").aliases(&["TEST_NAME"]),
        Setting::text("Test__Maybe", "A name", "", "Perhaps a name.").keep_empty(),
    ],
    prefixes: &["Test__"],
    legacy: &["Test__Gone", "Test__Group__*"],
    commands: &{
        let [run, check, healthcheck, version] = COMMON;
        let make = Subcommand::new("make", "Makes.\n\nAt length.").takes("WHAT...").options(&[
            Flag::switch("--loud", "Makes a noise."),
            Flag::value("--colour", "NAME", "In colour."),
        ]);
        let list =
            Subcommand::new("thing list", "Lists.").examples(&[("octoporty-test thing list", "Lists all.")]);
        let copy = Subcommand::new("thing copy", "Copies.").takes("FROM [TO]");
        [run, check, healthcheck, version, make, list, copy]
    },
    examples: &[("octoporty-test run", "Runs.")],
    env_file: "",
    files: &[("/etc/test", "A file.")],
    port_key: "Test__Port",
};

const KEY: (&str, &str) = ("Test__Key", "12345678");

fn reader(pairs: &[(&str, &str)], env_file: Option<&Path>) -> Reader {
    let pairs = pairs.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    Reader::new(&DAEMON, pairs, env_file)
}

/// What is wrong with these variables, as printed.
fn faults(pairs: &[(&str, &str)]) -> Vec<String> {
    faults_of(reader(pairs, None))
}

fn faults_of(mut reader: Reader) -> Vec<String> {
    reader.secret("Test__Key");
    reader.port();
    reader.optional_number("Test__Budget");
    reader.switch("Test__Switch");
    reader.text("Test__Name");
    reader.text("Test__Maybe");
    reader.finish().err().unwrap_or_default().iter().map(Fault::to_string).collect()
}

/// A file of one test, removed at its end.
struct TempFile(PathBuf);

impl TempFile {
    fn new(content: impl AsRef<[u8]>) -> TempFile {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("octoporty-settings-{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::write(&path, content).expect("written");
        TempFile(path)
    }

    fn text(&self) -> &str {
        self.0.to_str().expect("UTF-8")
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn what_is_not_set_has_its_default() {
    let mut reader = reader(&[KEY], None);
    assert_eq!(reader.secret("Test__Key").expose(), "12345678");
    assert_eq!(reader.port(), 17200);
    assert_eq!(reader.optional_number("Test__Budget"), None);
    assert!(reader.switch("Test__Switch"));
    assert_eq!(reader.text("Test__Name").as_deref(), Some("nobody"));
    assert_eq!(reader.text("Test__Maybe"), None);
    assert_eq!(reader.finish(), Ok(Vec::new()));
}

#[test]
fn names_are_compared_without_case_and_values_are_trimmed() {
    let pairs =
        [("TEST__KEY", " 1234567 "), ("test__port", " 80 "), ("Test__SWITCH", "No"), ("test_name", "x")];
    let mut reader = reader(&pairs, None);
    // White space may be part of a secret.
    assert_eq!(reader.secret("Test__Key").expose(), " 1234567 ");
    assert_eq!((reader.port(), reader.switch("Test__Switch")), (80, false));
    assert_eq!(reader.text("Test__Name").as_deref(), Some("x"));
}

#[test]
fn an_empty_value_is_none_unless_the_table_says_otherwise() {
    let pairs = [KEY, ("Test__Port", ""), ("Test__Name", "  "), ("Test__Maybe", "")];
    let mut reader = reader(&pairs, None);
    assert_eq!((reader.port(), reader.is_set("Test__Port")), (17200, false));
    assert_eq!(reader.text("Test__Name").as_deref(), Some("nobody"));
    assert_eq!(reader.text("Test__Maybe").as_deref(), Some(""));
}

#[test]
fn every_fault_is_reported_at_once_with_name_value_source_and_rule() {
    let found = faults(&[
        ("Test__Key", "secret!"),
        ("Test__Port", "65536"),
        ("Test__Budget", "7"),
        ("Test__Switch", "maybe"),
        ("Test__Prot", "1"),
    ]);
    assert_eq!(
        found,
        [
            "Test__Prot (environment): is not a setting; did you mean Test__Port?",
            "Test__Key **** (environment): must have at least 8 characters, has 7",
            "Test__Port \"65536\" (environment): must be a whole number from 0 to 65535",
            "Test__Budget \"7\" (environment): must be a whole number from 8 to 64",
            "Test__Switch \"maybe\" (environment): must be true or false",
        ]
    );
    assert_eq!(faults(&[]), ["Test__Key: is required: The key"]);
}

#[test]
fn numbers_are_digits_only() {
    for text in ["+80", "-1", "0x50", "8 0", "80.0", "१", "99999999999999999999"] {
        assert_eq!(faults(&[KEY, ("Test__Port", text)]).len(), 1, "{text}");
    }
}

#[test]
fn the_key_wins_over_an_alias_and_says_so() {
    let mut reader = reader(&[KEY, ("TEST_KEY", "another one")], None);
    assert_eq!(reader.secret("Test__Key").expose(), "12345678");
    let warning = "TEST_KEY (environment) differs from Test__Key (environment), which wins";
    assert_eq!(reader.finish(), Ok(vec![warning.to_owned()]));
}

#[test]
fn the_same_value_twice_is_fine() {
    assert_eq!(
        reader(&[KEY, ("TEST_KEY", "12345678"), ("TEST_OLD_KEY", "12345678")], None).finish(),
        Ok(Vec::new())
    );
}

#[test]
fn two_values_for_the_same_name_are_a_fault_that_names_both() {
    assert_eq!(
        faults(&[("TEST_KEY", "123456789"), ("TEST_OLD_KEY", "abcdefghi")]),
        ["TEST_OLD_KEY ab****hi (environment): differs from TEST_KEY (environment), and both set Test__Key"]
    );
    assert_eq!(faults(&[("Test__Port", "1"), ("TEST__PORT", "2"), KEY]).len(), 1);
}

#[test]
fn the_environment_wins_over_the_file() {
    let file = TempFile::new("Test__Key=from the file\nTEST_NAME=file\r\n\nTest__Port=81 # comment\n");
    let mut reader = reader(&[("TEST_KEY", "from the environment"), ("Test__Port", "")], Some(&file.0));
    assert_eq!(reader.secret("Test__Key").expose(), "from the environment");
    assert_eq!(reader.text("Test__Name").as_deref(), Some("file"));
    // What is set to nothing is not set.
    assert_eq!(reader.port(), 81);
    assert_eq!(reader.finish(), Ok(Vec::new()));
}

#[test]
fn faults_in_the_file_name_its_line() {
    let file = TempFile::new("# comment\nTest__Key='12345678\nTest__Port=x\nTest__Prt=1\n");
    let path = file.text();
    assert_eq!(
        faults_of(reader(&[], Some(&file.0))),
        [
            format!("{path}:2: has no closing single quote"),
            format!("Test__Prt ({path}:4): is not a setting; did you mean Test__Port?"),
            "Test__Key: is required: The key".to_owned(),
            format!("Test__Port \"x\" ({path}:3): must be a whole number from 0 to 65535"),
        ]
    );
}

#[test]
fn a_file_that_cannot_be_read_is_a_fault() {
    let missing = faults_of(reader(&[KEY], Some(Path::new("/nonexistent/test.env"))));
    assert_eq!(missing.len(), 1);
    assert!(missing[0].starts_with("--env-file \"/nonexistent/test.env\": cannot be read: "), "{missing:?}");
    let binary = TempFile::new([0xff, 0xfe, 0]);
    assert_eq!(faults_of(reader(&[KEY], Some(&binary.0))).len(), 1);
    let large = TempFile::new("#".repeat(1024 * 1024 + 1));
    assert_eq!(faults_of(reader(&[KEY], Some(&large.0))).len(), 1);
    let marked = TempFile::new("\u{feff}Test__Key=12345678\n");
    assert_eq!(faults_of(reader(&[], Some(&marked.0))), [""; 0]);
}

#[test]
fn a_secret_may_be_in_a_file_with_one_newline_at_its_end() {
    for (content, secret) in
        [("12345678\n", "12345678"), ("12345678\r\n", "12345678"), ("12345678\n\n", "12345678\n")]
    {
        let file = TempFile::new(content);
        for name in ["Test__Key_FILE", "TEST_KEY_FILE", "test__key_file"] {
            assert_eq!(reader(&[(name, file.text())], None).secret("Test__Key").expose(), secret, "{name}");
        }
    }
    let empty = TempFile::new("\n");
    assert_eq!(
        faults(&[("Test__Key_FILE", empty.text())]),
        [
            format!("Test__Key_FILE (environment): file {} is empty", empty.text()),
            "Test__Key: is required: The key".to_owned()
        ]
    );
    assert_eq!(
        faults(&[KEY, ("Test__Port_FILE", empty.text())]),
        ["Test__Port_FILE (environment): is unknown: only secrets are read from a file, Test__Port is none"]
    );
}

#[test]
fn quotes_that_docker_run_hands_on_are_taken_off_except_of_secrets() {
    for (given, text) in
        [("'a b'", "a b"), ("\"a b\"", "a b"), (" 'a' ", "a"), ("'a", "'a"), ("a'", "a'"), ("'", "'")]
    {
        assert_eq!(
            reader(&[KEY, ("Test__Name", given)], None).text("Test__Name").as_deref(),
            Some(text),
            "{given}"
        );
    }
    let secret = reader(&[("Test__Key", "'12345678'")], None).secret("Test__Key");
    assert_eq!(secret.expose(), "'12345678'");
    // In a file they have been taken off already; what is left is meant.
    let file = TempFile::new("Test__Name=\"'a'\"\n");
    assert_eq!(reader(&[KEY], Some(&file.0)).text("Test__Name").as_deref(), Some("'a'"));
}

#[test]
fn systemd_credentials_are_read() {
    let directory = std::env::temp_dir().join(format!("octoporty-credentials-{}", process::id()));
    fs::create_dir(&directory).expect("a fresh directory");
    fs::write(directory.join("Test__Key"), "from systemd\n").expect("written");
    fs::write(directory.join("other"), "x").expect("written");
    let file = TempFile::new("Test__Key=from the file\n");
    let pair = ("CREDENTIALS_DIRECTORY", directory.to_str().expect("UTF-8"));
    assert_eq!(reader(&[pair], Some(&file.0)).secret("Test__Key").expose(), "from systemd");
    assert_eq!(
        reader(&[pair, ("TEST_KEY", "environment")], None).secret("Test__Key").expose(),
        "environment"
    );
    fs::write(directory.join("Test__Kex"), "x").expect("written");
    assert_eq!(
        faults(&[pair]),
        ["Test__Kex (systemd credential): is not a setting; did you mean Test__Key?"]
    );
    fs::remove_dir_all(&directory).expect("removed");
    assert_eq!(faults(&[KEY, pair]).len(), 1);
}

#[test]
fn names_of_others_are_ignored_and_old_ones_warned_of() {
    let pairs = [
        KEY,
        ("PATH", "/bin"),
        ("ASPNETCORE_ENVIRONMENT", "Production"),
        ("Other__Key", "x"),
        ("Test__Gone", "x"),
        ("test__group__Deep__Key", "x"),
        ("TEST_NMAE", "x"),
    ];
    let warnings = [
        "TEST_NMAE (environment) is not a setting and is ignored; did you mean TEST_NAME?",
        "Test__Gone (environment) is no longer used",
        "test__group__Deep__Key (environment) is no longer used",
    ];
    assert_eq!(reader(&pairs, None).finish(), Ok(warnings.map(str::to_owned).to_vec()));
    // Nothing near enough to suggest.
    assert_eq!(faults(&[KEY, ("Test__Zzzzzzzz", "x")]), ["Test__Zzzzzzzz (environment): is not a setting"]);
}

#[test]
fn a_value_that_is_not_utf8_matters_only_if_it_is_ours() {
    use std::os::unix::ffi::OsStringExt;
    let bad = || OsString::from_vec(vec![0xff]);
    let pairs = [(KEY.0.into(), KEY.1.into()), ("OTHER".into(), bad()), (bad(), bad())];
    assert_eq!(faults_of(Reader::new(&DAEMON, pairs, None)), [""; 0]);
    let pairs = [(KEY.0.into(), KEY.1.into()), ("Test__Name".into(), bad())];
    assert_eq!(faults_of(Reader::new(&DAEMON, pairs, None)), ["Test__Name (environment): is not UTF-8"]);
}

#[test]
fn the_port_of_aspnetcore_urls_counts_below_our_own() {
    let rows = [
        ("http://+:17201", Some(17201)),
        ("https://+:443;http://*:8080/", Some(8080)),
        ("HTTP://[::]:81", Some(81)),
        ("https://+:443", None),
        ("http://+:0", None),
        ("nonsense", None),
    ];
    for (urls, port) in rows {
        assert_eq!(reader(&[("ASPNETCORE_URLS", urls)], None).port(), port.unwrap_or(17200), "{urls}");
        assert_eq!(reader(&[("ASPNETCORE_URLS", urls), ("Test__Port", "5")], None).port(), 5, "{urls}");
    }
}

#[test]
fn values_are_shown_short_escaped_and_without_passwords() {
    let rows = [
        ("a\nb\u{1b}", r#""a\nb\u{1b}""#.to_owned()),
        (&"x".repeat(200), format!("\"{}\"...", "x".repeat(SHOWN))),
        ("wss://a/b,wss://user:p ass@host/x", "\"wss://a/b,wss://****@host/x\"".to_owned()),
        ("Server=x;User=sa;Password=p=w;Pwd=q", "\"Server=x;User=sa;Password=****;Pwd=****\"".to_owned()),
    ];
    for (text, shown) in rows {
        assert_eq!(shorten(text), shown);
    }
}

#[test]
fn distance_counts_letters() {
    let rows =
        [("", "", 0), ("abc", "ABC", 0), ("port", "prot", 1), ("port", "por", 1), ("port", "sport", 1)];
    for (a, b, away) in rows {
        assert_eq!((distance(a, b), distance(b, a)), (away, away), "{a} {b}");
    }
    assert_eq!(distance("", "abc"), 3);
}

#[test]
fn the_budget_depends_on_the_memory() {
    assert_eq!(total_kib("MemTotal:         944060 kB\nMemFree: 1 kB\n"), Some(944_060));
    assert_eq!(total_kib("MemFree: 1 kB\n"), None);
    assert!([32, 128].contains(&by_memory(128)));
}

#[test]
fn a_host_name_is_bare() {
    assert_eq!(parse_fqdn("Gateway.Example.com.").as_deref(), Ok("gateway.example.com"));
    for text in
        ["https://gateway.example.com", "gateway.example.com/", "gateway.example.com:443", "a b", "*.x.y"]
    {
        assert!(parse_fqdn(text).is_err(), "{text}");
    }
}

#[test]
fn an_address_to_listen_on_may_be_written_in_several_ways() {
    for (text, address) in [("127.0.0.1", "127.0.0.1"), ("[::1]", "::1"), ("*", "::"), ("::", "::")] {
        assert_eq!(parse_address(text).map(|ip| ip.to_string()).as_deref(), Ok(address));
    }
    for text in ["localhost", "127.0.0.1:80", "", "[::1", "1.2.3"] {
        assert!(parse_address(text).is_err(), "{text}");
    }
}

fn parsed(arguments: &[&str]) -> Result<Invocation, String> {
    parse(&DAEMON, arguments.iter().map(OsString::from)).map_err(|fault| fault.to_string())
}

#[test]
fn the_command_line_is_understood() {
    type Row<'a> = (&'a [&'a str], &'a str, Option<&'a str>, &'a [(&'static str, &'a str)], &'a [&'a str]);
    let rows: [Row<'_>; 18] = [
        (&[], "run", None, &[], &[]),
        (&["run"], "run", None, &[], &[]),
        (&["--env-file", "a b"], "run", Some("a b"), &[], &[]),
        (&["run", "--env-file=x=y", "--check"], "check", Some("x=y"), &[], &[]),
        (&["--check", "check"], "check", None, &[], &[]),
        (&["--check", "-V"], "check", None, &[], &[]),
        (&["-V"], "version", None, &[], &[]),
        (&["version"], "version", None, &[], &[]),
        (&["healthcheck", "--env-file", "f"], "healthcheck", Some("f"), &[], &[]),
        (&["make", "a", "--loud", "--env-file", "f", "b"], "make", Some("f"), &[("--loud", "")], &["a", "b"]),
        (&["make", "--colour=red", "a"], "make", None, &[("--colour", "red")], &["a"]),
        (&["make", "--colour", "--loud", "-"], "make", None, &[("--colour", "--loud")], &["-"]),
        (&["make", "--", "--loud", "-x"], "make", None, &[], &["--loud", "-x"]),
        (&["thing", "list"], "thing list", None, &[], &[]),
        (&["thing", "--env-file", "f", "copy", "a"], "thing copy", Some("f"), &[], &["a"]),
        (&["thing", "copy", "a", "b"], "thing copy", None, &[], &["a", "b"]),
        (&["make", "--help"], "help", None, &[], &[]),
        (&["-V", "-h"], "help", None, &[], &[]),
    ];
    for (arguments, command, env_file, options, rest) in rows {
        let found = parsed(arguments).unwrap_or_else(|fault| panic!("{arguments:?}: {fault}"));
        assert_eq!(found.command, command, "{arguments:?}");
        assert_eq!(found.env_file, env_file.map(PathBuf::from), "{arguments:?}");
        let options: Vec<_> = options.iter().map(|(name, value)| (*name, OsString::from(value))).collect();
        assert_eq!(found.options, options, "{arguments:?}");
        assert_eq!(found.arguments, rest.iter().map(OsString::from).collect::<Vec<_>>(), "{arguments:?}");
    }
}

#[test]
fn help_is_about_what_was_asked() {
    for (arguments, topic) in [
        (&["--help"][..], ""),
        (&["help"], ""),
        (&["make", "--help"], "make"),
        (&["help", "make"], "make"),
        (&["thing", "--help"], "thing"),
        (&["help", "thing", "copy"], "thing copy"),
        // Whatever else is wrong: who asks for help has noticed.
        (&["thing", "copy", "-h"], "thing copy"),
    ] {
        let found = parsed(arguments).unwrap_or_else(|fault| panic!("{arguments:?}: {fault}"));
        assert_eq!((found.command, found.topic), ("help", topic), "{arguments:?}");
    }
    let topics = topics(&DAEMON);
    assert!(topics.len() > COMMON.len());
    for topic in topics {
        let page = help(&DAEMON, topic);
        assert!(page.contains("EXAMPLES"), "{topic}: {page}");
        assert!(page.contains("octoporty-test "), "{topic}: {page}");
        assert!(page.lines().all(|line| line.chars().count() <= 90 && !line.ends_with(' ')), "{page}");
    }
    let page = help(&DAEMON, "make");
    for expected in [
        "SYNOPSIS\n    octoporty-test make WHAT... [OPTIONS]\n",
        "    Makes.\n\n    At length.\n",
        "    --colour NAME\n        In colour.\n",
        "    --env-file FILE\n",
        "EXIT STATUS\n    0\n",
    ] {
        assert!(page.contains(expected), "{expected}\n{page}");
    }
}

#[test]
fn a_wrong_command_line_says_what_is_wrong() {
    let rows: [(&[&str], &str); 22] = [
        (&["--env-file"], "--env-file: needs a FILE"),
        (&["--env-file="], "--env-file: names no file"),
        (&["--env-file", "a", "--env-file=b"], "--env-file: is given twice"),
        (&["--wrong"], "unknown option \"--wrong\""),
        (&["--hepl"], "unknown option \"--hepl\"; did you mean --help?"),
        (&["--loud", "make"], "--loud belongs behind the command: make --loud"),
        (&["-x"], "unknown option \"-x\""),
        (&["run", "more"], "unknown argument \"more\""),
        (&["chekc"], "unknown command \"chekc\"; did you mean check?"),
        (&["start-now"], "unknown command \"start-now\""),
        (&["make", "--check"], "--check does not go with make"),
        (&["make"], "make: needs WHAT..."),
        (&["make", "a", "--lound"], "unknown option \"--lound\"; did you mean --loud?"),
        (&["make", "a", "--loud=yes"], "--loud: takes no value"),
        (&["make", "a", "--loud", "--loud"], "--loud: is given twice"),
        (&["make", "a", "--colour"], "--colour: needs a NAME"),
        (&["thing"], "thing: needs one of list or copy"),
        (&["thigns"], "unknown command \"thigns\"; did you mean thing?"),
        (&["thing", "lsit"], "unknown command \"thing lsit\"; did you mean thing list?"),
        (&["thing", "copy"], "thing copy: needs FROM [TO]"),
        (&["thing", "copy", "a", "b", "c"], "unknown argument \"c\""),
        (&["thing", "--check"], "thing: needs one of list or copy"),
    ];
    for (arguments, fault) in rows {
        assert_eq!(parsed(arguments), Err(fault.to_owned()), "{arguments:?}");
    }
}

#[test]
fn help_has_every_heading_and_every_setting() {
    let text = help(&DAEMON, "");
    let headings = [
        "NAME",
        "SYNOPSIS",
        "DESCRIPTION",
        "COMMANDS",
        "OPTIONS",
        "EXAMPLES",
        "SETTINGS",
        "FILES",
        "SIGNALS",
        "EXIT STATUS",
    ];
    let found: Vec<&str> = text.lines().filter(|line| !line.is_empty() && !line.starts_with(' ')).collect();
    assert_eq!(found, headings);
    for expected in [
        "    Test__Key\n        The key.\n        A secret of at least 8 characters; required.\n        Also accepted as TEST_KEY, TEST_OLD_KEY.\n",
        "    Test__Port\n        The port.\n        A whole number from 0 to 65535; default: 17200.\n",
        "        A whole number from 8 to 64; default: much.\n",
        "        true or false; default: true.\n",
        "        A name; default: nobody.\n",
        "        A name; default: none.\n",
        "    make WHAT...\n        Makes.\n",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= 90 && !line.ends_with(' ')));
}

#[test]
fn check_shows_what_is_set_but_no_secret() {
    let reader = reader(&[("TEST_KEY", "123456789"), ("Test__Port", "80")], None);
    assert_eq!(reader.given(), ["Test__Key = 12****89 (environment)", "Test__Port = \"80\" (environment)"]);
}
