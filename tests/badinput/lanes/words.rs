//! The words of a lane, as `lane.proto` has them, and some that are none.

/// Each is said at every moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    ServerHello,
    /// Of a version before the first.
    OldServerHello,
    /// Of a server that the agent has no control stream with.
    StrangersHello,
    AgentHello,
    /// With a ticket whose secret is another.
    ForgersHello,
    Refused,
    Dial,
    Dialing,
    OtherDialing,
    /// An answer: the target is there.
    Good,
    /// An answer: it is not.
    Bad,
    OtherGood,
    Joined,
    OtherJoined,
    Ping,
    Pong,
    /// Of no length.
    Nothing,
    /// Of a later version.
    Later,
    Garbage,
    /// Longer than a word may be.
    TooLong,
    /// Longer than a frame may be, too.
    FarTooLong,
    /// As long as two bytes can say; among frames it says that the frames end.
    Longest,
}

impl Word {
    pub(super) const ALL: [Word; 22] = [
        Word::ServerHello,
        Word::OldServerHello,
        Word::StrangersHello,
        Word::AgentHello,
        Word::ForgersHello,
        Word::Refused,
        Word::Dial,
        Word::Dialing,
        Word::OtherDialing,
        Word::Good,
        Word::Bad,
        Word::OtherGood,
        Word::Joined,
        Word::OtherJoined,
        Word::Ping,
        Word::Pong,
        Word::Nothing,
        Word::Later,
        Word::Garbage,
        Word::TooLong,
        Word::FarTooLong,
        Word::Longest,
    ];

    /// A hello that differs from a good one in what it says.
    pub(super) fn is_odd_hello(self) -> bool {
        matches!(self, Word::OldServerHello | Word::StrangersHello | Word::ForgersHello)
    }

    /// Its halves say nothing that no other word's do.
    pub(super) fn is_whole_only(self) -> bool {
        matches!(
            self,
            Word::OtherDialing
                | Word::OtherGood
                | Word::OtherJoined
                | Word::Later
                | Word::Garbage
                | Word::TooLong
        )
    }

    /// With its length in front.
    pub(super) fn bytes(self, about: &About) -> Vec<u8> {
        let other = about.dial ^ 1;
        let hello = |version, server: &str| {
            message(1, &[number(1, version), bytes(2, server.as_bytes()), number(3, about.security)])
        };
        let show = |secret: &[u8]| {
            let stream = bytes(1, &about.ticket[..16]);
            message(2, &[stream, bytes(2, secret), number(3, about.security), number(4, about.claim)])
        };
        let with_length = |length: u16| [length.to_be_bytes().as_slice(), &[7; 20]].concat();
        match self {
            Word::ServerHello => hello(1, &about.server),
            Word::OldServerHello => hello(0, &about.server),
            Word::StrangersHello => hello(1, "nobody"),
            Word::AgentHello => show(&about.ticket[16..]),
            Word::ForgersHello => show(&[9; 32]),
            Word::Refused => message(3, &[number(1, 8)]),
            Word::Dial => dial(about.dial, 1, &about.target),
            Word::Dialing => message(5, &[number(1, about.dial)]),
            Word::OtherDialing => message(5, &[number(1, other)]),
            Word::Good => message(6, &[number(1, about.dial)]),
            Word::Bad => message(6, &[number(1, about.dial), number(2, 1), bytes(3, SAID.as_bytes())]),
            Word::OtherGood => message(6, &[number(1, other)]),
            Word::Joined => message(7, &[number(1, about.dial)]),
            Word::OtherJoined => message(7, &[number(1, other)]),
            Word::Ping => message(8, &[]),
            Word::Pong => message(9, &[]),
            Word::Nothing => vec![0, 0],
            Word::Later => message(15, &[number(1, 1)]),
            Word::Garbage => b"\0\x04\xff\xff\xff\xff".to_vec(),
            Word::TooLong => with_length(4097),
            Word::FarTooLong => with_length(0x7fff),
            Word::Longest => with_length(0xffff),
        }
    }
}

/// What a failed dial says.
pub(super) const SAID: &str = "so it was played";

/// What the words of a lane are about.
#[derive(Debug, Clone)]
pub(super) struct About {
    pub(super) server: String,
    pub(super) ticket: [u8; 48],
    /// 1: encrypt, 2: raw.
    pub(super) security: u64,
    /// The dial that the lane is opened for; 0 for none.
    pub(super) claim: u64,
    /// The dial under way, or the last one.
    pub(super) dial: u64,
    pub(super) target: String,
}

pub(super) fn dial(dial: u64, attempt: u64, target: &str) -> Vec<u8> {
    message(4, &[number(1, dial), number(2, attempt), bytes(3, b"tcp"), bytes(4, target.as_bytes())])
}

fn message(what: u8, fields: &[Vec<u8>]) -> Vec<u8> {
    let fields = fields.concat();
    let length = u8::try_from(fields.len()).unwrap();
    assert!(length < 0x80, "a length of more than one byte");
    [&[0, length + 2, what << 3 | 2, length], fields.as_slice()].concat()
}

fn bytes(field: u8, bytes: &[u8]) -> Vec<u8> {
    [&[field << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat()
}

fn number(field: u8, mut value: u64) -> Vec<u8> {
    let mut out = vec![field << 3];
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

/// A word of the other end's, as far as a played end reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    ServerHello,
    /// For this dial, or for none.
    AgentHello,
    Refused,
    Dial(u64),
    Dialing(u64),
    Good(u64),
    Bad(u64),
    Joined(u64),
    Ping,
    Pong,
}

impl Heard {
    pub(super) fn parse(word: &[u8]) -> Heard {
        let fields = &word[2..];
        // All numbers stand first in their message.
        let (mut dial, mut used) = (0, 0);
        if let Some((0x08, digits)) = fields.split_first().map(|(tag, rest)| (*tag, rest)) {
            for (at, byte) in digits.iter().enumerate() {
                dial |= u64::from(byte & 0x7f) << (7 * at);
                if byte & 0x80 == 0 {
                    used = 2 + at;
                    break;
                }
            }
        }
        match word[0] >> 3 {
            1 => Heard::ServerHello,
            2 => Heard::AgentHello,
            3 => Heard::Refused,
            4 => Heard::Dial(dial),
            5 => Heard::Dialing(dial),
            6 if fields.len() == used => Heard::Good(dial),
            6 => Heard::Bad(dial),
            7 => Heard::Joined(dial),
            8 => Heard::Ping,
            9 => Heard::Pong,
            other => panic!("word {other}: {word:?}"),
        }
    }
}
