//! What an offloaded piece of TCP stands for on a wire: many segments, each with its own headers.

/// `struct virtio_net_hdr`, in front of each packet of a device that offloads.
const VNET: usize = 10;
const GSO_NONE: u8 = 0;

/// The longest packet with its header.
pub(super) const LONGEST: usize = VNET + 65536;

/// What crosses the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wire {
    pub packets: u64,
    pub bytes: u64,
}

impl Wire {
    /// Of a packet behind its virtio-net header.
    pub(super) fn of_offloaded(framed: &[u8]) -> Wire {
        let packet = framed.get(VNET..).unwrap_or_default();
        let one = Wire { packets: 1, bytes: packet.len() as u64 };
        let word = |at: usize| usize::from(u16::from_ne_bytes([framed[at], framed[at + 1]]));
        if packet.is_empty() || framed[1] == GSO_NONE {
            return one;
        }
        // The TCP header is where the checksum begins; its length is in its 13th byte.
        let (size, tcp) = (word(4), word(6));
        let Some(offset) = packet.get(tcp + 12) else { return one };
        let headers = tcp + usize::from(offset >> 4) * 4;
        let payload = packet.len().saturating_sub(headers);
        let packets = payload.div_ceil(size.max(1)).max(1);
        Wire { packets: packets as u64, bytes: (payload + packets * headers) as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(gso_type: u8, gso_size: u16, payload: usize) -> Vec<u8> {
        let mut frame = vec![0; VNET + 52 + payload];
        frame[1] = gso_type;
        frame[4..6].copy_from_slice(&gso_size.to_ne_bytes());
        frame[6..8].copy_from_slice(&20u16.to_ne_bytes());
        // A TCP header of 32 bytes: timestamps.
        frame[VNET + 20 + 12] = 8 << 4;
        frame
    }

    #[test]
    fn a_piece_costs_the_headers_of_all_its_segments() {
        let piece = Wire::of_offloaded(&framed(1, 1448, 3 * 1448 + 1));
        assert_eq!(piece, Wire { packets: 4, bytes: 3 * 1500 + 53 });
    }

    #[test]
    fn what_is_not_offloaded_is_one_packet() {
        assert_eq!(Wire::of_offloaded(&framed(GSO_NONE, 0, 1448)), Wire { packets: 1, bytes: 1500 });
        assert_eq!(Wire::of_offloaded(&[0; 3]), Wire { packets: 1, bytes: 0 });
    }
}
