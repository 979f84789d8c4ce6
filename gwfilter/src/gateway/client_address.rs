//! Where a gateway's Envoy takes the client address from that policies judge.
//!
//! What decides is Envoy's own set-up: without the PROXY listener filter and with `numTrustedProxies` 0, every address
//! that a policy can name is the packet's source, whatever stands in front. So the evidence is looked for at Envoy;
//! annotations of clouds are only hints. Whatever cannot be followed is a doubt, and in doubt nothing is enforced
//! unless the user states the mode.

use std::collections::BTreeSet;

use super::annotations::Annotations;
use super::candidate::Candidate;
use super::cloud;
use super::envoy_filter::{self, Effect};
use super::listeners::Header;
use super::mesh;
use super::missing;
use super::model::{ClientAddress, Tri, Why};
use super::setup::By;
use super::world::World;
use crate::diagnostic::Diagnostic;
use crate::manifest;
use crate::object::mesh_config::Topology;
use crate::object::pod::{EnvValue, Pod, PodSpec};
use crate::object::read::{Cursor, Faults};

/// What was found.
pub(super) struct Found {
    /// The mode.
    pub(super) mode: ClientAddress,
    /// Why the gateway is not enforced, if so.
    pub(super) not_enforced: Option<Why>,
    /// Which of its pods certainly read a PROXY header before all else.
    pub(super) header: Header,
    /// Findings.
    pub(super) diagnostics: Vec<Diagnostic>,
    /// Remarks.
    pub(super) remarks: Vec<Why>,
}

/// Signs of a mode, and what speaks against any conclusion.
#[derive(Default)]
pub(super) struct Evidence {
    /// The gateway's own configuration says so: (what says it, whether it certainly applies).
    pub(super) proxy_header: Vec<(String, bool)>,
    /// `numTrustedProxies` and whether `proxyProtocol` is set, of each pod that was looked at.
    pub(super) topologies: BTreeSet<(u32, bool)>,
    /// Where the settings stand.
    pub(super) by: BTreeSet<By>,
    /// The same of the mesh's default, which is what new pods of the gateway will say.
    proxy_header_by_default: bool,
    /// Running pods whose own configuration does not speak of it.
    without_header: Vec<String>,
    pub(super) forwarded_for: Vec<(String, bool)>,
    pub(super) doubts: Vec<Why>,
}

/// Annotation with a pod's proxy configuration.
pub(super) const PROXY_CONFIG_ANNOTATION: &str = "proxy.istio.io/config";
/// Environment variable with the proxy configuration that the pod runs with.
pub(super) const PROXY_CONFIG_ENV: &str = "PROXY_CONFIG";

/// What the pods of this node and Istio's objects say of the gateway's Envoy, without a conclusion.
pub(super) fn signs(world: &World<'_>, candidate: &Candidate<'_>) -> Evidence {
    let mut evidence = Evidence::default();
    topology(
        world,
        candidate,
        candidate.local_pods(world).collect(),
        &mut evidence,
    );
    envoy_filters(world, candidate, &mut evidence);
    plugins(world, candidate, &mut evidence);
    evidence.doubts.extend(missing::of_client_address(world));
    evidence
}

/// Finds the mode of a candidate. `siblings` are the other gateways of the same pods with what their users state.
pub(super) fn find(
    world: &World<'_>,
    candidate: &Candidate<'_>,
    annotations: &Annotations,
    siblings: &[(&Candidate<'_>, &Annotations)],
) -> Found {
    let mut evidence = signs(world, candidate);
    for (sibling, stated) in siblings {
        match stated.client_address.flatten() {
            Some(ClientAddress::ProxyHeader) => {
                evidence.proxy_header.push((
                    format!("Service {} of the same pods states it", sibling.id()),
                    true,
                ));
            }
            Some(ClientAddress::XForwardedFor) => {
                evidence.forwarded_for.push((
                    format!("Service {} of the same pods states it", sibling.id()),
                    true,
                ));
            }
            _ => {}
        }
    }
    conclude(world, candidate, annotations, siblings, evidence)
}

fn conclude(
    world: &World<'_>,
    candidate: &Candidate<'_>,
    annotations: &Annotations,
    siblings: &[(&Candidate<'_>, &Annotations)],
    evidence: Evidence,
) -> Found {
    let mut found = Found {
        mode: ClientAddress::PacketSource,
        not_enforced: None,
        header: Header::None,
        diagnostics: Vec::new(),
        remarks: Vec::new(),
    };
    match annotations.client_address.flatten() {
        Some(ClientAddress::PacketSource) => {
            let signs = || evidence.forwarded_for.iter().chain(&evidence.proxy_header);
            if let Some((sign, _)) = signs().find(|(_, certain)| *certain) {
                let text = format!(
                    "gwfilter.io/client-address says packet-source, which is what this node sees, but {sign}, so the gateway \
                     sees another address: they do not agree; either: take that setting away and restart the gateway's pods; \
                     or: take the annotation away{}",
                    annotation_off(candidate)
                );
                found.mode = ClientAddress::Unknown;
                found.diagnostics.push(Diagnostic::error(
                    "client-address-contradicted",
                    reference(candidate),
                    text.clone(),
                ));
                found.not_enforced = Some(Why {
                    code: "client-address-contradicted",
                    text,
                });
                return found;
            }
            let taken = signs()
                .map(|(sign, _)| sign.clone())
                .chain(evidence.doubts.iter().map(|d| d.text.clone()));
            for sign in taken {
                let text =
                    format!("packet-source is taken from gwfilter.io/client-address, although: {sign}");
                found.diagnostics.push(Diagnostic::warning(
                    "client-address-assumed",
                    reference(candidate),
                    text,
                ));
            }
        }
        Some(ClientAddress::ProxyHeader) => header_stated(world, candidate, evidence, &mut found),
        Some(stated) => {
            found.mode = stated;
            found.not_enforced = Some(unsupported(
                candidate,
                stated,
                "gwfilter.io/client-address says so",
                true,
            ));
        }
        None => {
            if let Some(doubt) = evidence.doubts.into_iter().next() {
                found.mode = ClientAddress::Unknown;
                let mend = state_it(candidate, ClientAddress::PacketSource);
                let text = format!(
                    "{}. So it is not known whether the gateway judges the address that this node sees, the packet's \
                     source. If it does, {mend}",
                    doubt.text
                );
                found.not_enforced = Some(Why {
                    code: doubt.code,
                    text,
                });
            } else if let Some((sign, _)) = evidence.forwarded_for.first() {
                // With both, X-Forwarded-For wins (Istio's page on network topologies).
                found.mode = ClientAddress::XForwardedFor;
                found.not_enforced = Some(unsupported(candidate, ClientAddress::XForwardedFor, sign, false));
            } else if let Some((sign, _)) = evidence.proxy_header.first() {
                found.mode = ClientAddress::ProxyHeader;
                let certain = evidence.proxy_header.iter().any(|(_, certain)| *certain)
                    || (world.settings.from_files && evidence.proxy_header_by_default);
                if !certain {
                    found.not_enforced =
                        Some(unsupported(candidate, ClientAddress::ProxyHeader, sign, false));
                } else if everywhere(world, candidate) {
                    found.header = Header::Everywhere;
                } else {
                    found.header = Header::Here;
                }
            } else if let Some(sign) = cloud::sign(world, candidate, siblings) {
                found.mode = ClientAddress::ProxyHeader;
                let sign = format!("{sign}, so the load balancer writes a PROXY header");
                found.not_enforced = Some(unsupported(candidate, ClientAddress::ProxyHeader, &sign, false));
                let text = "the load balancer is told to write a PROXY header, but nothing here tells the gateway to \
                            read it, so it takes the header for a part of the request and refuses that as malformed; either: tell it, on the pod template \
                            proxy.istio.io/config: '{\"gatewayTopology\":{\"proxyProtocol\":{}}}', and restart the pods; or: \
                            take the load balancer's annotation away";
                found.remarks.push(Why {
                    code: "proxy-header-one-sided",
                    text: text.to_owned(),
                });
            }
        }
    }
    found
}

/// The user says that a PROXY header names the client, for all pods.
fn header_stated(world: &World<'_>, candidate: &Candidate<'_>, evidence: Evidence, found: &mut Found) {
    found.mode = ClientAddress::ProxyHeader;
    // The annotation says where a header is, not that Envoy looks no further: any sign of X-Forwarded-For counts.
    if let Some((sign, _)) = evidence.forwarded_for.first() {
        let text = format!(
            "gwfilter.io/client-address says proxy-header, but {sign}: X-Forwarded-For wins there. Change the one that is wrong"
        );
        found.mode = ClientAddress::Unknown;
        let code = "client-address-contradicted";
        found
            .diagnostics
            .push(Diagnostic::error(code, reference(candidate), text.clone()));
        found.not_enforced = Some(Why { code, text });
        return;
    }
    // Pods on other nodes are known from files, and where the Service itself says so.
    let by_service = candidate.service.is_some_and(states_header);
    found.header = if world.settings.from_files || by_service {
        Header::Everywhere
    } else {
        Header::Here
    };
    let nothing = evidence.proxy_header.is_empty() && evidence.doubts.is_empty();
    let without = evidence.without_header.into_iter().filter(|_| nothing);
    let doubts = evidence.doubts.into_iter().map(|doubt| doubt.text);
    for sign in doubts.chain(without) {
        let text = format!("proxy-header is taken from gwfilter.io/client-address, although: {sign}");
        let code = "client-address-assumed";
        found
            .diagnostics
            .push(Diagnostic::warning(code, reference(candidate), text));
    }
}

/// Whether the Service itself carries `gwfilter.io/client-address: proxy-header`.
pub(super) fn states_header(service: &crate::object::service::Service) -> bool {
    let stated = Annotations::read(&service.meta.annotations).client_address;
    stated.flatten() == Some(ClientAddress::ProxyHeader)
}

/// Whether the pods on other nodes certainly read the header too. A cluster's agent does not know those.
fn everywhere(world: &World<'_>, candidate: &Candidate<'_>) -> bool {
    if !world.settings.from_files {
        return false;
    }
    let mut evidence = Evidence::default();
    topology(world, candidate, candidate.pods.clone(), &mut evidence);
    let by_filter = {
        let mut evidence = Evidence::default();
        envoy_filters(world, candidate, &mut evidence);
        evidence.proxy_header.iter().any(|(_, certain)| *certain)
    };
    // One that differs from another is a doubt already.
    evidence.doubts.is_empty() && (by_filter || !evidence.proxy_header.is_empty())
}

fn reference(candidate: &Candidate<'_>) -> crate::diagnostic::ObjectRef {
    super::reference(candidate)
}

/// How to state the mode by hand.
fn state_it(candidate: &Candidate<'_>, mode: ClientAddress) -> String {
    let mode = mode.name();
    match candidate.service {
        Some(service) => format!(
            "state it: kubectl -n {} annotate --overwrite service {} gwfilter.io/client-address={mode}",
            service.meta.namespace, service.meta.name
        ),
        None => {
            format!("state it: put the annotation gwfilter.io/client-address: {mode} on the pod template")
        }
    }
}

/// The command that takes the annotation off.
fn annotation_off(candidate: &Candidate<'_>) -> String {
    candidate.service.map_or_else(String::new, |service| {
        format!(
            ": kubectl -n {} annotate service {} gwfilter.io/client-address-",
            service.meta.namespace, service.meta.name
        )
    })
}

/// What the node sees, what the gateway sees, and what makes them agree.
fn unsupported(candidate: &Candidate<'_>, mode: ClientAddress, sign: &str, stated: bool) -> Why {
    let (code, gateway, node) = match mode {
        ClientAddress::XForwardedFor => (
            "x-forwarded-for-not-enforced",
            "X-Forwarded-For, inside the HTTP request",
            "the address of the proxy in front, in the packet",
        ),
        _ => (
            "proxy-header-not-enforced",
            "the PROXY protocol header at the start of a connection",
            "that header, but not that every pod of the gateway reads it before all else",
        ),
    };
    if mode == ClientAddress::ProxyHeader {
        let text = format!(
            "the gateway takes the client address from {gateway}, as it seems ({sign}); this node sees {node}: its policies are left to \
             the gateway; either: if every pod does, {}; or: if no PROXY header is written, {}",
            state_it(candidate, ClientAddress::ProxyHeader),
            state_it(candidate, ClientAddress::PacketSource)
        );
        return Why { code, text };
    }
    let mend = if stated {
        format!(
            ". If no proxy in front tells the client address that way, {}",
            state_it(candidate, ClientAddress::PacketSource)
        )
    } else {
        format!(
            "; either: if no proxy in front tells the client address that way, take that setting away and restart the gateway's \
             pods; or: if the sign misleads, {}",
            state_it(candidate, ClientAddress::PacketSource)
        )
    };
    let text = format!(
        "the gateway takes the client address from {gateway} ({sign}); this node sees {node}: they do not agree, so every policy \
         is left to the gateway{mend}"
    );
    Why { code, text }
}

/// The effective gatewayTopology of every one of these pods, or of what will make some.
fn topology(world: &World<'_>, candidate: &Candidate<'_>, pods: Vec<&Pod>, evidence: &mut Evidence) {
    let (default, source) = mesh_default(world, candidate, evidence);
    let operator = world.operator_gateways(candidate);
    let patched = operator.iter().any(|(_, gateway)| gateway.patches_proxy);
    // (spec, annotations, name, certain)
    let mut holders: Vec<(Option<&PodSpec>, Option<String>, String)> = Vec::new();
    for pod in pods {
        let config = pod.meta.annotations.get(PROXY_CONFIG_ANNOTATION).cloned();
        holders.push((Some(&pod.spec), config, format!("Pod {}", pod.meta.name)));
    }
    if holders.is_empty() {
        let from_operator = operator
            .iter()
            .find_map(|(_, g)| g.pod_annotations.get(PROXY_CONFIG_ANNOTATION).cloned());
        for template in &candidate.templates {
            let config = template
                .annotations
                .get(PROXY_CONFIG_ANNOTATION)
                .cloned()
                .or(from_operator.clone());
            holders.push((Some(&template.spec), config, template.meta.name.clone()));
        }
        if candidate.templates.is_empty() {
            holders.push((None, from_operator, "IstioOperator".to_owned()));
        }
        if patched {
            evidence.doubts.push(Why {
                code: "operator-patches-proxy",
                text: "an IstioOperator sets or patches the proxy's configuration of this gateway, which is not \
                       followed"
                    .to_owned(),
            });
        }
    }
    for (spec, annotation, name) in holders {
        let proxy = spec.and_then(PodSpec::proxy);
        let env = proxy.and_then(|proxy| proxy.env.get(PROXY_CONFIG_ENV));
        if env.is_none() {
            evidence.doubts.extend(missing::of_proxy_config(world, &name));
        }
        let (text, what, base) = match (env, annotation) {
            // Kubernetes puts another variable's value there.
            (Some(EnvValue::Literal(text)), _) if text.contains("$(") => {
                evidence.doubts.push(Why {
                    code: "proxy-config-not-readable",
                    text: format!(
                        "{PROXY_CONFIG_ENV} of {name} takes in other variables, which is not followed"
                    ),
                });
                continue;
            }
            // The configuration the pod runs with, all layers merged when it was made.
            (Some(EnvValue::Literal(text)), _) => (
                text.clone(),
                format!("{PROXY_CONFIG_ENV} of {name}"),
                Topology::default(),
            ),
            (Some(EnvValue::Elsewhere), _) => {
                evidence.doubts.push(Why {
                    code: "proxy-config-not-readable",
                    text: format!(
                        "{PROXY_CONFIG_ENV} of {name} comes from another object and is not known here"
                    ),
                });
                continue;
            }
            (None, _) if proxy.is_some_and(|proxy| proxy.env_from) => {
                evidence.doubts.push(Why {
                    code: "proxy-config-not-readable",
                    text: format!(
                        "{name} takes its environment from another object, perhaps {PROXY_CONFIG_ENV} too"
                    ),
                });
                continue;
            }
            (None, Some(text)) => (
                text,
                format!("annotation {PROXY_CONFIG_ANNOTATION} of {name}"),
                default,
            ),
            (None, None) => {
                note(evidence, default, &source, false);
                if default.proxy_protocol || default.trusted_proxies.is_some_and(|n| n > 0) {
                    evidence.by.insert(By::Mesh);
                }
                evidence.proxy_header_by_default |= default.proxy_protocol;
                continue;
            }
        };
        match read_topology(&text) {
            Ok(own) => {
                let effective = base.overlaid(own);
                if !effective.proxy_protocol && env.is_some() {
                    evidence
                        .without_header
                        .push(format!("{what} does not set gatewayTopology.proxyProtocol"));
                }
                evidence.by.insert(By::Pod);
                note(evidence, effective, &what, true);
            }
            Err(why) => evidence.doubts.push(Why {
                code: "proxy-config-not-readable",
                text: format!("{what} cannot be read ({why})"),
            }),
        }
    }
    if evidence.topologies.len() > 1 {
        evidence.doubts.push(Why {
            code: "pods-differ",
            text: "its pods run with different gatewayTopology: restart them all with the same one"
                .to_owned(),
        });
    }
}

fn note(evidence: &mut Evidence, topology: Topology, what: &str, certain: bool) {
    let proxies = topology.trusted_proxies.unwrap_or(0);
    evidence.topologies.insert((proxies, topology.proxy_protocol));
    if let Some(n @ 1..) = topology.trusted_proxies {
        evidence
            .forwarded_for
            .push((format!("{what} sets numTrustedProxies {n}"), certain));
    }
    if topology.proxy_protocol {
        evidence
            .proxy_header
            .push((format!("{what} sets gatewayTopology.proxyProtocol"), certain));
    }
}

fn read_topology(text: &str) -> Result<Topology, String> {
    let value = manifest::parse_one(text).map_err(|error| error.to_string())?;
    let faults = Faults::default();
    let topology = Topology::read(&Cursor::new(&value, &faults));
    match faults.into_inner().into_iter().next() {
        None => Ok(topology),
        Some(fault) => Err(fault),
    }
}

/// The mesh's default. Of several mesh configurations (revisions) that differ, none is certain.
fn mesh_default(world: &World<'_>, candidate: &Candidate<'_>, evidence: &mut Evidence) -> (Topology, String) {
    let configs = &world.snapshot.mesh_configs;
    let first = configs.first().map(|m| m.settings.topology).unwrap_or_default();
    let name = configs.first().map(|m| m.meta.name.clone()).unwrap_or_default();
    let mut running = candidate.local_pods(world).map(|pod| pod.spec.proxy()).peekable();
    let baked_in = running.peek().is_some()
        && running.all(|proxy| proxy.is_some_and(|c| c.env.contains_key(PROXY_CONFIG_ENV)));
    if !baked_in && configs.iter().any(|m| m.settings.topology != first) {
        evidence.doubts.push(Why {
            code: "mesh-configs-differ",
            text:
                "several mesh configurations set different gatewayTopology, and which one counts is not known"
                    .to_owned(),
        });
    }
    (first, format!("the mesh configuration {name}"))
}

fn envoy_filters(world: &World<'_>, candidate: &Candidate<'_>, evidence: &mut Evidence) {
    for filter in &world.snapshot.envoy_filters {
        let applies = candidate
            .workloads
            .iter()
            .map(|workload| mesh::applies(world, &filter.meta, &filter.attachment, workload));
        let applies: BTreeSet<Tri> = applies.collect();
        if applies.iter().all(|tri| *tri == Tri::False) {
            continue;
        }
        let name = format!("EnvoyFilter {}/{}", filter.meta.namespace, filter.meta.name);
        match envoy_filter::effect(filter) {
            Effect::None => {}
            Effect::ProxyHeader => {
                let certain = applies.len() == 1 && applies.contains(&Tri::True);
                let filter = &filter.meta;
                let by = By::EnvoyFilter(filter.namespace.clone(), filter.name.clone());
                evidence.by.insert(by);
                evidence
                    .proxy_header
                    .push((format!("{name} adds the PROXY protocol listener filter"), certain));
            }
            Effect::Doubt => evidence.doubts.push(Why {
                code: "envoy-filter",
                text: format!(
                    "{name} changes listeners or filters of this gateway in a way that is not followed"
                ),
            }),
        }
    }
}

/// WasmPlugins that run before authorization, and ProxyConfigs that say what they should not.
fn plugins(world: &World<'_>, candidate: &Candidate<'_>, evidence: &mut Evidence) {
    let may_apply = |meta: &_, attachment: &_| {
        candidate
            .workloads
            .iter()
            .any(|w| mesh::applies(world, meta, attachment, w) != Tri::False)
    };
    for (kind, plugin) in &world.snapshot.plugins {
        // The other phases come after authorization (`pilot/pkg/networking/core/listener_builder.go`).
        let after = matches!(plugin.phase.as_str(), "" | "STATS" | "UNSPECIFIED_PHASE");
        if !after && may_apply(&plugin.meta, &plugin.attachment) {
            evidence.doubts.push(Why {
                code: "wasm-before-authorization",
                text: format!(
                    "{} {}/{} runs before authorization and may answer clients itself",
                    kind.name(),
                    plugin.meta.namespace,
                    plugin.meta.name
                ),
            });
        }
    }
    for config in &world.snapshot.proxy_configs {
        if !config.unknown.is_empty() && may_apply(&config.meta, &config.attachment) {
            evidence.doubts.push(Why {
                code: "proxy-config-unknown",
                text: format!(
                    "ProxyConfig {}/{} sets {}, which is not known here",
                    config.meta.namespace,
                    config.meta.name,
                    config.unknown.join(", ")
                ),
            });
        }
    }
}
