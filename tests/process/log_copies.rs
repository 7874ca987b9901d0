//! What of a log file stderr gets too.

use crate::log::leaves;

#[test]
fn stderr_gets_copies_of_what_is_severe_enough() {
    // The server warns of one flag and logs one error.
    let to_file = ["--logtostderr=false", "--skip-log-headers", "--xfr-channel-size=7"];
    let lines = |text: &str, letters: &str| -> Vec<String> {
        text.lines()
            .filter(|line| line.starts_with(|letter| letters.contains(letter)))
            .map(str::to_owned)
            .collect()
    };
    for (threshold, letters) in [("INFO", "IWEF"), ("WARNING", "WEF"), ("1", "WEF"), ("ERROR", "EF")] {
        let flag = format!("--alsologtostderrthreshold={threshold}");
        let (file, stderr) = leaves(&[&to_file[..], &["--alsologtostderr", &flag]].concat());
        let file = file.unwrap();
        for severity in ["I", "W", "E"] {
            assert!(!lines(&file, severity).is_empty(), "{threshold}, {severity}: {file}");
        }
        assert_eq!(lines(&stderr, "IWEF"), lines(&file, letters), "{threshold}");
    }
    // It has no effect of its own.
    let (_, stderr) = leaves(&[&to_file[..], &["--alsologtostderrthreshold=INFO"]].concat());
    assert!(lines(&stderr, "IW").is_empty() && !lines(&stderr, "E").is_empty(), "{stderr}");
}
