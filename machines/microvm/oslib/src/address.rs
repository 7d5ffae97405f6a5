//! Addresses of sockets, and their bytes in the ABI.
//!
//! Linux: net/unix/af_unix.c `unix_validate_addr`, net/ipv4/af_inet.c.

use crate::abi::Fields;
use crate::errno::{EAFNOSUPPORT, EINVAL, Result};
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

/// What a socket's addresses look like; the values are those of `AF_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// Paths and names of this machine.
    Unix = 1,
    /// Numbers of machines, and ports. There is one machine.
    Inet = 2,
}

/// An address of a socket.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Address {
    /// None.
    Unnamed,
    /// A path.
    Path(Box<[u8]>),
    /// A name that is no path.
    Abstract(Box<[u8]>),
    /// A machine and a port.
    Inet(u32, u16),
}

/// Bytes of `struct sockaddr_in`.
const INET_BYTES: usize = 16;
/// Bytes of `struct sockaddr_un`.
const UNIX_BYTES: usize = 110;

/// The machine itself, and all of 127.0.0.0/8.
pub const LOOPBACK: u32 = 0x7f00_0001;

impl Address {
    /// Reads an address of a family.
    ///
    /// # Errors
    /// `EINVAL` if it is too short or too long; `EAFNOSUPPORT`, or `EINVAL` for a Unix socket, if it is of
    /// another family.
    pub fn parse(family: Family, bytes: &[u8]) -> Result<Address> {
        let named = Fields(bytes).u16(0);
        match family {
            Family::Inet => {
                if bytes.len() < INET_BYTES {
                    return Err(EINVAL);
                }
                if named != Family::Inet as u16 {
                    return Err(EAFNOSUPPORT);
                }
                Ok(Address::Inet(Fields(bytes).u32(4).swap_bytes(), Fields(bytes).u16(2).swap_bytes()))
            }
            Family::Unix => {
                if bytes.len() < 2 || bytes.len() > UNIX_BYTES || named != Family::Unix as u16 {
                    return Err(EINVAL);
                }
                Ok(match &bytes[2..] {
                    [] => Address::Unnamed,
                    [0, name @ ..] => Address::Abstract(name.into()),
                    path => Address::Path(path.split(|&b| b == 0).next().unwrap_or_default().into()),
                })
            }
        }
    }

    /// Gives its bytes.
    pub fn pack(&self, family: Family) -> Vec<u8> {
        let mut bytes = vec![family as u8, 0];
        match self {
            Address::Unnamed if family == Family::Unix => {}
            Address::Unnamed => bytes.resize(INET_BYTES, 0),
            Address::Path(path) => {
                bytes.extend_from_slice(path);
                bytes.push(0);
            }
            Address::Abstract(name) => {
                bytes.push(0);
                bytes.extend_from_slice(name);
            }
            Address::Inet(machine, port) => {
                bytes.extend_from_slice(&port.to_be_bytes());
                bytes.extend_from_slice(&machine.to_be_bytes());
                bytes.resize(INET_BYTES, 0);
            }
        }
        bytes
    }

    /// Says whether it means this machine.
    pub fn is_here(&self) -> bool {
        match self {
            Address::Unnamed | Address::Path(_) | Address::Abstract(_) => true,
            Address::Inet(machine, _) => *machine == 0 || machine >> 24 == LOOPBACK >> 24,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_what_its_bytes_are() {
        for (family, address) in [
            (Family::Unix, Address::Unnamed),
            (Family::Unix, Address::Path(Box::from(*b"/tmp/a"))),
            (Family::Unix, Address::Abstract(Box::from(*b"a\0b"))),
            (Family::Inet, Address::Inet(LOOPBACK, 6379)),
        ] {
            assert_eq!(Address::parse(family, &address.pack(family)), Ok(address));
        }
        assert_eq!(Address::Inet(LOOPBACK, 0x1234).pack(Family::Inet)[..8], [2, 0, 0x12, 0x34, 127, 0, 0, 1]);
        assert_eq!(Address::parse(Family::Inet, &[2, 0, 0, 1]), Err(EINVAL));
        assert_eq!(Address::parse(Family::Inet, &[1; 16]), Err(EAFNOSUPPORT));
        assert_eq!(Address::parse(Family::Unix, &[2; 16]), Err(EINVAL));
        assert_eq!(Address::parse(Family::Unix, &[1; 111]), Err(EINVAL));
        assert!(!Address::Inet(0x0808_0808, 53).is_here() && Address::Inet(0, 53).is_here());
    }
}
