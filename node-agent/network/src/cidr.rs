//! An IPv4 block such as `10.244.1.0/24`.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use serde::{Deserialize, Serialize};

/// An IPv4 address with a prefix length. The address keeps its host bits, so that the value also serves as an interface address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    address: Ipv4Addr,
    prefix: u8,
}

/// Why a text is not a [`Cidr`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{text:?} is not an IPv4 block")]
pub struct CidrError {
    text: String,
}

impl Cidr {
    /// The block, unless the prefix is longer than 32.
    pub fn new(address: Ipv4Addr, prefix: u8) -> Option<Cidr> {
        (prefix <= 32).then_some(Cidr { address, prefix })
    }

    /// A block of one address.
    pub fn host(address: Ipv4Addr) -> Cidr {
        Cidr { address, prefix: 32 }
    }

    /// The address as it was given, host bits included.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The prefix length, 0 to 32.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The netmask as a number, host order.
    pub fn mask(&self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0)
    }

    /// The first address of the block.
    pub fn network(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.address) & self.mask())
    }

    /// The last address of the block.
    pub fn last(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.address) | !self.mask())
    }

    /// The same block with the host bits cleared.
    pub fn masked(&self) -> Cidr {
        Cidr { address: self.network(), prefix: self.prefix }
    }

    /// True if the address lies in the block.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        u32::from(address) & self.mask() == u32::from(self.network())
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Cidr, CidrError> {
        let bad = || CidrError { text: text.to_owned() };
        let (address, prefix) = text.split_once('/').ok_or_else(bad)?;
        let address = address.parse().map_err(|_parse| bad())?;
        let prefix = prefix.parse().map_err(|_parse| bad())?;
        Cidr::new(address, prefix).ok_or_else(bad)
    }
}

impl TryFrom<String> for Cidr {
    type Error = CidrError;

    fn try_from(text: String) -> Result<Cidr, CidrError> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> String {
        cidr.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_knows_its_borders() {
        let block: Cidr = "10.244.1.7/24".parse().unwrap();
        assert_eq!(block.network(), Ipv4Addr::new(10, 244, 1, 0));
        assert_eq!(block.last(), Ipv4Addr::new(10, 244, 1, 255));
        assert!(block.contains(Ipv4Addr::new(10, 244, 1, 200)));
        assert!(!block.contains(Ipv4Addr::new(10, 244, 2, 0)));
        assert_eq!(block.masked().to_string(), "10.244.1.0/24");
        assert!("0.0.0.0/0".parse::<Cidr>().unwrap().contains(Ipv4Addr::BROADCAST));
        assert_eq!(Cidr::host(Ipv4Addr::LOCALHOST).mask(), u32::MAX);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "10.0.0.0", "10.0.0.0/33", "10.0.0/8", "fd00::/64", "10.0.0.0/-1"] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }
}
