//! The client's side of [`crate::protocol`]. Keys go where the facade keeps them, so that both ways of speaking see the same objects.

use std::io;

use bytes::BytesMut;
use trierarch_etcd_facade::keys::stored;

use super::{Call, Codec, Reply};
use crate::protocol::{self, Request, Response};

/// A connection to a member of ours.
#[derive(Default)]
pub struct Native {
    next_id: u64,
}

impl Codec for Native {
    fn hello(&mut self, _out: &mut Vec<u8>) {}

    fn call(&mut self, call: &Call, out: &mut Vec<u8>) -> u64 {
        let request = match call.clone() {
            Call::Put { key, value } => Request::Put { key: stored(&key), value },
            Call::Get { key, linearizable } => Request::Get { linearizable, key: stored(&key) },
            Call::Range { prefix, limit } => Request::Range { linearizable: true, limit, prefix: stored(&prefix) },
            Call::Swap { key, revision, value } => Request::Swap { revision, key: stored(&key), value },
            Call::Watch { prefix } => Request::Watch { prefix: stored(&prefix) },
            // it bounds its history itself
            Call::Status | Call::Compact { .. } => Request::Status,
        };
        self.next_id += 1;
        protocol::encode_request(self.next_id, &request, out);
        self.next_id
    }

    fn take(&mut self, input: &mut BytesMut, _out: &mut Vec<u8>, replies: &mut Vec<(u64, Reply)>) -> io::Result<()> {
        while let Some((id, response)) = protocol::next_response(input)? {
            replies.push((id, reply(response)));
        }
        Ok(())
    }
}

fn reply(response: Response) -> Reply {
    match response {
        Response::Done { revision } => Reply::Done { revision },
        Response::Refused { revision } => Reply::Refused { revision },
        Response::Value { value, .. } => {
            Reply::Found { keys: usize::from(value.is_some()), value_bytes: value.map_or(0, |value| value.len()) }
        }
        Response::Values(rows) => Reply::Found { keys: rows.len(), value_bytes: rows.iter().map(|(_, _, value)| value.len()).sum() },
        Response::Events(rows) if rows.is_empty() => Reply::Watching,
        Response::Events(rows) => Reply::Changed { values: rows.into_iter().map(|(_, _, value)| value).collect() },
        Response::Status { member, leader, voters } => {
            Reply::Status { leads: member == leader, voters: usize::try_from(voters).unwrap_or(usize::MAX) }
        }
        Response::Failed(reason) => Reply::Failed(reason),
        // to what is asked by `crate::ask` only
        Response::Account(_) | Response::Digest(_) => Reply::Failed("an answer to another question".into()),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn keys_go_where_the_facade_keeps_them() {
        let (mut native, mut out) = (Native::default(), Vec::new());
        let id = native.call(&Call::Get { key: Bytes::from_static(b"bench/x"), linearizable: true }, &mut out);
        let asked = protocol::next_request(&mut BytesMut::from(&out[..]));
        assert_eq!(asked, Ok(Some((id, Request::Get { linearizable: true, key: Bytes::from_static(b"k/bench/x") }))));
    }
}
