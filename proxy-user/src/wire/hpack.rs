//! HPACK decoding (RFC 7541) with a dynamic table that lives as long as its connection.

use std::collections::VecDeque;

use super::huffman;

/// SETTINGS_HEADER_TABLE_SIZE of a peer that was told nothing else.
const TABLE_LIMIT: usize = 4096;
/// What the RFC adds to the size of each entry.
const ENTRY_OVERHEAD: usize = 32;

/// A header block that cannot be decoded; the connection is lost with it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum HpackError {
    #[error("header block ends in the middle of a field")]
    Truncated,
    #[error("integer in a header block is too large")]
    Integer,
    #[error("header block names table entry {0}, which does not exist")]
    Index(usize),
    #[error("string in a header block is not Huffman coded as it says")]
    Huffman,
    #[error("dynamic table size update is too large or out of place")]
    SizeUpdate,
    #[error("header list is larger than {limit} bytes")]
    TooLarge { limit: usize },
}

/// One field of a decoded block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    pub name: &'a [u8],
    pub value: &'a [u8],
    /// Sent as "never indexed": to be passed on as such.
    pub sensitive: bool,
}

/// Name and value.
type Entry = (Box<[u8]>, Box<[u8]>);

/// The decoder of one connection. After an error its table is no longer that of the peer.
#[derive(Debug)]
pub struct Decoder {
    /// Newest first.
    table: VecDeque<Entry>,
    size: usize,
    limit: usize,
}

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder { table: VecDeque::new(), size: 0, limit: TABLE_LIMIT }
    }
}

impl Decoder {
    /// Decodes a whole block and hands each field to `emit`. `list_limit` bounds the decoded list, counted as
    /// SETTINGS_MAX_HEADER_LIST_SIZE does: a few bytes of block can name a large entry again and again.
    pub fn decode(
        &mut self,
        block: &[u8],
        list_limit: usize,
        mut emit: impl FnMut(Field<'_>),
    ) -> Result<(), HpackError> {
        let mut input = Input(block);
        let (mut name, mut value) = (Vec::new(), Vec::new());
        let (mut listed, mut fields) = (0, 0u32);
        while let Some(first) = input.peek() {
            if first & 0xe0 == 0x20 {
                let limit = input.integer(5)?;
                if limit > TABLE_LIMIT || fields > 0 {
                    return Err(HpackError::SizeUpdate);
                }
                self.limit = limit;
                self.evict(0);
                continue;
            }
            fields = fields.saturating_add(1);
            name.clear();
            value.clear();
            let (indexed, prefix) = match first {
                0x80.. => {
                    let (known_name, known_value) = self.entry(input.integer(7)?)?;
                    name.extend_from_slice(known_name);
                    value.extend_from_slice(known_value);
                    (false, 0)
                }
                0x40.. => (true, 6),
                _ => (false, 4),
            };
            if prefix > 0 {
                match input.integer(prefix)? {
                    0 => input.string(&mut name)?,
                    index => name.extend_from_slice(self.entry(index)?.0),
                }
                input.string(&mut value)?;
            }
            listed += name.len() + value.len() + ENTRY_OVERHEAD;
            if listed > list_limit {
                return Err(HpackError::TooLarge { limit: list_limit });
            }
            emit(Field { name: &name, value: &value, sensitive: first & 0xf0 == 0x10 });
            if indexed {
                self.insert(&name, &value);
            }
        }
        Ok(())
    }

    fn entry(&self, index: usize) -> Result<(&[u8], &[u8]), HpackError> {
        let place = index.checked_sub(1).ok_or(HpackError::Index(index))?;
        if let Some((name, value)) = STATIC.get(place) {
            return Ok((name.as_bytes(), value.as_bytes()));
        }
        let (name, value) = self.table.get(place - STATIC.len()).ok_or(HpackError::Index(index))?;
        Ok((name, value))
    }

    fn insert(&mut self, name: &[u8], value: &[u8]) {
        let size = name.len() + value.len() + ENTRY_OVERHEAD;
        self.evict(size);
        if size <= self.limit {
            self.table.push_front((name.into(), value.into()));
            self.size += size;
        }
    }

    /// Makes room for `needed` bytes, as far as that is possible.
    fn evict(&mut self, needed: usize) {
        while self.size + needed > self.limit {
            let Some((name, value)) = self.table.pop_back() else { break };
            self.size -= name.len() + value.len() + ENTRY_OVERHEAD;
        }
    }
}

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    fn byte(&mut self) -> Result<u8, HpackError> {
        let (first, rest) = self.0.split_first().ok_or(HpackError::Truncated)?;
        self.0 = rest;
        Ok(*first)
    }

    /// An integer whose first part is the low `prefix` bits of the next byte.
    fn integer(&mut self, prefix: u32) -> Result<usize, HpackError> {
        let mask = (1u8 << prefix) - 1;
        let first = self.byte()? & mask;
        if first < mask {
            return Ok(usize::from(first));
        }
        let mut value = u64::from(mask);
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.byte()?;
            value += u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return u32::try_from(value).map(|value| value as usize).map_err(|_| HpackError::Integer);
            }
        }
        Err(HpackError::Integer)
    }

    fn string(&mut self, out: &mut Vec<u8>) -> Result<(), HpackError> {
        let coded = self.peek().ok_or(HpackError::Truncated)? & 0x80 != 0;
        let length = self.integer(7)?;
        let (text, rest) = self.0.split_at_checked(length).ok_or(HpackError::Truncated)?;
        self.0 = rest;
        if coded {
            huffman::decode(text, out).map_err(|_| HpackError::Huffman)
        } else {
            out.extend_from_slice(text);
            Ok(())
        }
    }
}

/// RFC 7541, appendix A.
#[rustfmt::skip]
const STATIC: [(&str, &str); 61] = [
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"), (":path", "/index.html"),
    (":scheme", "http"), (":scheme", "https"), (":status", "200"), (":status", "204"), (":status", "206"),
    (":status", "304"), (":status", "400"), (":status", "404"), (":status", "500"), ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"), ("accept-language", ""), ("accept-ranges", ""), ("accept", ""),
    ("access-control-allow-origin", ""), ("age", ""), ("allow", ""), ("authorization", ""),
    ("cache-control", ""), ("content-disposition", ""), ("content-encoding", ""), ("content-language", ""),
    ("content-length", ""), ("content-location", ""), ("content-range", ""), ("content-type", ""),
    ("cookie", ""), ("date", ""), ("etag", ""), ("expect", ""), ("expires", ""), ("from", ""), ("host", ""),
    ("if-match", ""), ("if-modified-since", ""), ("if-none-match", ""), ("if-range", ""),
    ("if-unmodified-since", ""), ("last-modified", ""), ("link", ""), ("location", ""), ("max-forwards", ""),
    ("proxy-authenticate", ""), ("proxy-authorization", ""), ("range", ""), ("referer", ""), ("refresh", ""),
    ("retry-after", ""), ("server", ""), ("set-cookie", ""), ("strict-transport-security", ""),
    ("transfer-encoding", ""), ("user-agent", ""), ("vary", ""), ("via", ""), ("www-authenticate", ""),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(decoder: &mut Decoder, block: &[u8]) -> Result<String, HpackError> {
        let mut text = String::new();
        decoder.decode(block, 1 << 20, |field| {
            let (name, value) = (str::from_utf8(field.name).unwrap(), str::from_utf8(field.value).unwrap());
            text += &format!("{name}: {value}{}\n", if field.sensitive { " (never indexed)" } else { "" });
        })?;
        Ok(text)
    }

    /// RFC 7541, appendix C.4: three requests on one connection, Huffman coded.
    #[test]
    fn the_requests_of_the_rfc() {
        let mut decoder = Decoder::default();
        let first = b"\x82\x86\x84\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff";
        let start = ":method: GET\n:scheme: http\n:path: /\n:authority: www.example.com\n";
        assert_eq!(fields(&mut decoder, first).unwrap(), start);
        assert_eq!(decoder.size, 57);
        let second = b"\x82\x86\x84\xbe\x58\x86\xa8\xeb\x10\x64\x9c\xbf";
        assert_eq!(fields(&mut decoder, second).unwrap(), format!("{start}cache-control: no-cache\n"));
        let third = b"\x82\x87\x85\xbf\x40\x88\x25\xa8\x49\xe9\x5b\xa9\x7d\x7f\x89\x25\xa8\x49\xe9\x5b\xb8\xe8\xb4\xbf";
        let wanted = ":method: GET\n:scheme: https\n:path: /index.html\n:authority: www.example.com\ncustom-key: custom-value\n";
        assert_eq!(fields(&mut decoder, third).unwrap(), wanted);
        assert_eq!(decoder.size, 164);
    }

    #[test]
    fn size_updates_evict_and_come_first() {
        let mut decoder = Decoder::default();
        assert_eq!(
            fields(&mut decoder, b"\x40\x01a\x01b\x10\x01c\x01d").unwrap(),
            "a: b\nc: d (never indexed)\n"
        );
        assert_eq!(fields(&mut decoder, b"\xbe").unwrap(), "a: b\n");
        assert_eq!(fields(&mut decoder, b"\x20\xbe"), Err(HpackError::Index(62)));
        assert_eq!(fields(&mut decoder, b"\x3f\xe1\x1f\x40\x01a\x01b").unwrap(), "a: b\n");
        assert_eq!(fields(&mut decoder, b"\x3f\xe2\x1f"), Err(HpackError::SizeUpdate));
        assert_eq!(fields(&mut decoder, b"\x82\x20"), Err(HpackError::SizeUpdate));
    }

    #[test]
    fn an_entry_larger_than_the_table_empties_it() {
        let mut decoder = Decoder::default();
        fields(&mut decoder, b"\x40\x01a\x01b").unwrap();
        let long = [b"\x40\x01a\x7f\xe2\x1f".as_slice(), &[b'x'; 4193]].concat();
        fields(&mut decoder, &long).unwrap();
        assert_eq!((decoder.size, decoder.table.len()), (0, 0));
    }

    #[test]
    fn broken_blocks_are_errors() {
        for (block, error) in [
            (b"\x80".as_slice(), HpackError::Index(0)),
            (b"\xbe", HpackError::Index(62)),
            (b"\x40", HpackError::Truncated),
            (b"\x40\x05abc", HpackError::Truncated),
            (b"\xff\xff\xff\xff\xff\xff\x01", HpackError::Integer),
            (b"\x00\x81\x00\x00", HpackError::Huffman),
        ] {
            assert_eq!(fields(&mut Decoder::default(), block), Err(error), "{block:x?}");
        }
    }

    #[test]
    fn a_small_block_cannot_become_a_large_list() {
        let mut decoder = Decoder::default();
        let block = [b"\x40\x01a\x7f\x81\x1e".as_slice(), &[b'x'; 3968], &[0xbe; 1000]].concat();
        assert_eq!(fields(&mut decoder, &block), Err(HpackError::TooLarge { limit: 1 << 20 }));
    }
}
