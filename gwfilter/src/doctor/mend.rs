//! What mends a contradiction: the exact command, or the lines of a manifest where no command can be exact.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::gateway::model::ClientAddress;
use crate::gateway::setup::{By, Setup};
use crate::manifest;

/// The annotation with a pod's proxy configuration.
const PROXY_CONFIG: &str = "proxy.istio.io/config";

/// One way to mend: steps that belong together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    /// When it is the right one, and what to know before it is begun.
    pub when: Option<String>,
    /// All of them, in this order.
    pub steps: Vec<Mend>,
}

impl Way {
    pub(super) fn of(steps: impl IntoIterator<Item = Mend>) -> Self {
        Self {
            when: None,
            steps: steps.into_iter().collect(),
        }
    }

    pub(super) fn when(when: impl Into<String>, steps: impl IntoIterator<Item = Mend>) -> Self {
        Self {
            when: Some(when.into()),
            ..Self::of(steps)
        }
    }
}

impl From<Mend> for Way {
    fn from(mend: Mend) -> Self {
        Self::of([mend])
    }
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mend {
    /// What it does.
    pub what: String,
    /// A command to be typed as it stands.
    pub command: Option<String>,
    /// Lines of YAML, where the object that they belong to cannot be named by a command.
    pub yaml: Option<String>,
}

impl Mend {
    fn command(what: impl Into<String>, command: String) -> Self {
        Self {
            what: what.into(),
            command: Some(command),
            yaml: None,
        }
    }

    fn yaml(what: impl Into<String>, yaml: String) -> Self {
        Self {
            what: what.into(),
            command: None,
            yaml: Some(yaml),
        }
    }

    fn by_hand(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            command: None,
            yaml: None,
        }
    }
}

/// `externalTrafficPolicy: Local`.
pub(super) fn keep_source(setup: &Setup) -> Way {
    let patch = json!({"spec": {"externalTrafficPolicy": "Local"}});
    let step = Mend::command(
        "let kube-proxy leave the source alone (traffic then needs a pod of the gateway on each node that it is sent to)",
        format!(
            "kubectl -n {} patch service {} --type merge -p {}",
            setup.namespace,
            setup.name,
            quoted(&patch.to_string())
        ),
    );
    Way::when(
        "first make sure that your network does not keep sources (Cilium in DSR mode, Calico's eBPF mode); if it does, leave it as it is",
        [step],
    )
}

/// The PROXY protocol on both sides. `policies`: those that compare the peer, and what they are to compare.
pub(super) fn both_sides(setup: &Setup, policies: Option<Mend>) -> Vec<Mend> {
    [send_header(setup), expect_header(setup)]
        .into_iter()
        .chain(policies)
        .collect()
}

/// Policies compare clients from now on.
pub(super) fn compare_clients(policies: &[String]) -> Option<Mend> {
    (!policies.is_empty()).then(|| {
        Mend::by_hand(format!(
            "change ipBlocks to remoteIpBlocks in: {}; until then it goes on comparing the balancer's address",
            policies.join(", ")
        ))
    })
}

/// Envoy expects a PROXY header from now on.
pub(super) fn expect_header(setup: &Setup) -> Mend {
    change(
        setup,
        "let the gateway read the PROXY header (its pods are restarted; from then on it refuses connections without one)",
        |topology| {
            topology.insert("proxyProtocol".to_owned(), json!({}));
        },
    )
}

/// Envoy expects no PROXY header any more. What holds more than that setting is never deleted: it is named.
pub(super) fn expect_no_header(setup: &Setup) -> Way {
    let what = "let the gateway expect no PROXY header";
    let mut steps = Vec::new();
    for by in &setup.by {
        if let By::EnvoyFilter(namespace, name) = by {
            let others = if setup.filter_shared_with.is_empty() {
                "it may hold other patches, and apply to other workloads: look at it first".to_owned()
            } else {
                format!(
                    "it applies to {} too: look first whether they are to go on reading the header",
                    setup.filter_shared_with.join(", ")
                )
            };
            steps.push(Mend::by_hand(format!(
                "{what}: take the patch with the listener filter envoy.filters.listener.proxy_protocol out of EnvoyFilter {namespace}/{name}, or \
                 narrow its workloadSelector ({others})"
            )));
        }
    }
    let own = config(setup);
    if own.pointer("/gatewayTopology/proxyProtocol").is_some() {
        steps.push(change(
            setup,
            &format!("{what} (its pods are restarted)"),
            |topology| {
                topology.remove("proxyProtocol");
            },
        ));
    } else if steps.is_empty() {
        steps.push(Mend::yaml(
            format!("{what}: take proxyProtocol out of the mesh configuration, and restart the gateway's pods"),
            "meshConfig:\n  defaultConfig:\n    gatewayTopology:\n      proxyProtocol: {}   # this line away\n"
                .to_owned(),
        ));
    }
    Way::of(steps)
}

/// `numTrustedProxies`.
pub(super) fn trust(setup: &Setup, proxies: usize) -> Mend {
    let what = match proxies {
        0 => "let the gateway take the packet's source for the client's address (its pods are restarted)"
            .to_owned(),
        n => format!(
            "let the gateway take entry {n} from the right of X-Forwarded-For for the client's address (its pods are restarted). Only if nobody \
             reaches the gateway but through that proxy: whoever does writes the header himself, and so chooses the address that policies judge"
        ),
    };
    change(setup, &what, |topology| {
        topology.insert("numTrustedProxies".to_owned(), json!(proxies));
    })
}

/// The load balancer writes a PROXY header.
pub(super) fn send_header(setup: &Setup) -> Mend {
    // By the nodes' provider. Each is the annotation that the cloud's own controller reads.
    let annotation = match setup.provider.as_deref() {
        Some("aws") => Some("service.beta.kubernetes.io/aws-load-balancer-proxy-protocol='*'"),
        Some("digitalocean") => Some("service.beta.kubernetes.io/do-loadbalancer-enable-proxy-protocol=true"),
        Some("hcloud") => Some("load-balancer.hetzner.cloud/uses-proxyprotocol=true"),
        Some("linode") => Some("service.beta.kubernetes.io/linode-loadbalancer-proxy-protocol=v2"),
        Some("openstack") => Some("loadbalancer.openstack.org/proxy-protocol=true"),
        Some("scaleway") => Some("service.beta.kubernetes.io/scw-loadbalancer-proxy-protocol-v2='*'"),
        _ => None,
    };
    match annotation.filter(|_| setup.service) {
        Some(annotation) => Mend::command(
            "let the load balancer write the PROXY header",
            format!(
                "kubectl -n {} annotate --overwrite service {} {annotation}",
                setup.namespace, setup.name
            ),
        ),
        None => Mend::by_hand(
            "let the load balancer write the PROXY header (haproxy: `send-proxy-v2` at the end of the `server` line; nginx: \
             `proxy_protocol on;`; a cloud's: its annotation on the Service)",
        ),
    }
}

/// The load balancer writes no PROXY header any more.
pub(super) fn send_no_header(setup: &Setup) -> Mend {
    match setup.balancer.as_deref().and_then(key_of) {
        Some(key) => Mend::command(
            "let the load balancer write no PROXY header",
            format!(
                "kubectl -n {} annotate service {} {key}-",
                setup.namespace, setup.name
            ),
        ),
        None => Mend::by_hand(
            "let the load balancer write no PROXY header (haproxy: take `send-proxy` or `send-proxy-v2` off the `server` line; nginx: \
             `proxy_protocol off;`): the gateway then sees its address for every client's",
        ),
    }
}

/// The key in "Service a/b carries KEY: \"value\"".
fn key_of(sign: &str) -> Option<&str> {
    sign.split_once(" carries ")?
        .1
        .split_once(": ")
        .map(|(key, _)| key)
}

/// What was stated is taken back; where nothing was, nothing is dropped any more.
pub(super) fn unstate(setup: &Setup) -> Mend {
    if setup.service && setup.stated.is_some() {
        Mend::command(
            "take the annotation away that says where this node takes the address from",
            format!(
                "kubectl -n {} annotate service {} gwfilter.io/client-address-",
                setup.namespace, setup.name
            ),
        )
    } else if setup.stated.is_some() {
        Mend::by_hand("take the annotation gwfilter.io/client-address off the pod template")
    } else {
        Mend::command(
            "let nothing be dropped on this node until that is understood",
            "gwfilter pause".to_owned(),
        )
    }
}

/// The user states the mode.
pub(super) fn state(setup: &Setup, mode: ClientAddress, when: &str) -> Mend {
    if setup.service {
        Mend::command(
            when,
            format!(
                "kubectl -n {} annotate --overwrite service {} gwfilter.io/client-address={}",
                setup.namespace,
                setup.name,
                mode.name()
            ),
        )
    } else {
        let text = format!(
            "metadata:\n  annotations:\n    gwfilter.io/client-address: {}\n",
            mode.name()
        );
        Mend::yaml(format!("{when}: on the pod template"), text)
    }
}

/// The pods' own configuration, as an object; what is no object counts as none.
fn config(setup: &Setup) -> Value {
    let own = setup
        .proxy_config
        .as_deref()
        .and_then(|text| manifest::parse_one(text).ok());
    own.filter(Value::is_object).unwrap_or_else(|| json!({}))
}

/// Another `gatewayTopology`, with all else of the pods' configuration as it is.
fn change(setup: &Setup, what: &str, edit: impl FnOnce(&mut Map<String, Value>)) -> Mend {
    let mut config = config(setup);
    if let Some(fields) = config.as_object_mut() {
        let mut topology = match fields.remove("gatewayTopology") {
            Some(Value::Object(topology)) => topology,
            _ => Map::new(),
        };
        edit(&mut topology);
        if !topology.is_empty() {
            fields.insert("gatewayTopology".to_owned(), Value::Object(topology));
        }
    }
    let config = config.to_string();
    match &setup.owner {
        Some((kind, name)) => {
            let patch = json!({"spec": {"template": {"metadata": {"annotations": {PROXY_CONFIG: config}}}}});
            Mend::command(
                what,
                format!(
                    "kubectl -n {} patch {kind} {name} --type merge -p {}",
                    setup.namespace,
                    quoted(&patch.to_string())
                ),
            )
        }
        None => Mend::yaml(
            format!("{what}: on the pod template"),
            format!(
                "metadata:\n  annotations:\n    {PROXY_CONFIG}: '{}'\n",
                config.replace('\'', "''")
            ),
        ),
    }
}

/// One word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::tests::setup;

    #[test]
    fn another_topology_then_all_else_of_the_configuration_stays() {
        let mut setup = setup();
        setup.proxy_config = Some("concurrency: 2\ngatewayTopology: {numTrustedProxies: 1}\nholdApplicationUntilProxyStarts: true\n".to_owned());
        let command = expect_header(&setup).command.unwrap();
        assert_eq!(
            command,
            r#"kubectl -n istio-system patch deployment istio-ingressgateway --type merge -p '{"spec":{"template":{"metadata":{"annotations":{"proxy.istio.io/config":"{\"concurrency\":2,\"gatewayTopology\":{\"numTrustedProxies\":1,\"proxyProtocol\":{}},\"holdApplicationUntilProxyStarts\":true}"}}}}}'"#
        );
        setup.proxy_config = Some("{\"gatewayTopology\":{\"proxyProtocol\":{}}}".to_owned());
        let mends = expect_no_header(&setup).steps;
        assert_eq!(mends.len(), 1);
        assert!(
            mends[0]
                .command
                .as_deref()
                .unwrap()
                .ends_with(r#""proxy.istio.io/config":"{}"}}}}}'"#),
            "{mends:?}"
        );
    }

    #[test]
    fn a_quote_in_the_configuration_then_one_word_for_the_shell_all_the_same() {
        let mut setup = setup();
        setup.proxy_config = Some("{\"tracing\": {\"customTags\": {\"a\": \"it's\"}}}".to_owned());
        let command = trust(&setup, 2).command.unwrap();
        assert!(command.contains(r"it'\''s"), "{command}");
        setup.owner = None;
        let yaml = trust(&setup, 2).yaml.unwrap();
        assert!(yaml.contains("it''s"), "{yaml}");
    }

    #[test]
    fn set_by_the_mesh_or_an_envoy_filter_then_that_is_named_and_no_filter_is_deleted() {
        let mut setup = setup();
        setup.by = [By::Mesh].into();
        assert!(
            expect_no_header(&setup).steps[0]
                .yaml
                .as_deref()
                .unwrap()
                .contains("defaultConfig")
        );
        setup.by = [By::EnvoyFilter(
            "istio-system".to_owned(),
            "proxy-protocol".to_owned(),
        )]
        .into();
        let step = &expect_no_header(&setup).steps[0];
        assert_eq!(step.command, None);
        assert!(
            step.what.contains("EnvoyFilter istio-system/proxy-protocol"),
            "{step:?}"
        );
        setup.filter_shared_with = vec!["infra/internal".to_owned()];
        let step = &expect_no_header(&setup).steps[0];
        assert!(step.what.contains("applies to infra/internal too"), "{step:?}");
    }

    #[test]
    fn a_cloud_that_is_known_then_its_annotation() {
        let mut setup = setup();
        assert!(send_header(&setup).command.is_none());
        setup.provider = Some("hcloud".to_owned());
        assert_eq!(
            send_header(&setup).command.as_deref(),
            Some(
                "kubectl -n istio-system annotate --overwrite service istio-ingressgateway load-balancer.hetzner.cloud/uses-proxyprotocol=true"
            )
        );
        setup.balancer = Some(
            "Service istio-system/x carries load-balancer.hetzner.cloud/uses-proxyprotocol: \"true\""
                .to_owned(),
        );
        assert!(
            send_no_header(&setup)
                .command
                .unwrap()
                .ends_with("load-balancer.hetzner.cloud/uses-proxyprotocol-")
        );
    }
}
