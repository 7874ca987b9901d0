//! Where fields lie in the running kernel's structures, read from its BTF.
//!
//! Only what is needed: structures by name, their members, members of anonymous members.

use std::collections::HashMap;
use std::fs;
use std::sync::OnceLock;

use proxy_ebpf::Offsets;

use super::KernelError;

const PATH: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u16 = 0xeb9f;

const INT: u32 = 1;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const FUNC_PROTO: u32 = 13;
const VAR: u32 = 14;
const DATASEC: u32 = 15;
const DECL_TAG: u32 = 17;
const ENUM64: u32 = 19;

static FOUND: OnceLock<Offsets> = OnceLock::new();

/// The offsets that the programs need; read once.
pub(super) fn offsets() -> Result<Offsets, KernelError> {
    match FOUND.get() {
        Some(offsets) => Ok(*offsets),
        None => read().map(|offsets| *FOUND.get_or_init(|| offsets)),
    }
}

fn read() -> Result<Offsets, KernelError> {
    let bytes = fs::read(PATH).map_err(|source| KernelError::NoBtf { path: PATH, source })?;
    let types = Types::parse(&bytes).ok_or(KernelError::BadBtf { path: PATH, what: "it is cut short" })?;
    let find = |strukt: &str, member: &str, field: &'static str| {
        types.offset(strukt, member).ok_or(KernelError::NoField { field })
    };
    Ok(Offsets {
        skb_sk: find("sk_buff", "sk", "sk_buff.sk")?,
        skb_cb: find("sk_buff", "cb", "sk_buff.cb")?,
        cb_seq: find("tcp_skb_cb", "seq", "tcp_skb_cb.seq")?,
        tcp_copied_seq: find("tcp_sock", "copied_seq", "tcp_sock.copied_seq")?,
        tcp_rcv_nxt: find("tcp_sock", "rcv_nxt", "tcp_sock.rcv_nxt")?,
        tcp_write_seq: find("tcp_sock", "write_seq", "tcp_sock.write_seq")?,
        tcp_snd_nxt: find("tcp_sock", "snd_nxt", "tcp_sock.snd_nxt")?,
        unix_peer: find("unix_sock", "peer", "unix_sock.peer")?,
        sock_cookie: find("sock_common", "skc_cookie", "sock_common.skc_cookie")?,
    })
}

/// One structure or union: where its members begin.
#[derive(Clone, Copy)]
struct Members {
    at: usize,
    count: usize,
    bitfields: bool,
}

struct Types<'a> {
    bytes: &'a [u8],
    strings: usize,
    by_name: HashMap<&'a [u8], u32>,
    /// By type id.
    members: HashMap<u32, Members>,
}

impl<'a> Types<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Types<'a>> {
        if u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?) != MAGIC {
            return None;
        }
        let header = word(bytes, 4)? as usize;
        let (start, length) = (header + word(bytes, 8)? as usize, word(bytes, 12)? as usize);
        let strings = header + word(bytes, 16)? as usize;
        let mut types = Types { bytes, strings, by_name: HashMap::new(), members: HashMap::new() };
        let (mut at, mut id) = (start, 0);
        while at < start + length {
            id += 1;
            let info = word(bytes, at + 4)?;
            let (kind, count) = ((info >> 24) & 0x1f, (info & 0xffff) as usize);
            if kind == STRUCT || kind == UNION {
                types.members.insert(id, Members { at: at + 12, count, bitfields: info >> 31 == 1 });
                types.by_name.entry(types.name(word(bytes, at)?)?).or_insert(id);
            }
            at += 12 + tail(kind, count);
        }
        Some(types)
    }

    /// The byte offset of `member` in `strukt`, also when it lies in an anonymous member.
    fn offset(&self, strukt: &str, member: &str) -> Option<u32> {
        let bits = self.bits(*self.by_name.get(strukt.as_bytes())?, member.as_bytes(), 0)?;
        bits.is_multiple_of(8).then_some(bits / 8)
    }

    fn bits(&self, id: u32, member: &[u8], depth: u32) -> Option<u32> {
        let Members { at, count, bitfields } = *self.members.get(&id)?;
        for index in 0..count {
            let at = at + index * 12;
            let name = self.name(word(self.bytes, at)?)?;
            let raw = word(self.bytes, at + 8)?;
            let offset = if bitfields { raw & 0x00ff_ffff } else { raw };
            if name == member {
                return Some(offset);
            }
            if name.is_empty()
                && depth < 8
                && let Some(inner) = self.bits(word(self.bytes, at + 4)?, member, depth + 1)
            {
                return Some(offset + inner);
            }
        }
        None
    }

    fn name(&self, offset: u32) -> Option<&'a [u8]> {
        let rest = self.bytes.get(self.strings + offset as usize..)?;
        rest.split(|byte| *byte == 0).next()
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Bytes after the common 12 of a type.
fn tail(kind: u32, count: usize) -> usize {
    match kind {
        INT | VAR | DECL_TAG => 4,
        ARRAY => 12,
        STRUCT | UNION | DATASEC | ENUM64 => 12 * count,
        ENUM | FUNC_PROTO => 8 * count,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A struct `outer { int first; struct { int inner; }; }`, by hand.
    fn sample() -> Vec<u8> {
        let strings = b"\0outer\0first\0inner\0int\0";
        let words: Vec<u32> = [
            vec![19, 1 << 24, 4, 32],                     // 1: int
            vec![0, (4 << 24) | 1, 4, 13, 1, 0],          // 2: anonymous struct
            vec![1, (4 << 24) | 2, 8, 7, 1, 0, 0, 2, 32], // 3: outer
        ]
        .concat();
        let length = (words.len() * 4) as u32;
        let mut bytes = vec![0x9f, 0xeb, 1, 0];
        for word in [24, 0, length, length, strings.len() as u32].into_iter().chain(words) {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn finds_members_also_in_anonymous_ones() {
        let bytes = sample();
        let types = Types::parse(&bytes).unwrap();
        assert_eq!(types.offset("outer", "first"), Some(0));
        assert_eq!(types.offset("outer", "inner"), Some(4));
        assert_eq!(types.offset("outer", "other"), None);
        assert_eq!(types.offset("nothing", "first"), None);
    }

    #[test]
    fn a_cut_file_is_no_panic() {
        let bytes = sample();
        for length in 0..bytes.len() {
            if let Some(types) = Types::parse(&bytes[..length]) {
                let _ = types.offset("outer", "inner");
            }
        }
    }
}
