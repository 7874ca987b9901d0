//! Every flag with a value that it cannot take.

use std::process::Command;

use proxy_tests::konduit::binaries;

/// Flags that take text, which is never wrong before it is used.
fn takes_text(kind: &str) -> bool {
    kind.starts_with("string")
}

/// All mistakes of one command line are told at once, each in a line that names its flag.
#[test]
fn a_wrong_value_is_told_with_its_flags_name() {
    for program in ["proxy-server", "proxy-agent"] {
        let binary = binaries().unwrap().join(program);
        let help = Command::new(&binary).arg("--help").output().unwrap();
        let help = String::from_utf8(help.stdout).unwrap();
        let mut flags = Vec::new();
        for line in help.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let Some(at) = words.iter().position(|word| word.starts_with("--")) else { continue };
            // A flag's own line, not one that speaks of it.
            if at > 1 || (at == 1 && !words[0].starts_with('-')) || !line.starts_with("  ") {
                continue;
            }
            let kind = words.get(at + 1).copied().unwrap_or("bool");
            if words[at] != "--help" && words[at] != "--version" && !takes_text(kind) {
                flags.push(words[at]);
            }
        }
        assert!(flags.len() > 25, "{program}: only {flags:?}");
        let wrong: Vec<String> = flags.iter().map(|flag| format!("{flag}=@wrong@")).collect();
        let told = Command::new(&binary).args(&wrong).output().unwrap();
        assert_eq!(told.status.code(), Some(1), "{program}");
        let told = String::from_utf8(told.stderr).unwrap();
        for flag in flags {
            let names = |line: &str| {
                line.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '-')
                    .any(|word| word == flag)
            };
            let line = told.lines().find(|line| names(line));
            assert!(line.is_some_and(|line| line.len() > flag.len() + 20), "{program} {flag}:\n{told}");
        }
    }
}
