//! One value of a policy field as an Envoy matcher (istio/istio `pilot/pkg/security/authz/model/generator.go`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};

use crate::set::Chain;

/// A value that cannot be written as a matcher.
#[derive(Debug)]
pub(crate) struct Fault;

/// What generates a matcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    SourceIp,
    RemoteIp,
    SourceNamespace,
    SourcePrincipal,
    SourceServiceAccount,
    SourceTrustDomain,
    RequestPrincipal,
    Audiences,
    Presenter,
    Header,
    Claim,
    DestinationIp,
    DestinationPort,
    Sni,
    EnvoyFilter,
    Host,
    Method,
    Path,
}

impl Kind {
    /// A permission rather than a principal.
    pub(crate) fn of_destination(self) -> bool {
        matches!(
            self,
            Self::DestinationIp
                | Self::DestinationPort
                | Self::Sni
                | Self::EnvoyFilter
                | Self::Host
                | Self::Method
                | Self::Path
        )
    }

    /// Older releases of Istio do not know it.
    pub(crate) fn recent(self) -> bool {
        matches!(self, Self::SourceServiceAccount | Self::SourceTrustDomain)
    }

    fn http_only(self) -> bool {
        matches!(
            self,
            Self::RequestPrincipal
                | Self::Audiences
                | Self::Presenter
                | Self::Header
                | Self::Claim
                | Self::Host
                | Self::Method
                | Self::Path
        )
    }
}

/// The matcher of one value.
pub(crate) fn match_value(
    kind: Kind,
    key: &str,
    value: &str,
    namespace: &str,
    chain: Chain,
) -> Result<Value, Fault> {
    if kind.http_only() && chain == Chain::Tcp {
        return Err(Fault);
    }
    Ok(match kind {
        Kind::SourceIp => json!({"direct_remote_ip": range(value)?}),
        Kind::RemoteIp => json!({"remote_ip": range(value)?}),
        Kind::DestinationIp => json!({"destination_ip": range(value)?}),
        Kind::DestinationPort => json!({"destination_port": port(value)?}),
        Kind::Sni => json!({"requested_server_name": string(value)}),
        Kind::Host => header(":authority", value, true),
        Kind::Method => header(":method", value, false),
        Kind::Header => header(bracketed(key, "request.headers")?, value, false),
        Kind::Path => json!({"url_path": {"path": string(value)}}),
        Kind::SourceNamespace => authenticated(&format!(
            ".*/ns/{}/.*",
            value.replace('.', "\\.").replace('*', ".*")
        )),
        Kind::SourceServiceAccount => {
            let (ns, account) = value.split_once('/').unwrap_or((namespace, value));
            authenticated(&format!(".*/ns/{ns}/sa/{account}"))
        }
        Kind::SourceTrustDomain => authenticated(&format!("spiffe://{}/.*", value.replace('*', ".*"))),
        Kind::SourcePrincipal => {
            let name = match value.strip_prefix('*') {
                Some("") => json!({"safe_regex": {"regex": ".+"}}),
                Some(suffix) => {
                    json!({"safe_regex": {"regex": format!("spiffe://.*{}", suffix.replace('.', "\\."))}})
                }
                None => string(&format!("spiffe://{value}")),
            };
            json!({"authenticated": {"principal_name": name}})
        }
        Kind::RequestPrincipal if value == "*" => {
            json!({"and_ids": {"ids": [token(&["payload", "iss"], ".+"), token(&["payload", "sub"], ".+")]}})
        }
        Kind::RequestPrincipal => {
            let (issuer, subject) = value.rsplit_once('/').unwrap_or((value, ""));
            json!({"and_ids": {"ids": [token(&["payload", "iss"], &glob(issuer)), token(&["payload", "sub"], &glob(subject))]}})
        }
        Kind::Audiences => token(&["payload", "aud"], &glob(value)),
        Kind::Presenter => token(&["payload", "azp"], &glob(value)),
        Kind::Claim => {
            let claim = bracketed(key, "request.auth.claims")?;
            token(&["payload", claim], &glob(value))
        }
        Kind::EnvoyFilter => {
            let (filter, inner) = key
                .strip_prefix("experimental.")
                .and_then(|rest| rest.split_once('['))
                .ok_or(Fault)?;
            let inner = inner.strip_suffix(']').ok_or(Fault)?;
            json!({"metadata": {"filter": filter, "path": [{"key": inner}], "value": {"string_match": string(value)}}})
        }
    })
}

fn authenticated(regex: &str) -> Value {
    json!({"authenticated": {"principal_name": {"safe_regex": {"regex": regex}}}})
}

fn token(path: &[&str], regex: &str) -> Value {
    let path: Vec<Value> = path.iter().map(|key| json!({"key": key})).collect();
    json!({"metadata": {
        "filter": "envoy.filters.http.jwt_authn",
        "path": path,
        "value": {"string_match": {"safe_regex": {"regex": regex}}},
    }})
}

fn glob(value: &str) -> String {
    let escaped: String = value
        .chars()
        .flat_map(|c| match c {
            '*' => vec!['.', '*'],
            c if c.is_ascii_alphanumeric() => vec![c],
            c => vec!['\\', c],
        })
        .collect();
    if value == "*" { ".+".to_owned() } else { escaped }
}

fn bracketed<'a>(key: &'a str, name: &str) -> Result<&'a str, Fault> {
    key.strip_prefix(name)
        .and_then(|rest| rest.strip_prefix('['))
        .and_then(|rest| rest.strip_suffix(']'))
        .ok_or(Fault)
}

/// `matcher.StringMatcher`: presence, suffix, prefix, exact.
fn string(value: &str) -> Value {
    if value == "*" {
        json!({"safe_regex": {"regex": ".+"}})
    } else if let Some(suffix) = value.strip_prefix('*') {
        json!({"suffix": suffix})
    } else if let Some(prefix) = value.strip_suffix('*') {
        json!({"prefix": prefix})
    } else {
        json!({"exact": value})
    }
}

/// `matcher.HeaderMatcher` and `HostMatcher`: presence is a presence match there.
fn header(name: &str, value: &str, ignore_case: bool) -> Value {
    if value == "*" {
        return json!({"header": {"name": name, "present_match": true}});
    }
    let mut matcher = string(value);
    if ignore_case && let Some(fields) = matcher.as_object_mut() {
        fields.insert("ignore_case".to_owned(), json!(true));
    }
    json!({"header": {"name": name, "string_match": matcher}})
}

/// Go's `netip.ParsePrefix` and `netip.ParseAddr` behind `util.AddrStrToCidrRange`. The text of a prefix goes to Envoy
/// unmasked, as Istio passes it.
fn range(value: &str) -> Result<Value, Fault> {
    let (address, length) = match value.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (value, None),
    };
    let (address, zone) = match (address.split_once('%'), length) {
        (Some((address, zone)), None) if !zone.is_empty() => (address, true),
        (Some(_), _) => return Err(Fault),
        (None, _) => (address, false),
    };
    let parsed: IpAddr = if address.contains(':') {
        address.parse::<Ipv6Addr>().map_err(|_| Fault)?.into()
    } else if zone {
        return Err(Fault);
    } else {
        address.parse::<Ipv4Addr>().map_err(|_| Fault)?.into()
    };
    let most = if parsed.is_ipv4() { 32 } else { 128 };
    let length = match length {
        None => most,
        Some(digits) => number(digits, true)
            .filter(|length| *length <= most)
            .ok_or(Fault)?,
    };
    Ok(json!({"address_prefix": address, "prefix_len": length}))
}

fn number(digits: &str, no_leading_zero: bool) -> Option<u32> {
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    if no_leading_zero && digits.len() > 1 && digits.starts_with('0') {
        return None;
    }
    digits.parse().ok()
}

fn port(value: &str) -> Result<u32, Fault> {
    number(value, false).filter(|port| *port <= 65535).ok_or(Fault)
}
