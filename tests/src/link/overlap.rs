//! Makes overlapping retransmissions: a segment that begins with bytes that have arrived before.
//!
//! A receiver has to trim them. tcp_read_skb of the kernel does not, so this is what our own trimming meets.

use std::collections::HashMap;

const IP_HEADER: usize = 20;

/// Remembers the last data segment of each connection.
#[derive(Debug, Default)]
pub(super) struct Overlapper {
    last: HashMap<[u8; 12], (u32, Vec<u8>)>,
}

impl Overlapper {
    /// Sees every packet in the order of its delivery. With `strike`, an in-order data segment comes back with
    /// the payload of the one before it in front.
    pub(super) fn see(&mut self, packet: &[u8], strike: bool) -> Option<Vec<u8>> {
        let segment = Segment::parse(packet)?;
        if segment.payload.is_empty() {
            return None;
        }
        let before = self.last.insert(segment.connection, (segment.sequence, segment.payload.to_vec()));
        let (sequence, payload) = before.filter(|_| strike)?;
        let follows = sequence.wrapping_add(payload.len() as u32) == segment.sequence;
        let whole = segment.header.len() + payload.len() + segment.payload.len();
        (follows && whole <= usize::from(u16::MAX)).then(|| segment.with_front(sequence, &payload))
    }
}

struct Segment<'a> {
    /// Addresses and ports.
    connection: [u8; 12],
    sequence: u32,
    /// Both headers.
    header: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Segment<'a> {
    /// IPv4 without options and TCP only; anything else passes untouched.
    fn parse(packet: &'a [u8]) -> Option<Segment<'a>> {
        let whole = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
        let packet = packet.get(..whole)?;
        let tcp = packet.get(IP_HEADER..)?;
        if packet[0] != 0x45 || packet[9] != 6 || tcp.len() < 20 {
            return None;
        }
        let header = IP_HEADER + usize::from(tcp[12] >> 4) * 4;
        let mut connection = [0; 12];
        connection[..8].copy_from_slice(&packet[12..20]);
        connection[8..].copy_from_slice(&tcp[..4]);
        Some(Segment {
            connection,
            sequence: u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]),
            header: packet.get(..header)?,
            payload: &packet[header..],
        })
    }

    fn with_front(&self, sequence: u32, front: &[u8]) -> Vec<u8> {
        let mut packet = [self.header, front, self.payload].concat();
        let length = packet.len() as u16;
        packet[2..4].copy_from_slice(&length.to_be_bytes());
        packet[10..12].fill(0);
        let sum = checksum(&packet[..IP_HEADER], 0);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet[IP_HEADER + 4..IP_HEADER + 8].copy_from_slice(&sequence.to_be_bytes());
        packet[IP_HEADER + 16..IP_HEADER + 18].fill(0);
        let pseudo = sum_words(&packet[12..20]) + 6 + u64::from(length) - IP_HEADER as u64;
        let sum = checksum(&packet[IP_HEADER..], pseudo);
        packet[IP_HEADER + 16..IP_HEADER + 18].copy_from_slice(&sum.to_be_bytes());
        packet
    }
}

fn sum_words(bytes: &[u8]) -> u64 {
    bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0))).sum()
}

fn checksum(bytes: &[u8], start: u64) -> u16 {
    let mut sum = start + sum_words(bytes);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(sequence: u32, payload: &[u8]) -> Vec<u8> {
        let mut header = vec![0; 40];
        header[0] = 0x45;
        header[9] = 6;
        header[12..20].copy_from_slice(&[10, 201, 0, 1, 10, 201, 0, 2]);
        header[IP_HEADER + 12] = 5 << 4;
        let bare = Segment { connection: [0; 12], sequence, header: &header, payload };
        bare.with_front(sequence, &[])
    }

    #[test]
    fn a_strike_repeats_the_segment_before() {
        let mut overlapper = Overlapper::default();
        assert!(overlapper.see(&segment(100, b"abc"), true).is_none(), "nothing came before it");
        let merged = overlapper.see(&segment(103, b"defg"), true).unwrap();
        assert_eq!(merged, segment(100, b"abcdefg"));
        assert!(overlapper.see(&segment(107, b"h"), false).is_none());
        assert!(overlapper.see(&segment(120, b"gap"), true).is_none(), "a gap cannot be bridged");
    }

    #[test]
    fn checksums_are_right() {
        let packet = segment(7, b"odd");
        assert_eq!(checksum(&packet[..IP_HEADER], 0), 0);
        let pseudo = sum_words(&packet[12..20]) + 6 + 23;
        assert_eq!(checksum(&packet[IP_HEADER..], pseudo), 0);
    }
}
