//! A netlink socket: one request, its answers. It belongs to the network namespace it was opened in, whichever thread uses it later.

pub(crate) mod attributes;
mod netfilter;

use std::{io, num::NonZeroI32, os::fd::BorrowedFd};

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr};

use crate::netns::{self, NetnsError};

/// What went wrong on a netlink socket.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    #[error("open a netlink socket")]
    Open(#[source] io::Error),
    #[error("enter the namespace of a netlink socket")]
    Namespace(#[source] NetnsError),
    #[error("send a netlink request")]
    Send(#[source] io::Error),
    #[error("receive a netlink answer")]
    Receive(#[source] io::Error),
    #[error("read a netlink answer: {0}")]
    Decode(String),
    #[error("the kernel refused to {what}")]
    Refused { what: String, source: io::Error },
}

impl NetlinkError {
    /// The kernel's error number, if it answered with one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            NetlinkError::Refused { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

/// A socket of one netlink family.
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// A socket in the calling thread's network namespace.
    pub(crate) fn open(protocol: i32) -> Result<Netlink, NetlinkError> {
        let protocol = isize::try_from(protocol).expect("a netlink protocol number is small");
        let mut socket = Socket::new(protocol).map_err(NetlinkError::Open)?;
        socket.bind_auto().map_err(NetlinkError::Open)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(NetlinkError::Open)?;
        // A batch of a full resync carries thousands of elements; the kernel's default buffer would refuse it.
        socket.set_rx_buf_sz::<libc::c_int>(1 << 20).map_err(NetlinkError::Open)?;
        Ok(Netlink { socket, sequence: 0 })
    }

    /// A socket in another network namespace.
    pub(crate) fn open_in(netns: BorrowedFd<'_>, protocol: i32) -> Result<Netlink, NetlinkError> {
        netns::run_in_netns(netns, || Netlink::open(protocol)).map_err(NetlinkError::Namespace)?
    }

    /// A number no other request on this socket has.
    pub(crate) fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        self.sequence
    }

    /// Sends bytes that hold whole messages.
    pub(crate) fn send(&self, bytes: &[u8]) -> Result<(), NetlinkError> {
        self.socket.send(bytes, 0).map(|_sent| ()).map_err(NetlinkError::Send)
    }

    /// One datagram: whole messages.
    pub(crate) fn receive(&self) -> Result<Vec<u8>, NetlinkError> {
        self.socket.recv_from_full().map(|(bytes, _from)| bytes).map_err(NetlinkError::Receive)
    }

    /// Performs a change and waits until the kernel has acknowledged it.
    pub(crate) fn change(&mut self, what: &str, message: RouteNetlinkMessage, flags: u16) -> Result<(), NetlinkError> {
        let sequence = self.request(message, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        self.answers(what, sequence, &mut |_message| {})
    }

    /// Performs a change that makes something; `flags` say what happens if it exists.
    pub(crate) fn create(&mut self, what: &str, message: RouteNetlinkMessage, flags: u16) -> Result<(), NetlinkError> {
        self.change(what, message, NLM_F_CREATE | flags)
    }

    /// The answer to a question about one thing.
    pub(crate) fn get(&mut self, what: &str, message: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        let sequence = self.request(message, NLM_F_REQUEST | NLM_F_ACK)?;
        self.collect(what, sequence)
    }

    /// All things of a kind.
    pub(crate) fn dump(&mut self, what: &str, message: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        let sequence = self.request(message, NLM_F_REQUEST | NLM_F_DUMP)?;
        self.collect(what, sequence)
    }

    fn collect(&mut self, what: &str, sequence: u32) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        let mut found = Vec::new();
        self.answers(what, sequence, &mut |message| found.push(message))?;
        Ok(found)
    }

    fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<u32, NetlinkError> {
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.next_sequence();
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.send(&bytes)?;
        Ok(self.sequence)
    }

    /// Reads until the end of the answer to `sequence`; answers to older requests are skipped.
    fn answers(&mut self, what: &str, sequence: u32, each: &mut dyn FnMut(RouteNetlinkMessage)) -> Result<(), NetlinkError> {
        loop {
            let bytes = self.receive()?;
            for message in split(&bytes)? {
                let parsed =
                    NetlinkMessage::<RouteNetlinkMessage>::deserialize(message).map_err(|e| NetlinkError::Decode(e.to_string()))?;
                if parsed.header.sequence_number != sequence {
                    continue;
                }
                match parsed.payload {
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::Error(error) => return outcome(what, error.code),
                    NetlinkPayload::InnerMessage(inner) => each(inner),
                    _ => {}
                }
            }
        }
    }
}

/// The result an acknowledgement carries: no code is success.
pub(crate) fn outcome(what: &str, code: Option<NonZeroI32>) -> Result<(), NetlinkError> {
    match code {
        None => Ok(()),
        Some(code) => {
            Err(NetlinkError::Refused { what: what.to_owned(), source: io::Error::from_raw_os_error(code.get().saturating_abs()) })
        }
    }
}

/// The messages of a datagram, each with its header and without padding after it.
pub(crate) fn split(bytes: &[u8]) -> Result<Vec<&[u8]>, NetlinkError> {
    let mut messages = Vec::new();
    let mut rest = bytes;
    while let Some(head) = rest.first_chunk::<4>() {
        let length = usize::try_from(u32::from_ne_bytes(*head)).expect("usize holds a u32 on every Linux platform here");
        if length < 16 || length > rest.len() {
            return Err(NetlinkError::Decode(format!("a message of {length} bytes in a datagram with {} left", rest.len())));
        }
        messages.push(&rest[..length]);
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(messages)
}
