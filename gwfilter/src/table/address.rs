//! Addresses of one family as numbers, and their prefixes.

use std::fmt::Debug;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// A prefix of one family.
pub trait Net: Copy + Ord + Debug + 'static {
    /// Its addresses.
    type Address: Address<Net = Self>;
    /// The first and the last address, host bits masked.
    fn ends(self) -> (Self::Address, Self::Address);
}

impl Net for Ipv4Net {
    type Address = u32;

    fn ends(self) -> (u32, u32) {
        (self.network().to_bits(), self.broadcast().to_bits())
    }
}

impl Net for Ipv6Net {
    type Address = u128;

    fn ends(self) -> (u128, u128) {
        (self.network().to_bits(), self.broadcast().to_bits())
    }
}

/// An address of one family as a number in host order.
pub trait Address: Copy + Ord + Debug + Default + 'static {
    /// The prefix type of the family.
    type Net: Net<Address = Self>;
    /// Bits of an address.
    const BITS: u8;
    /// The lowest address.
    const MIN: Self;
    /// The highest address.
    const MAX: Self;
    /// The next higher address, if any.
    fn next(self) -> Option<Self>;
    /// The next lower address, if any.
    fn previous(self) -> Option<Self>;
    /// The address as the low bits of a wide number.
    fn wide(self) -> u128;
    /// The address that is the low bits of a wide number; higher bits are lost.
    fn narrow(wide: u128) -> Self;
    /// The first and the last address of a range of this family, `None` for one of the other family.
    fn bounds(net: &IpNet) -> Option<(Self, Self)>;
    /// The prefix that starts at `first` with `length` bits.
    fn prefix(first: u128, length: u8) -> Option<Self::Net>;
}

impl Address for u32 {
    type Net = Ipv4Net;
    const BITS: u8 = 32;
    const MIN: Self = Self::MIN;
    const MAX: Self = Self::MAX;
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
    fn previous(self) -> Option<Self> {
        self.checked_sub(1)
    }
    fn wide(self) -> u128 {
        u128::from(self)
    }
    #[expect(clippy::cast_possible_truncation, reason = "the low bits are meant")]
    fn narrow(wide: u128) -> Self {
        wide as Self
    }
    fn bounds(net: &IpNet) -> Option<(Self, Self)> {
        match net {
            IpNet::V4(n) => Some(n.ends()),
            IpNet::V6(_) => None,
        }
    }
    fn prefix(first: u128, length: u8) -> Option<Ipv4Net> {
        Ipv4Net::new(Ipv4Addr::from_bits(Self::try_from(first).ok()?), length).ok()
    }
}

impl Address for u128 {
    type Net = Ipv6Net;
    const BITS: u8 = 128;
    const MIN: Self = Self::MIN;
    const MAX: Self = Self::MAX;
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
    fn previous(self) -> Option<Self> {
        self.checked_sub(1)
    }
    fn wide(self) -> u128 {
        self
    }
    fn narrow(wide: u128) -> Self {
        wide
    }
    fn bounds(net: &IpNet) -> Option<(Self, Self)> {
        match net {
            IpNet::V4(_) => None,
            IpNet::V6(n) => Some(n.ends()),
        }
    }
    fn prefix(first: u128, length: u8) -> Option<Ipv6Net> {
        Ipv6Net::new(Ipv6Addr::from_bits(first), length).ok()
    }
}

/// Calls `emit` with the first address and the length of each of the fewest aligned prefixes that make up a closed interval, in order.
fn aligned<A: Address>(low: A, high: A, mut emit: impl FnMut(u128, u32)) {
    let (mut low, high) = (low.wide(), high.wide());
    while low <= high {
        let aligned = low.trailing_zeros().min(u32::from(A::BITS));
        let room = (high - low).checked_add(1).map_or(u128::BITS, u128::ilog2);
        let host_bits = aligned.min(room);
        emit(low, u32::from(A::BITS) - host_bits);
        match 1_u128
            .checked_shl(host_bits)
            .and_then(|size| low.checked_add(size))
        {
            Some(next) => low = next,
            None => return,
        }
    }
}

/// Cuts a closed interval into the fewest aligned prefixes, in order.
pub fn cut<A: Address>(low: A, high: A, mut emit: impl FnMut(A::Net)) {
    aligned(low, high, |first, length| {
        let net = u8::try_from(length).ok();
        if let Some(net) = net.and_then(|length| A::prefix(first, length)) {
            emit(net);
        }
    });
}

/// Into how many prefixes [`cut`] cuts.
#[must_use]
pub fn prefixes_of<A: Address>(low: A, high: A) -> usize {
    if low == high {
        return 1;
    }
    let mut count = 0;
    aligned(low, high, |_, _| count += 1);
    count
}
