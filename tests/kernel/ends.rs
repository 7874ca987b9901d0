//! How mapped flows end: one half, both halves, by abort.

use std::io::{ErrorKind, Read};
use std::net::Shutdown;

use proxy_user::net::sockopt;
use proxy_user::splice::kernel::{MapRefused, sock};

use crate::rig::{Rig, read_pattern, sockmap, wait, write_pattern};

/// The same sockets, the other way round.
fn reverse(rig: &Rig) -> Rig {
    let clone = |socket: &std::net::TcpStream| socket.try_clone().unwrap();
    Rig {
        client: clone(&rig.target),
        source: clone(&rig.destination),
        destination: clone(&rig.source),
        target: clone(&rig.client),
    }
}

#[test]
fn one_half_ends_and_the_other_goes_on() {
    let Some(sockmap) = sockmap() else { return };
    let mut up = Rig::tcp().unwrap();
    let mut down = reverse(&up);
    let up_mapped = sockmap.map_tcp(&up.source, &up.destination, 1 << 20).unwrap();
    let down_mapped = sockmap.map_tcp(&down.source, &down.destination, 1 << 20).unwrap();
    write_pattern(&mut up.client, 0, 500_000).unwrap();
    up.client.shutdown(Shutdown::Write).unwrap();
    wait("the end at the source", || sock::kick(&up.source).unwrap());
    wait("its bytes to leave", || up_mapped.is_drained(&up.destination).unwrap());
    up.destination.shutdown(Shutdown::Write).unwrap();
    read_pattern(&mut up.target, 0, 500_000).unwrap();
    assert_eq!(up.target.read(&mut [0]).unwrap(), 0);
    for round in 0..10 {
        write_pattern(&mut down.client, round * 100_000, 100_000).unwrap();
        read_pattern(&mut down.target, round * 100_000, 100_000).unwrap();
    }
    assert_eq!(down_mapped.counts().redirected, 1_000_000);
    assert!(up.destination.take_error().unwrap().is_none() && up.source.take_error().unwrap().is_none());
}

#[test]
fn an_abort_of_the_client_shows_at_the_source() {
    let Some(sockmap) = sockmap() else { return };
    let mut rig = Rig::tcp().unwrap();
    let mapped = sockmap.map_tcp(&rig.source, &rig.destination, 1 << 20).unwrap();
    write_pattern(&mut rig.client, 0, 200_000).unwrap();
    read_pattern(&mut rig.target, 0, 200_000).unwrap();
    sockopt::reset_on_close(&rig.client).unwrap();
    drop(rig.client);
    let mut seen = None;
    wait("the abort", || {
        seen = sock::kick(&rig.source).err();
        seen.is_some()
    });
    assert_eq!(seen.unwrap().kind(), ErrorKind::ConnectionReset);
    sockopt::reset_on_close(&rig.destination).unwrap();
    drop(mapped);
    drop(rig.destination);
    assert_eq!(rig.target.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn an_ended_socket_is_refused_and_nothing_stays_behind() {
    let Some(sockmap) = sockmap() else { return };
    let rig = Rig::tcp().unwrap();
    rig.client.shutdown(Shutdown::Write).unwrap();
    wait("the end at the source", || !sock::tcp_info(&rig.source).unwrap().is_established());
    assert!(matches!(
        sockmap.map_tcp(&rig.source, &rig.destination, 1 << 20),
        Err(MapRefused::NotEstablished)
    ));
    assert!(matches!(
        sockmap.map_tcp(&rig.destination, &rig.source, 1 << 20),
        Err(MapRefused::NotEstablished)
    ));
    assert_eq!((sockmap.mapped(), sockmap.entries()), (0, [0, 0, 0]));
}

#[test]
fn a_unix_stream_ends_after_its_last_byte() {
    let Some(sockmap) = sockmap() else { return };
    for round in 0..50 {
        let mut rig = Rig::unix().unwrap();
        let mapped = sockmap.map_unix(&rig.source, &rig.destination).unwrap();
        let length = 1 + round * 4_001;
        let mut client = rig.client;
        let writer = std::thread::spawn(move || write_pattern(&mut client, 0, length));
        read_pattern(&mut rig.target, 0, length).unwrap();
        writer.join().unwrap().unwrap();
        wait("the end of the Unix stream", || sock::kick(&rig.source).unwrap());
        wait("its bytes to leave", || mapped.is_drained(&rig.destination).unwrap());
        rig.destination.shutdown(Shutdown::Write).unwrap();
        assert_eq!(rig.target.read(&mut [0]).unwrap(), 0);
    }
}
