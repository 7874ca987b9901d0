use proptest::prelude::*;

use super::*;

const HELLO: &[u8] = PREFACE;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    Head { length: payload.len(), kind, flags, stream }.put(&mut out);
    out.extend_from_slice(payload);
    out.to_vec()
}

/// Runs `input` through, cut where `cuts` says, the way a socket's reader does.
fn through(input: &[u8], cuts: &[usize]) -> (Vec<u8>, bool) {
    let (mut rewriter, mut out) = (Rewriter::default(), BytesMut::new());
    let mut rest = input;
    let mut cuts = cuts.iter().cycle();
    while !rest.is_empty() {
        let (these, after) = rest.split_at((*cuts.next().unwrap()).clamp(1, rest.len()));
        let passed = rewriter.pass(these);
        out.extend_from_slice(&these[..passed]);
        rewriter.feed(&these[passed..], &mut out);
        rest = after;
    }
    (out.to_vec(), rewriter.is_broken())
}

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// A header list with its stream, and whether it ends the stream.
type List = (u32, bool, Fields);

/// What a server makes of it: header lists by stream, and every other frame.
fn read_back(bytes: &[u8]) -> (Vec<List>, Vec<Vec<u8>>) {
    assert_eq!(&bytes[..HELLO.len()], HELLO);
    let (mut rest, mut lists, mut others) = (&bytes[HELLO.len()..], Vec::new(), Vec::new());
    let mut open: Option<(Head, Vec<u8>)> = None;
    while !rest.is_empty() {
        let head = Head::parse(rest.first_chunk().unwrap());
        assert!(head.length <= FRAME_LIMIT);
        let (whole, after) = rest.split_at(HEAD + head.length);
        rest = after;
        match (head.kind, open.take()) {
            (HEADERS, None) => open = Some((head, whole[HEAD..].to_vec())),
            (CONTINUATION, Some((first, block))) => open = Some((first, [&block, &whole[HEAD..]].concat())),
            (_, None) => others.push(whole.to_vec()),
            (kind, Some(_)) => panic!("frame {kind} inside a header block"),
        }
        if head.is_header() && head.flags & END_HEADERS != 0 {
            let (first, block) = open.take().unwrap();
            let mut fields = Vec::new();
            // A decoder of its own for each block: nothing may depend on an earlier one.
            let decoded = Decoder::default().decode(&block, BLOCK_LIMIT, |field| {
                fields.push((field.name.to_vec(), field.value.to_vec()))
            });
            decoded.unwrap();
            lists.push((first.stream, first.flags & END_STREAM != 0, fields));
        }
    }
    assert!(open.is_none());
    (lists, others)
}

/// grpc-go's first request on a Unix socket, then its second, which names the dynamic table only.
#[test]
fn a_go_client_gets_a_clean_authority_every_time() {
    let authority = b"%2Ftmp%2Fkonnectivity.sock";
    let first = [b"\x83\x86\x45\x03/a/\x41\x1a".as_slice(), authority, b"\x40\x02te\x08trailers"].concat();
    let second = b"\x83\x86\xc0\xbf\xbe";
    let input = [
        HELLO,
        &frame(4, 0, 0, &[]),
        &frame(HEADERS, END_HEADERS, 1, &first),
        &frame(0, 0, 1, b"data"),
        &frame(HEADERS, END_HEADERS | END_STREAM, 3, second),
    ]
    .concat();
    let (out, broken) = through(&input, &[usize::MAX]);
    assert!(!broken);
    let (lists, others) = read_back(&out);
    let fields: Fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/a/"),
        (":authority", "localhost"),
        ("te", "trailers"),
    ]
    .map(|(name, value)| (name.into(), value.into()))
    .to_vec();
    assert_eq!(lists, [(1, false, fields.clone()), (3, true, fields)]);
    assert_eq!(others, [frame(4, 0, 0, &[]), frame(0, 0, 1, b"data")]);
}

#[test]
fn data_stays_in_place() {
    let mut rewriter = Rewriter::default();
    assert_eq!(rewriter.pass(HELLO), HELLO.len());
    let two = [frame(0, 0, 1, &[7; 1000]), frame(0, 0, 1, &[8; 1000])].concat();
    assert_eq!(rewriter.pass(&two), two.len());
    assert_eq!(rewriter.pass(&two[..100]), 100);
    assert_eq!(rewriter.pass(&two[100..]), two.len() - 100);
    let mixed = [frame(0, 0, 1, &[7; 10]), frame(HEADERS, END_HEADERS, 3, b"\x83")].concat();
    assert_eq!(rewriter.pass(&mixed), HEAD + 10);
}

#[test]
fn whoever_breaks_the_protocol_is_refused_by_the_server() {
    let compression = frame(HEADERS, END_HEADERS | END_STREAM, 0x7fff_ffff, &[0x80]);
    let protocol = frame(CONTINUATION, END_HEADERS, 0x7fff_ffff, &[]);
    let oversized = vec![0; FRAME_LIMIT + 1];
    for (input, answer) in [
        (frame(HEADERS, END_HEADERS, 1, b"\xbe"), &compression),
        (frame(CONTINUATION, END_HEADERS, 1, b"\x83"), &protocol),
        ([frame(HEADERS, 0, 1, b"\x83"), frame(0, 0, 1, b"x")].concat(), &protocol),
        ([frame(HEADERS, 0, 1, b"\x83"), frame(CONTINUATION, 0, 3, b"\x83")].concat(), &protocol),
        (frame(HEADERS, END_HEADERS | PADDED, 1, b"\x05abc"), &protocol),
        (frame(HEADERS, END_HEADERS | PRIORITY, 1, b"abc"), &protocol),
        (frame(HEADERS, END_HEADERS, 1, &oversized), &protocol),
    ] {
        let more = frame(0, 0, 1, b"never seen");
        let (out, broken) = through(&[HELLO, &input, &more].concat(), &[usize::MAX]);
        assert!(broken);
        assert_eq!(out, [HELLO, answer].concat());
    }
}

#[test]
fn blocks_and_continuations_are_capped() {
    let (mut rewriter, mut out) = (Rewriter::default(), BytesMut::new());
    rewriter.feed(HELLO, &mut out);
    rewriter.feed(&frame(HEADERS, 0, 1, b"\x83"), &mut out);
    let empty = frame(CONTINUATION, 0, 1, &[]);
    for _ in 0..CONTINUATION_LIMIT {
        rewriter.feed(&empty, &mut out);
    }
    assert!(!rewriter.is_broken());
    rewriter.feed(&empty, &mut out);
    assert!(rewriter.is_broken());

    let mut rewriter = Rewriter::default();
    rewriter.feed(HELLO, &mut out);
    rewriter.feed(&frame(HEADERS, 0, 1, b"\x83"), &mut out);
    let full = frame(CONTINUATION, 0, 1, &vec![0x83; FRAME_LIMIT]);
    for _ in 0..BLOCK_LIMIT / FRAME_LIMIT {
        rewriter.feed(&full, &mut out);
    }
    assert!(rewriter.is_broken());
}

#[test]
fn a_large_block_is_split_again() {
    let token = vec![b'x'; 100_000];
    let mut coded = BytesMut::new();
    put_literal(Field { name: b"authorization", value: &token, sensitive: true }, &mut coded);
    let mut input = HELLO.to_vec();
    let chunks: Vec<_> = coded.chunks(10_000).collect();
    for (at, chunk) in chunks.iter().enumerate() {
        let flags = if at + 1 == chunks.len() { END_HEADERS } else { 0 };
        input.extend(frame(if at == 0 { HEADERS } else { CONTINUATION }, flags, 1, chunk));
    }
    let (lists, _) = read_back(&through(&input, &[4096]).0);
    assert_eq!(lists, [(1, false, vec![(b"authorization".to_vec(), token)])]);
}

#[derive(Debug, Clone)]
enum Sent {
    Other {
        kind: u8,
        payload: Vec<u8>,
    },
    Block {
        fields: Fields,
        indexed: bool,
        padding: Option<u8>,
        priority: bool,
        end_stream: bool,
        pieces: usize,
    },
}

fn sent() -> impl Strategy<Value = Sent> {
    let text = || prop::collection::vec(b'a'..=b'z', 1..40);
    let fields = prop::collection::vec((text(), text()), 0..8);
    prop_oneof![
        (prop_oneof![Just(0u8), 3..=8u8], prop::collection::vec(any::<u8>(), 0..300))
            .prop_map(|(kind, payload)| Sent::Other { kind, payload }),
        (fields, any::<bool>(), any::<Option<u8>>(), any::<bool>(), any::<bool>(), 1..5usize).prop_map(
            |(fields, indexed, padding, priority, end_stream, pieces)| Sent::Block {
                fields,
                indexed,
                padding,
                priority,
                end_stream,
                pieces
            }
        ),
    ]
}

fn put_sent(sent: &Sent, stream: u32, out: &mut Vec<u8>) {
    let (fields, indexed, padding, priority, end_stream, pieces) = match sent {
        Sent::Other { kind, payload } => return out.extend(frame(*kind, 0, stream, payload)),
        Sent::Block { fields, indexed, padding, priority, end_stream, pieces } => {
            (fields, indexed, padding, *priority, *end_stream, *pieces)
        }
    };
    let mut coded = BytesMut::new();
    for (name, value) in fields {
        coded.put_u8(if *indexed { 0x40 } else { 0 });
        put_string(name, &mut coded);
        put_string(value, &mut coded);
    }
    let step = (coded.len() / pieces).max(1);
    let mut chunks: Vec<&[u8]> = coded.chunks(step).collect();
    if chunks.is_empty() {
        chunks.push(&[]);
    }
    for (at, chunk) in chunks.iter().enumerate() {
        let mut flags = if at + 1 == chunks.len() { END_HEADERS } else { 0 };
        let mut payload = chunk.to_vec();
        if at == 0 {
            if end_stream {
                flags |= END_STREAM;
            }
            if priority {
                flags |= PRIORITY;
                payload.splice(0..0, [0, 0, 0, 1, 16]);
            }
            if let Some(padding) = padding {
                flags |= PADDED;
                payload.insert(0, *padding);
                payload.extend(std::iter::repeat_n(0, usize::from(*padding)));
            }
        }
        out.extend(frame(if at == 0 { HEADERS } else { CONTINUATION }, flags, stream, &payload));
    }
}

proptest! {
    #[test]
    fn any_split_of_any_stream_means_the_same(
        sent in prop::collection::vec(sent(), 0..12),
        cuts in prop::collection::vec(1..400usize, 1..20),
    ) {
        let mut input = HELLO.to_vec();
        for (at, sent) in sent.iter().enumerate() {
            put_sent(sent, 2 * at as u32 + 1, &mut input);
        }
        let (out, broken) = through(&input, &cuts);
        prop_assert!(!broken);
        prop_assert_eq!(&through(&input, &[usize::MAX]).0, &out);
        prop_assert_eq!(&through(&input, &[1]).0, &out);
        let (lists, others) = read_back(&out);
        let wanted: Vec<_> = sent.iter().enumerate().filter_map(|(at, sent)| match sent {
            Sent::Block { fields, end_stream, .. } => Some((2 * at as u32 + 1, *end_stream, fields.clone())),
            Sent::Other { .. } => None,
        }).collect();
        prop_assert_eq!(lists, wanted);
        prop_assert_eq!(others.len(), sent.iter().filter(|sent| matches!(sent, Sent::Other { .. })).count());
    }

    #[test]
    fn garbage_never_panics(garbage in prop::collection::vec(any::<u8>(), 0..600), cut in 1..50usize) {
        through(&[HELLO, &garbage].concat(), &[cut]);
        let _ = Decoder::default().decode(&garbage, BLOCK_LIMIT, |_| ());
        let mut input = HELLO.to_vec();
        input.extend(frame(HEADERS, END_HEADERS, 1, &garbage));
        through(&input, &[cut]);
    }
}
