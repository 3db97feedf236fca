//! Decides the answer to a question, as far as the cluster's own names go. Pure.

use std::net::Ipv4Addr;

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{A, CNAME, PTR, SOA, SRV, TXT},
    },
};

use super::zone::{Data, Found, Zone};

/// The largest UDP answer this server gives, whatever the client would take.
pub(crate) const PAYLOAD_MAX: u16 = 1232;

/// What to do with a question.
#[derive(Debug)]
pub enum Decision {
    /// The answer is complete.
    Reply(Message),
    /// The name belongs to somebody else.
    Forward,
    /// The answer so far is an alias; the records of its target, if they can be had, belong to it.
    Follow { reply: Message, target: Name, kind: RecordType },
}

/// What to do with `query`.
pub fn decide(zone: &Zone, query: &Message, ttl_seconds: u32) -> Decision {
    let mut reply = reply_to(query);
    if query.metadata.op_code != OpCode::Query {
        reply.metadata.response_code = ResponseCode::NotImp;
        return Decision::Reply(reply);
    }
    let [question] = query.queries.as_slice() else {
        reply.metadata.response_code = ResponseCode::FormErr;
        return Decision::Reply(reply);
    };
    let class = question.query_class();
    if class != DNSClass::IN && class != DNSClass::ANY {
        return Decision::Forward;
    }
    let (name, kind) = (question.name().clone(), question.query_type());
    let records = match zone.find(&name.to_ascii()) {
        Found::Elsewhere => return Decision::Forward,
        Found::Missing => {
            reply.metadata.response_code = ResponseCode::NXDomain;
            Vec::new()
        }
        Found::Records(records) => records,
    };
    reply.metadata.authoritative = true;
    let alias = records.iter().find_map(|data| if let Data::Cname(target) = data { name_of(target) } else { None });
    for data in &records {
        let wanted = kind == RecordType::ANY || kind == kind_of(data) || matches!(data, Data::Cname(_));
        if let Some(rdata) = wanted.then(|| rdata_of(data)).flatten() {
            reply.add_answer(Record::from_rdata(name.clone(), ttl_seconds, rdata));
        }
    }
    let apex = name_of(zone.domain());
    if let (RecordType::SOA, Some(true)) = (kind, apex.as_ref().map(|apex| *apex == name)) {
        reply.answers.extend(soa(zone, ttl_seconds));
    }
    for target in records.iter().filter_map(|data| if let Data::Srv { target, .. } = data { Some(target) } else { None }) {
        if kind == RecordType::SRV
            && let (Found::Records(found), Some(owner)) = (zone.find(target), name_of(target))
        {
            let addresses = found.iter().filter(|data| matches!(data, Data::A(_))).filter_map(rdata_of);
            reply.additionals.extend(addresses.map(|rdata| Record::from_rdata(owner.clone(), ttl_seconds, rdata)));
        }
    }
    match alias {
        Some(target) if kind != RecordType::CNAME && kind != RecordType::ANY => Decision::Follow { reply, target, kind },
        _ => {
            if reply.answers.is_empty() {
                reply.authorities.extend(soa(zone, ttl_seconds));
            }
            Decision::Reply(reply)
        }
    }
}

/// An empty answer to `query`: same number, same question, and EDNS if the query has it.
pub(crate) fn reply_to(query: &Message) -> Message {
    let mut reply = Message::new(query.metadata.id, MessageType::Response, query.metadata.op_code);
    reply.metadata.recursion_desired = query.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.queries.clone_from(&query.queries);
    if query.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(PAYLOAD_MAX);
        reply.set_edns(edns);
    }
    reply
}

/// The bytes of an answer, cut to what the client takes over UDP if `limited`.
pub(crate) fn encode(query: &Message, reply: &Message, limited: bool) -> Option<Vec<u8>> {
    let bytes = reply.to_vec().ok()?;
    let limit = if query.edns.is_some() { query.max_payload().clamp(512, PAYLOAD_MAX) } else { 512 };
    if limited && bytes.len() > usize::from(limit) { reply.truncate().to_vec().ok() } else { Some(bytes) }
}

fn name_of(text: &str) -> Option<Name> {
    Name::from_ascii(format!("{text}.")).ok()
}

fn kind_of(data: &Data) -> RecordType {
    match data {
        Data::A(_) => RecordType::A,
        Data::Cname(_) => RecordType::CNAME,
        Data::Srv { .. } => RecordType::SRV,
        Data::Ptr(_) => RecordType::PTR,
        Data::Txt(_) => RecordType::TXT,
    }
}

fn rdata_of(data: &Data) -> Option<RData> {
    Some(match data {
        Data::A(ip) => RData::A(A(Ipv4Addr::from(ip.octets()))),
        Data::Cname(target) => RData::CNAME(CNAME(name_of(target)?)),
        Data::Srv { port, target } => RData::SRV(SRV::new(0, 100, *port, name_of(target)?)),
        Data::Ptr(target) => RData::PTR(PTR(name_of(target)?)),
        Data::Txt(text) => RData::TXT(TXT::new(vec![text.clone()])),
    })
}

fn soa(zone: &Zone, ttl_seconds: u32) -> Option<Record> {
    let apex = name_of(zone.domain())?;
    let (server, contact) = (name_of(&format!("ns.dns.{}", zone.domain()))?, name_of(&format!("hostmaster.{}", zone.domain()))?);
    Some(Record::from_rdata(apex, ttl_seconds, RData::SOA(SOA::new(server, contact, 1, 7200, 1800, 86400, ttl_seconds))))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hickory_proto::op::Query;

    use super::*;
    use crate::{Service, ServiceKey, ServiceSnapshot};

    fn ask(name: &str, kind: RecordType) -> Message {
        let web = Service { cluster_ips: vec![Ipv4Addr::new(10, 96, 7, 7)], ..Service::default() };
        let snapshot = ServiceSnapshot { services: [(ServiceKey::new("shop", "web"), Arc::new(web))].into() };
        let mut query = Message::query();
        query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        match decide(&Zone::new("cluster.local", Arc::new(snapshot)), &query, 5) {
            Decision::Reply(reply) => reply,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_name_without_the_wanted_record_is_no_missing_name() {
        let found = ask("web.shop.svc.cluster.local.", RecordType::A);
        assert_eq!((found.metadata.response_code, found.answers.len(), found.metadata.authoritative), (ResponseCode::NoError, 1, true));
        let empty = ask("web.shop.svc.cluster.local.", RecordType::AAAA);
        assert_eq!((empty.metadata.response_code, empty.answers.len()), (ResponseCode::NoError, 0));
        assert_eq!(empty.authorities[0].record_type(), RecordType::SOA);
        let missing = ask("nobody.shop.svc.cluster.local.", RecordType::A);
        assert_eq!(missing.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(missing.authorities[0].record_type(), RecordType::SOA);
        assert_eq!(ask("cluster.local.", RecordType::SOA).answers.len(), 1);
    }

    #[test]
    fn a_large_answer_is_cut_over_udp() {
        let (query, mut reply) = (Message::query(), ask("web.shop.svc.cluster.local.", RecordType::A));
        for n in 0..100 {
            reply.add_answer(Record::from_rdata(
                name_of("web.shop.svc.cluster.local").unwrap(),
                5,
                RData::A(A(Ipv4Addr::new(10, 0, 0, n))),
            ));
        }
        let cut = Message::from_vec(&encode(&query, &reply, true).unwrap()).unwrap();
        assert!(cut.metadata.truncation && cut.answers.is_empty());
        assert_eq!(Message::from_vec(&encode(&query, &reply, false).unwrap()).unwrap().answers.len(), 101);
    }
}
