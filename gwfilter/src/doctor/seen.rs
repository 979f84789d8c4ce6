//! What was seen of a gateway's traffic, in figures. Bounded: what does not fit is counted, not kept.

use std::collections::BTreeMap;
use std::net::IpAddr;

use gwfilter_common::abi::{PROBE_DATA, ProbeHead};

use super::payload::{Beginning, Forwarded, beginning};

/// Addresses that are told apart in one count.
const ADDRESSES: usize = 1024;
/// Entries of X-Forwarded-For, from the right, whose addresses are counted.
const POSITIONS: usize = 8;

/// How often each address was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    by: BTreeMap<IpAddr, u64>,
    others: u64,
}

impl Counted {
    /// Counts `times` more of an address.
    pub fn add(&mut self, address: IpAddr, times: u64) {
        let known = self.by.len();
        match self.by.get_mut(&address) {
            Some(count) => *count = count.saturating_add(times),
            None if known < ADDRESSES => {
                self.by.insert(address, times);
            }
            None => self.others = self.others.saturating_add(times),
        }
    }

    /// All together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.by
            .values()
            .fold(self.others, |sum, count| sum.saturating_add(*count))
    }

    /// How many addresses, at least.
    #[must_use]
    pub fn distinct(&self) -> usize {
        self.by.len()
    }

    /// How often one of the addresses was seen that are `wanted`.
    pub fn of(&self, wanted: impl Fn(&IpAddr) -> bool) -> u64 {
        self.by
            .iter()
            .filter(|(address, _)| wanted(address))
            .fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }

    /// Addresses, the most frequent first.
    #[must_use]
    pub fn most(&self) -> Vec<(IpAddr, u64)> {
        let mut all: Vec<(IpAddr, u64)> = self.by.iter().map(|(a, c)| (*a, *c)).collect();
        all.sort_by_key(|(address, count)| (std::cmp::Reverse(*count), *address));
        all
    }
}

/// X-Forwarded-For in plaintext requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForwardedFor {
    /// Requests without the header.
    pub absent: u64,
    /// Requests of which too little was seen to say.
    pub cut: u64,
    /// Requests by the number of their entries.
    pub entries: BTreeMap<usize, u64>,
    /// The addresses of each entry, the rightmost first.
    pub from_right: Vec<Counted>,
}

impl ForwardedFor {
    /// Requests with the header.
    #[must_use]
    pub fn with(&self) -> u64 {
        self.entries.values().sum()
    }

    /// Requests that tell how many entries there are, none included.
    #[must_use]
    pub fn known(&self) -> u64 {
        self.absent.saturating_add(self.with())
    }

    /// Requests with fewer entries than `entries`, of those with the header.
    #[must_use]
    pub fn fewer(&self, entries: usize) -> u64 {
        self.entries.range(..entries).map(|(_, count)| *count).sum()
    }

    fn note(&mut self, forwarded: &Forwarded) {
        match forwarded {
            Forwarded::Absent => self.absent += 1,
            Forwarded::Cut => self.cut += 1,
            Forwarded::Entries(list) => {
                *self.entries.entry(list.len()).or_default() += 1;
                for (position, address) in list.iter().rev().take(POSITIONS).enumerate() {
                    while self.from_right.len() <= position {
                        self.from_right.push(Counted::default());
                    }
                    if let (Some(counted), Some(address)) = (self.from_right.get_mut(position), address) {
                        counted.add(*address, 1);
                    }
                }
            }
        }
    }
}

/// What was seen of one gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Connections that began.
    pub connections: u64,
    /// Where the streams come from whose first bytes were seen.
    pub sources: Counted,
    /// Of those, the ones that begin with a PROXY header of version 1.
    pub proxy_v1: u64,
    /// The same, version 2.
    pub proxy_v2: u64,
    /// Those that begin with a TLS handshake.
    pub tls: u64,
    /// Those that begin with a request of HTTP/1.
    pub http: u64,
    /// Those that begin with anything else.
    pub other: u64,
    /// Sources of the streams that begin without a PROXY header.
    pub bare: Counted,
    /// X-Forwarded-For of the plaintext requests.
    pub forwarded: ForwardedFor,
    /// Sources of packets that gwfilter itself refused meanwhile, which the probe does not see; estimates, from samples.
    pub refused: Counted,
    /// Packets that gwfilter itself refused meanwhile, by its counters.
    pub dropped: u64,
}

impl Seen {
    /// Takes in one thing that the probe tells. `bytes` is looked at and not kept.
    pub fn note(&mut self, head: &ProbeHead, bytes: &[u8]) {
        if head.kind != PROBE_DATA {
            self.connections = self.connections.saturating_add(1);
            return;
        }
        let source = address(head.flow.source, head.flow.family);
        self.sources.add(source, 1);
        let mut bare = true;
        match beginning(bytes) {
            Beginning::ProxyV1 => (self.proxy_v1, bare) = (self.proxy_v1 + 1, false),
            Beginning::ProxyV2 => (self.proxy_v2, bare) = (self.proxy_v2 + 1, false),
            Beginning::Tls => self.tls += 1,
            Beginning::Http(forwarded) => {
                self.http += 1;
                self.forwarded.note(&forwarded);
            }
            Beginning::Other => self.other += 1,
        }
        if bare {
            self.bare.add(source, 1);
        }
    }

    /// Streams whose first bytes were seen.
    #[must_use]
    pub fn streams(&self) -> u64 {
        self.sources.total()
    }

    /// Takes in a sample of a packet that was refused, and how many it stands for.
    pub fn note_refused(&mut self, source: IpAddr, weight: u64) {
        self.refused.add(source.to_canonical(), weight);
    }

    /// Packets were refused, and it is not known from whom: clients are missing in what was seen, and nobody can say which.
    #[must_use]
    pub fn refused_from_nobody_knows(&self) -> bool {
        self.dropped > 0 && self.refused.total().saturating_mul(2) < self.dropped
    }

    /// Those that begin with a PROXY header.
    #[must_use]
    pub const fn with_header(&self) -> u64 {
        self.proxy_v1.saturating_add(self.proxy_v2)
    }
}

/// An address as the probe tells it.
fn address(bytes: [u8; 16], family: u32) -> IpAddr {
    let [a, b, c, d, ..] = bytes;
    if family == 4 {
        IpAddr::from([a, b, c, d])
    } else {
        IpAddr::from(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_addresses_than_are_told_apart_then_counted_all_the_same() {
        let mut counted = Counted::default();
        for i in 0..2000_u32 {
            counted.add(IpAddr::from(i.to_be_bytes()), 1);
        }
        counted.add(IpAddr::from([0, 0, 0, 1]), 5);
        assert_eq!((counted.distinct(), counted.total()), (ADDRESSES, 2005));
        assert_eq!(counted.most().first(), Some(&(IpAddr::from([0, 0, 0, 1]), 6)));
        assert_eq!(counted.of(|a| *a == IpAddr::from([0, 0, 0, 1])), 6);
    }

    #[test]
    fn entries_then_counted_from_the_right() {
        let mut forwarded = ForwardedFor::default();
        let entry = |text: &str| text.parse().ok();
        forwarded.note(&Forwarded::Entries(vec![entry("192.0.2.1"), entry("10.0.0.1")]));
        forwarded.note(&Forwarded::Entries(vec![entry("192.0.2.2")]));
        forwarded.note(&Forwarded::Entries(vec![None; 20]));
        forwarded.note(&Forwarded::Absent);
        forwarded.note(&Forwarded::Cut);
        assert_eq!((forwarded.with(), forwarded.known(), forwarded.cut), (3, 4, 1));
        assert_eq!(
            (forwarded.fewer(1), forwarded.fewer(2), forwarded.fewer(3)),
            (0, 1, 2)
        );
        assert_eq!(forwarded.from_right.len(), POSITIONS);
        assert_eq!(forwarded.from_right[0].distinct(), 2);
        assert_eq!(
            forwarded.from_right[1].most(),
            [("192.0.2.1".parse().unwrap(), 1)]
        );
    }
}
