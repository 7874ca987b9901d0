//! Bytes cross without userspace, in order, each once.

use std::thread;

use proxy_user::splice::kernel::{Mode, sock};

use crate::rig::{Rig, read_pattern, sockmap, write_pattern};

const LENGTH: u64 = 32 << 20;

#[test]
fn tcp_to_tcp() {
    let Some(sockmap) = sockmap() else { return };
    let mut rig = Rig::tcp().unwrap();
    let mapped = sockmap.map_tcp(&rig.source, &rig.destination, 64 << 20).unwrap();
    let mut client = rig.client.try_clone().unwrap();
    let writer = thread::spawn(move || write_pattern(&mut client, 0, LENGTH));
    read_pattern(&mut rig.target, 0, LENGTH).unwrap();
    writer.join().unwrap().unwrap();
    let counts = mapped.counts();
    assert_eq!((counts.redirected, counts.passed, counts.gaps), (LENGTH, 0, 0), "{counts:?}");
    assert_eq!(mapped.mode(), Mode::Redirect);
    assert!(mapped.is_drained(&rig.destination).unwrap());
}

#[test]
fn unix_to_tcp() {
    let Some(sockmap) = sockmap() else { return };
    let mut rig = Rig::unix().unwrap();
    let mapped = sockmap.map_unix(&rig.source, &rig.destination).unwrap();
    let mut client = rig.client.try_clone().unwrap();
    let writer = thread::spawn(move || write_pattern(&mut client, 0, LENGTH));
    read_pattern(&mut rig.target, 0, LENGTH).unwrap();
    writer.join().unwrap().unwrap();
    let counts = mapped.counts();
    assert_eq!((counts.redirected, counts.passed, counts.strays), (LENGTH, 0, 0), "{counts:?}");
}

#[test]
fn bytes_that_were_there_before_come_first() {
    let Some(sockmap) = sockmap() else { return };
    let mut rig = Rig::tcp().unwrap();
    write_pattern(&mut rig.client, 0, 100_000).unwrap();
    crate::rig::wait("bytes at the source", || sock::readable(&rig.source).unwrap() == 100_000);
    let _mapped = sockmap.map_tcp(&rig.source, &rig.destination, 1 << 20).unwrap();
    write_pattern(&mut rig.client, 100_000, 100_000).unwrap();
    read_pattern(&mut rig.target, 0, 200_000).unwrap();
}

#[test]
fn a_segment_read_in_part_goes_on_at_its_next_byte() {
    let Some(sockmap) = sockmap() else { return };
    for taken in [1, 1_000, 100_000, 300_000, 399_999] {
        let mut rig = Rig::tcp().unwrap();
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&rig.source, 4 << 20).unwrap();
        write_pattern(&mut rig.client, 0, 400_000).unwrap();
        crate::rig::wait("bytes at the source", || sock::readable(&rig.source).unwrap() == 400_000);
        read_pattern(&mut rig.source, 0, taken).unwrap();
        let mapped = sockmap.map_tcp(&rig.source, &rig.destination, 1 << 20).unwrap();
        write_pattern(&mut rig.client, 400_000, 100_000).unwrap();
        read_pattern(&mut rig.target, taken, 500_000 - taken).unwrap();
        assert_eq!(mapped.counts().gaps, 0, "{taken} bytes read before: {:?}", mapped.counts());
    }
}
