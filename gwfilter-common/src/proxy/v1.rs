//! Version 1, a line of text (`proxy-protocol.txt` §2.1), read byte by byte.
//!
//! What Envoy takes, and [`State`] with it:
//!
//! * the line ends at the first CRLF, 108 bytes at most, it included (the specification says 107); white space before it is cut off;
//! * fields are parted by one space each: `PROXY`, `TCP4` or `TCP6`, source, destination, source port, destination port;
//! * `PROXY UNKNOWN`, and whatever follows behind a space;
//! * addresses as `inet_pton()` of glibc reads them: four octets without leading zeros; groups of one to four digits, `::` for one
//!   group or more, a dotted quad as the last two groups. Only unicast;
//! * ports as `absl::SimpleAtoi()` reads them: white space around, a plus sign before, leading zeros, up to 65,535.
//!
//! What Envoy also takes and `State` does not, because no proxy writes it: IPv6 with a zone (`fe80::1%eth0`), and an address
//! that is followed by a NUL byte, behind which Envoy ignores the rest.

use super::{Header, Parsed, unicast4, unicast6};
use crate::read::PacketRead;
use crate::wire::Family;

/// Bytes that a line may have, its CRLF included. (`MAX_PROXY_PROTO_LEN_V1` of Envoy.)
pub const MAX_LEN: u32 = 108;

/// Whether [`State::step`] wants to see more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Another byte.
    More,
    /// [`State::finish`] knows all that there is to know; further bytes change nothing.
    Done,
}

// Phases are plain numbers, and so is all of the state: it is read back from a map, where the kernel's verifier, and so the compiler,
// must believe any value.
const WORD: u8 = 0;
const PROTOCOL: u8 = 1;
const SOURCE: u8 = 2;
const DESTINATION: u8 = 3;
const SOURCE_PORT: u8 = 4;
const DESTINATION_PORT: u8 = 5;
/// `UNKNOWN` and a space: nothing else matters.
const UNKNOWN_REST: u8 = 6;
/// `UNKNOWN` and other white space: only more of it may follow.
const UNKNOWN_TAIL: u8 = 7;
/// From here on nothing is read any more.
const HEADER: u8 = 8;
const UNKNOWN: u8 = 9;
const INVALID: u8 = 10;
const NOT_A_HEADER: u8 = 11;

/// `PROXY `, first byte lowest.
const PREFIX: u64 = u64::from_le_bytes(*b"PROXY \0\0");
const PREFIX_LEN: u8 = 6;
const WORD_TCP4: u64 = u64::from_be_bytes(*b"\0\0\0\0TCP4");
const WORD_TCP6: u64 = u64::from_be_bytes(*b"\0\0\0\0TCP6");
const WORD_UNKNOWN: u64 = u64::from_be_bytes(*b"\0UNKNOWN");
/// Bytes of the longest of them.
const WORD_LEN: u8 = 7;

// Stages of a port.
const BEFORE_PORT: u8 = 0;
const AFTER_SIGN: u8 = 1;
const IN_PORT: u8 = 2;
const AFTER_PORT: u8 = 3;

// Stages of an address.
const AT_START: u8 = 0;
/// A colon with nothing before it: another one must follow.
const LEADING_COLON: u8 = 1;
const IN_GROUPS: u8 = 2;
/// Behind a colon that ended a group: the address must go on.
const BEHIND_COLON: u8 = 3;
const IN_QUAD: u8 = 4;

/// No `::` so far.
const NO_GAP: u8 = 0xff;
const GROUPS: u8 = 8;

/// How far a line is read. Plain data, 96 bytes, for a value of a per-CPU map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct State {
    /// Both halves of the source, host order; IPv4 in the high half of the first.
    source: [u64; 2],
    destination: [u64; 2],
    /// Groups of the address being read, up to its `::`, from the highest bits on.
    head: [u64; 2],
    /// Groups behind its `::`, up to the lowest bits.
    tail: [u64; 2],
    /// The protocol's name, last byte lowest.
    word: u64,
    /// Octets of a dotted quad that are complete.
    quad: u32,
    source_port: u16,
    destination_port: u16,
    /// The group being read.
    group: u16,
    /// The same digits in base 10: octet or port.
    decimal: u16,
    phase: u8,
    /// Bytes read.
    len: u8,
    /// 1 if the last byte was a CR.
    cr: u8,
    /// 4 or 6.
    family: u8,
    /// Of an address or of a port.
    stage: u8,
    /// Of the group, octet or word being read.
    digits: u8,
    /// 1 if the digits cannot be an octet.
    not_decimal: u8,
    /// Complete groups of the address, or octets.
    groups: u8,
    octets: u8,
    /// How many groups precede the `::`, or [`NO_GAP`].
    gap: u8,
    _pad: [u8; 2],
}

impl Default for State {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    /// Before the first byte.
    #[inline(always)]
    #[must_use]
    pub const fn new() -> Self {
        Self {
            source: [0; 2],
            destination: [0; 2],
            head: [0; 2],
            tail: [0; 2],
            word: 0,
            quad: 0,
            source_port: 0,
            destination_port: 0,
            group: 0,
            decimal: 0,
            phase: WORD,
            len: 0,
            cr: 0,
            family: 0,
            stage: AT_START,
            digits: 0,
            not_decimal: 0,
            groups: 0,
            octets: 0,
            gap: NO_GAP,
            _pad: [0; 2],
        }
    }

    /// Takes the next byte of the stream.
    #[inline(always)]
    pub fn step(&mut self, byte: u8) -> Step {
        if self.phase >= HEADER {
            return Step::Done;
        }
        let index = self.len;
        self.len = self.len.wrapping_add(1);
        let after_cr = self.cr != 0;
        self.cr = u8::from(byte == b'\r');
        self.phase = if byte == b'\n' && after_cr {
            self.end_of_line()
        } else {
            match self.phase {
                WORD => self.prefix(index, byte),
                PROTOCOL => self.protocol(byte),
                SOURCE | DESTINATION => self.address(byte),
                SOURCE_PORT | DESTINATION_PORT => self.port(byte),
                UNKNOWN_REST => UNKNOWN_REST,
                UNKNOWN_TAIL if is_space(byte) => UNKNOWN_TAIL,
                _ => INVALID,
            }
        };
        if self.phase < HEADER && u32::from(self.len) >= MAX_LEN {
            self.phase = INVALID;
        }
        if self.phase < HEADER {
            Step::More
        } else {
            Step::Done
        }
    }

    /// What the bytes so far say.
    #[inline(always)]
    #[must_use]
    pub fn finish(&self) -> Parsed {
        match self.phase {
            HEADER => Parsed::Header(Header {
                family: if self.family == 4 { Family::V4 } else { Family::V6 },
                source: bytes(self.source),
                destination: bytes(self.destination),
                source_port: self.source_port,
                destination_port: self.destination_port,
                len: u32::from(self.len),
            }),
            UNKNOWN => Parsed::Unknown,
            NOT_A_HEADER => Parsed::NotAHeader,
            0..HEADER => Parsed::Incomplete,
            _ => Parsed::Invalid,
        }
    }

    /// The phase after the first CRLF.
    #[inline(always)]
    fn end_of_line(&self) -> u8 {
        match self.phase {
            DESTINATION_PORT if self.stage >= IN_PORT => HEADER,
            UNKNOWN_REST | UNKNOWN_TAIL => UNKNOWN,
            WORD => NOT_A_HEADER,
            _ => INVALID,
        }
    }

    #[inline(always)]
    fn prefix(&self, index: u8, byte: u8) -> u8 {
        if u64::from(byte) != (PREFIX >> (u32::from(index & 7) * 8)) & 0xff {
            NOT_A_HEADER
        } else if index + 1 == PREFIX_LEN {
            PROTOCOL
        } else {
            WORD
        }
    }

    #[inline(always)]
    fn protocol(&mut self, byte: u8) -> u8 {
        if byte == b' ' {
            // Its length too: a NUL before a name leaves no trace in the word.
            return match (self.word, self.digits) {
                (WORD_TCP4, 4) => self.begin_addresses(4),
                (WORD_TCP6, 4) => self.begin_addresses(6),
                (WORD_UNKNOWN, WORD_LEN) => UNKNOWN_REST,
                _ => INVALID,
            };
        }
        if is_space(byte) && self.word == WORD_UNKNOWN {
            return UNKNOWN_TAIL;
        }
        if self.digits >= WORD_LEN {
            return INVALID;
        }
        self.digits += 1;
        self.word = self.word << 8 | u64::from(byte);
        PROTOCOL
    }

    #[inline(always)]
    fn begin_addresses(&mut self, family: u8) -> u8 {
        self.family = family;
        self.begin_field();
        SOURCE
    }

    #[inline(always)]
    fn begin_field(&mut self) {
        self.head = [0; 2];
        self.tail = [0; 2];
        self.quad = 0;
        self.groups = 0;
        self.octets = 0;
        self.gap = NO_GAP;
        self.stage = if self.phase == PROTOCOL || self.phase == SOURCE {
            if self.family == 4 { IN_QUAD } else { AT_START }
        } else {
            BEFORE_PORT
        };
        self.begin_digits();
    }

    #[inline(always)]
    fn begin_digits(&mut self) {
        self.group = 0;
        self.decimal = 0;
        self.digits = 0;
        self.not_decimal = 0;
    }

    #[inline(always)]
    fn address(&mut self, byte: u8) -> u8 {
        match byte {
            b' ' => self.end_of_address(),
            b':' => self.colon(),
            b'.' => self.dot(),
            _ => self.digit(byte),
        }
    }

    #[inline(always)]
    fn digit(&mut self, byte: u8) -> u8 {
        let value = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            _ => return INVALID,
        };
        if self.stage == LEADING_COLON || self.digits >= 4 {
            return INVALID;
        }
        // An octet has no digit behind a leading zero.
        if value > 9 || (self.digits > 0 && self.decimal == 0) {
            self.not_decimal = 1;
        }
        self.digits += 1;
        self.group = self.group << 4 | u16::from(value);
        self.decimal = self.decimal.wrapping_mul(10).wrapping_add(u16::from(value));
        if self.stage != IN_QUAD {
            self.stage = IN_GROUPS;
        }
        self.phase
    }

    /// The digits just read, as an octet.
    #[inline(always)]
    fn octet(&self) -> Option<u32> {
        let is_octet = self.digits > 0 && self.not_decimal == 0 && self.decimal <= 255;
        is_octet.then_some(u32::from(self.decimal))
    }

    #[inline(always)]
    fn dot(&mut self) -> u8 {
        let Some(octet) = self.octet() else {
            return INVALID;
        };
        // A quad takes the room of two groups.
        if self.stage == IN_QUAD && self.octets >= 3 || self.stage != IN_QUAD && self.groups > GROUPS - 2 {
            return INVALID;
        }
        self.stage = IN_QUAD;
        self.octets = self.octets.wrapping_add(1);
        self.quad = self.quad << 8 | octet;
        self.begin_digits();
        self.phase
    }

    #[inline(always)]
    fn colon(&mut self) -> u8 {
        match self.stage {
            IN_QUAD => return INVALID,
            AT_START => {
                self.stage = LEADING_COLON;
                return self.phase;
            }
            _ => {}
        }
        if self.digits > 0 {
            if self.groups >= GROUPS {
                return INVALID;
            }
            self.push(self.group);
            self.begin_digits();
            self.stage = BEHIND_COLON;
        } else {
            if self.gap != NO_GAP {
                return INVALID;
            }
            self.gap = self.groups;
            self.stage = IN_GROUPS;
        }
        self.phase
    }

    /// Puts a group into its place; there must be room.
    #[inline(always)]
    fn push(&mut self, group: u16) {
        let group = u64::from(group);
        let shift = 48 - u32::from(self.groups & 3) * 16;
        let [high, low] = self.head;
        let [tail_high, tail_low] = self.tail;
        if self.gap != NO_GAP {
            self.tail = [tail_high << 16 | tail_low >> 48, tail_low << 16 | group];
        } else if self.groups < 4 {
            self.head = [high | group << shift, low];
        } else {
            self.head = [high, low | group << shift];
        }
        self.groups = self.groups.wrapping_add(1);
    }

    #[inline(always)]
    fn end_of_address(&mut self) -> u8 {
        if self.stage == IN_QUAD {
            let Some(octet) = self.octet() else {
                return INVALID;
            };
            if self.octets != 3 {
                return INVALID;
            }
            self.quad = self.quad << 8 | octet;
        }
        let address = if self.family == 4 {
            if !unicast4(self.quad) {
                return INVALID;
            }
            [u64::from(self.quad) << 32, 0]
        } else {
            match self.stage {
                IN_QUAD => {
                    let [a, b, c, d] = self.quad.to_be_bytes();
                    self.push(u16::from_be_bytes([a, b]));
                    self.push(u16::from_be_bytes([c, d]));
                }
                IN_GROUPS if self.digits == 0 => {}
                IN_GROUPS if self.groups < GROUPS => self.push(self.group),
                _ => return INVALID,
            }
            // `::` stands for one group or more.
            if (self.gap == NO_GAP) != (self.groups == GROUPS) {
                return INVALID;
            }
            let ([high, low], [tail_high, tail_low]) = (self.head, self.tail);
            let (high, low) = (high | tail_high, low | tail_low);
            if !unicast6(high, low) {
                return INVALID;
            }
            [high, low]
        };
        let next = if self.phase == SOURCE {
            self.source = address;
            DESTINATION
        } else {
            self.destination = address;
            SOURCE_PORT
        };
        self.begin_field();
        next
    }

    #[inline(always)]
    fn port(&mut self, byte: u8) -> u8 {
        if byte == b' ' {
            if self.stage < IN_PORT {
                return INVALID;
            }
            if self.phase == SOURCE_PORT {
                self.source_port = self.decimal;
                self.begin_field();
            } else {
                self.stage = AFTER_PORT;
            }
            return DESTINATION_PORT;
        }
        match (byte, self.stage) {
            (b'0'..=b'9', BEFORE_PORT | AFTER_SIGN | IN_PORT) => {
                let value = u32::from(self.decimal) * 10 + u32::from(byte - b'0');
                let Ok(value) = u16::try_from(value) else {
                    return INVALID;
                };
                self.decimal = value;
                // The last port of a line is the destination's.
                self.destination_port = value;
                self.stage = IN_PORT;
            }
            (b'+', BEFORE_PORT) => self.stage = AFTER_SIGN,
            (_, BEFORE_PORT) if is_space(byte) => {}
            (_, IN_PORT | AFTER_PORT) if is_space(byte) => self.stage = AFTER_PORT,
            _ => return INVALID,
        }
        self.phase
    }
}

/// White space of C, which both `StringUtil::rtrim()` and `absl::ascii_isspace()` go by.
#[inline(always)]
const fn is_space(byte: u8) -> bool {
    byte == b' ' || (byte >= b'\t' && byte <= b'\r')
}

#[inline(always)]
const fn bytes([high, low]: [u64; 2]) -> [u8; 16] {
    let [a, b, c, d, e, f, g, h] = high.to_be_bytes();
    let [i, j, k, l, m, n, o, p] = low.to_be_bytes();
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}

/// Reads the line at `at`, in a segment whose payload ends at `end`. One load for each byte: for the user side.
pub fn parse<R: PacketRead>(packet: &R, at: u32, end: u32) -> Parsed {
    let mut state = State::new();
    for off in (at..end).take(MAX_LEN as usize) {
        let Some([byte]) = packet.read::<1>(off) else {
            break;
        };
        if state.step(byte) == Step::Done {
            break;
        }
    }
    state.finish()
}

const _: () = assert!(size_of::<State>() == 96);
