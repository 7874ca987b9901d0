//! Sockets that tokio watches, as ends of a join.

use std::io::{Read, Write};

use proxy_user::flow::{Direction, Finish};
use proxy_user::splice::{End, EndIo, EngineChoice, Plain, Watched};

use crate::bench::{Bench, Kind};

/// The same end, in tokio's hands.
fn watched(bench: &Bench, end: End) -> End {
    let _context = bench.runtime.enter();
    match end.io {
        EndIo::Plain(Plain::Tcp(socket)) => {
            End::watched(Watched::Tcp(tokio::net::TcpStream::from_std(socket).unwrap()))
        }
        EndIo::Plain(Plain::Unix(socket)) => {
            End::watched(Watched::Unix(tokio::net::UnixStream::from_std(socket).unwrap()))
        }
        io => End { io, ..end },
    }
}

#[test]
fn sockets_that_tokio_watches_join_as_others_do() {
    let bench = Bench::new(EngineChoice::Auto);
    for (left, right) in [(Kind::Unix, Kind::Tcp), (Kind::Unix, Kind::Stream), (Kind::Stream, Kind::Tcp)] {
        let (client, left_end) = bench.end(left);
        let (target, right_end) = bench.end(right);
        let ends = (watched(&bench, left_end), watched(&bench, right_end));
        let mut flow = bench.join((client, ends.0), (target, ends.1));
        flow.client.write_all(b"question").unwrap();
        flow.client.finish();
        let mut question = String::new();
        flow.target.read_to_string(&mut question).unwrap();
        assert_eq!(question, "question", "{left:?} {right:?}");
        flow.target.send_pattern(3, 1_000_000);
        flow.target.finish();
        let (bytes, end) = flow.client.read_pattern(3);
        end.unwrap();
        let ending = bench.ending(flow.ending);
        assert!(ending.is_clean());
        assert_eq!((bytes, flow.meter.total(Direction::Down)), (1_000_000, 1_000_000));

        let (client, left_end) = bench.end(left);
        let (target, right_end) = bench.end(right);
        let ends = (watched(&bench, left_end), watched(&bench, right_end));
        let mut flow = bench.join((client, ends.0), (target, ends.1));
        flow.cancel.cancel();
        let ending = bench.ending(flow.ending);
        assert_eq!((ending.up, ending.down), (Finish::Cancelled, Finish::Cancelled));
        assert!(flow.target.read(&mut [0]).is_err(), "a TCP side sees a reset: {left:?} {right:?}");
    }
}
