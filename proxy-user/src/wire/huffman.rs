//! HPACK's Huffman code (RFC 7541, appendix B), for decoding.
//!
//! The code is canonical: symbols of one length have consecutive codes in symbol order, so the lengths alone
//! define it.

/// The longest code, in bits; it belongs to the end-of-string symbol.
const LONGEST: usize = 30;
const END_OF_STRING: u16 = 256;

#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

struct Code {
    /// By length: the first code, and the code after the last one.
    first: [u32; LONGEST + 1],
    end: [u32; LONGEST + 1],
    /// By length: where its symbols begin in `symbols`.
    start: [u16; LONGEST + 1],
    symbols: [u16; 257],
}

static CODE: Code = build();

const fn build() -> Code {
    let mut code =
        Code { first: [0; LONGEST + 1], end: [0; LONGEST + 1], start: [0; LONGEST + 1], symbols: [0; 257] };
    let (mut next, mut filled, mut length) = (0, 0, 1);
    while length <= LONGEST {
        next <<= 1;
        code.first[length] = next;
        code.start[length] = filled;
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == length {
                code.symbols[filled as usize] = symbol as u16;
                filled += 1;
                next += 1;
            }
            symbol += 1;
        }
        code.end[length] = next;
        length += 1;
    }
    code
}

/// A string that is not Huffman coded as RFC 7541 wants it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// Appends what `coded` stands for to `out`.
pub(super) fn decode(coded: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
    let mut bytes = coded.iter();
    // The next `held` bits of the string, in the low end of `bits`.
    let (mut bits, mut held) = (0u64, 0usize);
    loop {
        while held <= 56 - 8 {
            let Some(byte) = bytes.next() else { break };
            bits = bits << 8 | u64::from(*byte);
            held += 8;
        }
        let Some((length, symbol)) = first_symbol(bits, held) else { break };
        if symbol == END_OF_STRING {
            return Err(Malformed);
        }
        out.push(symbol as u8);
        held -= length;
    }
    let padding = (1u64 << held) - 1;
    if held < 8 && bits & padding == padding { Ok(()) } else { Err(Malformed) }
}

fn first_symbol(bits: u64, held: usize) -> Option<(usize, u16)> {
    (5..=LONGEST.min(held)).find_map(|length| {
        let code = (bits >> (held - length) & ((1 << length) - 1)) as u32;
        if code >= CODE.end[length] {
            return None;
        }
        let offset = code.checked_sub(CODE.first[length])?;
        Some((length, CODE.symbols[usize::from(CODE.start[length]) + offset as usize]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(coded: &[u8]) -> Result<String, Malformed> {
        let mut out = Vec::new();
        decode(coded, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    /// Encodes by the same lengths, so that every symbol is met.
    fn encode(plain: &[u8]) -> Vec<u8> {
        let (mut bits, mut text) = (Vec::new(), plain.to_vec());
        for byte in text.drain(..) {
            let length = usize::from(LENGTHS[usize::from(byte)]);
            let row = usize::from(CODE.start[length]);
            let place = CODE.symbols[row..].iter().position(|symbol| *symbol == u16::from(byte)).unwrap();
            let code = CODE.first[length] + place as u32;
            bits.extend((0..length).rev().map(|bit| code >> bit & 1 == 1));
        }
        while bits.len() % 8 != 0 {
            bits.push(true);
        }
        bits.chunks(8).map(|chunk| chunk.iter().fold(0, |byte, bit| byte << 1 | u8::from(*bit))).collect()
    }

    #[test]
    fn the_examples_of_the_rfc() {
        let www = [0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        assert_eq!(decoded(&www).unwrap(), "www.example.com");
        assert_eq!(decoded(&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf]).unwrap(), "no-cache");
        assert_eq!(decoded(&[0x64, 0x02]).unwrap(), "302");
        assert_eq!(encode(b"www.example.com"), www);
    }

    #[test]
    fn every_byte_comes_back() {
        let all: Vec<u8> = (0..=255).collect();
        let mut out = Vec::new();
        decode(&encode(&all), &mut out).unwrap();
        assert_eq!(out, all);
    }

    #[test]
    fn padding_is_short_and_all_ones() {
        assert_eq!(decoded(&[]).unwrap(), "");
        assert_eq!(decoded(&[0x07]).unwrap(), "0");
        assert_eq!(decoded(&[0x06]), Err(Malformed));
        assert_eq!(decoded(&[0x64, 0x02, 0xff]), Err(Malformed));
        assert_eq!(decoded(&[0xff; 4]), Err(Malformed));
    }
}
