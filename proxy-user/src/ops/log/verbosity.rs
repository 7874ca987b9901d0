//! `--v` and `--vmodule`: which events are shown.

use tracing::{Level, Metadata};

/// klog's verbosity, and exceptions by module.
#[derive(Debug)]
pub(super) struct Verbosity {
    general: i32,
    modules: Vec<(String, i32)>,
}

impl Verbosity {
    /// `modules` is klog's `pattern=N,…`, checked before.
    pub(super) fn new(general: i32, modules: &str) -> Verbosity {
        Verbosity { general, modules: modules.split(',').filter_map(read).collect() }
    }

    pub(super) fn shows(&self, metadata: &Metadata<'_>) -> bool {
        self.of(metadata.target()) >= needed(metadata.target(), *metadata.level())
    }

    fn of(&self, target: &str) -> i32 {
        let module = target.rsplit("::").next().unwrap_or(target);
        let rule =
            self.modules.iter().find(|(pattern, _)| matches(pattern, module) || matches(pattern, target));
        rule.map_or(self.general, |(_, number)| *number)
    }
}

/// What klog refuses, in its words. It takes it for no rule when there is nothing between commas.
///
/// # Errors
/// A rule that cannot be read.
pub(in crate::ops) fn check(modules: &str) -> Result<(), String> {
    for rule in modules.split(',').filter(|rule| !rule.is_empty()) {
        match read(rule) {
            None => return Err("syntax error: expect comma-separated list of filename=N".to_owned()),
            Some((_, number)) if number < 0 => return Err("negative value for vmodule level".to_owned()),
            Some(_) => {}
        }
    }
    Ok(())
}

fn read(rule: &str) -> Option<(String, i32)> {
    let (pattern, number) = rule.split_once('=')?;
    let pattern = Some(pattern).filter(|pattern| !pattern.is_empty())?;
    Some((pattern.to_owned(), number.parse().ok()?))
}

/// The verbosity from which on an event is shown. Libraries speak only when they are asked to.
fn needed(target: &str, level: Level) -> i32 {
    let ours = target.starts_with("proxy_");
    match level {
        // Each failed request, which whoever made it tells with what it was for.
        Level::ERROR if target.starts_with("kube_client") => 5,
        // What a peer did wrong, without saying which: whoever serves the connection tells how it ended.
        Level::WARN if target.starts_with("h2") => 5,
        Level::ERROR | Level::WARN | Level::INFO => i32::MIN,
        Level::DEBUG if ours => 4,
        Level::TRACE if ours => 5,
        Level::DEBUG => 8,
        _ => 10,
    }
}

/// A pattern with `*` and `?`.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.chars().next() {
        None => text.is_empty(),
        Some('*') => {
            let rest = &pattern[1..];
            text.char_indices().map(|(at, _)| at).chain([text.len()]).any(|at| matches(rest, &text[at..]))
        }
        Some(wanted) => text.chars().next().is_some_and(|letter| {
            (wanted == '?' || wanted == letter)
                && matches(&pattern[wanted.len_utf8()..], &text[letter.len_utf8()..])
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_rule_overrides_the_general_verbosity() {
        let verbosity = Verbosity::new(2, "splice*=5,mux=x,lane::pool=7");
        assert_eq!(verbosity.of("proxy_user::splice"), 5);
        assert_eq!(verbosity.of("proxy_user::splicer"), 5);
        assert_eq!(verbosity.of("proxy_user::mux"), 2);
        assert_eq!(verbosity.of("lane::pool"), 7);
    }

    #[test]
    fn what_klog_refuses_is_refused() {
        for modules in ["", "a=1,", "splice*=5,,mux=0"] {
            assert_eq!(check(modules), Ok(()), "{modules:?}");
        }
        for modules in ["nonsense", "mux=x", "=3", "a=", "a=b=1", "a=-1", " a = 1", "a=1, b=2x"] {
            assert!(check(modules).is_err(), "{modules:?}");
        }
    }

    #[test]
    fn libraries_speak_only_when_asked() {
        assert!(needed("h2::client", Level::DEBUG) > needed("proxy_user::mux", Level::TRACE));
        assert_eq!(needed("h2::proto::streams::recv", Level::WARN), 5);
        assert_eq!(needed("rustls", Level::WARN), i32::MIN);
    }

    #[test]
    fn patterns_match_whole_names() {
        assert!(matches("spl*ce", "splice") && matches("spli?e", "splice") && matches("*", ""));
        assert!(!matches("spl", "splice") && !matches("?", ""));
    }
}
