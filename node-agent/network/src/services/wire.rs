//! Changes of the table as nfnetlink messages: one batch, one transaction.
//!
//! Spec: Linux `include/uapi/linux/netfilter/nf_tables.h`. Numbers are big-endian there, except where a register holds them.

use std::net::Ipv4Addr;

use super::{
    diff::{Change, Element},
    rules::{Backend, Refusal, Rule},
    snapshot::Protocol,
    text::{MASQUERADE_MARK, TABLE},
};
use crate::{Cidr, netlink::attributes::Writer};

const NEW_CHAIN: u8 = 3;
const DELETE_CHAIN: u8 = 5;
const NEW_RULE: u8 = 6;
const DELETE_RULE: u8 = 8;
const NEW_SET: u8 = 9;
const DELETE_SET: u8 = 11;
const NEW_ELEMENT: u8 = 12;
const DELETE_ELEMENT: u8 = 14;

const NLM_F_CREATE: u16 = 0x400;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_APPEND: u16 = 0x800;

/// The verdict register, and the first of the data registers: sixteen bytes, whose second word has a number of its own.
const VERDICT: u32 = 0;
const REGISTER: u32 = 1;
const SECOND_WORD: u32 = 9;

const GOTO: i32 = -4;
const DROP: i32 = 0;

const SET_ANONYMOUS: u32 = 1;
const SET_CONSTANT: u32 = 2;
const SET_MAP: u32 = 8;
const SET_TIMEOUT: u32 = 0x10;
const SET_EVAL: u32 = 0x20;
/// How `nft list` prints what the kernel itself takes for mere bytes.
const TYPE_INTEGER: u32 = 4;
const TYPE_ADDRESS: u32 = 7;
const TYPE_ADDRESS_AND_PORT: u32 = 7 << 6 | 13;
const TYPE_VERDICT: u32 = 0xffff_ff00;

/// A message of the nf_tables subsystem without its netlink header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) kind: u8,
    pub(crate) flags: u16,
    pub(crate) attributes: Vec<u8>,
}

/// The messages of a transaction, in order.
pub(crate) fn messages(changes: &[Change]) -> Vec<Message> {
    let mut encoder = Encoder { messages: Vec::new(), sets: 0 };
    for change in changes {
        encoder.change(change);
    }
    encoder.messages
}

struct Encoder {
    messages: Vec<Message>,
    /// Anonymous sets so far: each needs a number within the transaction.
    sets: u32,
}

impl Encoder {
    fn push(&mut self, kind: u8, flags: u16, write: impl FnOnce(&mut Writer)) {
        let mut writer = Writer::default();
        writer.text(1, TABLE);
        write(&mut writer);
        self.messages.push(Message { kind, flags, attributes: writer.finish() });
    }

    fn change(&mut self, change: &Change) {
        match change {
            Change::AddSet { name, seconds } => self.push(NEW_SET, NLM_F_CREATE | NLM_F_EXCL, |w| {
                w.text(2, name);
                w.be32(3, SET_TIMEOUT | SET_EVAL);
                w.be32(4, TYPE_ADDRESS);
                w.be32(5, 4);
                w.nested(9, |w| w.be32(1, 65_535));
                // The kernel wants a number for every new set, though nothing in the transaction refers to this one by number.
                w.be32(10, 0);
                w.be64(11, u64::from(*seconds) * 1000);
            }),
            Change::RemoveSet { name } => self.push(DELETE_SET, 0, |w| w.text(2, name)),
            Change::AddChain { name } => self.push(NEW_CHAIN, NLM_F_CREATE, |w| w.text(3, name)),
            Change::RemoveChain { name } => self.push(DELETE_CHAIN, 0, |w| w.text(3, name)),
            Change::SetRules { chain, rules } => {
                // Without a handle, the removal empties the chain.
                self.push(DELETE_RULE, 0, |w| w.text(2, chain));
                for rule in rules {
                    self.rule(chain, rule);
                }
            }
            Change::AddElement(element) => self.element(NEW_ELEMENT, NLM_F_CREATE, element),
            Change::RemoveElement(element) => self.element(DELETE_ELEMENT, 0, element),
        }
    }

    fn element(&mut self, kind: u8, flags: u16, element: &Element) {
        let verdict = kind == NEW_ELEMENT;
        let (set, key) = match element {
            Element::ServiceIp(target, _) => ("service_ips", target_key(target.0, target.1, target.2)),
            Element::Refused(target, _) => ("refused", target_key(target.0, target.1, target.2)),
            Element::NodePort((protocol, port), _) => ("node_ports", port_key(*protocol, *port)),
            Element::RefusedPort((protocol, port), _) => ("refused_ports", port_key(*protocol, *port)),
            Element::Hairpin(ip) => ("hairpin", [ip.octets(), ip.octets()].concat()),
        };
        self.push(kind, flags, |w| {
            w.text(2, set);
            w.nested(3, |w| {
                w.nested(1, |w| {
                    w.nested(1, |w| w.bytes(1, &key));
                    match element {
                        Element::ServiceIp(_, chain) | Element::NodePort(_, chain) if verdict => {
                            w.nested(2, |w| verdict_data(w, GOTO, Some(chain)));
                        }
                        Element::Refused(_, Refusal::Reject) | Element::RefusedPort(_, Refusal::Reject) if verdict => {
                            w.nested(2, |w| verdict_data(w, GOTO, Some("refusal")));
                        }
                        Element::Refused(_, Refusal::Drop) | Element::RefusedPort(_, Refusal::Drop) if verdict => {
                            w.nested(2, |w| verdict_data(w, DROP, None));
                        }
                        _ => {}
                    }
                });
            });
        });
    }

    fn rule(&mut self, chain: &str, rule: &Rule) {
        let mut expressions = Expressions(Writer::default());
        match rule {
            Rule::Masquerade => expressions.mark(),
            Rule::MasqueradeUnlessFrom(block) => {
                expressions.source_in(*block, false);
                expressions.mark();
            }
            Rule::GotoIfFrom(block, next) => {
                expressions.source_in(*block, true);
                expressions.verdict(GOTO, Some(next));
            }
            Rule::GotoIfFromNode(next) => {
                expressions.source_is_local();
                expressions.verdict(GOTO, Some(next));
            }
            Rule::GotoIfRemembered { set, chain } => {
                expressions.source();
                expressions.add("lookup", |w| {
                    w.text(1, set);
                    w.be32(2, REGISTER);
                });
                expressions.verdict(GOTO, Some(chain));
            }
            Rule::Remember { set } => {
                expressions.source();
                expressions.add("dynset", |w| {
                    w.text(1, set);
                    w.be32(3, 1);
                    w.be32(4, REGISTER);
                });
            }
            Rule::Spread(protocol, backends) => {
                expressions.protocol(*protocol);
                match backends.as_slice() {
                    [(ip, port)] => expressions.immediate_backend(*ip, *port),
                    many => {
                        let elements = many.iter().map(|backend| MapValue::Backend(*backend)).collect::<Vec<_>>();
                        let (name, id) = self.anonymous_map(&elements);
                        expressions.draw(many.len());
                        expressions.lookup_map(&name, id, REGISTER);
                    }
                }
                expressions.dnat();
            }
            Rule::SpreadChains(chains) => match chains.as_slice() {
                [chain] => expressions.verdict(GOTO, Some(chain)),
                many => {
                    let elements = many.iter().map(|chain| MapValue::Goto(chain)).collect::<Vec<_>>();
                    let (name, id) = self.anonymous_map(&elements);
                    expressions.draw(many.len());
                    expressions.lookup_map(&name, id, VERDICT);
                }
            },
            Rule::Drop => expressions.verdict(DROP, None),
        }
        let expressions = expressions.0.finish();
        self.push(NEW_RULE, NLM_F_CREATE | NLM_F_APPEND, |w| {
            w.text(2, chain);
            w.nested_bytes(4, &expressions);
        });
    }

    /// A map from 0, 1, 2 ... that lives as long as the rule that uses it; its name and number.
    fn anonymous_map(&mut self, values: &[MapValue<'_>]) -> (String, u32) {
        self.sets += 1;
        let id = self.sets;
        let name = "__map%d".to_owned();
        let (data_type, data_bytes) = match values {
            [MapValue::Goto(_), ..] => (TYPE_VERDICT, 0),
            _ => (TYPE_ADDRESS_AND_PORT, 8),
        };
        let count = u32::try_from(values.len()).expect("a Service has fewer endpoints than 2^32");
        self.push(NEW_SET, NLM_F_CREATE | NLM_F_EXCL, |w| {
            w.text(2, &name);
            w.be32(3, SET_ANONYMOUS | SET_CONSTANT | SET_MAP);
            w.be32(4, TYPE_INTEGER);
            w.be32(5, 4);
            w.be32(6, data_type);
            if data_bytes > 0 {
                w.be32(7, data_bytes);
            }
            w.nested(9, |w| w.be32(1, count));
            w.be32(10, id);
            // Tells `nft list` that the key is a number in the machine's own order.
            w.bytes(13, &[0, 4, 1, 0, 0, 0]);
        });
        // An attribute's length has sixteen bits, so many elements need several messages.
        for (chunk, values) in values.chunks(ELEMENTS_PER_MESSAGE).enumerate() {
            self.push(NEW_ELEMENT, NLM_F_CREATE, |w| {
                w.text(2, &name);
                w.be32(4, id);
                w.nested(3, |w| {
                    for (n, value) in values.iter().enumerate() {
                        let key = u32::try_from(chunk * ELEMENTS_PER_MESSAGE + n).expect("counted above");
                        w.nested(1, |w| {
                            w.nested(1, |w| w.bytes(1, &key.to_ne_bytes()));
                            w.nested(2, |w| match value {
                                MapValue::Backend((ip, port)) => w.bytes(1, &backend_data(*ip, *port)),
                                MapValue::Goto(chain) => verdict_data(w, GOTO, Some(chain)),
                            });
                        });
                    }
                });
            });
        }
        (name, id)
    }
}

const ELEMENTS_PER_MESSAGE: usize = 200;

enum MapValue<'a> {
    Backend(Backend),
    Goto(&'a str),
}

/// The expressions of a rule, in the order the kernel runs them.
struct Expressions(Writer);

impl Expressions {
    fn add(&mut self, name: &str, write: impl FnOnce(&mut Writer)) {
        self.0.nested(1, |w| {
            w.text(1, name);
            w.nested(2, write);
        });
    }

    fn source(&mut self) {
        self.add("payload", |w| {
            w.be32(1, REGISTER);
            w.be32(2, 1);
            w.be32(3, 12);
            w.be32(4, 4);
        });
    }

    fn source_in(&mut self, block: Cidr, inside: bool) {
        self.source();
        self.bitwise(&block.mask().to_be_bytes(), &[0; 4]);
        self.compare(&block.network().octets(), inside);
    }

    fn source_is_local(&mut self) {
        self.add("fib", |w| {
            w.be32(1, REGISTER);
            w.be32(2, 3);
            w.be32(3, 1);
        });
        // RTN_LOCAL
        self.compare(&2u32.to_ne_bytes(), true);
    }

    fn protocol(&mut self, protocol: Protocol) {
        self.add("meta", |w| {
            w.be32(1, REGISTER);
            w.be32(2, 16);
        });
        self.compare(&[protocol.number()], true);
    }

    fn mark(&mut self) {
        self.add("meta", |w| {
            w.be32(1, REGISTER);
            w.be32(2, 3);
        });
        self.bitwise(&(!MASQUERADE_MARK).to_ne_bytes(), &MASQUERADE_MARK.to_ne_bytes());
        self.add("meta", |w| {
            w.be32(2, 3);
            w.be32(3, REGISTER);
        });
    }

    fn bitwise(&mut self, mask: &[u8; 4], xor: &[u8; 4]) {
        self.add("bitwise", |w| {
            w.be32(1, REGISTER);
            w.be32(2, REGISTER);
            w.be32(3, 4);
            w.nested(4, |w| w.bytes(1, mask));
            w.nested(5, |w| w.bytes(1, xor));
        });
    }

    fn compare(&mut self, with: &[u8], equal: bool) {
        self.add("cmp", |w| {
            w.be32(1, REGISTER);
            w.be32(2, u32::from(!equal));
            w.nested(3, |w| w.bytes(1, with));
        });
    }

    fn draw(&mut self, count: usize) {
        self.add("numgen", |w| {
            w.be32(1, REGISTER);
            w.be32(2, u32::try_from(count).expect("a Service has fewer endpoints than 2^32"));
            w.be32(3, 1);
        });
    }

    fn lookup_map(&mut self, name: &str, id: u32, into: u32) {
        self.add("lookup", |w| {
            w.text(1, name);
            w.be32(2, REGISTER);
            w.be32(3, into);
            w.be32(4, id);
        });
    }

    fn immediate_backend(&mut self, ip: Ipv4Addr, port: u16) {
        self.add("immediate", |w| {
            w.be32(1, REGISTER);
            w.nested(2, |w| w.bytes(1, &ip.octets()));
        });
        self.add("immediate", |w| {
            w.be32(1, SECOND_WORD);
            w.nested(2, |w| w.bytes(1, &port.to_be_bytes()));
        });
    }

    fn dnat(&mut self) {
        self.add("nat", |w| {
            w.be32(1, 1);
            w.be32(2, 2);
            w.be32(3, REGISTER);
            w.be32(5, SECOND_WORD);
        });
    }

    fn verdict(&mut self, code: i32, chain: Option<&str>) {
        self.add("immediate", |w| {
            w.be32(1, VERDICT);
            w.nested(2, |w| verdict_data(w, code, chain));
        });
    }
}

fn verdict_data(w: &mut Writer, code: i32, chain: Option<&str>) {
    w.nested(2, |w| {
        w.bytes(1, &code.to_be_bytes());
        if let Some(chain) = chain {
            w.text(2, chain);
        }
    });
}

/// Each part of a key begins at a multiple of four bytes.
fn target_key(ip: Ipv4Addr, protocol: Protocol, port: u16) -> Vec<u8> {
    [ip.octets().as_slice(), &port_key(protocol, port)].concat()
}

fn port_key(protocol: Protocol, port: u16) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    vec![protocol.number(), 0, 0, 0, high, low, 0, 0]
}

fn backend_data(ip: Ipv4Addr, port: u16) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    [ip.octets().as_slice(), &[high, low, 0, 0]].concat()
}
