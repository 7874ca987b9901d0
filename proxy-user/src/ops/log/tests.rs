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
        file: Some(path.clone()),
        header: None,
        max_size: 0,
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
