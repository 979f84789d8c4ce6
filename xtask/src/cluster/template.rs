//! Reads a pod as a kubelet does: arguments, environment, rights and mounts of one container.
//!
//! Strict: what it does not know is an error, so that no test passes because a setting was overlooked.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::caps::Capabilities;

/// A container, ready to be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Container {
    /// What replaces the image's entry point, if anything.
    pub(super) command: Vec<String>,
    pub(super) args: Vec<String>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) rights: Rights,
    pub(super) mounts: Vec<Mount>,
    pub(super) readiness: Option<Probe>,
    pub(super) liveness: Option<Probe>,
}

/// What the process may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rights {
    pub(super) capabilities: Capabilities,
    pub(super) no_new_privileges: bool,
    pub(super) read_only_root: bool,
    /// A profile of the node's, by its path below the kubelet's folder. The runtime's own profile is not to be had here.
    pub(super) seccomp: Option<String>,
}

/// A volume at its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) at: String,
    pub(super) volume: Volume,
    pub(super) read_only: bool,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Volume {
    /// A folder of the node; `make` if it is made where it is missing.
    HostPath { path: String, make: bool },
    /// An empty folder of the pod.
    Empty,
    /// Files of the pod's identity.
    Projected(Vec<Projection>),
}

/// A file of a projected volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Projection {
    /// A token of the pod's ServiceAccount.
    Token {
        path: String,
        seconds: u64,
        audience: Option<String>,
    },
    /// A key of a ConfigMap in the pod's namespace.
    ConfigKey { path: String, map: String, key: String },
    /// A text that is known.
    Text { path: String, text: String },
}

/// An HTTP probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Probe {
    pub(super) host: Option<String>,
    pub(super) port: u16,
    pub(super) path: String,
}

/// Reads the container `name` of `pod`, which the API server has admitted. `service` is the API server's host and port.
pub(super) fn read(pod: &Value, name: &str, service: (&str, u16)) -> Result<Container> {
    let spec = pod.get("spec").context("a pod without spec")?;
    if spec.get("hostNetwork").and_then(Value::as_bool) != Some(true) {
        bail!("the pod is not on the host's network: there is no network for it here");
    }
    if !list(spec, "initContainers").is_empty() {
        bail!("the pod has init containers, which nobody runs here");
    }
    let container = list(spec, "containers")
        .iter()
        .find(|container| text(container, "name") == Some(name))
        .with_context(|| format!("the pod has no container `{name}`"))?;
    let env = environment(pod, container, service)?;
    let words = |key| -> Vec<String> {
        list(container, key)
            .iter()
            .filter_map(Value::as_str)
            .map(|word| expand(word, &env))
            .collect()
    };
    Ok(Container {
        command: words("command"),
        args: words("args"),
        rights: rights(spec, container)?,
        mounts: mounts(pod, spec, container)?,
        readiness: probe(container, "readinessProbe")?,
        liveness: probe(container, "livenessProbe")?,
        env,
    })
}

fn environment(pod: &Value, container: &Value, service: (&str, u16)) -> Result<BTreeMap<String, String>> {
    if container.get("envFrom").is_some() {
        bail!("envFrom is not known here");
    }
    let mut env = BTreeMap::from([
        (
            "PATH".to_owned(),
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
        ),
        ("HOME".to_owned(), "/root".to_owned()),
        ("KUBERNETES_SERVICE_HOST".to_owned(), service.0.to_owned()),
        ("KUBERNETES_SERVICE_PORT".to_owned(), service.1.to_string()),
        ("KUBERNETES_SERVICE_PORT_HTTPS".to_owned(), service.1.to_string()),
    ]);
    for variable in list(container, "env") {
        let name = text(variable, "name").context("a variable without a name")?;
        let value = match variable.get("valueFrom") {
            None => expand(text(variable, "value").unwrap_or_default(), &env),
            Some(from) => match from.pointer("/fieldRef/fieldPath").and_then(Value::as_str) {
                Some(path) => field(pod, path).with_context(|| format!("variable {name}"))?,
                None => bail!("variable {name}: {from} is not known here"),
            },
        };
        env.insert(name.to_owned(), value);
    }
    Ok(env)
}

/// A field of the pod by its path in the downward API.
fn field(pod: &Value, path: &str) -> Result<String> {
    let found = match path.split_once('[') {
        Some((root, key)) => {
            let key = key.trim_end_matches(']').trim_matches('\'');
            pod.pointer(&format!("/{}", root.replace('.', "/")))
                .and_then(|map| map.get(key))
        }
        None => pod.pointer(&format!("/{}", path.replace('.', "/"))),
    };
    found
        .and_then(Value::as_str)
        .map(ToOwned::to_owned)
        .with_context(|| format!("the pod has no field `{path}`"))
}

/// Puts variables in: `$(NAME)`; `$$` is a dollar; a name that is not there stays as it is written.
fn expand(word: &str, env: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let mut rest = word;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        rest = after;
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match env.get(name) {
                Some(value) => out.push_str(value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out + rest
}

fn rights(spec: &Value, container: &Value) -> Result<Rights> {
    let own = container.get("securityContext").unwrap_or(&Value::Null);
    let pods = spec.get("securityContext").unwrap_or(&Value::Null);
    let flag = |key| own.get(key).and_then(Value::as_bool);
    if flag("privileged") == Some(true) {
        bail!("a privileged container is not known here, and should not be needed");
    }
    for key in ["runAsUser", "runAsGroup"] {
        let id = own.get(key).or_else(|| pods.get(key)).and_then(Value::as_u64);
        if id.is_some_and(|id| id != 0) {
            bail!("{key} is not 0: Kubernetes gives capabilities to root only");
        }
    }
    let names = |key| -> Vec<&str> {
        own.get("capabilities")
            .map(|capabilities| list(capabilities, key).iter().filter_map(Value::as_str).collect())
            .unwrap_or_default()
    };
    let seccomp = own.get("seccompProfile").or_else(|| pods.get("seccompProfile"));
    let seccomp = match seccomp.map(|profile| (text(profile, "type"), text(profile, "localhostProfile"))) {
        None | Some((Some("RuntimeDefault" | "Unconfined"), None)) => None,
        Some((Some("Localhost"), Some(path))) => Some(path.to_owned()),
        Some(other) => bail!("seccomp profile {other:?} is not known here"),
    };
    Ok(Rights {
        capabilities: Capabilities::of_container(&names("add"), &names("drop"))?,
        no_new_privileges: flag("allowPrivilegeEscalation") == Some(false),
        read_only_root: flag("readOnlyRootFilesystem") == Some(true),
        seccomp,
    })
}

fn mounts(pod: &Value, spec: &Value, container: &Value) -> Result<Vec<Mount>> {
    list(container, "volumeMounts")
        .iter()
        .map(|mount| {
            let name = text(mount, "name").context("a mount without a name")?;
            if mount.get("subPath").is_some() || mount.get("subPathExpr").is_some() {
                bail!("mount {name}: a sub-path is not known here");
            }
            let volume = list(spec, "volumes")
                .iter()
                .find(|volume| text(volume, "name") == Some(name))
                .with_context(|| format!("the pod has no volume `{name}`"))?;
            Ok(Mount {
                at: text(mount, "mountPath")
                    .context("a mount without a path")?
                    .to_owned(),
                volume: self::volume(pod, volume).with_context(|| format!("volume {name}"))?,
                read_only: mount.get("readOnly").and_then(Value::as_bool) == Some(true),
            })
        })
        .collect()
}

fn volume(pod: &Value, volume: &Value) -> Result<Volume> {
    if let Some(host) = volume.get("hostPath") {
        let path = text(host, "path").context("a host path without path")?.to_owned();
        let make = match text(host, "type").unwrap_or_default() {
            "Directory" => false,
            "DirectoryOrCreate" => true,
            kind => bail!("host path {path}: type `{kind}` is not known here"),
        };
        return Ok(Volume::HostPath { path, make });
    }
    if volume.get("emptyDir").is_some() {
        return Ok(Volume::Empty);
    }
    let Some(projected) = volume.get("projected") else {
        bail!("{volume} is not known here");
    };
    let mut files = Vec::new();
    for source in list(projected, "sources") {
        if let Some(token) = source.get("serviceAccountToken") {
            files.push(Projection::Token {
                path: text(token, "path").context("a token without path")?.to_owned(),
                seconds: token
                    .get("expirationSeconds")
                    .and_then(Value::as_u64)
                    .unwrap_or(3600),
                audience: text(token, "audience").map(ToOwned::to_owned),
            });
        } else if let Some(map) = source.get("configMap") {
            for item in list(map, "items") {
                files.push(Projection::ConfigKey {
                    path: text(item, "path").context("an item without path")?.to_owned(),
                    map: text(map, "name").context("a ConfigMap without name")?.to_owned(),
                    key: text(item, "key").context("an item without key")?.to_owned(),
                });
            }
        } else if let Some(downward) = source.get("downwardAPI") {
            for item in list(downward, "items") {
                let from = item.pointer("/fieldRef/fieldPath").and_then(Value::as_str);
                files.push(Projection::Text {
                    path: text(item, "path").context("an item without path")?.to_owned(),
                    text: field(pod, from.context("an item without field")?)?,
                });
            }
        } else {
            bail!("source {source} is not known here");
        }
    }
    Ok(Volume::Projected(files))
}

fn probe(container: &Value, key: &str) -> Result<Option<Probe>> {
    let Some(probe) = container.get(key) else {
        return Ok(None);
    };
    let http = probe
        .get("httpGet")
        .with_context(|| format!("{key}: only httpGet is known here"))?;
    let named = |name: &str| {
        list(container, "ports")
            .iter()
            .find(|port| text(port, "name") == Some(name))
            .and_then(|port| port.get("containerPort")?.as_u64())
    };
    let port = match http.get("port") {
        Some(Value::String(name)) => named(name),
        port => port.and_then(Value::as_u64),
    };
    Ok(Some(Probe {
        host: text(http, "host").map(ToOwned::to_owned),
        port: port
            .and_then(|port| u16::try_from(port).ok())
            .with_context(|| format!("{key} has no port that is known"))?,
        path: text(http, "path").unwrap_or("/").to_owned(),
    }))
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value
        .get(key)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key).and_then(Value::as_str)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(container: &Value) -> Value {
        json!({
            "metadata": {"name": "agent-1", "namespace": "system", "labels": {"app": "agent"}},
            "spec": {
                "nodeName": "node-1", "hostNetwork": true, "containers": [container],
                "volumes": [
                    {"name": "pins", "hostPath": {"path": "/sys/fs/bpf", "type": "Directory"}},
                    {"name": "access", "projected": {"sources": [
                        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
                        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
                    ]}},
                ],
            },
        })
    }

    #[test]
    fn container_then_all_that_a_kubelet_reads() {
        let read = read(
            &pod(&json!({
                "name": "agent",
                "args": ["run", "--node=$(NODE)", "$$(NODE)", "$(ABSENT)"],
                "env": [
                    {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
                    {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                    {"name": "BOTH", "value": "$(NODE)/$(APP)"},
                ],
                "securityContext": {
                    "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                    "capabilities": {"drop": ["ALL"], "add": ["BPF"]},
                },
                "volumeMounts": [{"name": "pins", "mountPath": "/sys/fs/bpf"}, {"name": "access", "mountPath": "/a", "readOnly": true}],
                "ports": [{"name": "health", "containerPort": 9469}],
                "readinessProbe": {"httpGet": {"path": "/readyz", "port": "health"}},
            })),
            "agent",
            ("10.0.0.1", 443),
        )
        .expect("a container");
        assert_eq!(read.args, ["run", "--node=node-1", "$(NODE)", "$(ABSENT)"]);
        assert_eq!(read.env["BOTH"], "node-1/agent");
        assert_eq!(read.env["KUBERNETES_SERVICE_HOST"], "10.0.0.1");
        assert_eq!(read.rights.capabilities.names(), ["BPF"]);
        assert!(read.rights.no_new_privileges && read.rights.read_only_root);
        assert_eq!(
            read.mounts[0].volume,
            Volume::HostPath {
                path: "/sys/fs/bpf".to_owned(),
                make: false
            }
        );
        assert!(matches!(&read.mounts[1].volume, Volume::Projected(files) if files.len() == 3));
        assert_eq!(read.readiness.map(|probe| probe.port), Some(9469));
        assert_eq!(read.liveness, None);
    }

    #[test]
    fn a_setting_that_nobody_carries_out_here_then_an_error_and_not_silence() {
        for container in [
            json!({"name": "agent", "securityContext": {"privileged": true}}),
            json!({"name": "agent", "securityContext": {"runAsUser": 65532}}),
            json!({"name": "agent", "securityContext": {"capabilities": {"add": ["CAP_BPF"]}}}),
            json!({"name": "agent", "securityContext": {"seccompProfile": {"type": "Localhost"}}}),
            json!({"name": "agent", "envFrom": []}),
            json!({"name": "agent", "env": [{"name": "X", "valueFrom": {"secretKeyRef": {}}}]}),
            json!({"name": "agent", "volumeMounts": [{"name": "absent", "mountPath": "/x"}]}),
            json!({"name": "agent", "readinessProbe": {"exec": {}}}),
            json!({"name": "other"}),
        ] {
            assert!(
                read(&pod(&container), "agent", ("10.0.0.1", 443)).is_err(),
                "{container}"
            );
        }
        let mut own_network = pod(&json!({"name": "agent"}));
        own_network["spec"]["hostNetwork"] = json!(false);
        assert!(read(&own_network, "agent", ("10.0.0.1", 443)).is_err());
    }
}
