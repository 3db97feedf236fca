//! The native protocol: `u32 length, u64 id, u8 kind, body`, everything big-endian; the length counts what follows it. Many requests of one
//! connection may be under way; answers carry the request's id and come in any order.

use bytes::{Buf as _, BufMut, Bytes, BytesMut};

/// The longest frame; longer ones end the connection.
pub const FRAME_BYTES_MAX: usize = 16 << 20;
const LENGTH_BYTES: usize = 4;
const HEADER_BYTES: usize = 9;

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Creates or replaces.
    Put { key: Bytes, value: Bytes },
    /// One key; linearizable, or as this member has it.
    Get { linearizable: bool, key: Bytes },
    /// Up to `limit` keys below a prefix.
    Range { linearizable: bool, limit: u32, prefix: Bytes },
    /// Replaces, if the key's last change has this revision (0: if it is absent).
    Swap { revision: u64, key: Bytes, value: Bytes },
    /// All changes below a prefix from now on; never ends.
    Watch { prefix: Bytes },
    /// Who leads.
    Status,
    /// How this member stands.
    Account,
    /// What this member has below a prefix, in short; linearizable.
    Digest { prefix: Bytes },
    /// Takes a member into the group, which is there already and listens at `peer`.
    AddMember { id: u64, peer: Bytes },
}

/// What the member answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// A write was applied at this revision.
    Done { revision: u64 },
    /// A swap met this revision instead (0: the key is absent).
    Refused { revision: u64 },
    /// A key's value; `None` when it is absent.
    Value { revision: u64, value: Option<Bytes> },
    /// Keys, revisions and values.
    Values(Vec<(Bytes, u64, Bytes)>),
    /// Changes of a watch: keys, revisions and values.
    Events(Vec<(Bytes, u64, Bytes)>),
    /// This member, the leader (0: unknown), and how many members vote.
    Status { member: u64, leader: u64, voters: u32 },
    /// How a member stands.
    Account(Account),
    /// What a member has below a prefix.
    Digest(Digest),
    /// It could not be done.
    Failed(String),
}

/// How a member stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// The current term.
    pub term: u64,
    /// The member that leads in it; 0: unknown.
    pub leader: u64,
    /// Index of the last entry that is applied here.
    pub applied: u64,
    /// The revision here.
    pub revision: u64,
    /// History holds the changes after this revision.
    pub compacted: u64,
    /// How often this member has synced its log since it started.
    pub log_syncs: u64,
    /// Whether it votes.
    pub votes: bool,
}

/// Some records in short: two members with the same digest have the same records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    /// How many.
    pub keys: u64,
    /// Bytes of their values.
    pub value_bytes: u64,
    /// A hash of keys, revisions and values.
    pub hash: u64,
}

/// The bytes of a request.
pub fn encode_request(id: u64, request: &Request, out: &mut impl BufMut) {
    match request {
        Request::Put { key, value } => {
            begin(out, id, 1, 2 + key.len() + value.len());
            put_key(out, key);
            out.put_slice(value);
        }
        Request::Get { linearizable, key } => {
            begin(out, id, 2, 1 + key.len());
            out.put_u8(u8::from(*linearizable));
            out.put_slice(key);
        }
        Request::Range { linearizable, limit, prefix } => {
            begin(out, id, 3, 5 + prefix.len());
            out.put_u8(u8::from(*linearizable));
            out.put_u32(*limit);
            out.put_slice(prefix);
        }
        Request::Swap { revision, key, value } => {
            begin(out, id, 4, 10 + key.len() + value.len());
            out.put_u64(*revision);
            put_key(out, key);
            out.put_slice(value);
        }
        Request::Watch { prefix } => {
            begin(out, id, 5, prefix.len());
            out.put_slice(prefix);
        }
        Request::Status => begin(out, id, 6, 0),
        Request::Account => begin(out, id, 7, 0),
        Request::Digest { prefix } => {
            begin(out, id, 8, prefix.len());
            out.put_slice(prefix);
        }
        Request::AddMember { id: member, peer } => {
            begin(out, id, 9, 8 + peer.len());
            out.put_u64(*member);
            out.put_slice(peer);
        }
    }
}

/// The bytes of an answer.
pub fn encode_response(id: u64, response: &Response, out: &mut impl BufMut) {
    match response {
        Response::Done { revision } => {
            begin(out, id, 1, 8);
            out.put_u64(*revision);
        }
        Response::Refused { revision } => {
            begin(out, id, 2, 8);
            out.put_u64(*revision);
        }
        Response::Value { revision, value } => {
            begin(out, id, 3, 9 + value.as_ref().map_or(0, Bytes::len));
            out.put_u64(*revision);
            out.put_u8(u8::from(value.is_some()));
            out.put_slice(value.as_deref().unwrap_or_default());
        }
        Response::Values(rows) => put_rows(out, id, 4, rows),
        Response::Events(rows) => put_rows(out, id, 5, rows),
        Response::Status { member, leader, voters } => {
            begin(out, id, 6, 20);
            out.put_u64(*member);
            out.put_u64(*leader);
            out.put_u32(*voters);
        }
        Response::Failed(reason) => {
            begin(out, id, 7, reason.len());
            out.put_slice(reason.as_bytes());
        }
        Response::Account(Account { term, leader, applied, revision, compacted, log_syncs, votes }) => {
            begin(out, id, 8, 6 * 8 + 1);
            [term, leader, applied, revision, compacted, log_syncs].iter().for_each(|number| out.put_u64(**number));
            out.put_u8(u8::from(*votes));
        }
        Response::Digest(Digest { keys, value_bytes, hash }) => {
            begin(out, id, 9, 3 * 8);
            [keys, value_bytes, hash].iter().for_each(|number| out.put_u64(**number));
        }
    }
}

/// The header of an answer that is nothing but encoded rows (see [`encode_row`]): for rows that many watchers share.
pub fn encode_events_header(id: u64, rows_bytes: usize, out: &mut impl BufMut) {
    begin(out, id, 5, rows_bytes);
}

/// The bytes of one row of an answer.
pub fn encode_row(key: &[u8], revision: u64, value: &[u8], out: &mut impl BufMut) {
    put_key(out, key);
    out.put_u64(revision);
    out.put_u32(u32::try_from(value.len()).expect("a value is far below 4 GiB"));
    out.put_slice(value);
}

/// How many bytes [`encode_row`] writes.
pub fn row_bytes(key: &[u8], value: &[u8]) -> usize {
    2 + key.len() + 8 + 4 + value.len()
}

/// The next request, once it is there as a whole.
///
/// # Errors
/// It is malformed.
pub fn next_request(input: &mut BytesMut) -> Result<Option<(u64, Request)>, Malformed> {
    let Some((id, kind, mut body)) = next_frame(input)? else { return Ok(None) };
    let request = match kind {
        1 => Request::Put { key: take_key(&mut body)?, value: body },
        2 => Request::Get { linearizable: take_u8(&mut body)? != 0, key: body },
        3 => Request::Range { linearizable: take_u8(&mut body)? != 0, limit: take_u32(&mut body)?, prefix: body },
        4 => Request::Swap { revision: take_u64(&mut body)?, key: take_key(&mut body)?, value: body },
        5 => Request::Watch { prefix: body },
        6 => Request::Status,
        7 => Request::Account,
        8 => Request::Digest { prefix: body },
        9 => Request::AddMember { id: take_u64(&mut body)?, peer: body },
        _ => return Err(Malformed),
    };
    Ok(Some((id, request)))
}

/// The next answer, once it is there as a whole.
///
/// # Errors
/// It is malformed.
pub fn next_response(input: &mut BytesMut) -> Result<Option<(u64, Response)>, Malformed> {
    let Some((id, kind, mut body)) = next_frame(input)? else { return Ok(None) };
    let response = match kind {
        1 => Response::Done { revision: take_u64(&mut body)? },
        2 => Response::Refused { revision: take_u64(&mut body)? },
        3 => {
            let (revision, present) = (take_u64(&mut body)?, take_u8(&mut body)? != 0);
            Response::Value { revision, value: present.then_some(body) }
        }
        4 => Response::Values(take_rows(body)?),
        5 => Response::Events(take_rows(body)?),
        6 => Response::Status { member: take_u64(&mut body)?, leader: take_u64(&mut body)?, voters: take_u32(&mut body)? },
        7 => Response::Failed(String::from_utf8_lossy(&body).into_owned()),
        8 => Response::Account(Account {
            term: take_u64(&mut body)?,
            leader: take_u64(&mut body)?,
            applied: take_u64(&mut body)?,
            revision: take_u64(&mut body)?,
            compacted: take_u64(&mut body)?,
            log_syncs: take_u64(&mut body)?,
            votes: take_u8(&mut body)? != 0,
        }),
        9 => Response::Digest(Digest { keys: take_u64(&mut body)?, value_bytes: take_u64(&mut body)?, hash: take_u64(&mut body)? }),
        _ => return Err(Malformed),
    };
    Ok(Some((id, response)))
}

/// Not a frame of this protocol.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed;

impl From<Malformed> for std::io::Error {
    fn from(_: Malformed) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, "a malformed frame")
    }
}

fn begin(out: &mut impl BufMut, id: u64, kind: u8, body_bytes: usize) {
    out.put_u32(u32::try_from(HEADER_BYTES + body_bytes).expect("a frame is far below 4 GiB"));
    out.put_u64(id);
    out.put_u8(kind);
}

fn put_key(out: &mut impl BufMut, key: &[u8]) {
    out.put_u16(u16::try_from(key.len()).expect("a key is short"));
    out.put_slice(key);
}

fn put_rows(out: &mut impl BufMut, id: u64, kind: u8, rows: &[(Bytes, u64, Bytes)]) {
    begin(out, id, kind, rows.iter().map(|(key, _, value)| row_bytes(key, value)).sum());
    for (key, revision, value) in rows {
        encode_row(key, *revision, value, out);
    }
}

fn next_frame(input: &mut BytesMut) -> Result<Option<(u64, u8, Bytes)>, Malformed> {
    let Some(length) = input.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
    let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_too_long| Malformed)?;
    if !(HEADER_BYTES..=FRAME_BYTES_MAX).contains(&length) {
        return Err(Malformed);
    }
    if input.len() < LENGTH_BYTES + length {
        input.reserve(LENGTH_BYTES + length - input.len());
        return Ok(None);
    }
    let mut frame = input.split_to(LENGTH_BYTES + length).freeze();
    frame.advance(LENGTH_BYTES);
    let (id, kind) = (frame.get_u64(), frame.get_u8());
    Ok(Some((id, kind, frame)))
}

fn take_u8(body: &mut Bytes) -> Result<u8, Malformed> {
    body.try_get_u8().map_err(|_short| Malformed)
}

fn take_u32(body: &mut Bytes) -> Result<u32, Malformed> {
    body.try_get_u32().map_err(|_short| Malformed)
}

fn take_u64(body: &mut Bytes) -> Result<u64, Malformed> {
    body.try_get_u64().map_err(|_short| Malformed)
}

fn take_key(body: &mut Bytes) -> Result<Bytes, Malformed> {
    let length = usize::from(body.try_get_u16().map_err(|_short| Malformed)?);
    take(body, length)
}

fn take(body: &mut Bytes, length: usize) -> Result<Bytes, Malformed> {
    if body.len() < length { Err(Malformed) } else { Ok(body.split_to(length)) }
}

fn take_rows(mut body: Bytes) -> Result<Vec<(Bytes, u64, Bytes)>, Malformed> {
    let mut rows = Vec::new();
    while !body.is_empty() {
        let (key, revision, length) = (take_key(&mut body)?, take_u64(&mut body)?, take_u32(&mut body)?);
        let value = take(&mut body, usize::try_from(length).map_err(|_too_long| Malformed)?)?;
        rows.push((key, revision, value));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn requests_round_trip_at_any_cut() {
        let requests = [
            Request::Put { key: bytes("k"), value: bytes("value") },
            Request::Get { linearizable: true, key: bytes("k") },
            Request::Range { linearizable: false, limit: 1000, prefix: bytes("prefix/") },
            Request::Swap { revision: 7, key: bytes("k"), value: bytes("") },
            Request::Watch { prefix: bytes("") },
            Request::Status,
            Request::Account,
            Request::Digest { prefix: bytes("prefix/") },
            Request::AddMember { id: 4, peer: bytes("127.0.0.1:1") },
        ];
        let mut encoded = Vec::new();
        (0..).zip(&requests).for_each(|(id, request)| encode_request(id, request, &mut encoded));
        for cut in 0..encoded.len() {
            let (mut input, mut found) = (BytesMut::from(&encoded[..cut]), Vec::new());
            while let Some((_, request)) = next_request(&mut input).unwrap() {
                found.push(request);
            }
            input.extend_from_slice(&encoded[cut..]);
            while let Some((_, request)) = next_request(&mut input).unwrap() {
                found.push(request);
            }
            assert_eq!(found, requests, "cut at {cut}");
        }
    }

    #[test]
    fn responses_round_trip() {
        let rows = vec![(bytes("a"), 1, bytes("x")), (bytes("b"), 2, bytes(""))];
        for response in [
            Response::Done { revision: 3 },
            Response::Refused { revision: 0 },
            Response::Value { revision: 1, value: Some(bytes("")) },
            Response::Value { revision: 1, value: None },
            Response::Values(rows.clone()),
            Response::Events(rows),
            Response::Status { member: 1, leader: 2, voters: 3 },
            Response::Failed("no".into()),
            Response::Account(Account { term: 1, leader: 2, applied: 3, revision: 4, compacted: 5, log_syncs: 6, votes: true }),
            Response::Digest(Digest { keys: 1, value_bytes: 2, hash: 3 }),
        ] {
            let mut input = BytesMut::new();
            encode_response(9, &response, &mut input);
            assert_eq!(next_response(&mut input), Ok(Some((9, response))));
            assert!(input.is_empty());
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [&[0xff, 0xff, 0xff, 0xff][..], &[0, 0, 0, 1, 0], &[0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 99]] {
            assert_eq!(next_request(&mut BytesMut::from(bad)), Err(Malformed));
        }
    }
}
