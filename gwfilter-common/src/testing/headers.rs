//! PROXY headers by a seed: such as proxies write, such as only a test writes, and such as are no more.

use core::net::{Ipv4Addr, Ipv6Addr};
use std::format;
use std::string::{String, ToString};
use std::vec::Vec;

use super::mutate::Random;
use crate::proxy::v2::SIGNATURE;

fn pick<'a>(random: &mut Random, from: &[&'a str]) -> &'a str {
    from.get(random.below(from.len())).copied().unwrap_or_default()
}

fn one_of(random: &mut Random, from: &[u8]) -> u8 {
    from.get(random.below(from.len())).copied().unwrap_or_default()
}

/// One of `n` times.
fn one_in(random: &mut Random, n: usize) -> bool {
    random.below(n) == 0
}

fn byte(random: &mut Random) -> u8 {
    random.word().to_be_bytes()[0]
}

/// A header, or what once was one; nothing follows it.
pub fn header(random: &mut Random) -> Vec<u8> {
    let mut header = if one_in(random, 2) {
        text(random).into_bytes()
    } else {
        binary(random)
    };
    if one_in(random, 3) {
        for _ in 0..=random.below(3) {
            change(random, &mut header);
        }
    }
    header
}

fn change(random: &mut Random, header: &mut Vec<u8>) {
    const ODD: &[u8] = b" \t\r\n:.%[]+-0129afgFX\0\x0b\x0c\xff\x10\x11\x12\x20\x21\x22";
    let at = random.below(header.len());
    let odd = one_of(random, ODD);
    let bit = 1 << (byte(random) & 7);
    match random.below(7) {
        0 => header.insert(at, odd),
        1 if at < header.len() => {
            header.remove(at);
        }
        2 => header.truncate(at),
        3 => {
            let again = header.get(at..).unwrap_or_default().to_vec();
            header.extend(again);
        }
        choice => {
            if let Some(b) = header.get_mut(at) {
                *b = if choice == 4 { *b ^ bit } else { odd };
            }
        }
    }
}

fn text(random: &mut Random) -> String {
    let six = one_in(random, 2);
    let protocol = match random.below(16) {
        0 | 1 => "UNKNOWN",
        2 => pick(
            random,
            &["TCP", "TCP5", "tcp4", "UDP4", "", "UNKNOWNX", "UNKNOWN\t"],
        ),
        // The other family's addresses.
        3 if six => "TCP4",
        3 => "TCP6",
        _ if six => "TCP6",
        _ => "TCP4",
    };
    let mut fields = std::vec!["PROXY".to_string(), protocol.to_string()];
    for _ in 0..2 {
        fields.push(if six { text6(random) } else { text4(random) });
    }
    for _ in 0..2 {
        fields.push(port(random));
    }
    if one_in(random, 12) {
        let keep = random.below(7);
        fields.truncate(keep);
        if keep == 6 {
            fields.push("x".to_string());
        }
    }
    let mut line = String::new();
    for (index, field) in fields.iter().enumerate() {
        if index > 0 {
            let common = !one_in(random, 60);
            line += if common {
                " "
            } else {
                pick(random, &["  ", "\t", ""])
            };
        }
        line += field;
    }
    let end = match random.below(8) {
        0 => pick(
            random,
            &[
                " \r\n",
                "\t\r\n",
                "\x0b\x0c \r\n",
                "\n\r\n",
                "\0\r\n",
                "\n",
                "\r",
                "",
                "\r\r\n",
            ],
        ),
        1 if one_in(random, 2) => {
            let room = 110_usize.saturating_sub(line.len() + random.below(6));
            line.extend(core::iter::repeat_n(' ', room));
            "\r\n"
        }
        _ => "\r\n",
    };
    line + end
}

fn octets(random: &mut Random) -> Ipv4Addr {
    match random.below(40) {
        0 => Ipv4Addr::UNSPECIFIED,
        1 => Ipv4Addr::BROADCAST,
        2 => Ipv4Addr::new(224 | byte(random), byte(random), byte(random), byte(random)),
        3 => Ipv4Addr::LOCALHOST,
        4 => Ipv4Addr::new(0, byte(random), 255, 0),
        _ => Ipv4Addr::new(byte(random) & 0x7f, byte(random), byte(random), byte(random)),
    }
}

fn text4(random: &mut Random) -> String {
    let mut text = octets(random).to_string();
    if one_in(random, 10) {
        text = match random.below(8) {
            0 => text.replacen('.', "..", 1),
            1 => text.replacen('.', ".0", 1),
            2 => format!("0{text}"),
            3 => format!("{text}."),
            4 => format!("{text}.1"),
            5 => format!("256.{}", text.get(..5).unwrap_or("1.2.3")),
            6 => format!("{text}\0x"),
            _ => text
                .rsplit_once('.')
                .map_or(String::new(), |(front, _)| front.to_string()),
        };
    }
    text
}

fn groups(random: &mut Random) -> Ipv6Addr {
    let mut groups = [0_u16; 8];
    let sparse = random.below(4);
    for group in &mut groups {
        let [high, low, ..] = random.word().to_be_bytes();
        *group = match (random.below(4), sparse) {
            (0 | 1, 1..) => 0,
            (2, _) => u16::from(low),
            _ => u16::from_be_bytes([high, low]),
        };
    }
    match random.below(30) {
        0 => Ipv6Addr::UNSPECIFIED,
        1 => Ipv6Addr::LOCALHOST,
        2 => octets(random).to_ipv6_mapped(),
        3 => Ipv6Addr::from(u128::from(octets(random).to_bits())),
        4 => Ipv6Addr::from(Ipv6Addr::from(groups).to_bits() | 0xff << 120),
        _ => {
            groups[0] &= 0x7fff;
            Ipv6Addr::from(groups)
        }
    }
}

/// The same address has many texts; some of them are none.
fn text6(random: &mut Random) -> String {
    let address = groups(random);
    if one_in(random, 3) {
        return address.to_string();
    }
    let segments = address.segments();
    let width = random.below(6);
    let upper = one_in(random, 3);
    let mut words: Vec<String> = segments
        .iter()
        .map(|group| match (width, upper) {
            (4, _) => format!("{group:04x}"),
            (5, true) => format!("{group:05X}"),
            (_, true) => format!("{group:X}"),
            _ => format!("{group:x}"),
        })
        .collect();
    if one_in(random, 3) {
        // The last two groups as a dotted quad.
        words.truncate(6);
        let [.., c, d] = segments;
        words.push(Ipv4Addr::from_bits(u32::from(c) << 16 | u32::from(d)).to_string());
    }
    if one_in(random, 2) {
        // A run of zeros, and now and then of anything, becomes `::`.
        let from = random.below(words.len());
        let zeros = words
            .iter()
            .skip(from)
            .take_while(|word| word.trim_matches('0').is_empty())
            .count();
        let run = if one_in(random, 8) { random.below(3) } else { zeros };
        if run > 0 || one_in(random, 8) {
            let behind = words.split_off((from + run).min(words.len()));
            words.truncate(from);
            return format!("{}::{}", words.join(":"), behind.join(":"));
        }
    }
    let text = words.join(":");
    match random.below(40) {
        0 => format!("{text}:"),
        1 => format!(":{text}"),
        2 => format!("{text}:1"),
        3 => format!("[{text}]"),
        4 => format!("{text}%1"),
        5 => format!("{text}\0"),
        6 => text.replacen(':', ":::", 1),
        _ => text,
    }
}

fn port(random: &mut Random) -> String {
    let [high, low, ..] = random.word().to_be_bytes();
    let port = u16::from_be_bytes([high, low]);
    match random.below(24) {
        0 => format!("+{port}"),
        1 => format!("{port:08}"),
        2 => format!("\t{port}\x0b"),
        3 => pick(
            random,
            &[
                "",
                "-1",
                "65536",
                "99999999999999999999",
                "0x10",
                "1e1",
                "+",
                "1\t1",
                "\0",
                "1:2",
                "]:1",
            ],
        )
        .to_string(),
        4 => pick(random, &["0", "65535", "00", "+0"]).to_string(),
        5 => format!("{port}\n"),
        _ => port.to_string(),
    }
}

fn binary(random: &mut Random) -> Vec<u8> {
    let mut stream = SIGNATURE.to_vec();
    let command = match random.below(12) {
        0 | 1 => 0x20,
        2 => byte(random),
        3 => 0x20 | (byte(random) & 3),
        _ => 0x21,
    };
    let six = one_in(random, 2);
    let family = match random.below(12) {
        0 => byte(random),
        1 => one_of(random, &[0x00, 0x01, 0x10, 0x20, 0x31, 0x32, 0x13, 0x41]),
        2 => 0x12 + 0x10 * u8::from(six),
        3 => 0x11 + 0x10 * u8::from(!six),
        _ => 0x11 + 0x10 * u8::from(six),
    };
    let mut rest = Vec::new();
    for _ in 0..2 {
        if six {
            rest.extend(groups(random).octets());
        } else {
            rest.extend(octets(random).octets());
        }
    }
    rest.extend(random.word().to_be_bytes().iter().take(4));
    for _ in 0..random.below(4) {
        let len = if one_in(random, 10) {
            random.below(700)
        } else {
            random.below(24)
        };
        let declared = u16::try_from(len)
            .unwrap_or(0)
            .wrapping_add(u16::from(one_in(random, 16)));
        rest.push(one_of(random, &[1, 2, 4, 0x20, 0xea, 0xee]));
        rest.extend(declared.to_be_bytes());
        rest.extend((0..len).map(|_| byte(random)));
    }
    if one_in(random, 16) {
        let keep = random.below(rest.len());
        rest.truncate(keep);
    }
    let exact = u16::try_from(rest.len()).unwrap_or(0);
    let declared = match random.below(24) {
        0 => exact.wrapping_add(1),
        1 => exact.wrapping_sub(1),
        2 => u16::from(byte(random)),
        3 if one_in(random, 4) => u16::MAX,
        _ => exact,
    };
    stream.extend([command, family]);
    stream.extend(declared.to_be_bytes());
    stream.extend(rest);
    stream
}
