//! A direction leaves the map while bytes arrive, and userspace goes on at the exact byte.

use std::io::{self, ErrorKind, Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use proxy_user::splice::kernel::{Mapped, Mode, Sockmap};

use crate::rig::{Rig, byte, put, sockmap, wait};

const LENGTH: u64 = 64 << 20;
/// Blocks carry their number, so that comparing costs next to nothing and the bytes come fast.
const BLOCK: usize = 64 << 10;

/// Block `number` of the stream.
fn stamp(block: &mut [u8], number: u64) {
    for page in block.chunks_mut(4096) {
        page[..8].copy_from_slice(&number.to_ne_bytes());
    }
}

fn write_blocks(to: &mut impl Write) -> io::Result<()> {
    let mut block: Vec<u8> = (0..BLOCK as u64).map(byte).collect();
    for number in 0..LENGTH / BLOCK as u64 {
        stamp(&mut block, number);
        to.write_all(&block)?;
        // A direction that passes turns back, and can leave, only in an instant without arriving bytes.
        if number.is_multiple_of(8) {
            thread::sleep(Duration::from_micros(300));
        }
    }
    Ok(())
}

fn read_blocks(from: &mut impl Read) -> io::Result<()> {
    let mut expected: Vec<u8> = (0..BLOCK as u64).map(byte).collect();
    let mut block = vec![0; BLOCK];
    for number in 0..LENGTH / BLOCK as u64 {
        from.read_exact(&mut block)?;
        stamp(&mut expected, number);
        if block != expected {
            return Err(io::Error::other(format!("block {number} is not as it was sent")));
        }
    }
    Ok(())
}

/// Moves what can be read now; `false` when nothing was there.
fn forward(rig: &mut Rig, mapped: Option<&Mapped>) -> bool {
    let mut buffer = vec![0; 64 * 1024];
    let count = match rig.source.read(&mut buffer) {
        Ok(count) => count,
        Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
        Err(error) => panic!("reading: {error}"),
    };
    put(&mut rig.destination, &buffer[..count], |written| {
        if let Some(mapped) = mapped {
            mapped.add_forwarded(written);
        }
    });
    count > 0
}

/// Asks until the direction has left; forwards what passes meanwhile. The number of walks it took.
fn leave(sockmap: &Sockmap, rig: &mut Rig, mapped: &Mapped) -> u32 {
    mapped.ask_to_leave();
    for walks in 1..10_000 {
        sockmap.leave().unwrap();
        if mapped.has_left() {
            wait("the redirected bytes to leave", || mapped.is_drained(&rig.destination).unwrap());
            return walks;
        }
        if mapped.mode() == Mode::Pass && mapped.is_drained(&rig.destination).unwrap() {
            while forward(rig, Some(mapped)) && !mapped.try_redirect() {}
            mapped.try_redirect();
        }
    }
    panic!("10000 walks, and it never left: {mapped:?}");
}

#[test]
fn leaves_and_enters_under_traffic() {
    let Some(sockmap) = sockmap() else { return };
    let mut rig = Rig::tcp().unwrap();
    let mut client = rig.client.try_clone().unwrap();
    let mut target = rig.target.try_clone().unwrap();
    let writer = thread::spawn(move || write_blocks(&mut client));
    let reader = thread::spawn(move || read_blocks(&mut target));
    let until = Instant::now() + Duration::from_secs(40);
    let (mut rounds, mut walks, mut moved) = (0, 0, 0);
    while moved < LENGTH && !reader.is_finished() && Instant::now() < until {
        if rounds < 30 {
            // Everything read was written: the condition for entering.
            let mapped = sockmap.map_tcp(&rig.source, &rig.destination, 1 << 20).unwrap();
            thread::sleep(Duration::from_millis(2));
            walks += leave(&sockmap, &mut rig, &mapped);
            rounds += 1;
            moved += mapped.counts().delivered();
        }
        for _ in 0..8 {
            let _ = forward(&mut rig, None);
        }
    }
    writer.join().unwrap().unwrap();
    reader.join().unwrap().unwrap();
    assert!(rounds >= 1 && moved > 0, "{rounds} rounds moved {moved} bytes");
    eprintln!("{rounds} rounds, {walks} walks, {moved} of {LENGTH} bytes in the map");
    assert_eq!(sockmap.entries(), [0, 0, 0]);
}
