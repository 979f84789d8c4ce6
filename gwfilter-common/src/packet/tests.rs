use etherparse::{NetSlice, SlicedPacket, TransportSlice};

use super::{Extension, Fragment, Packet, Transport};
use crate::wire::{eth, ipv6, l4};

fn v4() -> Packet<'static> {
    Packet::syn(
        "192.0.2.1:1000".parse().unwrap(),
        "203.0.113.9:443".parse().unwrap(),
    )
}

fn v6() -> Packet<'static> {
    Packet::syn(
        "[2001:db8::1]:1000".parse().unwrap(),
        "[2001:db8::9]:443".parse().unwrap(),
    )
}

#[test]
fn built_packet_then_an_independent_parser_finds_its_checksums_right() {
    let udp = Transport::Udp;
    let tcp = Transport::Tcp {
        flags: l4::SYN | l4::ACK,
        options: &[2, 4, 5, 180],
    };
    for packet in [v4(), v6()] {
        for transport in [udp, tcp] {
            for payload in [&b""[..], b"odd", b"even"] {
                let packet = Packet {
                    transport,
                    payload,
                    options: &[1; 4],
                    tags: &[eth::VLAN],
                    ..packet
                };
                let frame = packet.build().unwrap();
                let sliced = SlicedPacket::from_ethernet(frame.bytes()).unwrap();
                let net = sliced.net.unwrap();
                match (sliced.transport.unwrap(), &net) {
                    (TransportSlice::Tcp(t), NetSlice::Ipv4(ip)) => {
                        assert_eq!(
                            t.checksum(),
                            t.calc_checksum_ipv4(ip.header().source(), ip.header().destination())
                                .unwrap()
                        );
                        assert_eq!((t.syn(), t.ack(), t.options()), (true, true, &[2, 4, 5, 180][..]));
                    }
                    (TransportSlice::Tcp(t), NetSlice::Ipv6(ip)) => {
                        assert_eq!(
                            t.checksum(),
                            t.calc_checksum_ipv6(ip.header().source(), ip.header().destination())
                                .unwrap()
                        );
                    }
                    (TransportSlice::Udp(u), NetSlice::Ipv4(ip)) => {
                        let right = u
                            .to_header()
                            .calc_checksum_ipv4(&ip.header().to_header(), payload)
                            .unwrap();
                        assert_eq!(
                            (u.checksum(), usize::from(u.length())),
                            (right, 8 + payload.len())
                        );
                    }
                    (TransportSlice::Udp(u), NetSlice::Ipv6(ip)) => {
                        let right = u
                            .to_header()
                            .calc_checksum_ipv6(&ip.header().to_header(), payload)
                            .unwrap();
                        assert_eq!(u.checksum(), right);
                    }
                    other => panic!("{other:?}"),
                }
                if let NetSlice::Ipv4(ip) = net {
                    let header = ip.header().to_header();
                    assert_eq!(header.header_checksum, header.calc_header_checksum());
                }
            }
        }
    }
}

#[test]
fn extension_headers_then_an_independent_parser_follows_them() {
    let packet = Packet {
        extensions: &[
            Extension::Options(ipv6::HOP_BY_HOP, &[1, 4, 0, 0, 0, 0]),
            Extension::Routing {
                kind: 4,
                segments_left: 0,
            },
            Extension::Fragment(Fragment {
                offset: 0,
                more: false,
            }),
            Extension::Authentication(12),
            Extension::Options(ipv6::DESTINATION_OPTIONS, &[]),
        ],
        ..v6()
    };
    let frame = packet.build().unwrap();
    let sliced = SlicedPacket::from_ethernet(frame.bytes()).unwrap();
    assert!(matches!(sliced.transport, Some(TransportSlice::Tcp(t)) if t.destination_port() == 443));
}

#[test]
fn what_cannot_be_built_then_nothing() {
    let mixed = Packet {
        destination: v6().destination,
        ..v4()
    };
    assert!(mixed.build().is_none());
    assert!(
        Packet {
            options: &[0; 41],
            ..v4()
        }
        .build()
        .is_none()
    );
    assert!(
        Packet {
            transport: Transport::Tcp {
                flags: 0,
                options: &[0; 41]
            },
            ..v4()
        }
        .build()
        .is_none()
    );
    assert!(
        Packet {
            payload: &[0; 2048],
            ..v4()
        }
        .build()
        .is_none()
    );
}
