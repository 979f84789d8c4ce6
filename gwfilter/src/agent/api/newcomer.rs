//! Who comes to the port and has not shown a token: few of them at a time from one address, so that no stranger takes all places.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// Connections without a checked token from one address, at most.
const EACH: usize = 4;

/// How many there are, by address.
#[derive(Clone, Debug, Default)]
pub(super) struct Newcomers(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// A connection that has shown no token yet; dropped when it has, or is over.
#[derive(Debug)]
pub(super) struct Newcomer {
    all: Newcomers,
    from: IpAddr,
}

impl Newcomers {
    /// One more from this address; none if there are too many from there already.
    pub(super) fn admit(&self, from: IpAddr) -> Option<Newcomer> {
        let from = household(from);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let here = all.entry(from).or_default();
        if *here >= EACH {
            return None;
        }
        *here += 1;
        drop(all);
        let all = self.clone();
        Some(Newcomer { all, from })
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        let mut all = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(here) = all.get_mut(&self.from) {
            *here = here.saturating_sub(1);
            if *here == 0 {
                all.remove(&self.from);
            }
        }
    }
}

/// Of IPv6 the first 64 bits: one host has all the rest.
fn household(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_from_one_address_then_no_fifth_until_one_is_over() {
        let all = Newcomers::default();
        let from = |text: &str| all.admit(text.parse().unwrap());
        for [first, same, other] in [
            ["192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2"],
            ["2001:db8:0:1::1", "2001:db8:0:1:ffff::9", "2001:db8:0:2::1"],
        ] {
            let mut held: Vec<Newcomer> = (0..EACH).map(|_| from(first).unwrap()).collect();
            assert!(from(first).is_none() && from(same).is_none(), "{first}");
            assert!(from(other).is_some(), "{other}");
            held.pop();
            assert!(from(same).is_some(), "{same}");
        }
        assert!(all.0.lock().unwrap().is_empty(), "nothing is left of who is gone");
    }
}
