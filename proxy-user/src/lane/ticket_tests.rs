use std::net::Ipv4Addr;

use super::*;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn identity(name: &str) -> Identity {
    Identity { subject: name.into(), issuer: b"ca".to_vec() }
}

fn show(book: &Book<u8>, ticket: &Ticket, identity: Option<&Identity>) -> Result<u8, Refusal> {
    book.check(&ticket.stream.0, &ticket.secret, identity, HERE, Instant::now()).map(|stream| *stream)
}

#[test]
fn a_ticket_opens_its_own_stream_any_number_of_times() {
    let book = Book::new().unwrap();
    let (one, two) = (book.issue(None, Arc::new(1)).unwrap(), book.issue(None, Arc::new(2)).unwrap());
    for _ in 0..3 {
        assert_eq!(show(&book, &one, None), Ok(1));
        assert_eq!(show(&book, &two, None), Ok(2));
    }
}

#[test]
fn a_wrong_secret_of_any_length_is_refused() {
    let book = Book::new().unwrap();
    let ticket = book.issue(None, Arc::new(1)).unwrap();
    let mut wrong = ticket.clone();
    wrong.secret[31] ^= 1;
    assert_eq!(show(&book, &wrong, None), Err(Refusal::WrongSecret));
    for secret in [&[][..], &ticket.secret[..31]] {
        let checked = book.check(&ticket.stream.0, secret, None, HERE, Instant::now());
        assert_eq!(checked.err(), Some(Refusal::WrongSecret));
    }
}

#[test]
fn unknown_ended_and_foreign_streams_are_told_apart() {
    let book = Book::new().unwrap();
    let ticket = book.issue(None, Arc::new(1)).unwrap();
    let mut unknown = ticket.clone();
    unknown.stream.0[15] ^= 1;
    assert_eq!(show(&book, &unknown, None), Err(Refusal::UnknownStream));
    let mut foreign = ticket.clone();
    foreign.stream.0[0] ^= 1;
    assert_eq!(show(&book, &foreign, None), Err(Refusal::OtherServer));
    book.end(ticket.stream);
    assert_eq!(show(&book, &ticket, None), Err(Refusal::EndedStream));
    assert_eq!(book.check(b"short", &[], None, HERE, Instant::now()).err(), Some(Refusal::UnknownStream));
}

#[test]
fn a_ticket_counts_under_its_own_certificate_only() {
    let book = Book::new().unwrap();
    let ticket = book.issue(Some(identity("a")), Arc::new(1)).unwrap();
    assert_eq!(show(&book, &ticket, Some(&identity("a"))), Ok(1));
    assert_eq!(show(&book, &ticket, Some(&identity("b"))), Err(Refusal::OtherCertificate));
    let other_issuer = Identity { issuer: b"other ca".to_vec(), ..identity("a") };
    assert_eq!(show(&book, &ticket, Some(&other_issuer)), Err(Refusal::OtherCertificate));
    assert_eq!(show(&book, &ticket, None), Err(Refusal::OtherCertificate));
}

#[test]
fn failures_close_a_stream_and_an_address_for_a_while() {
    let book = Book::new().unwrap();
    let ticket = book.issue(None, Arc::new(1)).unwrap();
    let spared = book.issue(None, Arc::new(2)).unwrap();
    let now = Instant::now();
    for _ in 0..FAILURES_PER_STREAM {
        let wrong = book.check(&ticket.stream.0, &[0; 32], None, HERE, now);
        assert_eq!(wrong.err(), Some(Refusal::WrongSecret));
    }
    let right =
        |book: &Book<u8>, now| book.check(&ticket.stream.0, &ticket.secret, None, HERE, now).map(|s| *s);
    assert_eq!(right(&book, now), Err(Refusal::TooManyFailures));
    assert_eq!(show(&book, &spared, None), Ok(2));
    assert!(book.admits(HERE, now));
    for _ in FAILURES_PER_STREAM..FAILURES_PER_ADDRESS {
        book.failed(HERE, now);
    }
    assert!(!book.admits(HERE, now));
    assert!(book.admits(IpAddr::V4(Ipv4Addr::BROADCAST), now));
    let later = now + FAILURE_WINDOW + Duration::from_secs(1);
    assert!(book.admits(HERE, later));
    assert_eq!(right(&book, later), Ok(1));
}

#[test]
fn a_ticket_survives_its_text_and_is_never_printed() {
    let ticket = Book::new().unwrap().issue(None, Arc::new(())).unwrap();
    let text = ticket.to_text();
    let read: Ticket = text.parse().unwrap();
    assert_eq!((read.stream, read.secret), (ticket.stream, ticket.secret));
    assert!(!format!("{ticket:?}").contains(&text[32..40]));
    for bad in ["", "zz", &text[1..], &"ä".repeat(48)] {
        assert!(bad.parse::<Ticket>().is_err());
    }
}
