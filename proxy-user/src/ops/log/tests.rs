use super::*;

fn options(change: impl FnOnce(&mut LogOptions)) -> LogOptions {
    let mut options = LogOptions::default();
    change(&mut options);
    options
}

#[test]
fn klogs_flags_say_what_goes_to_stderr() {
    let plain = options(|_| {});
    assert_eq!(stderr_from(&plain, false), Severity::Info);
    let modern = options(|o| o.legacy_stderr_threshold = false);
    assert_eq!(stderr_from(&modern, false), Severity::Error);
    let filed = options(|o| o.to_stderr = false);
    assert_eq!(stderr_from(&filed, true), Severity::Error);
    assert_eq!(stderr_from(&filed, false), Severity::Info);
    let both = options(|o| (o.to_stderr, o.also_to_stderr) = (false, true));
    assert_eq!(stderr_from(&both, true), Severity::Info);
}

#[test]
fn a_line_has_klogs_header_and_cannot_be_forged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let lost = IntCounter::new("lost", "lost").unwrap();
    let sink = Sink::start(SinkConfig {
        shelves: vec![Shelf::new(Keep::At(path.clone()), 0, None, Takes::From(Severity::Info))],
        head: Head::default(),
        lost,
    })
    .unwrap();
    let layer = KlogLayer {
        verbosity: Verbosity::new(3, ""),
        head: Head::default(),
        stderr_from: Severity::Fatal,
        sender: sink.sender(),
    };
    let subscriber = tracing_subscriber::registry().with(layer);
    tracing::subscriber::with_default(subscriber, || {
        tracing::warn!(target: "proxy_user::x", agent = "a\nE1123 forged", count = 3, "Agent gone");
        tracing::debug!(target: "proxy_user::x", "not shown at 3");
    });
    drop(sink);
    let text = std::fs::read_to_string(path).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.starts_with('W') && text.contains(" tests.rs:"), "{text}");
    assert!(text.ends_with("] Agent gone agent=\"a\\nE1123 forged\" count=3\n"), "{text}");
}

#[test]
fn a_directory_has_a_file_for_each_severity_and_a_link_to_it() {
    for one_output in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let options = options(|o| {
            (o.to_stderr, o.one_output, o.skip_log_headers) = (false, one_output, true);
            o.dir = directory.path().to_str().unwrap().to_owned();
        });
        let lost = IntCounter::new("lost", "lost").unwrap();
        let counted = lost.clone();
        let config = SinkConfig { shelves: shelves("proxy-x", &options), head: Head::default(), lost };
        let sink = Sink::start(config).unwrap();
        for (severity, text) in [(Severity::Info, "i\n"), (Severity::Error, "e\n")] {
            sink.sender().send(Line { text: text.to_owned(), severity, stderr: false });
        }
        drop(sink);
        let read = |severity: &str| {
            let link = directory.path().join(format!("proxy-x.{severity}"));
            let named = std::fs::read_link(&link).ok().map(|name| name.to_str().unwrap().to_owned());
            let part = format!(".log.{severity}.2");
            assert!(named.is_none_or(|name| name.starts_with("proxy-x.") && name.contains(&part)));
            std::fs::read_to_string(link).ok()
        };
        let all = ["INFO", "WARNING", "ERROR"].map(read);
        let wanted = match one_output {
            false => [Some("i\ne\n"), Some("e\n"), Some("e\n")],
            true => [Some("i\n"), None, Some("e\n")],
        };
        assert_eq!(all.each_ref().map(Option::as_deref), wanted, "{one_output}");
        assert_eq!(counted.get(), 0);
    }
}
