//! Rendered manifests as values, by name.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde::Deserialize as _;
use serde_json::Value;
use xtask::cluster::tools::{self, Tools};
use xtask::paths;

/// Objects by `Kind namespace/name`.
pub(crate) type Objects = BTreeMap<String, Value>;

/// A path in `deploy/`.
pub(crate) fn deploy(path: &str) -> PathBuf {
    paths::root().join("deploy").join(path)
}

/// `kubectl kustomize` of a folder in `deploy/`.
pub(crate) fn kustomize(folder: &str) -> Objects {
    let kubectl = Tools::find().expect("the Kubernetes programs").program("kubectl");
    parse(&run(Command::new(kubectl).arg("kustomize").arg(deploy(folder))))
}

/// `helm template` of the chart.
pub(crate) fn helm(arguments: &[&str]) -> Output {
    let mut command = Command::new(tools::helm().expect("helm"));
    command
        .args(["template", "gwfilter"])
        .arg(deploy("chart/gwfilter"));
    command.args(arguments).output().expect("helm starts")
}

/// What the chart renders with these arguments.
#[track_caller]
pub(crate) fn chart(arguments: &[&str]) -> Objects {
    let output = helm(arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "helm template {arguments:?}: {errors}");
    parse(&String::from_utf8_lossy(&output.stdout))
}

#[track_caller]
fn run(command: &mut Command) -> String {
    let output = command.output().expect("it starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Reads multi-document YAML. Two objects of one name are a defect.
#[track_caller]
pub(crate) fn parse(yaml: &str) -> Objects {
    let mut objects = Objects::new();
    for document in serde_yaml::Deserializer::from_str(yaml) {
        let object = Value::deserialize(document).expect("YAML");
        if object.is_null() {
            continue;
        }
        let text = |pointer| object.pointer(pointer).and_then(Value::as_str).unwrap_or("");
        let name = format!(
            "{} {}/{}",
            text("/kind"),
            text("/metadata/namespace"),
            text("/metadata/name")
        );
        assert!(objects.insert(name.clone(), object).is_none(), "{name} twice");
    }
    assert!(!objects.is_empty(), "nothing was rendered");
    objects
}

/// The DaemonSet's only container.
pub(crate) fn container(objects: &Objects) -> &Value {
    let set = objects
        .iter()
        .find(|(name, _)| name.starts_with("DaemonSet "))
        .expect("a DaemonSet")
        .1;
    let containers = set["spec"]["template"]["spec"]["containers"].as_array().unwrap();
    assert_eq!(containers.len(), 1);
    &containers[0]
}

/// The container's arguments.
pub(crate) fn arguments(objects: &Objects) -> Vec<&str> {
    let arguments = container(objects)["args"].as_array().unwrap();
    arguments.iter().map(|word| word.as_str().unwrap()).collect()
}
