//! `--version`: commit, eBPF object and features.

/// What `--version` prints.
pub fn text(program: &str) -> String {
    let features = if cfg!(feature = "ebpf") { "ebpf" } else { "none (lower engines only)" };
    format!(
        "{program} {} (Konduit)\ncommit: {}\nebpf object: {}\nfeatures: {features}\n",
        env!("CARGO_PKG_VERSION"),
        option_env!("KONDUIT_COMMIT").unwrap_or("unknown"),
        option_env!("KONDUIT_EBPF_STAMP").unwrap_or("none"),
    )
}

/// The same in one line, for the log.
pub fn line(program: &str) -> String {
    text(program).trim_end().replace('\n', ", ")
}
