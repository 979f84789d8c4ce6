//! What the kernel and user sides of gwfilter share: the map ABI ([`abi`]), the reasons a packet is passed or
//! dropped for ([`reason`]), the wire parsers ([`wire`], [`proxy`]) and the decision itself ([`decide`]).
//!
//! The same source runs in XDP, in TC and on the host: parsers and decision are generic over [`read::PacketRead`] and
//! [`decide::Tables`]. Nothing here allocates, panics or keeps state.
#![no_std]
#![cfg_attr(not(feature = "user"), forbid(unsafe_code))]

#[cfg(any(test, feature = "testing"))]
extern crate std;

pub mod abi;
pub mod decide;
pub mod flat;
pub mod logline;
pub mod packet;
pub mod proxy;
pub mod read;
pub mod reason;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod wire;
