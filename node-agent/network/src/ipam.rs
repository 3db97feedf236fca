//! Which pod has which address of the node's block.
//!
//! Addresses are given out round the block, so that one that was freed rests as long as possible before somebody else gets it: clients
//! that still hold the old pod's address do not reach a stranger. The record on disk outlives the agent, as pods do.

use std::{
    collections::BTreeMap,
    fs, io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::Cidr;

/// What went wrong with addresses.
#[derive(Debug, thiserror::Error)]
pub enum IpamError {
    #[error("no address is left in {block}")]
    Exhausted { block: Cidr },
    #[error("write the record of addresses {path}")]
    Write { path: PathBuf, source: io::Error },
}

/// The addresses of one block and their owners. Pure; [`Record`] keeps it on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ipam {
    block: Cidr,
    owners: BTreeMap<Ipv4Addr, String>,
    /// The address given out last: the search for the next begins behind it.
    last: Option<Ipv4Addr>,
}

impl Ipam {
    /// A block none of whose addresses has an owner.
    pub fn new(block: Cidr) -> Ipam {
        Ipam { block: block.masked(), owners: BTreeMap::new(), last: None }
    }

    /// The block.
    pub fn block(&self) -> Cidr {
        self.block
    }

    /// The owners by address.
    pub fn owners(&self) -> &BTreeMap<Ipv4Addr, String> {
        &self.owners
    }

    /// The address of `owner`: the one it has, or the next free one. The first address of the block is the node's own (its end of the
    /// tunnel between nodes), and the last is never used, since many programs take it for a broadcast.
    ///
    /// # Errors
    /// Every address has an owner.
    pub fn allocate(&mut self, owner: &str) -> Result<Ipv4Addr, IpamError> {
        if let Some(address) = self.find(owner) {
            return Ok(address);
        }
        let (first, last) = (u32::from(self.block.network()) + 1, u32::from(self.block.last()).saturating_sub(1));
        let start = match self.last.map(u32::from) {
            Some(given) if (first..last).contains(&given) => given + 1,
            _ => first,
        };
        let free = (start..=last).chain(first..start).map(Ipv4Addr::from).find(|address| !self.owners.contains_key(address));
        let address = free.ok_or(IpamError::Exhausted { block: self.block })?;
        self.owners.insert(address, owner.to_owned());
        self.last = Some(address);
        Ok(address)
    }

    /// The address `owner` has.
    pub fn find(&self, owner: &str) -> Option<Ipv4Addr> {
        self.owners.iter().find(|(_, o)| *o == owner).map(|(address, _)| *address)
    }

    /// Takes back the address of `owner`, and says which it was.
    pub fn release(&mut self, owner: &str) -> Option<Ipv4Addr> {
        let address = self.find(owner)?;
        self.owners.remove(&address);
        Some(address)
    }

    /// Notes an address that turned out to be in use, for instance after the record was lost.
    pub fn adopt(&mut self, owner: &str, address: Ipv4Addr) {
        if self.block.contains(address) {
            self.owners.insert(address, owner.to_owned());
        }
    }
}

/// An [`Ipam`] with its file.
#[derive(Debug)]
pub struct Record {
    path: PathBuf,
    ipam: Ipam,
}

impl Record {
    /// What the file says, or an empty block if there is no readable file or it is about another block. Reconciliation adopts the addresses
    /// that pods really have, so a lost record costs nothing but the order of reuse.
    pub fn open(path: &Path, block: Cidr) -> Record {
        let read = fs::read(path).ok().and_then(|bytes| serde_json::from_slice::<Ipam>(&bytes).ok());
        let ipam = read.filter(|ipam| ipam.block == block.masked()).unwrap_or_else(|| Ipam::new(block));
        Record { path: path.to_owned(), ipam }
    }

    /// The addresses.
    pub fn ipam(&self) -> &Ipam {
        &self.ipam
    }

    /// As [`Ipam::allocate`], recorded before it returns. The file is replaced whole and not synced: after a power cut no pod lives that
    /// could hold an address.
    ///
    /// # Errors
    /// No address is left, or the file cannot be written.
    pub fn allocate(&mut self, owner: &str) -> Result<Ipv4Addr, IpamError> {
        let before = self.ipam.clone();
        let address = self.ipam.allocate(owner)?;
        if let Err(e) = self.save() {
            self.ipam = before;
            return Err(e);
        }
        Ok(address)
    }

    /// As [`Ipam::release`].
    ///
    /// # Errors
    /// The file cannot be written; the address is free all the same, and a later change records it.
    pub fn release(&mut self, owner: &str) -> Result<Option<Ipv4Addr>, IpamError> {
        let released = self.ipam.release(owner);
        if released.is_some() {
            self.save()?;
        }
        Ok(released)
    }

    /// As [`Ipam::adopt`].
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn adopt(&mut self, owner: &str, address: Ipv4Addr) -> Result<(), IpamError> {
        self.ipam.adopt(owner, address);
        self.save()
    }

    fn save(&self) -> Result<(), IpamError> {
        let failed = |source| IpamError::Write { path: self.path.clone(), source };
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        let bytes = serde_json::to_vec(&self.ipam).map_err(|e| failed(e.into()))?;
        let fresh = self.path.with_extension("new");
        fs::write(&fresh, bytes).map_err(failed)?;
        fs::rename(&fresh, &self.path).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn block(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn a_freed_address_rests_until_the_block_has_gone_round() {
        let mut ipam = Ipam::new(block("10.244.1.0/29"));
        let first = ipam.allocate("a").unwrap();
        assert_eq!(first, Ipv4Addr::new(10, 244, 1, 1));
        assert_eq!(ipam.allocate("a").unwrap(), first, "asking again is no second address");
        assert_eq!(ipam.release("a"), Some(first));
        let next: Vec<Ipv4Addr> = ["b", "c", "d", "e", "f"].iter().map(|owner| ipam.allocate(owner).unwrap()).collect();
        assert!(!next.contains(&first));
        assert_eq!(ipam.allocate("g").unwrap(), first);
        assert!(matches!(ipam.allocate("h"), Err(IpamError::Exhausted { .. })));
    }

    #[test]
    fn the_record_outlives_its_reader() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("network/addresses.json");
        let mut record = Record::open(&path, block("10.244.1.0/24"));
        let a = record.allocate("a").unwrap();
        record.allocate("b").unwrap();
        record.release("b").unwrap();
        let mut again = Record::open(&path, block("10.244.1.0/24"));
        assert_eq!(again.ipam().find("a"), Some(a));
        assert_eq!(again.allocate("c").unwrap(), Ipv4Addr::new(10, 244, 1, 3), "b's address rests across a restart");
        assert!(Record::open(&path, block("10.244.2.0/24")).ipam().owners().is_empty());
        fs::write(&path, "{").unwrap();
        assert!(Record::open(&path, block("10.244.1.0/24")).ipam().owners().is_empty());
    }

    proptest! {
        #[test]
        fn no_two_owners_share_an_address(steps in proptest::collection::vec((0u8..40, any::<bool>()), 1..200)) {
            let mut ipam = Ipam::new(block("10.0.0.0/27"));
            for (owner, take) in steps {
                let owner = owner.to_string();
                if take {
                    if let Ok(address) = ipam.allocate(&owner) {
                        prop_assert!(ipam.block().contains(address));
                        prop_assert_ne!(address, ipam.block().network());
                        prop_assert_ne!(address, ipam.block().last());
                        prop_assert_eq!(ipam.find(&owner), Some(address));
                    } else {
                        prop_assert_eq!(ipam.owners().len(), 30);
                    }
                } else {
                    ipam.release(&owner);
                }
                let owners: std::collections::BTreeSet<_> = ipam.owners().values().collect();
                prop_assert_eq!(owners.len(), ipam.owners().len());
            }
        }
    }
}
