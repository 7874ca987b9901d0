//! Content that depends on its position, so that a lost, repeated or misplaced byte shows.

/// The byte at `position` of the stream `seed`: a mix of both, without a short period.
pub fn byte_at(seed: u64, position: u64) -> u8 {
    let word = (position / 8 ^ seed.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (word ^ word >> 29).to_le_bytes()[(position % 8) as usize]
}

/// Fills `buffer` with the stream `seed` from `position` on.
pub fn fill(seed: u64, position: u64, buffer: &mut [u8]) {
    for (offset, byte) in buffer.iter_mut().enumerate() {
        *byte = byte_at(seed, position + offset as u64);
    }
}

/// Panics with the position of the first byte that differs.
pub fn check(seed: u64, position: u64, bytes: &[u8]) {
    for (offset, byte) in bytes.iter().enumerate() {
        let at = position + offset as u64;
        let expected = byte_at(seed, at);
        assert_eq!(*byte, expected, "stream {seed:#x} differs at byte {at}");
    }
}
