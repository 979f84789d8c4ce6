//! `gwfilter version`: what this program is, and what it carries.

use std::fmt::Write as _;
use std::io::Write;

use gwfilter_common::abi::ABI_VERSION;
use serde::Serialize;

use super::{Output, written};
use crate::dataplane::object::{self, Facts};

/// Arguments of `gwfilter version`.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Args {
    /// The form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// What is known of the build.
#[derive(Clone, Debug, Serialize)]
struct Version {
    version: &'static str,
    /// The commit that whoever built it named, or `unknown`.
    commit: &'static str,
    /// The version of the map layout: agents of one ABI go on with each other's maps.
    abi: u32,
    target: &'static str,
    rustc: &'static str,
    /// The eBPF object inside; null where there is none.
    object: Option<Facts>,
}

impl Version {
    fn of_this_program() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            commit: env!("GWFILTER_BUILT_COMMIT"),
            abi: ABI_VERSION,
            target: env!("GWFILTER_BUILT_TARGET"),
            rustc: env!("GWFILTER_BUILT_RUSTC"),
            object: object::facts(),
        }
    }

    fn text(&self) -> String {
        let mut text = format!(
            "gwfilter {}\ncommit    {}\nABI       {}\ntarget    {}\nrustc     {}\n",
            self.version, self.commit, self.abi, self.target, self.rustc
        );
        let Some(object) = &self.object else {
            return text
                + "object    none: `gwfilter run` will not work; build it with `cargo xtask build`\n";
        };
        // Writing to a String does not fail.
        let _ = writeln!(text, "object    sha256:{}", object.sha256);
        for (index, program) in object.programs.iter().enumerate() {
            let head = if index == 0 { "programs" } else { "" };
            let _ = writeln!(text, "{head:<10}{:<4}{}", program.kind, program.name);
        }
        text
    }
}

/// Says it.
///
/// # Errors
/// `out` cannot be written.
pub fn run(args: &Args, out: &mut impl Write) -> anyhow::Result<()> {
    let version = Version::of_this_program();
    let text = match args.output {
        Output::Json => serde_json::to_string(&version)? + "\n",
        Output::Text => version.text(),
    };
    written(out.write_all(text.as_bytes())).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::object::Program;

    fn version(object: Option<Facts>) -> Version {
        Version {
            version: "1.2.3",
            commit: "0123456789abcdef0123456789abcdef01234567",
            abi: 9,
            target: "x86_64-unknown-linux-gnu",
            rustc: "rustc 1.95.0 (59807616e 2026-04-14)",
            object,
        }
    }

    #[test]
    fn version_then_its_text_and_json() {
        let program = |name: &str, kind| Program {
            name: name.to_owned(),
            kind,
        };
        let whole = version(Some(Facts {
            sha256: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855".to_owned(),
            abi: Some(9),
            programs: vec![program("gwf_tc", "tc"), program("gwf_xdp", "xdp")],
        }));
        insta::assert_snapshot!(whole.text(), @r"
        gwfilter 1.2.3
        commit    0123456789abcdef0123456789abcdef01234567
        ABI       9
        target    x86_64-unknown-linux-gnu
        rustc     rustc 1.95.0 (59807616e 2026-04-14)
        object    sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
        programs  tc  gwf_tc
                  xdp gwf_xdp
        ");
        insta::assert_snapshot!(serde_json::to_string(&whole).unwrap(), @r#"{"version":"1.2.3","commit":"0123456789abcdef0123456789abcdef01234567","abi":9,"target":"x86_64-unknown-linux-gnu","rustc":"rustc 1.95.0 (59807616e 2026-04-14)","object":{"sha256":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","abi":9,"programs":[{"name":"gwf_tc","kind":"tc"},{"name":"gwf_xdp","kind":"xdp"}]}}"#);
        assert!(
            version(None).text().ends_with(
                "object    none: `gwfilter run` will not work; build it with `cargo xtask build`\n"
            )
        );
    }
}
