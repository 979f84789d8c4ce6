//! How a stream begins, as far as it tells where the client's address is: nothing else of it is looked at, and nothing is kept.

use std::net::IpAddr;

use gwfilter_common::proxy::v2;

/// What the first bytes of a stream are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// A PROXY header, version 1 (a line of text).
    ProxyV1,
    /// A PROXY header, version 2 (binary).
    ProxyV2,
    /// A TLS handshake.
    Tls,
    /// A request of HTTP/1, in the clear.
    Http(Forwarded),
    /// Anything else, or too little.
    Other,
}

/// The header `X-Forwarded-For` of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Forwarded {
    /// There is none.
    Absent,
    /// The request's headers do not end in what was seen of it.
    Cut,
    /// Its entries from left to right, all such lines together; `None`: one that is no IP address.
    Entries(Vec<Option<IpAddr>>),
}

/// Methods with which a request begins.
const METHODS: [&[u8]; 9] = [
    b"GET ",
    b"HEAD ",
    b"POST ",
    b"PUT ",
    b"DELETE ",
    b"OPTIONS ",
    b"PATCH ",
    b"TRACE ",
    b"CONNECT ",
];
/// Entries of one header that are looked at; a client may write as many as it likes.
const MOST: usize = 32;

/// Tells how a stream begins.
#[must_use]
pub fn beginning(bytes: &[u8]) -> Beginning {
    if bytes.starts_with(b"PROXY ") {
        Beginning::ProxyV1
    } else if bytes.starts_with(&v2::SIGNATURE) {
        Beginning::ProxyV2
    } else if bytes.starts_with(&[0x16, 0x03]) {
        Beginning::Tls
    } else if METHODS.iter().any(|method| bytes.starts_with(method)) {
        Beginning::Http(forwarded(bytes))
    } else {
        Beginning::Other
    }
}

/// Reads the header. Lines of the same name are one list, in their order, as Envoy has it.
fn forwarded(bytes: &[u8]) -> Forwarded {
    let mut entries = Vec::new();
    let mut seen = false;
    let mut rest = bytes;
    let mut first = true;
    loop {
        let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") else {
            return Forwarded::Cut;
        };
        let (line, after) = rest.split_at(end);
        rest = after.get(2..).unwrap_or_default();
        if line.is_empty() {
            break;
        }
        if std::mem::take(&mut first) {
            continue;
        }
        let Some(value) = value_of(line) else { continue };
        seen = true;
        let items = value.split(|byte| *byte == b',');
        entries.extend(items.map(|item| std::str::from_utf8(item).ok()?.trim().parse().ok()));
    }
    if seen {
        // The right end is what counts.
        let left = entries.len().saturating_sub(MOST);
        Forwarded::Entries(entries.split_off(left))
    } else {
        Forwarded::Absent
    }
}

/// The value, if the line is of this header.
fn value_of(line: &[u8]) -> Option<&[u8]> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let (name, value) = line.split_at(colon);
    name.eq_ignore_ascii_case(b"x-forwarded-for")
        .then(|| value.get(1..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(list: &[&str]) -> Beginning {
        Beginning::Http(Forwarded::Entries(list.iter().map(|e| e.parse().ok()).collect()))
    }

    #[test]
    fn first_bytes_then_what_they_are() {
        let v2 = [&v2::SIGNATURE[..], &[0x21, 0x11, 0, 12]].concat();
        let cases: [(&[u8], Beginning); 10] = [
            (b"PROXY TCP4 192.0.2.1 203.0.113.1 1 2\r\n", Beginning::ProxyV1),
            (&v2, Beginning::ProxyV2),
            (&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01], Beginning::Tls),
            (
                b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
                Beginning::Http(Forwarded::Absent),
            ),
            (b"GET / HTTP/1.1\r\nHost: a\r\n", Beginning::Http(Forwarded::Cut)),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Beginning::Other),
            (b"SSH-2.0-x\r\n", Beginning::Other),
            (b"PROX", Beginning::Other),
            (b"get / HTTP/1.1\r\n\r\n", Beginning::Other),
            (b"", Beginning::Other),
        ];
        for (bytes, want) in cases {
            assert_eq!(beginning(bytes), want, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn forwarded_for_then_its_entries_of_all_lines_in_order() {
        let head = |lines: &str| {
            format!("POST /x HTTP/1.1\r\nHost: a\r\n{lines}\r\nbody: X-Forwarded-For: 9.9.9.9\r\n")
        };
        for (lines, want) in [
            ("X-Forwarded-For: 192.0.2.1\r\n", entries(&["192.0.2.1"])),
            (
                "x-forwarded-for:192.0.2.1 , 10.0.0.1\r\n",
                entries(&["192.0.2.1", "10.0.0.1"]),
            ),
            (
                "X-Forwarded-For: 192.0.2.1\r\nCookie: x\r\nX-FORWARDED-FOR: 2001:db8::1\r\n",
                entries(&["192.0.2.1", "2001:db8::1"]),
            ),
            ("X-Forwarded-For: unknown, 192.0.2.1:80\r\n", entries(&["", ""])),
            (
                "X-Forwarded-Forx: 192.0.2.1\r\n",
                Beginning::Http(Forwarded::Absent),
            ),
        ] {
            assert_eq!(beginning(head(lines).as_bytes()), want, "{lines}");
        }
    }

    #[test]
    fn headers_that_do_not_end_then_no_count_for_the_last_line_may_be_missing() {
        let cut = b"GET / HTTP/1.1\r\nX-Forwarded-For: 192.0.2.1\r\nCookie: aaaa";
        assert_eq!(beginning(cut), Beginning::Http(Forwarded::Cut));
    }

    #[test]
    fn more_entries_than_are_looked_at_then_the_last_ones() {
        let list = (0..100)
            .map(|i| format!("192.0.2.{i}"))
            .collect::<Vec<_>>()
            .join(",");
        let text = format!("GET / HTTP/1.1\r\nX-Forwarded-For: {list}\r\n\r\n");
        let Beginning::Http(Forwarded::Entries(found)) = beginning(text.as_bytes()) else {
            panic!("entries");
        };
        assert_eq!(found.len(), MOST);
        assert_eq!(found.last(), Some(&"192.0.2.99".parse().ok()));
    }
}
