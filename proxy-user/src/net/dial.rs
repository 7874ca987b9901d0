//! One TCP connection to one of several addresses: both families side by side, as RFC 8305 has it.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::sockopt;

/// How long the next address waits for the one before it, as in Go.
const HEAD_START: Duration = Duration::from_millis(300);

/// A connection that did not come about, and the address it was for.
#[derive(Debug)]
pub struct Refused {
    pub address: SocketAddr,
    pub source: io::Error,
}

/// Connects to the first address that answers, with [`sockopt::tune`] applied. `None`: there was no address.
///
/// # Errors
/// The first address's error, once all have failed or at the `deadline`; an address that is silent until then has
/// [`io::ErrorKind::TimedOut`].
pub async fn connect(addresses: Vec<SocketAddr>, deadline: Instant) -> Result<Option<TcpStream>, Refused> {
    let order = interleave(addresses);
    let Some(&address) = order.front() else { return Ok(None) };
    let mut refused = Refused { address, source: io::ErrorKind::TimedOut.into() };
    match tokio::time::timeout_at(deadline, race(order, &mut refused)).await {
        Ok(Some(stream)) => Ok(Some(stream)),
        Ok(None) | Err(_) => Err(refused),
    }
}

/// `None`: all have failed. What becomes of the address of `first` goes there.
async fn race(mut waiting: VecDeque<SocketAddr>, first: &mut Refused) -> Option<TcpStream> {
    if waiting.len() == 1 {
        // The common case, without a task for it.
        return one(first.address).await.map_err(|error| first.source = error).ok();
    }
    let mut trying = JoinSet::new();
    loop {
        if let Some(address) = waiting.pop_front() {
            trying.spawn(async move { one(address).await.map_err(|source| Refused { address, source }) });
        }
        let tried = if waiting.is_empty() {
            trying.join_next().await
        } else {
            match tokio::time::timeout(HEAD_START, trying.join_next()).await {
                Ok(tried) => tried,
                Err(_) => continue,
            }
        };
        match tried {
            Some(Ok(Ok(stream))) => return Some(stream),
            Some(Ok(Err(refused))) if refused.address == first.address => *first = refused,
            Some(Ok(Err(_)) | Err(_)) => {}
            None => return None,
        }
    }
}

/// One connection, with [`sockopt::tune`] applied.
pub(super) async fn one(address: SocketAddr) -> io::Result<TcpStream> {
    let kind = Type::STREAM.nonblocking();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    sockopt::tune(&socket)?;
    let under_way = match socket.connect(&address.into()) {
        Ok(()) => false,
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => !is_over(&socket)?,
        Err(error) => return Err(error),
    };
    let stream = TcpStream::from_std(socket.into())?;
    if under_way {
        stream.writable().await?;
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
    }
    Ok(stream)
}

/// Whether the connection came about, or failed, while it was begun: on one machine it has, and waiting for an
/// event would cost a wake-up.
fn is_over(socket: &Socket) -> io::Result<bool> {
    let mut fds = [PollFd::new(socket, PollFlags::OUT)];
    if rustix::event::poll(&mut fds, Some(&Timespec::default()))? == 0 {
        return Ok(false);
    }
    socket.take_error()?.map_or(Ok(true), Err)
}

/// The families in turn, beginning with the first address's.
fn interleave(addresses: Vec<SocketAddr>) -> VecDeque<SocketAddr> {
    let Some(first) = addresses.first().map(SocketAddr::is_ipv6) else { return VecDeque::new() };
    let (same, other): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == first);
    let (mut same, mut other) = (same.into_iter(), other.into_iter());
    let mut order = VecDeque::new();
    loop {
        let pair = [same.next(), other.next()];
        if pair == [None, None] {
            return order;
        }
        order.extend(pair.into_iter().flatten());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns() {
        let all = ["10.0.0.1:1", "10.0.0.2:1", "[fd00::1]:1", "10.0.0.3:1"];
        let order = interleave(all.iter().map(|text| text.parse().unwrap()).collect());
        let order: Vec<_> = order.iter().map(ToString::to_string).collect();
        assert_eq!(order, ["10.0.0.1:1", "[fd00::1]:1", "10.0.0.2:1", "10.0.0.3:1"]);
    }

    fn in_a_while() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    /// With its backlog full a listener drops every SYN.
    fn silent() -> (Socket, SocketAddr, std::net::TcpStream) {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let first = std::net::TcpStream::connect(address).unwrap();
        (listener, address, first)
    }

    #[tokio::test]
    async fn the_first_address_that_answers_wins_and_the_first_error_is_told() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let there = listener.local_addr().unwrap();
        let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let stream = connect(vec![gone, there], in_a_while()).await.unwrap().unwrap();
        assert_eq!(stream.peer_addr().unwrap(), there);
        let refused = connect(vec![gone], in_a_while()).await.unwrap_err();
        assert_eq!((refused.address, refused.source.kind()), (gone, io::ErrorKind::ConnectionRefused));
        assert!(connect(vec![], in_a_while()).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn at_the_deadline_the_first_address_is_told_of() {
        let (_listener, silent, _first) = silent();
        let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        for (addresses, kind) in [
            (vec![silent], io::ErrorKind::TimedOut),
            (vec![gone, silent], io::ErrorKind::ConnectionRefused),
            (vec![silent, gone], io::ErrorKind::TimedOut),
        ] {
            let first = addresses[0];
            let refused = connect(addresses, Instant::now() + Duration::from_millis(500)).await.unwrap_err();
            assert_eq!((refused.address, refused.source.kind()), (first, kind));
        }
    }

    #[tokio::test]
    async fn a_connection_that_takes_its_time_is_waited_for() {
        let (listener, address, _first) = silent();
        // Once there is room the next SYN is answered, which comes a second later.
        let mut second = tokio::spawn(connect(vec![address], in_a_while()));
        assert!(tokio::time::timeout(Duration::from_millis(100), &mut second).await.is_err());
        listener.accept().unwrap();
        let second = tokio::time::timeout(Duration::from_secs(20), second).await.unwrap();
        assert_eq!(second.unwrap().unwrap().unwrap().peer_addr().unwrap(), address);
    }
}
