//! Programs that give each packet another source and hand it on: to the program under test, or to a cable.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context as _, Result};
use gwfilter_common::packet::Packet;
use xtask::bpf::insn::{
    EQUAL, GET_PRANDOM_U32, MAP_LOOKUP_ELEM, R0, R1, R2, R3, R4, R5, R6, REDIRECT, STACK, TAIL_CALL, add,
    and, call, exit, jump, jump_above, load_half, load_word, map, mov, mov_register, store_half, store_word,
};
use xtask::bpf::{self, Map, MapKind, ProgramKind};

use crate::sources::{Family, Pool};

/// Where the checksum and the source of an IPv4 header are, and the source of an IPv6 header.
const CHECKSUM: i16 = 14 + 10;
pub(crate) const SOURCE4: i16 = 14 + 12;
pub(crate) const SOURCE6: i16 = 14 + 8;
/// What a program must see of a frame before it reads or writes a source.
pub(crate) const HEADERS: i32 = 14 + 40;

/// What an element of a pool's map holds: an address, and the checksum that goes with it.
const ELEMENT: u32 = 20;
const AT_CHECKSUM: i16 = 16;

/// Where in a frame an address is written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Its first byte.
    pub(crate) address: i16,
    /// The checksum that goes with it, which is right before; `None`: no checksum.
    pub(crate) checksum: Option<i16>,
    /// How much of the frame there must be.
    pub(crate) headers: i32,
}

impl Place {
    /// The source of a packet. Only the checksum of the IPv4 header goes with it.
    pub(crate) const fn source(family: Family) -> Self {
        let (address, checksum) = match family {
            Family::V4 => (SOURCE4, Some(CHECKSUM)),
            Family::V6 => (SOURCE6, None),
        };
        Self {
            address,
            checksum,
            headers: HEADERS,
        }
    }
}

/// Where a context says that the frame begins and ends: `struct xdp_md` and `struct __sk_buff`.
pub(crate) const fn bounds(kind: ProgramKind) -> (i16, i16) {
    match kind {
        ProgramKind::Tc => (76, 80),
        _ => (0, 4),
    }
}

/// A SYN between these, with the device's address in front where it goes over a cable.
pub(crate) fn syn(destination: SocketAddr, to: [u8; 6]) -> Result<Vec<u8>> {
    let source = if destination.is_ipv4() {
        "192.0.2.1:40000"
    } else {
        "[2001:db8:1::1]:40000"
    };
    let packet = Packet::syn(source.parse()?, destination);
    let mut frame = packet.build().context("a frame")?.bytes().to_vec();
    frame.resize(frame.len().max(60), 0);
    for (byte, of) in frame.iter_mut().zip(to) {
        *byte = of;
    }
    Ok(frame)
}

/// Sources, as a map that programs draw from.
#[derive(Debug)]
pub(crate) struct Sources {
    map: Map,
    family: Family,
    place: Place,
    mask: i32,
}

impl Sources {
    /// Addresses of a pool as sources of packets like `frame`. The number of addresses must be a power of two.
    pub(crate) fn new(pool: &Pool, frame: &[u8]) -> Result<Self> {
        Self::at(Place::source(pool.family), pool, frame)
    }

    /// Addresses of a pool, written into frames like `frame` at a place.
    pub(crate) fn at(place: Place, pool: &Pool, frame: &[u8]) -> Result<Self> {
        let addresses = pool.octets();
        let count = u32::try_from(addresses.len())?;
        let map = Map::new(MapKind::Array, 4, ELEMENT, count).context("making an array of sources")?;
        let mut keys = Vec::new();
        let mut values = Vec::new();
        for (index, address) in (0..count).zip(addresses) {
            keys.extend(index.to_ne_bytes());
            values.extend(address);
            values.extend(checksum(frame, place, pool.family, address).context("a short frame")?);
            values.extend([0; 2]);
        }
        map.set_all(&keys, &values)
            .context("filling an array of sources")?;
        Ok(Self {
            map,
            family: pool.family,
            place,
            mask: i32::try_from(count - 1)?,
        })
    }

    /// Instructions that write an address into the frame of the context in `r6`, which end the program with 0 where that cannot be.
    fn write(&self, kind: ProgramKind) -> Vec<u64> {
        let (begin, end) = bounds(kind);
        let mut code = vec![
            mov_register(R6, R1),
            call(GET_PRANDOM_U32),
            and(R0, self.mask),
            store_word(STACK, -4, R0),
        ];
        code.extend(map(R1, self.map.as_fd()));
        code.extend([mov_register(R2, STACK), add(R2, -4), call(MAP_LOOKUP_ELEM)]);
        let mut copy = vec![
            load_word(R2, R6, begin),
            load_word(R3, R6, end),
            mov_register(R4, R2),
            add(R4, self.place.headers),
        ];
        let mut body = Vec::new();
        for word in 0..self.family.words() {
            body.push(load_word(R5, R0, 4 * word));
            body.push(store_word(R2, self.place.address + 4 * word, R5));
        }
        if let Some(checksum) = self.place.checksum {
            body.push(load_half(R5, R0, AT_CHECKSUM));
            body.push(store_half(R2, checksum, R5));
        }
        // Past the body are two instructions that end the program with 0.
        copy.push(jump_above(R4, R3, short(body.len() + 1)));
        copy.extend(body);
        code.push(jump(EQUAL, R0, 0, short(copy.len() + 1)));
        code.extend(copy);
        // Not taken away: over the end.
        code.push(jump(0x05, 0, 0, 2));
        code.extend([mov(R0, 0), exit()]);
        code
    }

    /// A program that gives the packet a source and goes on to `next`, in the same run. It ends with 0 if it cannot.
    pub(crate) fn before(&self, kind: ProgramKind, next: BorrowedFd<'_>) -> Result<Driver> {
        let programs = Map::new(MapKind::Programs, 4, 4, 1).context("making an array of programs")?;
        let number = u32::try_from(std::os::fd::AsRawFd::as_raw_fd(&next))?;
        let mut code = self.write(kind);
        code.push(mov_register(R1, R6));
        code.extend(map(R2, programs.as_fd()));
        code.extend([mov(R3, 0), call(TAIL_CALL), mov(R0, 0), exit()]);
        let program = bpf::load(kind, &code).context("loading the program that draws sources")?;
        programs
            .set(&0_u32.to_ne_bytes(), &number.to_ne_bytes())
            .context("setting the program to go on to")?;
        Ok(Driver {
            program,
            _programs: programs,
        })
    }

    /// A program that gives the frame a source and sends it to a device.
    pub(crate) fn to_device(&self, ifindex: u32) -> Result<OwnedFd> {
        let mut code = self.write(ProgramKind::Xdp);
        code.extend([
            mov(R1, i32::try_from(ifindex)?),
            mov(R2, 0),
            call(REDIRECT),
            exit(),
        ]);
        bpf::load(ProgramKind::Xdp, &code).context("loading the program that sends frames")
    }
}

/// A program that draws sources, and what it goes on to.
#[derive(Debug)]
pub(crate) struct Driver {
    program: OwnedFd,
    /// Emptied by the kernel when nobody holds it.
    _programs: Map,
}

impl AsFd for Driver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }
}

/// A program that returns a number.
pub(crate) fn constant(kind: ProgramKind, result: i32) -> io::Result<OwnedFd> {
    bpf::load(kind, &[mov(R0, result), exit()])
}

/// A program that reads the packet's headers, and returns a number whatever they say.
pub(crate) fn reads(kind: ProgramKind, result: i32) -> io::Result<OwnedFd> {
    let (begin, end) = bounds(kind);
    let code = [
        load_word(R2, R1, begin),
        load_word(R3, R1, end),
        mov_register(R4, R2),
        add(R4, HEADERS),
        mov(R0, result),
        jump_above(R4, R3, 1),
        load_word(R5, R2, SOURCE4),
        exit(),
    ];
    bpf::load(kind, &code)
}

/// The checksum of `frame` with another address at a place, as bytes of the wire (RFC 1624); zeros where there is none.
fn checksum(frame: &[u8], place: Place, family: Family, address: [u8; 16]) -> Option<[u8; 2]> {
    let Some(at) = place.checksum else {
        return Some([0; 2]);
    };
    let length = 4 * usize::try_from(family.words()).ok()?;
    let (at, begin) = (usize::try_from(at).ok()?, usize::try_from(place.address).ok()?);
    let before = frame.get(at..at + 2)?.first_chunk()?;
    let (old, new) = (frame.get(begin..begin + length)?, address.get(..length)?);
    let sum = u32::from(!u16::from_be_bytes(*before)) + words(new, 0) + words(old, 0xffff);
    Some((!folded(sum)).to_be_bytes())
}

/// The sum of words of 16 bits, each `^ with`.
pub(crate) fn words(bytes: &[u8], with: u16) -> u32 {
    let pairs = bytes.chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => u32::from(u16::from_be_bytes([*high, *low]) ^ with),
            [high] => u32::from(u16::from_be_bytes([*high, 0]) ^ with),
            _ => 0,
        })
        .sum()
}

/// A sum in ones' complement, in 16 bits.
pub(crate) fn folded(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or(u16::MAX)
}

fn short(count: usize) -> i16 {
    i16::try_from(count).unwrap_or(i16::MAX)
}
