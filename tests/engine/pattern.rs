//! Content that depends on its position, so that a lost, repeated or misplaced byte shows.

/// Eight bytes of the stream `seed`: a mix of both, without a short period.
fn word(seed: u64, index: u64) -> [u8; 8] {
    let word = (index ^ seed.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (word ^ word >> 29).to_le_bytes()
}

/// Fills `buffer` with the stream `seed` from `position` on.
pub fn fill(seed: u64, position: u64, buffer: &mut [u8]) {
    let skip = (position % 8) as usize;
    let (head, rest) = buffer.split_at_mut(((8 - skip) % 8).min(buffer.len()));
    head.copy_from_slice(&word(seed, position / 8)[skip % 8..][..head.len()]);
    for (index, chunk) in (position.div_ceil(8)..).zip(rest.chunks_mut(8)) {
        chunk.copy_from_slice(&word(seed, index)[..chunk.len()]);
    }
}

/// Panics with the position of the first byte that differs.
pub fn check(seed: u64, position: u64, bytes: &[u8]) {
    let mut expected = vec![0; bytes.len()];
    fill(seed, position, &mut expected);
    if let Some(offset) =
        (expected != bytes).then(|| expected.iter().zip(bytes).position(|(a, b)| a != b)).flatten()
    {
        panic!("stream {seed:#x} differs at byte {}", position + offset as u64);
    }
}
