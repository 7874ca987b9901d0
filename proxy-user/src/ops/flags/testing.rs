//! What both binaries' flag tests need.

use std::collections::HashMap;

use super::{Flag, Invocation, OptionsError};

/// A flag's name and its default as `--help` shows it: empty for none, `*` for an id that each start makes up.
pub(crate) type Row = (&'static str, &'static str);

/// klog's flags, which both have.
pub(crate) const KLOG: [Row; 15] = [
    ("add-dir-header", ""),
    ("alsologtostderr", ""),
    ("alsologtostderrthreshold", "0"),
    ("legacy-stderr-threshold-behavior", "true"),
    ("log-backtrace-at", ""),
    ("log-dir", ""),
    ("log-file", ""),
    ("log-file-max-size", "1800"),
    ("logtostderr", "true"),
    ("one-output", ""),
    ("skip-headers", ""),
    ("skip-log-headers", ""),
    ("stderrthreshold", "2"),
    ("v", "4"),
    ("vmodule", ""),
];

/// Ours, which both have.
const OURS: [&str; 13] = [
    "lanes",
    "lane-security",
    "lane-wait",
    "lane-ping",
    "lanes-max",
    "engine",
    "buffer-budget",
    "flow-buffer-max",
    "busy-poll",
    "mux-flow-buffer",
    "mux-buffer",
    "operator-socket",
    "live-settings",
];

/// The defaults that a `--help` shows.
fn shown_defaults(help: &str) -> HashMap<&str, String> {
    let mut texts: HashMap<&str, String> = HashMap::new();
    let mut flag = None;
    for line in help.lines() {
        let text = line.trim_start();
        let title = line.len() - text.len() < 10;
        match text.strip_prefix("-v, ").unwrap_or(text).strip_prefix("--") {
            Some(named) if title => flag = named.split(' ').next(),
            _ if title => flag = None,
            _ => {
                if let Some(flag) = flag {
                    let words = texts.entry(flag).or_default();
                    words.push(' ');
                    words.push_str(text);
                }
            }
        }
    }
    let default = |text: String| match text.rsplit_once(" (default ") {
        Some((_, shown)) => shown.trim_end_matches(')').to_owned(),
        None => String::new(),
    };
    texts.into_iter().map(|(flag, text)| (flag, default(text))).collect()
}

/// The help shows these flags with these defaults; hidden ones have them without being shown.
pub(crate) fn every_default_is_the_contracts<O: Default>(flags: &[Flag<O>], help: &str, contract: &[Row]) {
    let mut shown = shown_defaults(help);
    for flag in flags.iter().filter(|flag| flag.hidden) {
        shown.insert(flag.name, (flag.field)(&mut O::default()).show());
    }
    for (name, wanted) in contract {
        let shown = shown.get(name).unwrap_or_else(|| panic!("--{name} is not in the help"));
        match *wanted {
            "*" => assert!(uuid::Uuid::parse_str(shown.trim_matches('"')).is_ok(), "--{name}: {shown}"),
            wanted => assert_eq!(shown, wanted, "--{name}"),
        }
    }
}

pub(crate) fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

pub(crate) fn options<O: std::fmt::Debug>(read: Result<Invocation<O>, OptionsError>) -> O {
    match read {
        Ok(Invocation::Run(options)) => *options,
        other => panic!("no options but {other:?}"),
    }
}

pub(crate) fn mistakes<O: std::fmt::Debug>(read: Result<Invocation<O>, OptionsError>) -> Vec<String> {
    match read {
        Err(error) => error.mistakes,
        other => panic!("no mistakes but {other:?}"),
    }
}

/// Each line, split at its blanks, is answered as upstream's program answered it: it starts, or refuses in these words
/// (pflag's own for what it could not read end where Go's begin).
pub(crate) fn answers_as_upstream<O: std::fmt::Debug>(
    starts: &[&str],
    refuses: &[(&str, &str)],
    parse: impl Fn(&[&str]) -> Result<Invocation<O>, OptionsError>,
) {
    let parse = |line: &str| parse(&line.split(' ').collect::<Vec<_>>());
    for line in starts {
        let read = parse(line);
        assert!(matches!(read, Ok(Invocation::Run(_))), "{line}: {}", read.unwrap_err());
    }
    for (line, words) in refuses {
        let Err(error) = parse(line) else { panic!("{line} was taken") };
        assert!(error.to_string().starts_with(words), "{line}: {error}");
    }
}

/// The flags in a manifest's list of arguments have no mistake but files that are missing here.
pub(crate) fn the_manifest_is_understood<O: std::fmt::Debug>(
    yaml: &str,
    parse: impl Fn(&[String]) -> Result<Invocation<O>, OptionsError>,
) {
    let items = yaml.lines().filter_map(|line| line.trim().strip_prefix("- "));
    let flags: Vec<String> = items.filter(|item| item.starts_with("--")).map(str::to_owned).collect();
    assert!(flags.len() > 8, "{flags:?}");
    match parse(&flags) {
        Ok(Invocation::Run(_)) => {}
        Err(error) => assert!(error.mistakes.iter().all(|text| text.contains("no such file")), "{error}"),
        other => panic!("{other:?}"),
    }
}

/// The table has these flags, klog's and ours, and no other.
pub(crate) fn the_flags_are<O>(flags: &[Flag<O>], upstream: &[Row], own: &[&str]) {
    let mut known: Vec<&str> = flags.iter().map(|flag| flag.name).collect();
    let names = [upstream, &KLOG].into_iter().flatten().map(|(name, _)| *name);
    let mut wanted: Vec<&str> = names.chain(OURS).chain(own.iter().copied()).collect();
    known.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(known, wanted);
}

/// For every flag: (a good value, as it is shown; a wrong value if there is one).
pub(crate) fn sample(kind: &str) -> (&'static str, &'static str, Option<&'static str>) {
    match kind {
        "bool" => ("true", "true", Some("yes")),
        "port" => ("0x2000", "8192", Some("80 80")),
        "int" | "uint" => ("0x10", "16", Some("many")),
        "level" => ("7", "7", Some("0x4")),
        "text" => ("", "", Some("!!")),
        "count" => ("7", "7", Some("-1")),
        "float32" => ("1.5", "1.5", Some("fast")),
        "duration" => ("90s", "1m30s", Some("90")),
        "size" => ("2Mi", "2MiB", Some("2 bytes")),
        "severity" => ("WARNING", "1", Some("LOUD")),
        "engine" => ("copy", "copy", Some("warp")),
        "strings" => ("x,y", "[x,y]", Some("x\"y")),
        _ => ("text=a,b", "\"text=a,b\"", None),
    }
}

/// Sets every flag of a table to a sample value, both ways, and to a wrong one.
pub(crate) fn every_flag_takes_its_values<O: Default>(
    flags: &[Flag<O>],
    special: &[(&str, &str, &str, Option<&str>)],
) {
    for flag in flags {
        let mut options = O::default();
        let field = (flag.field)(&mut options);
        let own = special.iter().find(|(name, ..)| *name == flag.name);
        let (good, shown, wrong) =
            own.map_or_else(|| sample(field.kind()), |(_, good, shown, wrong)| (*good, *shown, *wrong));
        field.set(good, true).unwrap_or_else(|why| panic!("--{}={good}: {why:?}", flag.name));
        assert_eq!(field.show(), shown, "--{}={good}", flag.name);
        if let Some(wrong) = wrong {
            assert!(field.set(wrong, true).is_err(), "--{}={wrong} was taken", flag.name);
        }
        assert!(!flag.help.is_empty() && flag.help.ends_with('.'), "--{} has no sentence of help", flag.name);
    }
}
