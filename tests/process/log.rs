//! Whoever reads the log may stall, and is told at start what was set in vain; the log may go to a file.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use proxy_tests::certs::Certs;
use proxy_tests::dark::Dark;
use proxy_tests::ports;
use proxy_tests::scrape::http_get;

use crate::ground::{Place, SOON, echo, open, ping};

#[test]
fn flags_without_effect_are_named_in_one_warning() {
    let place = Place::new().unwrap();
    let flags = ["--xfr-channel-size=7", "--log-backtrace-at=a.go:1"];
    let server = place.start_server("server", &flags).unwrap();
    let agent = place.start_agent_with(&[&flags[..], &["--warn-on-channel-limit=true"]].concat()).unwrap();
    for child in [&server, &agent] {
        let log = std::fs::read_to_string(&child.log).unwrap();
        let told: Vec<_> = log.lines().filter(|line| line.contains("--xfr-channel-size")).collect();
        let [told] = told[..] else { panic!("not one line:\n{log}") };
        assert!(told.starts_with('W') && told.contains("--log-backtrace-at"), "{told}");
        assert!(!told.contains("--warn-on-channel-limit"), "it has an effect: {told}");
    }
}

#[test]
fn rules_of_vmodule_that_cannot_be_read_are_refused_in_klogs_words() {
    let place = Place::new().unwrap();
    let refused = place.server(&["--vmodule=mux=5,lane=x"]).unwrap().output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let text = String::from_utf8(refused.stderr).unwrap();
    let words = "Error: invalid argument \"mux=5,lane=x\" for \"--vmodule\" flag: syntax error: expect comma-separated";
    assert!(text.starts_with(words), "{text}");
}

/// TLS 1.3 tells of a refused certificate after the client's handshake, in a race with its first words.
#[test]
fn an_agent_whose_certificate_is_not_taken_says_so_each_time() {
    let place = Place::new().unwrap();
    let _server = place.start_server("server", &[]).unwrap();
    let elsewhere = place.ground.path("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let stranger = Certs::new(&elsewhere, "elsewhere").unwrap().client("client", "an agent", None).unwrap();
    let flags = [
        format!("--agent-cert={}", stranger.cert.display()),
        format!("--agent-key={}", stranger.key.display()),
        "--sync-interval=100ms".to_owned(),
        "--sync-interval-cap=100ms".to_owned(),
    ];
    let agent = place.spawn_agent(&flags.each_ref().map(String::as_str)).unwrap();
    let tries = || {
        let log = std::fs::read_to_string(&agent.log).unwrap();
        log.lines().filter(|line| line.contains("Cannot connect")).map(str::to_owned).collect::<Vec<_>>()
    };
    ports::wait(SOON, "ten tries", || tries().len() >= 10).unwrap();
    for line in tries() {
        assert!(line.contains("does not take this agent's certificate (TLS alert UnknownCA)"), "{line}");
    }
}

#[test]
fn a_log_file_has_every_line_and_stderr_the_errors_and_a_second_start_goes_on_with_it() {
    let place = Place::new().unwrap();
    let [taken] = ports::free().unwrap();
    let _taken = TcpListener::bind(("127.0.0.1", taken)).unwrap();
    let path = place.ground.path("konduit.log");
    let flags = [
        "--logtostderr=false".to_owned(),
        format!("--log-file={}", path.display()),
        "--log-file-max-size=0".to_owned(),
        "--v=0".to_owned(),
        "--vmodule=x=3,dial=4".to_owned(),
        // An error that ends nothing.
        format!("--admin-port={taken}"),
    ];
    let log = || std::fs::read_to_string(&path).unwrap();
    let mut before = String::new();
    for name in ["first", "second"] {
        let server = place.start_server(name, &flags.each_ref().map(String::as_str)).unwrap();
        assert!(open(&place.socket(), "127.0.0.1:1").is_err(), "there is no agent");
        ports::wait(SOON, "the dial", || log()[before.len()..].contains("Dial failed")).unwrap();
        let stderr = std::fs::read_to_string(&server.log).unwrap();
        let lines: Vec<_> = stderr.lines().collect();
        let [error] = lines[..] else { panic!("not one line:\n{stderr}") };
        assert!(error.starts_with('E') && error.contains("This listener is left out"), "{error}");
        drop(server);
        let all = log();
        let new = all.strip_prefix(&before).expect("the file was begun anew");
        assert!(new.contains(error) && new.lines().any(|line| line.starts_with('I')), "{new}");
        before = all;
    }
    assert_eq!(before.matches("Log of proxy-server").count(), 1, "{before}");
    assert!(!place.ground.path("konduit.log.old").exists());
}

#[test]
fn a_log_file_on_a_full_disk_is_told_on_stderr_once() {
    let place = Place::new().unwrap();
    let path = place.ground.path("konduit.log");
    std::os::unix::fs::symlink("/dev/full", &path).unwrap();
    let server = place
        .start_server("server", &["--logtostderr=false", &format!("--log-file={}", path.display())])
        .unwrap();
    let told = || {
        let stderr = std::fs::read_to_string(&server.log).unwrap();
        stderr.lines().filter(|line| line.contains("takes no lines")).map(str::to_owned).collect::<Vec<_>>()
    };
    ports::wait(SOON, "a word of the full disk", || !told().is_empty()).unwrap();
    let lost = || place.page().map_or(0.0, |page| page.sum("konduit_log_lines_lost_total", &[]));
    let before = lost();
    assert!(open(&place.socket(), "127.0.0.1:1").is_err(), "there is no agent");
    ports::wait(SOON, "one more lost line", || lost() > before).unwrap();
    let [line] = &told()[..] else { panic!("not one line: {:?}", told()) };
    assert!(line.starts_with('E') && line.contains("(No space left on device"), "{line}");
    assert!(line.contains(&format!("{path:?}")) && line.contains("make room there"), "{line}");
}

/// What one server of these flags leaves: its log file, if any, and its stderr. It logs one error that ends nothing.
pub(crate) fn leaves(flags: &[&str]) -> (Option<String>, String) {
    let place = Place::new().unwrap();
    let [taken] = ports::free().unwrap();
    let _taken = TcpListener::bind(("127.0.0.1", taken)).unwrap();
    let logs = place.ground.path("logs");
    std::fs::create_dir(&logs).unwrap();
    let more = [format!("--log-dir={}", logs.display()), format!("--admin-port={taken}")];
    let server =
        place.start_server("server", &[&more.each_ref().map(String::as_str), flags].concat()).unwrap();
    let stderr = server.log.clone();
    // What waits is written at its end.
    drop(server);
    let link = logs.join("proxy-server.INFO");
    // `PROGRAM.HOST.USER.log.SEVERITY.DATE-TIME.PID`, as klog's.
    if let Ok(name) = std::fs::read_link(&link) {
        let name = name.to_str().unwrap();
        let parts: Vec<_> = name.split('.').collect();
        assert!(matches!(parts[..], ["proxy-server", _, _, "log", "INFO", _, _]), "{name}");
        assert!(logs.join("proxy-server.ERROR").exists() && logs.join(name).exists(), "{name}");
    }
    (std::fs::read_to_string(link).ok(), std::fs::read_to_string(stderr).unwrap())
}

const LEFT_OUT: &str = "This listener is left out";
const HEADER: &str = "Log of proxy-server";

#[test]
fn klogs_flags_say_where_lines_go_and_what_stands_before_them() {
    let begins = |text: &str, letter| text.lines().any(|line| line.starts_with(letter));
    let error = |text: &str| text.lines().find(|line| line.contains(LEFT_OUT)).unwrap().to_owned();

    // To stderr, where --log-dir is nothing.
    let (file, stderr) = leaves(&[]);
    assert!(file.is_none() && begins(&stderr, 'I') && begins(&stderr, 'E'), "{stderr}");
    assert!(error(&stderr).contains(" listeners.rs:"), "{stderr}");
    let (_, stderr) = leaves(&["--legacy-stderr-threshold-behavior=false"]);
    assert!(!begins(&stderr, 'I') && begins(&stderr, 'E'), "{stderr}");
    let (_, stderr) = leaves(&["--legacy-stderr-threshold-behavior=false", "--stderrthreshold=INFO"]);
    assert!(begins(&stderr, 'I'), "{stderr}");
    let (_, stderr) = leaves(&["--add-dir-header"]);
    assert!(error(&stderr).contains(" ops/listeners.rs:"), "{stderr}");
    let (_, stderr) = leaves(&["--skip-headers"]);
    assert!(error(&stderr).starts_with(LEFT_OUT), "{stderr}");

    let (file, stderr) = leaves(&["--logtostderr=false"]);
    let file = file.unwrap();
    assert!(file.starts_with(HEADER) && begins(&file, 'I') && begins(&file, 'E'), "{file}");
    assert_eq!(stderr, error(&stderr) + "\n");
    let (file, stderr) = leaves(&["--logtostderr=false", "--alsologtostderr", "--skip-log-headers"]);
    let file = file.unwrap();
    assert!(file.starts_with('I') && !file.contains(HEADER), "{file}");
    assert_eq!(file, stderr);
}

/// Its words, not the server's: whoever set a wrong `--ca-cert` looks here.
#[test]
fn an_agent_says_that_it_does_not_know_its_servers_authority() {
    let place = Place::new().unwrap();
    let _server = place.start_server("server", &[]).unwrap();
    let elsewhere = place.ground.path("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let stranger = Certs::new(&elsewhere, "elsewhere").unwrap();
    let agent = place.spawn_agent(&[&format!("--ca-cert={}", stranger.ca().display())]).unwrap();
    let told = || {
        let log = std::fs::read_to_string(&agent.log).unwrap();
        log.lines().find(|line| line.contains("Cannot connect to a server")).map(str::to_owned)
    };
    ports::wait(SOON, "the agent's words", || told().is_some()).unwrap();
    let told = told().unwrap();
    assert!(
        told.starts_with('W')
            && told.contains("signed the peer's certificate; put the authority there that did"),
        "{told}"
    );
}

#[test]
fn a_dial_that_its_client_gave_up_is_told_and_no_target_fills_the_log() {
    let place = Place::new().unwrap();
    let server = place.start_server("server", &["--v=4"]).unwrap();
    let _agent = place.start_agent().unwrap();
    let lines = |with: &str| {
        let log = std::fs::read_to_string(&server.log).unwrap();
        log.lines().filter(|line| line.contains(with)).map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(open(&place.socket(), &"a".repeat(10 << 10)).is_err());
    ports::wait(SOON, "the dial that failed", || !lines("Dial failed").is_empty()).unwrap();
    let [failed] = &lines("Dial failed")[..] else { panic!("{}", server.last_words()) };
    assert!(failed.contains("aaa… (10240 bytes)\"") && failed.len() < 1000, "{failed}");

    let target = Dark::new().unwrap();
    let mut client = UnixStream::connect(place.socket()).unwrap();
    client.write_all(format!("CONNECT {} HTTP/1.1\r\nHost: x\r\n\r\n", target.address).as_bytes()).unwrap();
    let pending = || {
        let page = place.page();
        page.is_ok_and(|page| page.sum("konnectivity_network_proxy_server_pending_backend_dials", &[]) == 1.0)
    };
    ports::wait(SOON, "the dial", pending).unwrap();
    drop(client);
    let told = || !lines("The dial was given up before it was answered").is_empty();
    ports::wait(SOON, "a word of the dial", told).unwrap();
    let [left] = &lines("The dial was given up")[..] else { panic!("{}", server.last_words()) };
    assert!(left.contains(&format!("target_address=\"{}\" after=", target.address)), "{left}");
}

#[test]
fn a_log_that_nobody_reads_stops_no_flow() {
    let place = Place::new().unwrap();
    let mut command = place.server(&["--v=5"]).unwrap();
    let mut server = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let _unread = server.stderr.take().unwrap();
    let outcome = flows_work(&place);
    let full = is_full(server.id());
    server.kill().unwrap();
    server.wait().unwrap();
    outcome.unwrap();
    assert!(full.unwrap(), "stderr still took lines: the test showed nothing");
}

/// Whether the process's stderr takes nothing more. Not a matter of bytes: each write begins a page of the pipe.
fn is_full(process: u32) -> anyhow::Result<bool> {
    let stderr = OpenOptions::new().write(true).open(format!("/proc/{process}/fd/2"))?;
    let mut asked = [PollFd::new(&stderr, PollFlags::OUT)];
    Ok(poll(&mut asked, Some(&Timespec::default()))? == 0)
}

fn flows_work(place: &Place) -> anyhow::Result<()> {
    ports::wait(SOON, "the server", || http_get(place.pages(), "/healthz").is_ok())?;
    let _agent = place.start_agent()?;
    let target = echo()?;
    let mut flow = open(&place.socket(), &target)?;
    // Each leaves a line or more.
    for _ in 0..1500 {
        open(&place.socket(), &target)?;
    }
    ping(&mut flow)?;
    anyhow::ensure!(http_get(place.pages(), "/healthz")? == "ok");
    Ok(())
}
