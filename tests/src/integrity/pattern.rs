//! The bytes of one direction: each is a function of flow, direction and position.

/// A position in the pattern of one direction.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    key: u64,
    position: u64,
}

impl Pattern {
    pub(super) fn new(flow: u64, up: bool) -> Pattern {
        Pattern { key: mix(flow * 2 + u64::from(up)), position: 0 }
    }

    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Fills `buffer` with the next bytes; they count once [`Pattern::advance`] says so.
    pub(super) fn fill(&self, buffer: &mut [u8]) {
        let mut word = self.position / 8;
        let skip = (self.position % 8) as usize;
        let mut at = 0;
        if skip > 0 {
            let first = self.word(word).to_le_bytes();
            at = buffer.len().min(8 - skip);
            buffer[..at].copy_from_slice(&first[skip..skip + at]);
            word += 1;
        }
        for chunk in buffer[at..].chunks_mut(8) {
            chunk.copy_from_slice(&self.word(word).to_le_bytes()[..chunk.len()]);
            word += 1;
        }
    }

    pub(super) fn advance(&mut self, bytes: usize) {
        self.position += bytes as u64;
    }

    /// Compares what came with what should have; the first wrong position is the error.
    pub(super) fn check(&mut self, came: &[u8], scratch: &mut Vec<u8>) -> Result<(), Mismatch> {
        scratch.resize(came.len(), 0);
        self.fill(scratch);
        if let Some(wrong) = came.iter().zip(scratch.iter()).position(|(came, wanted)| came != wanted) {
            return Err(Mismatch { at: self.position + wrong as u64, shifted: self.find(&came[wrong..]) });
        }
        self.advance(came.len());
        Ok(())
    }

    /// Where the bytes that came belong, if they are of this direction at all: tells a repetition from garbage.
    fn find(&self, came: &[u8]) -> Option<u64> {
        let sample = came.get(..16)?;
        let mut there = [0; 16];
        let nearby = self.position.saturating_sub(1 << 20)..self.position + (1 << 20);
        nearby.into_iter().find(|position| {
            Pattern { key: self.key, position: *position }.fill(&mut there);
            there == sample
        })
    }

    fn word(&self, index: u64) -> u64 {
        mix(self.key.wrapping_add(index))
    }
}

/// The first wrong byte of a direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mismatch {
    pub at: u64,
    /// The position that these bytes belong to.
    pub shifted: Option<u64>,
}

/// splitmix64: neighbours have nothing in common.
pub(super) fn mix(seed: u64) -> u64 {
    let mut word = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cutting_the_pattern_anywhere_changes_nothing() {
        let mut whole = vec![0; 1000];
        Pattern::new(7, true).fill(&mut whole);
        let mut pattern = Pattern::new(7, true);
        for piece in whole.chunks(13) {
            assert_eq!(pattern.check(piece, &mut Vec::new()), Ok(()));
        }
        assert_eq!(pattern.position(), 1000);
    }

    #[test]
    fn a_repeated_piece_is_found_where_it_belongs() {
        let mut whole = vec![0; 4096];
        Pattern::new(7, false).fill(&mut whole);
        let mut pattern = Pattern::new(7, false);
        pattern.check(&whole[..2048], &mut Vec::new()).unwrap();
        let fault = pattern.check(&whole[1024..], &mut Vec::new()).unwrap_err();
        assert_eq!(fault, Mismatch { at: 2048, shifted: Some(1024) });
    }
}
