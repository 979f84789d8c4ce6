//! The kernel cuts names of maps and programs after 15 characters.

use super::{Finding, Source};

/// `BPF_OBJ_NAME_LEN` less the terminating zero (Linux, `include/uapi/linux/bpf.h`).
const MAX_NAME: usize = 15;

/// Where the names are written down.
const ABI: &str = "gwfilter-common/src/abi.rs";

/// String constants of the ABI that name a map or a program, and statics of the eBPF crate.
pub(super) fn kernel_names(file: &Source) -> Vec<Finding> {
    let mut found = Vec::new();
    for (number, code) in file.code() {
        let name = if file.path == ABI {
            constant(code)
        } else if file.path.starts_with("gwfilter-ebpf/src/") {
            exported(code)
        } else {
            None
        };
        if let Some(name) = name
            && name.len() > MAX_NAME
        {
            found.push(Finding::new(
                number,
                format!(
                    "`{name}` has {} characters, the kernel keeps {MAX_NAME}",
                    name.len()
                ),
            ));
        }
    }
    found
}

/// The value of `pub const X_MAP: &str = "NAME";` (or `_PROGRAM`).
fn constant(code: &str) -> Option<&str> {
    let (left, right) = code
        .trim()
        .strip_prefix("pub const ")?
        .split_once(": &str = \"")?;
    (left.ends_with("_MAP") || left.ends_with("_PROGRAM"))
        .then(|| right.split('"').next())
        .flatten()
}

/// The name of a map's static.
fn exported(code: &str) -> Option<&str> {
    let code = code.trim();
    let code = code
        .strip_prefix("pub ")
        .or_else(|| code.strip_prefix("pub(crate) "))
        .unwrap_or(code);
    let (name, kind) = code.strip_prefix("static ")?.split_once(':')?;
    // Globals live in one section map and keep their names in BTF, whole.
    (!kind.contains("Global<")).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::super::source;
    use super::*;

    #[test]
    fn name_longer_than_the_kernel_keeps_then_found() {
        for (path, text, found) in [
            (ABI, "pub const A_MAP: &str = \"GWF_ROOT\";", 0),
            (ABI, "pub const A_MAP: &str = \"GWF_MUCH_TOO_LONG\";", 1),
            (ABI, "pub const A_PROGRAM: &str = \"gwf_sixteen_char\";", 1),
            (ABI, "pub const A_DOC: &str = \"as long as it likes to be\";", 0),
            (
                "gwfilter-ebpf/src/maps.rs",
                "static GWF_MUCH_TOO_LONG: Array<u8> = Array::new();",
                1,
            ),
            (
                "gwfilter-ebpf/src/maps.rs",
                "pub(crate) static GWF_ROOT: Array<u8> = x;",
                0,
            ),
            (
                "gwfilter-ebpf/src/maps.rs",
                "static GWF_A_LONG_GLOBAL_NAME: Global<u32> = x;",
                0,
            ),
            ("gwfilter/src/lib.rs", "static GWF_MUCH_TOO_LONG: u8 = 0;", 0),
        ] {
            assert_eq!(kernel_names(&source(path, text)).len(), found, "{path}: {text}");
        }
    }
}
