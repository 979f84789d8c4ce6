//! A seccomp profile in the container runtimes' form (the OCI runtime specification's `linux.seccomp`), made into the kernel's filters.
//!
//! Strict as the rest of the lab: a key or a value that is not known here is an error. Names of system calls that this processor does not have
//! are passed over, as libseccomp does.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use seccompiler::{BpfProgram, TargetArch, apply_filter, compile_from_json};
use serde_json::{Value, json};

/// Folder on a node in which the kubelet looks for profiles.
pub const FOLDER: &str = "var/lib/kubelet/seccomp";

/// Old calls that the 64-bit Arm processors never had.
const X86_ONLY: [&str; 8] = [
    "access",
    "arch_prctl",
    "epoll_wait",
    "mkdir",
    "open",
    "poll",
    "readlink",
    "unlink",
];

/// Filters in the order in which they are to be installed: of two that refuse, the kernel takes the later one's error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile(Vec<BpfProgram>);

impl Profile {
    /// Reads a profile.
    ///
    /// # Errors
    /// The file cannot be read, or says something that is not known here.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let profile: Value =
            serde_json::from_str(&text).with_context(|| format!("{}: no JSON", path.display()))?;
        Self::of(&profile).with_context(|| path.display().to_string())
    }

    fn of(profile: &Value) -> Result<Self> {
        only(
            profile,
            &["defaultAction", "defaultErrnoRet", "architectures", "syscalls"],
        )?;
        if text(profile, "defaultAction")? != "SCMP_ACT_ERRNO" {
            bail!("the default is not SCMP_ACT_ERRNO");
        }
        let default = errno(profile, "defaultErrnoRet")?;
        let mut allowed = Vec::new();
        let mut others = Vec::new();
        for rule in profile
            .get("syscalls")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            only(rule, &["names", "action", "errnoRet", "args"])?;
            let names = rule
                .get("names")
                .and_then(Value::as_array)
                .context("a rule without names")?;
            let mut entries = Vec::new();
            for name in names.iter().filter_map(Value::as_str) {
                if cfg!(target_arch = "x86_64") || !X86_ONLY.contains(&name) {
                    entries.push(entry(name, rule)?);
                }
            }
            match text(rule, "action")? {
                "SCMP_ACT_ALLOW" => allowed.extend(entries),
                "SCMP_ACT_ERRNO" => {
                    // Let through by the filter for all the rest; a filter of its own has the last word.
                    let names = entries.iter().map(|entry| json!({"syscall": entry["syscall"]}));
                    allowed.extend(names);
                    others.push(filter(
                        &entries,
                        &json!("allow"),
                        &json!({"errno": errno(rule, "errnoRet")?}),
                    ));
                }
                action => bail!("action {action} is not known here"),
            }
        }
        let main = filter(&allowed, &json!({"errno": default}), &json!("allow"));
        let all = others.iter().chain([&main]);
        all.map(compile).collect::<Result<_>>().map(Self)
    }

    /// Has `command` install the filters as the last thing before it becomes its program. The process must hold `no_new_privs` by then.
    pub fn confine(&self, command: &mut Command) {
        let filters = self.0.clone();
        // SAFETY: between fork and exec only system calls are made (prctl and seccomp); nothing is allocated.
        unsafe {
            command.pre_exec(move || {
                for filter in &filters {
                    apply_filter(filter).map_err(|_| std::io::Error::last_os_error())?;
                }
                Ok(())
            });
        }
    }
}

fn compile(filter: &Value) -> Result<BpfProgram> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).context("this processor")?;
    let map = json!({"all": filter}).to_string();
    let mut compiled = compile_from_json(map.as_bytes(), arch).context("making a filter")?;
    compiled.remove("all").context("no filter was made")
}

fn filter(entries: &[Value], mismatch: &Value, matched: &Value) -> Value {
    json!({"mismatch_action": mismatch, "match_action": matched, "filter": entries})
}

/// One call of a rule, with its conditions.
fn entry(name: &str, rule: &Value) -> Result<Value> {
    let mut conditions = Vec::new();
    for arg in rule.get("args").and_then(Value::as_array).into_iter().flatten() {
        only(arg, &["index", "value", "valueTwo", "op"])?;
        let number = |key: &str| arg.get(key).and_then(Value::as_u64);
        let value = number("value").context("a condition without value")?;
        // Of a masked comparison the first value is the mask.
        let (op, value) = match text(arg, "op")? {
            "SCMP_CMP_EQ" => (json!("eq"), value),
            "SCMP_CMP_NE" => (json!("ne"), value),
            "SCMP_CMP_MASKED_EQ" => (
                json!({"masked_eq": value}),
                number("valueTwo").unwrap_or_default(),
            ),
            op => bail!("comparison {op} is not known here"),
        };
        let index = number("index").context("a condition without index")?;
        conditions.push(json!({"index": index, "type": "qword", "op": op, "val": value}));
    }
    Ok(if conditions.is_empty() {
        json!({"syscall": name})
    } else {
        json!({"syscall": name, "args": conditions})
    })
}

fn errno(value: &Value, key: &str) -> Result<u64> {
    match value.get(key) {
        None => Ok(u64::from(nix::errno::Errno::EPERM as u32)),
        Some(number) => number.as_u64().with_context(|| format!("{key} is no number")),
    }
}

fn text<'a>(value: &'a Value, key: &str) -> Result<&'a str> {
    value
        .get(key)
        .and_then(Value::as_str)
        .with_context(|| format!("no text {key}"))
}

fn only(value: &Value, keys: &[&str]) -> Result<()> {
    let map = value.as_object().context("not an object")?;
    match map.keys().find(|key| !keys.contains(&key.as_str())) {
        Some(key) => bail!("{key} is not known here"),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_here_then_an_error_and_not_silence() {
        let good = json!({
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
            "syscalls": [
                {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"},
                {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
                {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}]},
            ],
        });
        assert_eq!(Profile::of(&good).expect("a profile").0.len(), 2);
        for (pointer, key, bad) in [
            ("", "defaultAction", json!("SCMP_ACT_ALLOW")),
            ("", "flags", json!([])),
            ("/syscalls/0", "names", json!(["no_such_call"])),
            ("/syscalls/0", "action", json!("SCMP_ACT_NOTIFY")),
            ("/syscalls/0", "includes", json!({})),
            ("/syscalls/2/args/0", "op", json!("SCMP_CMP_GT")),
        ] {
            let mut profile = good.clone();
            if let Some(Value::Object(map)) = profile.pointer_mut(pointer) {
                map.insert(key.to_owned(), bad.clone());
            }
            Profile::of(&profile).expect_err(&format!("{pointer} {key}: {bad}"));
        }
    }
}
