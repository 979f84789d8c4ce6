//! Which samples a listener wants, and how many: the query part of `/v1/samples`, read and written.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::{Line, Verdict};
use crate::params::{Params, ParamsError, target};
use crate::policy::value::parse_range;

/// Where samples are.
pub const PATH: &str = "/v1/samples";
/// Samples a second, where nobody says otherwise.
pub const RATE: u32 = 1000;
/// The most that can be asked for.
pub const MOST: u32 = 10_000;

/// What is wanted. Fields that are empty let everything through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// These verdicts.
    pub verdicts: BTreeSet<Verdict>,
    /// Sources, or clients of PROXY headers, in this range.
    pub source: Option<IpNet>,
    /// `ns/service`.
    pub gateway: Option<String>,
    /// Envoy's policy id.
    pub policy: Option<String>,
    /// Samples a second, at most.
    pub rate: u32,
}

impl Default for Filter {
    fn default() -> Self {
        Self {
            verdicts: BTreeSet::new(),
            source: None,
            gateway: None,
            policy: None,
            rate: RATE,
        }
    }
}

impl Filter {
    /// What a query asks for.
    ///
    /// # Errors
    /// A value that cannot be used, or something that is not known.
    pub fn read(mut params: Params) -> Result<Self, ParamsError> {
        let verdicts = |text: &str| text.split(',').map(str::parse).collect::<Result<_, String>>();
        let filter = Self {
            verdicts: params.read("verdict", verdicts)?.unwrap_or_default(),
            source: params.read("source", network)?,
            gateway: params.take("gateway"),
            policy: params.take("policy"),
            rate: params.read("rate", rate)?.unwrap_or(RATE),
        };
        params.end()?;
        Ok(filter)
    }

    /// The address that asks for it.
    #[must_use]
    pub fn target(&self) -> String {
        let names: Vec<&str> = self.verdicts.iter().map(|verdict| verdict.name()).collect();
        let (verdicts, source) = (names.join(","), self.source.map(|net| net.to_string()));
        let rate = self.rate.to_string();
        let mut pairs = Vec::new();
        if !verdicts.is_empty() {
            pairs.push(("verdict", verdicts.as_str()));
        }
        let others = [
            ("source", source.as_deref()),
            ("gateway", self.gateway.as_deref()),
            ("policy", self.policy.as_deref()),
            ("rate", Some(rate.as_str())),
        ];
        pairs.extend(others.into_iter().filter_map(|(key, value)| Some((key, value?))));
        target(PATH, &pairs)
    }

    /// Whether this verdict is wanted, whatever it is of.
    #[must_use]
    pub fn wants(&self, verdict: Verdict) -> bool {
        self.verdicts.is_empty() || self.verdicts.contains(&verdict)
    }

    /// Whether a line is wanted.
    #[must_use]
    pub fn matches(&self, line: &Line) -> bool {
        let within = |net: &IpNet| {
            let client = line.client.is_some_and(|client| net.contains(&client.ip()));
            client || net.contains(&line.source.ip())
        };
        let is = |wanted: &Option<String>, have: &Option<String>| wanted.is_none() || wanted == have;
        self.wants(line.verdict)
            && self.source.as_ref().is_none_or(within)
            && is(&self.gateway, &line.gateway)
            && is(&self.policy, &line.policy)
    }
}

/// Reads a rate.
///
/// # Errors
/// A sentence for the user.
pub fn rate(text: &str) -> Result<u32, String> {
    let rate = text.parse::<u32>().ok();
    rate.filter(|rate| (1..=MOST).contains(rate))
        .ok_or_else(|| format!("`{text}` is no rate: write a number of samples a second, 1 to {MOST}"))
}

fn network(text: &str) -> Result<IpNet, String> {
    parse_range(text).ok_or_else(|| format!("`{text}` is neither a CIDR nor an address"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::tests::{line, sample};

    fn read(query: &str) -> Result<Filter, String> {
        let params = Params::parse(query).map_err(|e| e.to_string())?;
        Filter::read(params).map_err(|e| e.to_string())
    }

    #[test]
    fn what_was_asked_for_then_read_back() {
        for filter in [
            Filter::default(),
            Filter {
                verdicts: [Verdict::Drop, Verdict::WouldDrop].into(),
                source: Some("2001:db8::/32".parse().unwrap()),
                gateway: Some("istio-system/istio-ingressgateway".to_owned()),
                policy: Some("ns[a b]-policy[c&d]-rule[0]".to_owned()),
                rate: MOST,
            },
        ] {
            let target = filter.target();
            let (path, query) = target.split_once('?').unwrap();
            assert_eq!((path, read(query)), (PATH, Ok(filter)), "{target}");
        }
        assert_eq!(read(""), Ok(Filter::default()));
    }

    #[test]
    fn what_cannot_be_used_then_named() {
        for (query, wanted) in [
            ("verdict=dropped", "`verdict`: `dropped` is no verdict"),
            ("verdict=", "is no verdict"),
            ("source=192.0.2", "neither a CIDR nor an address"),
            ("rate=0", "1 to 10000"),
            ("rate=10001", "1 to 10000"),
            ("rate=1e3", "is no rate"),
            ("speed=1", "`speed` is not known here"),
        ] {
            let error = read(query).unwrap_err();
            assert!(error.contains(wanted), "{query}: {error}");
        }
    }

    #[test]
    fn a_line_then_wanted_by_what_it_says_and_the_client_counts_as_source() {
        let line = line(&sample()).unwrap();
        let behind = Line {
            client: Some("192.0.2.7:1".parse().unwrap()),
            ..line.clone()
        };
        for (query, wanted, with_client) in [
            ("", true, true),
            ("verdict=drop", true, true),
            ("verdict=pass,would-drop", false, false),
            ("source=198.51.100.0/24", true, true),
            ("source=192.0.2.7", false, true),
            ("source=203.0.113.9", false, false),
            ("source=::/0", false, false),
            ("gateway=istio-system/istio-ingressgateway", true, true),
            ("gateway=istio-system/other", false, false),
            ("policy=ns[istio-system]-policy[deny]-rule[0]", true, true),
            ("policy=ns[istio-system]-policy[deny]-rule[1]", false, false),
            ("verdict=drop&source=192.0.2.0/24", false, true),
        ] {
            let filter = read(query).unwrap();
            assert_eq!(
                (filter.matches(&line), filter.matches(&behind)),
                (wanted, with_client),
                "{query}"
            );
        }
    }
}
