//! `proxy-agent flows|doctor|set …`: asks the running process and prints its answer.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);

/// Asks what `args` (`flows`, `doctor` or `set`, then its arguments) say, over `socket` unless a flag names another.
/// `alone` is what `doctor` can say of this machine when no process answers.
pub fn ask(program: &str, args: &[String], socket: &str, alone: impl FnOnce() -> String) -> ExitCode {
    match Request::parse(program, args, socket) {
        Err(words) => {
            let _ = write!(std::io::stderr(), "Error: {words}");
            ExitCode::FAILURE
        }
        Ok(None) => show(&usage(program)),
        Ok(Some(request)) => match request.send(PATIENCE) {
            Ok((200, body)) => show(&body),
            Ok((_, body)) => {
                let _ = write!(std::io::stderr(), "Error: {body}");
                ExitCode::FAILURE
            }
            Err(error) => {
                let words = request.unanswered(program, &error);
                let _ = write!(std::io::stderr(), "{words}");
                if request.path == "/doctor" {
                    show(&alone());
                }
                ExitCode::FAILURE
            }
        },
    }
}

fn show(text: &str) -> ExitCode {
    // A reader that closed the pipe has seen enough.
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

fn usage(program: &str) -> String {
    format!(
        "Usage:\n  \
         {program} flows    the live flows: target, peer, path, engine, bytes, average rate, age\n  \
         {program} doctor   what this machine can do, what is in force, and what would change that\n  \
         {program} set engine=auto|sockmap|splice|copy lanes=always|auto|off\n                     \
         lowers what new flows may use; engine=auto, or the value of --lanes, takes it back\n\n\
         Flags:\n      --operator-socket string   the running process's socket\n"
    )
}

#[derive(Debug, PartialEq, Eq)]
struct Request {
    socket: String,
    path: String,
}

impl Request {
    /// `None`: help was asked for.
    fn parse(program: &str, args: &[String], socket: &str) -> Result<Option<Request>, String> {
        let mut socket = socket.to_owned();
        let mut words = Vec::new();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.split_once('=') {
                _ if arg == "-h" || arg == "--help" => return Ok(None),
                _ if arg == "--operator-socket" => {
                    let value = args.next().ok_or("flag needs an argument: --operator-socket\n")?;
                    value.clone_into(&mut socket);
                }
                Some(("--operator-socket", value)) => value.clone_into(&mut socket),
                _ if arg.starts_with('-') => return Err(format!("unknown flag: {arg}\n{}", usage(program))),
                _ => words.push(arg.as_str()),
            }
        }
        let path = match words.as_slice() {
            ["flows"] => "/flows".to_owned(),
            ["doctor"] => "/doctor".to_owned(),
            ["set", settings @ ..]
                if !settings.is_empty() && settings.iter().all(|text| is_setting(text)) =>
            {
                format!("/set?{}", settings.join("&"))
            }
            _ => return Err(format!("this is not understood: {}\n{}", words.join(" "), usage(program))),
        };
        Ok(Some(Request { socket, path }))
    }

    /// Why nobody answered, and what to do.
    fn unanswered(&self, program: &str, error: &std::io::Error) -> String {
        match self.socket.as_str() {
            "" => format!(
                "--operator-socket is empty, and a {program} that was started like that answers nobody\n\
                 Start it with --operator-socket=PATH and name the same here, or leave the flag out of both.\n"
            ),
            socket if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => format!(
                "the {program} at {socket} did not answer within {} s\n\
                 It is stopped or gets no CPU: look at its state (ps, top) and at its log; ending it ends its flows.\n",
                PATIENCE.as_secs()
            ),
            socket => format!(
                "no {program} answers on {socket}: {error}\n\
                 Run this as the process's own user, where it runs (kubectl exec), and with its --operator-socket.\n"
            ),
        }
    }

    fn send(&self, patience: Duration) -> std::io::Result<(u16, String)> {
        let mut stream = UnixStream::connect(Path::new(&self.socket))?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        write!(stream, "GET {} HTTP/1.0\r\n\r\n", self.path)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let text = String::from_utf8_lossy(&answer);
        let wrong = || std::io::Error::other("the answer is not understood");
        let (head, body) = text.split_once("\r\n\r\n").ok_or_else(wrong)?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(wrong)?;
        Ok((status, body.to_owned()))
    }
}

fn is_setting(text: &str) -> bool {
    text.contains('=') && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"=-_".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Option<Request>, String> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        Request::parse("proxy-agent", &words, "/run/default")
    }

    #[test]
    fn requests_name_their_socket_and_page() {
        for (words, socket, path) in [
            (&["flows"][..], "/run/default", "/flows"),
            (&["doctor", "--operator-socket", "/x"], "/x", "/doctor"),
            (
                &["set", "--operator-socket=/y", "engine=splice", "lanes=off"],
                "/y",
                "/set?engine=splice&lanes=off",
            ),
        ] {
            let request = Request { socket: socket.to_owned(), path: path.to_owned() };
            assert_eq!(parse(words), Ok(Some(request)));
        }
        assert_eq!(parse(&["flows", "--help"]), Ok(None));
    }

    #[test]
    fn what_is_not_understood_is_refused_with_the_usage() {
        for words in
            [&["set"][..], &["set", "engine"], &["flows", "more"], &["set", "engine=a b"], &["flows", "--x"]]
        {
            assert!(parse(words).is_err_and(|why| why.contains("Usage:")), "{words:?}");
        }
    }

    #[test]
    fn who_names_no_socket_is_told_what_to_do() {
        for (argument, words) in [
            (
                "--operator-socket=",
                "--operator-socket is empty, and a proxy-agent that was started like that",
            ),
            ("--operator-socket=/nonexistent/x", "no proxy-agent answers on /nonexistent/x: No such file"),
        ] {
            let request = parse(&["doctor", argument]).unwrap().unwrap();
            let told = request.unanswered("proxy-agent", &request.send(PATIENCE).unwrap_err());
            assert!(told.starts_with(words) && told.lines().count() == 2, "{told}");
        }
    }

    /// As one that was stopped: its user and its socket are the right ones.
    #[test]
    fn a_process_that_accepts_and_says_nothing_is_told_as_such() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("silent");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let request = Request { socket: path.display().to_string(), path: "/flows".into() };
        let told = request.unanswered("proxy-agent", &request.send(Duration::from_millis(20)).unwrap_err());
        assert!(told.contains("did not answer within 10 s\nIt is stopped"), "{told}");
    }
}
