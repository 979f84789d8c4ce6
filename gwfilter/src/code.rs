//! The codes that `check`, `status`, the log and Events use, each with its meaning and with what to do: what the reference is made
//! from. Pure. What makes the texts of findings stands where they are found; a test holds the two together.

/// What a code is said of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// Why a gateway is not enforced, or not in full.
    Gateway,
    /// A finding about an object, with its severities.
    Finding(&'static str),
    /// Both.
    Both(&'static str),
}

/// A code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    /// The public name.
    pub name: &'static str,
    /// What it is said of.
    pub of: Of,
    /// What was found, and what follows.
    pub meaning: &'static str,
    /// What an operator does about it.
    pub to_do: &'static str,
    /// The page below the book's `runbooks` that says more; empty where there is no more to say.
    pub runbook: &'static str,
}

/// What is known of a code.
#[must_use]
pub fn find(name: &str) -> Option<&'static Code> {
    ALL.iter().find(|code| code.name == name)
}

/// Whether a reason, as `why` has them (`code: text`), leaves out something that the policies ask for. What is only worth knowing does not.
#[must_use]
pub fn leaves_out(why: &str) -> bool {
    let name = why.split_once(':').map_or(why, |(name, _)| name);
    find(name).is_none_or(|code| code.of != Of::Both("info"))
}

/// Why a gateway is not enforced, where nothing is to be mended: it has no pod on that node, somebody wants it so, or the client's address is in
/// the request. No alert fires for these (`deploy/monitoring/rules.yaml`).
pub const AS_IT_IS: [&str; 3] = [
    "no-local-endpoint",
    "observe-annotation",
    "x-forwarded-for-not-enforced",
];

/// Whether a reason, as `why` has them (`code: text`), is one of [`AS_IT_IS`].
#[must_use]
pub fn is_as_it_is(why: &str) -> bool {
    AS_IT_IS.contains(&why.split_once(':').map_or(why, |(name, _)| name))
}

const fn gateway(
    name: &'static str,
    meaning: &'static str,
    to_do: &'static str,
    runbook: &'static str,
) -> Code {
    code(name, Of::Gateway, meaning, to_do, runbook)
}

const fn code(
    name: &'static str,
    of: Of,
    meaning: &'static str,
    to_do: &'static str,
    runbook: &'static str,
) -> Code {
    Code {
        name,
        of,
        meaning,
        to_do,
        runbook,
    }
}

const ADDRESS: &str = "client-address.md";
const CLUSTER: &str = "traffic-policy-cluster.md";
const NOWHERE: &str = "no-destination.md";
const LIFE: &str = "client-let-in.md";
const TABLES: &str = "tables-not-in-force.md";
const INPUT: &str = "input-incomplete.md";
const MANY: &str = "too-many.md";
const FAULTY: &str = "faulty-policy.md";
const LEFT: &str = "left-to-gateway.md";
const ANNOTATIONS: &str = "annotations.md";

/// A value of the pod's configuration that is not certain.
const UNCERTAIN: &str = "make it certain, or state `gwfilter.io/client-address`";
/// A policy that `kubectl` or Istio would refuse.
const CORRECT: &str = "correct the policy where the message says";

/// Every code: first of the client's address, then of destinations, of input, of policies, and of annotations.
pub const ALL: [Code; 56] = [
    gateway(
        "x-forwarded-for-not-enforced",
        "the client's address is in the HTTP request, which the node does not read",
        "nothing, or have the balancer keep the source address or write PROXY headers",
        ADDRESS,
    ),
    gateway(
        "proxy-header-not-enforced",
        "a PROXY header seems to name the client, but it is not certain that every pod reads it",
        "state it in `gatewayTopology.proxyProtocol`, or by `gwfilter.io/client-address: proxy-header`",
        ADDRESS,
    ),
    gateway(
        "proxy-header-elsewhere",
        "`externalTrafficPolicy: Cluster`, and pods on other nodes may not read the PROXY header",
        "have every pod read it, or set the Service to `Local`",
        ADDRESS,
    ),
    gateway(
        "proxy-header-one-sided",
        "the load balancer writes PROXY headers, but nothing tells the gateway to read them",
        "switch one side: `gatewayTopology.proxyProtocol` on the gateway, or the annotation off",
        "client-address.md#proxy-header-one-sided",
    ),
    gateway(
        "client-address-contradicted",
        "the annotation names one client address, the pod's own configuration another",
        "take the annotation away, or change the configuration",
        ADDRESS,
    ),
    code(
        "client-address-assumed",
        Of::Finding("warning"),
        "the annotation is believed against a doubt, which the message names",
        "make sure that it is true; then nothing",
        ADDRESS,
    ),
    gateway(
        "envoy-filter",
        "an EnvoyFilter may change addresses or answer before authorization",
        UNCERTAIN,
        ADDRESS,
    ),
    gateway(
        "wasm-before-authorization",
        "a WasmPlugin may change addresses or answer before authorization",
        UNCERTAIN,
        ADDRESS,
    ),
    gateway(
        "proxy-config-not-readable",
        "the proxy's configuration cannot be read, in part or as a whole",
        "correct what the message names",
        ADDRESS,
    ),
    gateway(
        "proxy-config-unknown",
        "what the proxy runs with is not known",
        UNCERTAIN,
        ADDRESS,
    ),
    gateway(
        "mesh-configs-differ",
        "there are several mesh configurations, and they differ in what bears on client addresses",
        UNCERTAIN,
        ADDRESS,
    ),
    gateway(
        "operator-patches-proxy",
        "an IstioOperator changes the proxies in a way that is not followed",
        UNCERTAIN,
        ADDRESS,
    ),
    gateway(
        "pods-differ",
        "the gateway's pods do not all see the same client address",
        "wait for the end of a roll-out, or make them alike",
        ADDRESS,
    ),
    gateway(
        "external-traffic-policy-cluster",
        "other nodes may have rewritten the source: only destinations of pods and hosts are judged",
        "set the Service to `externalTrafficPolicy: Local`; the message has the command",
        CLUSTER,
    ),
    gateway(
        "rewritten-source",
        "the destination is one of those with `externalTrafficPolicy: Cluster`",
        "set the Service to `externalTrafficPolicy: Local`",
        CLUSTER,
    ),
    gateway(
        "probe-sources-unknown",
        "default-deny alone is off, or only counted: it could cut off health probes",
        "state `gwfilter.io/never-drop` with the senders of the probes; it may be empty",
        "probe-sources-unknown.md",
    ),
    gateway(
        "incomplete-input",
        "default-deny alone is off: what could not be read may hold another ALLOW rule",
        "mend the input that the other findings name",
        INPUT,
    ),
    code(
        "no-local-endpoint",
        Of::Both("info"),
        "no ready pod of the gateway is on the node, or there is none at all",
        "nothing on a node without a gateway pod; else see why it is not ready",
        NOWHERE,
    ),
    gateway(
        "pod-not-known",
        "an endpoint on this node is no Pod that is known",
        "give the agent or `check` the Pods",
        NOWHERE,
    ),
    code(
        "named-target-port",
        Of::Both("warning"),
        "the port has a name that only a pod can resolve: none is known, or the pod that the message names has no port of that name",
        "name the port in the pod, or write its number in the Service",
        NOWHERE,
    ),
    code(
        "tuple-of-another-service",
        Of::Both("warning"),
        "a destination, or a pod's address, belongs also to something that is no gateway: a Service, a load balancer, a Pod",
        "give each its own address or port",
        NOWHERE,
    ),
    code(
        "tuple-conflict",
        Of::Both("warning"),
        "two gateways judge a destination differently, or it is reached with rewritten sources too: it is not judged",
        "give each its own address or port; set every Service of it to `Local`",
        NOWHERE,
    ),
    gateway(
        "no-tuples",
        "no address of the gateway is known",
        "wait for the load balancer's address, or see why it has none",
        NOWHERE,
    ),
    gateway(
        "no-receiver",
        "nothing on the node is known to receive the destination",
        "nothing, unless a pod should",
        NOWHERE,
    ),
    gateway(
        "no-rbac",
        "the listener may be served by a filter chain that policies do not apply to, or by pods of which nothing is known",
        "nothing for AUTO_PASSTHROUGH; else give the agent or `check` the Gateways and Pods",
        NOWHERE,
    ),
    code(
        "no-server",
        Of::Both("info"),
        "Envoy has no listener at a port of the gateway: whatever answers there applies no policies, and nothing is judged",
        "nothing if nothing should answer there; else name the port in a Gateway, or what the message says",
        NOWHERE,
    ),
    code(
        "server-doubtful",
        Of::Both("warning"),
        "a Gateway names a port, and it is not certain that Envoy listens there: nothing is judged there",
        "what the message says",
        NOWHERE,
    ),
    code(
        "not-by-kube-proxy",
        Of::Both("warning"),
        "kube-proxy leaves destinations of the Service alone: it is headless, another proxy serves it, or its load balancer passes connections on itself",
        "nothing, if it is meant so; else what the message names",
        NOWHERE,
    ),
    code(
        "server-bind",
        Of::Both("warning"),
        "the servers of a port are bound to one address, and it is not certain that Envoy has what comes to others",
        "bind all servers of the port to one address, or to none",
        NOWHERE,
    ),
    gateway(
        "pod-address-from-before-restart",
        "the node restarted and the API server has not answered yet: the pod's address may be another pod's",
        "nothing; it ends with the first answer",
        NOWHERE,
    ),
    code(
        "no-room",
        Of::Both("error"),
        "the gateways of the node ask for more destinations, listeners or tables for PROXY headers than a generation holds: of the namespace that asks for most the largest are left out until the rest fits",
        "fewer addresses or ports on the Service, or gateways on more nodes",
        TABLES,
    ),
    gateway(
        "tables-not-in-force",
        "the tables of the wanted policies cannot be written: what is in force is from before, and refuses nobody whom the policies let in",
        "the log and `gwfilter status` say what failed; it is tried again",
        TABLES,
    ),
    code(
        "drain-time-unknown",
        Of::Both("warning"),
        "for how long the gateway's Envoys let connections live after a change (`drainDuration`) cannot be read: connections from before a change are never cut off, only new ones are refused",
        "write it in seconds (`300s`) where the message says, or take it away",
        LIFE,
    ),
    code(
        "long-drain-time",
        Of::Finding("info"),
        "`drainDuration` is longer than Envoy's own 45 s: connections from before a change live for that time and 15 s more",
        "nothing",
        LIFE,
    ),
    code(
        "unknown-node",
        Of::Finding("warning"),
        "`--node` names a node that no Node and no Pod speaks of",
        "write one of the names in the message",
        NOWHERE,
    ),
    code(
        "not-a-gateway",
        Of::Finding("warning"),
        "an annotation of ours stands on what is not judged",
        "take it away, or see why it is no gateway",
        NOWHERE,
    ),
    code(
        "unread-kind",
        Of::Both("error"),
        "objects of a kind cannot be read, or not yet: what depends on them is left to the gateways",
        "the message names the right that is missing, or the cause",
        INPUT,
    ),
    code(
        "unreadable-input",
        Of::Finding("error; of a watch: warning"),
        "a file or watch cannot be read: its last good version stays; without one there is no default-deny anywhere",
        "mend the file; for a watch, the API server",
        INPUT,
    ),
    code(
        "unreadable-object",
        Of::Both("error"),
        "an object cannot be decoded: of a file its last good version stays; of a cluster's, and where there is none, a policy counts as a possible hole (no default-deny at the gateways that it may mean), and another object keeps every gateway it could bear on from being enforced",
        "mend the object; `kubectl apply` would refuse it",
        INPUT,
    ),
    code(
        "unsupported-version",
        Of::Finding("error"),
        "the object's apiVersion is not known here; what follows is as for `unreadable-object`",
        "write one of the versions in the message",
        INPUT,
    ),
    code(
        "unreadable-list",
        Of::Finding("error"),
        "the items of a list are none: no gateway is enforced",
        "mend the list",
        INPUT,
    ),
    code(
        "stated-twice",
        Of::Finding("error"),
        "two inputs state an object differently: neither counts, as if it could not be read",
        "keep one",
        INPUT,
    ),
    code(
        "no-kind",
        Of::Finding("error"),
        "a document has no apiVersion or no kind; it is ignored",
        "add both",
        INPUT,
    ),
    code(
        "ignored-kind",
        Of::Finding("info"),
        "the kind has no bearing on client addresses",
        "nothing",
        "",
    ),
    code(
        "bad-value",
        Of::Finding("error"),
        "a value of a policy is no address, port or prefix: the rule is a hole (ALLOW), or not enforced (DENY)",
        CORRECT,
        FAULTY,
    ),
    code(
        "bad-when-key",
        Of::Finding("error"),
        "Istio knows no such key of a condition; what follows is as for `bad-value`",
        CORRECT,
        FAULTY,
    ),
    code(
        "bad-dry-run",
        Of::Finding("error"),
        "`istio.io/dry-run` is no boolean, so Istio enforces the policy",
        "write \"true\" or \"false\"",
        FAULTY,
    ),
    code(
        "unknown-action",
        Of::Finding("error"),
        "the policy's action is none that Istio knows",
        CORRECT,
        FAULTY,
    ),
    code(
        "undecodable-policy",
        Of::Finding("error"),
        "a policy cannot be decoded, and may be a hole in every gateway that it could attach to",
        CORRECT,
        FAULTY,
    ),
    code(
        "unknown-field",
        Of::Finding("warning"),
        "a field of a policy is not known here: the rule is left to the gateway",
        "a typing error? else nothing",
        FAULTY,
    ),
    code(
        "left-to-gateway",
        Of::Finding("warning"),
        "a rule is not, or only partly, enforced at the node; the message says why",
        "nothing: the gateway enforces it; or what the message says",
        LEFT,
    ),
    code(
        "more-findings",
        Of::Finding("error, warning, info"),
        "so many findings of one object (20), one namespace (200) or in all (2,000) that the rest is only counted; the most severe are listed",
        "mend those that are listed, and look again",
        MANY,
    ),
    code(
        "too-many-policies",
        Of::Both("warning"),
        "the policies of the gateway's namespace are more than an agent compiles for one namespace: none of its gateways there is enforced; as a finding: the root namespace is not known, and those of all namespaces are too many",
        "fewer rules, or fewer Services in front of the same pods",
        MANY,
    ),
    gateway(
        "too-many-classes",
        "the rules tell more peers, clients and destinations apart than the tables hold",
        "fewer different lists in the policies of this gateway",
        LEFT,
    ),
    gateway(
        "unreadable-annotation",
        "an annotation of ours cannot be read: the gateway is not enforced",
        "correct it; the message says what is expected",
        ANNOTATIONS,
    ),
    gateway(
        "observe-annotation",
        "`gwfilter.io/enforce: \"false\"`: judged and counted, nothing is dropped",
        "take the annotation away when the counters look right",
        ANNOTATIONS,
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_no_mending_then_known_codes_that_the_alert_leaves_out() {
        let rules = include_str!("../../deploy/monitoring/rules.yaml");
        let left_out = format!(
            "gwfilter_gateway_enforced{{reason!~\"{}\"}} == 0",
            AS_IT_IS.join("|")
        );
        assert!(rules.contains(&left_out), "{left_out}");
        assert!(AS_IT_IS.iter().all(|name| find(name).is_some()));
        assert!(is_as_it_is("observe-annotation: wanted so") && !is_as_it_is("no-room: full"));
    }
}
