//! Lists of prefixes as blocklists are, and addresses inside and outside of them: the same for everybody who is measured.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// How many sources packets come from. A few would stay in the CPU's caches, and every table would look fast.
pub(crate) const SOURCES: usize = 65_536;

/// Blocks that one policy object holds: far below what an object may be long.
const BLOCKS: usize = 10_000;

/// Every run measures the same lists.
const SEED: u64 = 0x6777_6669_6c74_6572;

/// Prefixes, no two of which overlap, sorted.
#[derive(Clone, Debug)]
pub(crate) enum List {
    /// IPv4.
    V4(Vec<Ipv4Net>),
    /// IPv6.
    V6(Vec<Ipv6Net>),
}

/// What addresses are numbers of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    pub(crate) const ALL: [Self; 2] = [Self::V4, Self::V6];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V4 => "v4",
            Self::V6 => "v6",
        }
    }

    /// Words of 32 bits of an address.
    pub(crate) const fn words(self) -> i16 {
        match self {
            Self::V4 => 1,
            Self::V6 => 4,
        }
    }

    /// Bits of an address.
    const fn width(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    /// An address that is neither the lab's own nor one that no packet comes from.
    fn address(self, rng: &mut StdRng) -> u128 {
        match self {
            Self::V4 => {
                let first = loop {
                    let first: u8 = rng.random_range(11..=191);
                    if ![100, 127, 169, 172].contains(&first) {
                        break first;
                    }
                };
                u128::from(first) << 24 | u128::from(rng.random::<u32>() >> 8)
            }
            // 2400::/5, where the registries give from.
            Self::V6 => 0x24_u128 << 120 | rng.random::<u128>() >> 5 & !(0x1f << 123),
        }
    }

    /// How long prefixes of blocklists are: mostly hosts.
    fn length(self, rng: &mut StdRng) -> u8 {
        let share = rng.random_range(0..100);
        match (self, share) {
            (Self::V4, 0..60) => 32,
            (Self::V4, 60..90) => 24,
            (Self::V4, _) => rng.random_range(20..=23),
            (Self::V6, 0..40) => 128,
            (Self::V6, 40..70) => 64,
            (Self::V6, 70..85) => 56,
            (Self::V6, 85..97) => 48,
            (Self::V6, _) => rng.random_range(32..=47),
        }
    }
}

impl List {
    /// As many prefixes, of all lengths.
    pub(crate) fn mixed(family: Family, entries: usize) -> Self {
        Self::draw(family, entries, |rng| family.length(rng))
    }

    /// As many addresses.
    pub(crate) fn hosts(family: Family, entries: usize) -> Self {
        Self::draw(family, entries, |_| family.width())
    }

    fn draw(family: Family, entries: usize, length: impl Fn(&mut StdRng) -> u8) -> Self {
        let mut rng = StdRng::seed_from_u64(SEED);
        let width = family.width();
        // First address to last address and length.
        let mut taken: BTreeMap<u128, (u128, u8)> = BTreeMap::new();
        while taken.len() < entries {
            let bits = length(&mut rng);
            let hosts = low_bits(width - bits);
            let first = family.address(&mut rng) & !hosts;
            let last = first | hosts;
            let before = taken.range(..=last).next_back();
            if before.is_none_or(|(_, (end, _))| *end < first) {
                taken.insert(first, (last, bits));
            }
        }
        let nets = taken.into_iter().map(|(first, (_, bits))| (first, bits));
        match family {
            Family::V4 => Self::V4(
                nets.filter_map(|(first, bits)| Ipv4Net::new(v4(first), bits).ok())
                    .collect(),
            ),
            Family::V6 => Self::V6(
                nets.filter_map(|(first, bits)| Ipv6Net::new(first.into(), bits).ok())
                    .collect(),
            ),
        }
    }

    pub(crate) const fn family(&self) -> Family {
        match self {
            Self::V4(_) => Family::V4,
            Self::V6(_) => Family::V6,
        }
    }

    pub(crate) const fn len(&self) -> usize {
        match self {
            Self::V4(nets) => nets.len(),
            Self::V6(nets) => nets.len(),
        }
    }

    /// Its prefixes as text.
    pub(crate) fn texts(&self) -> Vec<String> {
        match self {
            Self::V4(nets) => nets.iter().map(ToString::to_string).collect(),
            Self::V6(nets) => nets.iter().map(ToString::to_string).collect(),
        }
    }

    /// Its prefixes as network, in the first bytes, and length.
    pub(crate) fn networks(&self) -> Vec<([u8; 16], u8)> {
        match self {
            Self::V4(nets) => nets
                .iter()
                .map(|net| {
                    let mut octets = [0; 16];
                    octets[..4].copy_from_slice(&net.network().octets());
                    (octets, net.prefix_len())
                })
                .collect(),
            Self::V6(nets) => nets
                .iter()
                .map(|net| (net.network().octets(), net.prefix_len()))
                .collect(),
        }
    }

    /// Its prefixes as first and last address.
    fn spans(&self) -> Vec<(u128, u128)> {
        match self {
            Self::V4(nets) => nets
                .iter()
                .map(|net| {
                    (
                        u128::from(net.network().to_bits()),
                        u128::from(net.broadcast().to_bits()),
                    )
                })
                .collect(),
            Self::V6(nets) => nets
                .iter()
                .map(|net| (net.network().to_bits(), net.broadcast().to_bits()))
                .collect(),
        }
    }

    /// [`SOURCES`] addresses in it.
    pub(crate) fn inside(&self) -> Pool {
        let mut rng = StdRng::seed_from_u64(SEED + 1);
        let spans = self.spans();
        let pick = |_| {
            let at = rng.random_range(0..spans.len().max(1));
            let (first, last) = spans.get(at).copied().unwrap_or_default();
            rng.random_range(first..=last)
        };
        Pool {
            family: self.family(),
            addresses: (0..SOURCES).map(pick).collect(),
        }
    }

    /// [`SOURCES`] addresses that are not in it.
    pub(crate) fn outside(&self) -> Pool {
        let mut rng = StdRng::seed_from_u64(SEED + 2);
        let family = self.family();
        let spans: BTreeMap<u128, u128> = self.spans().into_iter().collect();
        let mut addresses = Vec::with_capacity(SOURCES);
        while addresses.len() < SOURCES {
            let address = family.address(&mut rng);
            let before = spans.range(..=address).next_back();
            if before.is_none_or(|(_, last)| *last < address) {
                addresses.push(address);
            }
        }
        Pool { family, addresses }
    }

    /// It as policies that refuse its addresses, as many objects as it takes; each with the name of a file for it.
    pub(crate) fn policies(&self) -> Vec<(String, String)> {
        let name = self.family().name();
        let chunks = self.texts();
        let chunks = chunks.chunks(BLOCKS).enumerate();
        chunks
            .map(|(number, blocks)| {
                let name = format!("deny-{name}-{number:03}");
                (format!("{name}.yaml"), policy(&name, blocks))
            })
            .collect()
    }
}

/// A policy of the gateway that refuses these.
pub(crate) fn policy(name: &str, blocks: &[String]) -> String {
    let mut text = format!(
        "\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: {name}
  namespace: istio-system
spec:
  selector:
    matchLabels:
      app: istio-ingressgateway
  action: DENY
  rules:
    - from:
        - source:
            ipBlocks:
"
    );
    for block in blocks {
        let _ = writeln!(text, "              - \"{block}\"");
    }
    text
}

/// Sources of packets.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    pub(crate) family: Family,
    addresses: Vec<u128>,
}

impl Pool {
    /// One address, for all packets.
    pub(crate) fn one(&self) -> Self {
        Self {
            family: self.family,
            addresses: self.addresses.iter().take(1).copied().collect(),
        }
    }

    /// Each address as the bytes of the wire.
    pub(crate) fn octets(&self) -> impl ExactSizeIterator<Item = [u8; 16]> + '_ {
        self.addresses.iter().map(|address| match self.family {
            Family::V4 => {
                let mut octets = [0; 16];
                octets[..4].copy_from_slice(&v4(*address).octets());
                octets
            }
            Family::V6 => Ipv6Addr::from(*address).octets(),
        })
    }
}

fn v4(address: u128) -> Ipv4Addr {
    Ipv4Addr::from(u32::try_from(address).unwrap_or(u32::MAX))
}

const fn low_bits(bits: u8) -> u128 {
    match bits {
        0 => 0,
        128.. => u128::MAX,
        _ => (1 << bits) - 1,
    }
}
