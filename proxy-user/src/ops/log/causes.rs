//! Errors of libraries with all that lies behind them, in their own words and not as their types are laid out.

use std::error::Error;

use tonic::Status;

/// An error with its causes, which libraries' own words leave out.
pub fn with_causes(error: &dyn Error) -> String {
    let mut words = error.to_string();
    add_causes(&mut words, error);
    words
}

/// A status by its gRPC name, its message and its causes.
pub fn status(status: &Status) -> String {
    let mut words = format!("{:?}", status.code());
    if !status.message().is_empty() {
        words.push_str(": ");
        words.push_str(status.message());
    }
    add_causes(&mut words, status);
    words
}

fn add_causes(words: &mut String, error: &dyn Error) {
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !words.contains(&more) {
            words.push_str(": ");
            words.push_str(&more);
        }
        cause = error.source();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("the connection broke")]
    struct Outer {
        source: std::io::Error,
    }

    #[test]
    fn causes_are_told_once_each_and_no_type_shows() {
        let outer = || Outer { source: std::io::ErrorKind::ConnectionReset.into() };
        assert_eq!(with_causes(&outer()), "the connection broke: connection reset");
        let of = |message: &str| {
            let mut status = Status::unavailable(message);
            status.set_source(std::sync::Arc::new(outer()));
            super::status(&status)
        };
        assert_eq!(of("broken pipe"), "Unavailable: broken pipe: the connection broke: connection reset");
        assert_eq!(of("the connection broke"), "Unavailable: the connection broke: connection reset");
        assert_eq!(super::status(&Status::unauthenticated("")), "Unauthenticated");
    }
}
