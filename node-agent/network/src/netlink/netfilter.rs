//! Requests to the netfilter subsystems: nf_tables batches and the connection table.

use super::{Netlink, NetlinkError, attributes, split};

const SUBSYSTEM_CONNECTIONS: u8 = 1;
const SUBSYSTEM_TABLES: u8 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const GET_CONNECTION: u8 = 1;
const DELETE_CONNECTION: u8 = 2;
const AF_INET: u8 = 2;
/// The netlink header and netfilter's own.
const HEADERS: usize = 20;

/// A UDP flow that the kernel remembers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UdpFlow {
    /// Where the first packet was sent.
    pub(crate) to: (std::net::Ipv4Addr, u16),
    /// Who answers.
    pub(crate) answered_by: (std::net::Ipv4Addr, u16),
    tuple: Vec<u8>,
    id: Vec<u8>,
}

impl Netlink {
    /// Performs messages of the nf_tables subsystem as one transaction: all or none.
    pub(crate) fn transact(&mut self, what: &str, messages: &[crate::services::wire::Message]) -> Result<(), NetlinkError> {
        let begin = self.next_sequence();
        let mut batch = Vec::new();
        push(&mut batch, BATCH_BEGIN, NLM_F_REQUEST, begin, 0, u16::from(SUBSYSTEM_TABLES), &[]);
        let mut last = begin;
        for (n, message) in messages.iter().enumerate() {
            last = self.next_sequence();
            let kind = u16::from(SUBSYSTEM_TABLES) << 8 | u16::from(message.kind);
            let ack = if n + 1 == messages.len() { NLM_F_ACK } else { 0 };
            push(&mut batch, kind, NLM_F_REQUEST | message.flags | ack, last, AF_INET, 0, &message.attributes);
        }
        let end = self.next_sequence();
        push(&mut batch, BATCH_END, NLM_F_REQUEST, end, 0, u16::from(SUBSYSTEM_TABLES), &[]);
        self.send(&batch)?;
        self.outcome_of_batch(what, begin, last)
    }

    /// Each message that fails answers for itself; the last one answers in any case, and the first if the whole batch is refused.
    fn outcome_of_batch(&mut self, what: &str, begin: u32, last: u32) -> Result<(), NetlinkError> {
        let mut first_error = None;
        loop {
            let bytes = self.receive()?;
            for message in split(&bytes)? {
                let (kind, sequence) = header(message);
                if kind != NLMSG_ERROR || !(begin..=last).contains(&sequence) {
                    continue;
                }
                let result = super::outcome(what, error_code(message));
                let failed = result.is_err();
                first_error = first_error.or(result.err());
                if sequence == last || (sequence == begin && failed) {
                    return first_error.map_or(Ok(()), Err);
                }
            }
        }
    }

    /// All UDP flows over IPv4.
    pub(crate) fn udp_flows(&mut self) -> Result<Vec<UdpFlow>, NetlinkError> {
        let sequence = self.next_sequence();
        let mut request = Vec::new();
        let kind = u16::from(SUBSYSTEM_CONNECTIONS) << 8 | u16::from(GET_CONNECTION);
        push(&mut request, kind, NLM_F_REQUEST | NLM_F_DUMP, sequence, AF_INET, 0, &[]);
        self.send(&request)?;
        let mut flows = Vec::new();
        loop {
            let bytes = self.receive()?;
            for message in split(&bytes)? {
                match header(message) {
                    (_, other) if other != sequence => {}
                    (NLMSG_DONE, _) => return Ok(flows),
                    (NLMSG_ERROR, _) => super::outcome("list connections", error_code(message))?,
                    _ => flows.extend(message.get(HEADERS..).and_then(udp_flow)),
                }
            }
        }
    }

    /// Makes the kernel forget a flow; it is fine if it has already.
    pub(crate) fn forget(&mut self, flow: &UdpFlow) -> Result<(), NetlinkError> {
        let sequence = self.next_sequence();
        let mut attributes = attributes::Writer::default();
        attributes.nested_bytes(1, &flow.tuple);
        attributes.bytes(12, &flow.id);
        let mut request = Vec::new();
        let kind = u16::from(SUBSYSTEM_CONNECTIONS) << 8 | u16::from(DELETE_CONNECTION);
        push(&mut request, kind, NLM_F_REQUEST | NLM_F_ACK, sequence, AF_INET, 0, &attributes.finish());
        self.send(&request)?;
        match self.outcome_of_batch("forget a connection", sequence, sequence) {
            Err(e) if e.errno() == Some(libc::ENOENT) => Ok(()),
            other => other,
        }
    }
}

fn push(bytes: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32, family: u8, resource: u16, attributes: &[u8]) {
    let length = u32::try_from(HEADERS + attributes.len()).expect("a message is far below 4 GiB");
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(0u32.to_ne_bytes());
    bytes.extend([family, 0]);
    bytes.extend(resource.to_be_bytes());
    bytes.extend(attributes);
}

fn header(message: &[u8]) -> (u16, u32) {
    let kind = u16::from_ne_bytes(message[4..6].try_into().expect("split admits no message shorter than a header"));
    let sequence = u32::from_ne_bytes(message[8..12].try_into().expect("split admits no message shorter than a header"));
    (kind, sequence)
}

fn error_code(message: &[u8]) -> Option<std::num::NonZeroI32> {
    let code = message.get(16..20)?.try_into().ok()?;
    std::num::NonZeroI32::new(i32::from_ne_bytes(code))
}

fn udp_flow(bytes: &[u8]) -> Option<UdpFlow> {
    const UDP: u8 = 17;
    let (original, reply) = (attributes::find(bytes, 1)?, attributes::find(bytes, 2)?);
    let protocol = attributes::find(attributes::find(original, 2)?, 1)?;
    if protocol != [UDP] {
        return None;
    }
    let address = |tuple: &[u8], ip_kind: u16, port_kind: u16| {
        let ip: [u8; 4] = attributes::find(attributes::find(tuple, 1)?, ip_kind)?.try_into().ok()?;
        let port: [u8; 2] = attributes::find(attributes::find(tuple, 2)?, port_kind)?.try_into().ok()?;
        Some((std::net::Ipv4Addr::from(ip), u16::from_be_bytes(port)))
    };
    Some(UdpFlow {
        to: address(original, 2, 3)?,
        answered_by: address(reply, 1, 2)?,
        tuple: original.to_vec(),
        id: attributes::find(bytes, 12)?.to_vec(),
    })
}
