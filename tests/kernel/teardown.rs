//! Flows come and go, and leave nothing: no map entry, no slot, no line in the kernel's log.

use proxy_tests::kernel_log::KernelLog;
use proxy_user::net::sockopt;

use crate::rig::{Rig, read_pattern, sockmap, wait, write_pattern};

#[test]
fn flows_that_ended_in_every_way_leave_nothing() {
    let Some(sockmap) = sockmap() else { return };
    let mut log = KernelLog::watch().unwrap();
    for round in 0..60 {
        let mut rig = Rig::tcp().unwrap();
        // At most as many at a time as there are slots: those given back rest for a second.
        let mut mapped = None;
        wait("a free slot", || {
            mapped = sockmap.map_tcp(&rig.source, &rig.destination, 1 << 20).ok();
            mapped.is_some()
        });
        write_pattern(&mut rig.client, 0, 300_000).unwrap();
        match round % 4 {
            0 => read_pattern(&mut rig.target, 0, 300_000).unwrap(),
            // With bytes on their way.
            1 => drop(mapped.take()),
            2 => sockopt::reset_on_close(&rig.client).unwrap(),
            _ => sockopt::reset_on_close(&rig.destination).unwrap(),
        }
        // The sockets go before their place in the maps, or (by the order of declaration) after it.
        if round % 8 > 3 {
            drop(rig);
            drop(mapped);
        }
    }
    wait("empty maps", || (sockmap.mapped(), sockmap.entries()) == (0, [0, 0, 0]));
    drop(sockmap);
    assert_eq!(log.new_warnings().unwrap(), Vec::<String>::new());
}

#[test]
fn loading_twice_and_unloading_works() {
    let (Some(first), Some(second)) = (sockmap(), sockmap()) else { return };
    let mut rig = Rig::tcp().unwrap();
    let mapped = first.map_tcp(&rig.source, &rig.destination, 1 << 20).unwrap();
    drop(second);
    drop(first);
    // The direction itself keeps the programs loaded.
    write_pattern(&mut rig.client, 0, 100_000).unwrap();
    read_pattern(&mut rig.target, 0, 100_000).unwrap();
    assert_eq!(mapped.counts().redirected, 100_000);
}
