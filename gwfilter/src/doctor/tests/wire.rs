//! What streams begin with, against what the gateway is set to read.

use super::*;

#[test]
fn header_on_the_wire_against_what_the_gateway_expects() {
    let with = seen(ENOUGH, &["10.9.0.1"], V1);
    let without = seen(ENOUGH, &CLIENTS, GET);
    only(
        &patient(reads_header),
        &with,
        "proxy-header-on-both-sides",
        Verdict::Agree,
    );
    only(
        &patient(|_| {}),
        &with,
        "proxy-header-not-expected",
        Verdict::Contradiction,
    );
    only(
        &patient(reads_header),
        &without,
        "proxy-header-missing",
        Verdict::Contradiction,
    );
    let mut mixed = with.clone();
    more(&mut mixed, ENOUGH, &CLIENTS, GET);
    for set in [patient(reads_header), patient(|_| {})] {
        only(&set, &mixed, "proxy-header-mixed", Verdict::Contradiction);
    }
    // One in a hundred is what strangers send.
    let mut stray = seen(ENOUGH * 5, &CLIENTS, GET);
    more(&mut stray, 1, &["198.51.100.99"], V1);
    only(&patient(|_| {}), &stray, "packet-source-seen", Verdict::Agree);
}

#[test]
fn header_missing_then_the_first_mend_is_the_one_that_keeps_clients_known() {
    let first = |sources: &[&str]| {
        let seen = seen(ENOUGH, sources, GET);
        let diagnosis = examine(&patient(reads_header), Some(&seen), &own());
        diagnosis.findings[0].mends[0].steps[0].what.clone()
    };
    assert!(
        first(&["10.9.0.1"]).contains("load balancer write"),
        "behind one address"
    );
    assert!(
        first(&CLIENTS).contains("expect no PROXY header"),
        "with sources of their own"
    );
}

#[test]
fn entries_of_forwarded_for_against_the_proxies_that_are_trusted() {
    let chain = |clients: &[&str], rest: &str| {
        let mut seen = Seen::default();
        for client in clients {
            more(
                &mut seen,
                ENOUGH,
                &["10.9.0.1"],
                &request(&format!("{client}{rest}")),
            );
        }
        seen
    };
    let one = chain(&CLIENTS, "");
    let two = chain(&CLIENTS, ", 10.9.0.2");
    only(&patient(trusts(1)), &one, "forwarded-for-as-set", Verdict::Agree);
    only(&patient(trusts(2)), &two, "forwarded-for-as-set", Verdict::Agree);
    only(
        &patient(trusts(2)),
        &one,
        "too-many-trusted-proxies",
        Verdict::Contradiction,
    );
    only(
        &patient(trusts(1)),
        &two,
        "too-few-trusted-proxies",
        Verdict::Contradiction,
    );
    only(
        &patient(|_| {}),
        &one,
        "forwarded-for-not-read",
        Verdict::Contradiction,
    );
    // Clients that write the header themselves make it longer.
    let mut forged = one.clone();
    more(
        &mut forged,
        ENOUGH * 3,
        &["10.9.0.1"],
        &request("1.2.3.4, 5.6.7.8, 198.51.100.7"),
    );
    only(
        &patient(trusts(1)),
        &forged,
        "forwarded-for-as-set",
        Verdict::Agree,
    );
    // All clients behind a proxy of their own: the entry that is taken tells them apart.
    let mut behind = Seen::default();
    for client in CLIENTS {
        more(
            &mut behind,
            ENOUGH,
            &["10.9.0.1"],
            &request(&format!("192.168.0.1, {client}")),
        );
    }
    only(
        &patient(trusts(1)),
        &behind,
        "forwarded-for-as-set",
        Verdict::Agree,
    );
    // One that took another way among a hundred changes nothing,
    let mut stray = two.clone();
    more(&mut stray, 1, &["10.9.0.1"], &request("198.51.100.99"));
    only(
        &patient(trusts(1)),
        &stray,
        "too-few-trusted-proxies",
        Verdict::Contradiction,
    );
    // and where one in six has fewer, most are as they should be.
    let mut some = two.clone();
    more(&mut some, ENOUGH, &["10.9.0.1"], &request("198.51.100.99"));
    only(&patient(trusts(2)), &some, "forwarded-for-as-set", Verdict::Agree);
    // Clients with sources of their own that write the header: no proxy.
    let mut direct = Seen::default();
    for i in 1..=20 {
        more(
            &mut direct,
            4,
            &[&format!("198.51.100.{i}")],
            &request("192.168.0.1"),
        );
    }
    only(&patient(|_| {}), &direct, "packet-source-seen", Verdict::Agree);
    // One client behind a proxy of its own: nothing tells which of the two entries is whose.
    let alone = seen(ENOUGH, &["10.9.0.1"], &request("192.168.0.1, 198.51.100.7"));
    only(
        &patient(trusts(1)),
        &alone,
        "forwarded-for-as-set",
        Verdict::Agree,
    );
    // None writes it.
    let none = seen(ENOUGH, &CLIENTS, GET);
    only(
        &patient(trusts(1)),
        &none,
        "forwarded-for-missing",
        Verdict::Contradiction,
    );
    // Behind TLS nobody sees it.
    let tls = seen(ENOUGH * 4, &CLIENTS, &[0x16, 0x03, 0x01]);
    only(&patient(trusts(1)), &tls, "client-inside-tls", Verdict::NotEnough);
}

#[test]
fn entries_then_the_mend_names_the_number_that_was_seen() {
    for (trusted, list, want) in [
        (2, "192.0.2.1", 1),
        (3, "192.0.2.1, 10.9.0.2", 2),
        (0, "192.0.2.1", 1),
    ] {
        let mut seen = Seen::default();
        for client in CLIENTS {
            more(
                &mut seen,
                ENOUGH,
                &["10.9.0.1"],
                &request(&list.replace("192.0.2.1", client)),
            );
        }
        let set = patient(trusts(trusted));
        let diagnosis = examine(&set, Some(&seen), &own());
        let command = diagnosis.findings[0].mends[0].steps[0].command.clone().unwrap();
        assert!(
            command.contains(&format!(r#"numTrustedProxies\":{want}"#)),
            "{command}"
        );
    }
}
