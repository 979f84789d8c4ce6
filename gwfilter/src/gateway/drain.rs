//! For how long a gateway's Envoys let connections live that a change of policy does not let in any more.
//!
//! It is `drainDuration`, stated where `gatewayTopology` is: in the configuration that a pod runs with (`PROXY_CONFIG`), in the pod's
//! annotation, in the mesh configuration. The node must not cut off what they still serve, so the longest counts.

use std::collections::BTreeMap;
use std::time::Duration;

use super::candidate::Candidate;
use super::client_address::{PROXY_CONFIG_ANNOTATION, PROXY_CONFIG_ENV};
use super::missing;
use super::model::Why;
use super::world::World;
use crate::diagnostic::Diagnostic;
use crate::manifest;
use crate::object::drain::Drain;
use crate::object::pod::{EnvValue, PodSpec};
use crate::object::read::{Cursor, Faults};

/// The code of a gateway whose drain time is not known.
const UNKNOWN: &str = "drain-time-unknown";
/// The code of one whose drain time is longer than Envoy's own.
const LONG: &str = "long-drain-time";
/// What Envoys drain for where nothing says otherwise.
const DEFAULT: Duration = Duration::from_secs(45);

/// What is said of it, and what says so: "PROXY_CONFIG of Pod x sets", or why it is not known.
type Said = (Drain, String);

/// The longest of all pods that are known, or of what will make some.
pub(super) fn find(world: &World<'_>, candidate: &Candidate<'_>) -> Said {
    let configs = world.snapshot.mesh_configs.iter();
    // Of several (revisions) it is not known whose the pods are.
    let mesh = configs
        .map(|mesh| {
            (
                mesh.settings.drain,
                format!("the mesh configuration {}", mesh.meta.name),
            )
        })
        .max_by_key(|(drain, _)| *drain)
        .unwrap_or_default();
    let annotated =
        |annotations: &BTreeMap<String, String>| annotations.get(PROXY_CONFIG_ANNOTATION).cloned();
    let pods = candidate.pods.iter().map(|pod| {
        let name = format!("Pod {}", pod.meta.name);
        of_pod(
            world,
            Some(&pod.spec),
            annotated(&pod.meta.annotations),
            &name,
            &mesh,
        )
    });
    let mut all: Vec<Said> = pods.collect();
    if all.is_empty() {
        let operators = world.operator_gateways(candidate);
        if operators.iter().any(|(_, gateway)| gateway.patches_proxy) {
            let why = "an IstioOperator changes the proxy's configuration in a way that is not followed";
            return (Drain::Unknown, why.to_owned());
        }
        let from_operator = operators.iter().find_map(|(_, g)| annotated(&g.pod_annotations));
        all.extend(candidate.templates.iter().map(|template| {
            let text = annotated(&template.annotations).or(from_operator.clone());
            of_pod(world, Some(&template.spec), text, &template.meta.name, &mesh)
        }));
        if candidate.templates.is_empty() {
            all.push(of_pod(world, None, from_operator, "the IstioOperator", &mesh));
        }
    }
    all.into_iter().max_by_key(|(drain, _)| *drain).unwrap_or(mesh)
}

fn of_pod(
    world: &World<'_>,
    spec: Option<&PodSpec>,
    annotation: Option<String>,
    name: &str,
    mesh: &Said,
) -> Said {
    let proxy = spec.and_then(PodSpec::proxy);
    let unknown = |why: String| (Drain::Unknown, why);
    match proxy.and_then(|proxy| proxy.env.get(PROXY_CONFIG_ENV)) {
        // Kubernetes puts another variable's value there.
        Some(EnvValue::Literal(text)) if text.contains("$(") => {
            unknown(format!("{PROXY_CONFIG_ENV} of {name} takes in other variables"))
        }
        // All layers were merged when the pod was made; what it does not say is Istio's default.
        Some(EnvValue::Literal(text)) => read(text, format!("{PROXY_CONFIG_ENV} of {name}")),
        Some(EnvValue::Elsewhere) => {
            unknown(format!("{PROXY_CONFIG_ENV} of {name} comes from another object"))
        }
        None if proxy.is_some_and(|proxy| proxy.env_from) => unknown(format!(
            "{name} takes its environment from another object, perhaps {PROXY_CONFIG_ENV} too"
        )),
        None => {
            let what = || format!("annotation {PROXY_CONFIG_ANNOTATION} of {name}");
            let own = annotation.map(|text| read(&text, what()));
            match own.filter(|(drain, _)| *drain != Drain::Unstated) {
                Some(own) => own,
                None => missing::of_proxy_config(world, name)
                    .map_or_else(|| mesh.clone(), |why| unknown(why.text)),
            }
        }
    }
}

fn read(text: &str, what: String) -> Said {
    let faults = Faults::default();
    match manifest::parse_one(text) {
        Ok(value) => (Drain::read(&Cursor::new(&value, &faults)), what),
        Err(error) => (Drain::Unknown, format!("{what} cannot be read ({error})")),
    }
}

/// What is left open if it is not known.
pub(super) fn remark((drain, what): &Said) -> Option<Why> {
    let text = || {
        format!(
            "for how long its Envoys let connections live after a change (drainDuration) is not known: {what}. So connections from before a \
             change are never cut off here, and only new ones are refused; write it in seconds, as in \"300s\", where it can be read"
        )
    };
    (*drain == Drain::Unknown).then(|| Why {
        code: UNKNOWN,
        text: text(),
    })
}

/// What is told of it if it is longer than usual.
pub(super) fn finding((drain, what): &Said, candidate: &Candidate<'_>) -> Option<Diagnostic> {
    let Drain::Stated(time) = drain else {
        return None;
    };
    let text = format!(
        "{what} sets drainDuration {}s: whom a change refuses keeps open connections for that time and 15 s more, new ones are refused \
         at once",
        time.as_secs()
    );
    (*time > DEFAULT).then(|| Diagnostic::info(LONG, super::reference(candidate), text))
}
