//! The eBPF object this binary carries, and whether it speaks our ABI.

use aya::include_bytes_aligned;
use aya::util::KernelVersion;
use gwfilter_common::abi::{ABI_GLOBAL, ABI_VERSION};
use object::{Object, ObjectSection, ObjectSymbol, SymbolKind};
use sha2::{Digest, Sha256};

static EMBEDDED: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/gwfilter.bpf.o"));

/// Why the object cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// `build.rs` found none.
    #[error(
        "this gwfilter was built without its eBPF object: run `cargo xtask build` and use target/release/gwfilter"
    )]
    NotBuilt,
    /// No ELF file.
    #[error("the eBPF object in this binary cannot be read: build it again with `cargo xtask build`")]
    Unreadable(#[source] object::Error),
    /// Of another version.
    #[error(
        "the eBPF object in this binary {}, but ABI version {ABI_VERSION} is needed: build both sides together, with `cargo xtask build`",
        found.map_or_else(|| "is damaged or not gwfilter's (it has no ABI version)".to_owned(), |v| format!("has ABI version {v}"))
    )]
    Abi {
        /// Its version.
        found: Option<u32>,
    },
}

/// The object, checked.
///
/// # Errors
/// There is none, or it is of another ABI.
pub fn embedded() -> Result<&'static [u8], ObjectError> {
    check(EMBEDDED).map(|()| EMBEDDED)
}

/// What [`gwfilter_common::abi::COARSE_CLOCK_GLOBAL`] is to be on this kernel.
#[must_use]
pub fn coarse_clock() -> u32 {
    KernelVersion::current()
        .is_ok_and(|version| version >= KernelVersion::new(5, 11, 0))
        .into()
}

/// What an object is, without loading it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Facts {
    /// Of the whole file, in hexadecimal.
    pub sha256: String,
    /// The version of the map layout that it speaks.
    pub abi: Option<u32>,
    /// Its entry points, by name.
    pub programs: Vec<Program>,
}

/// An entry point.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Program {
    /// As the kernel shows it, cut off after 15 bytes there.
    pub name: String,
    /// `xdp` or `tc`.
    pub kind: &'static str,
}

/// What the object in this binary is; `None` where there is none, or it cannot be read.
#[must_use]
pub fn facts() -> Option<Facts> {
    facts_of(EMBEDDED)
}

fn facts_of(bytes: &[u8]) -> Option<Facts> {
    let file = object::File::parse(bytes).ok()?;
    let program = |symbol: object::Symbol<'_, '_>| {
        let section = file.section_by_index(symbol.section_index()?).ok()?;
        let kind = match section.name().ok()? {
            "xdp" | "xdp.frags" => "xdp",
            "classifier" => "tc",
            _ => return None,
        };
        let name = symbol.name().ok()?.to_owned();
        Some(Program { name, kind })
    };
    let mut programs: Vec<Program> = file
        .symbols()
        .filter(|symbol| symbol.is_global() && symbol.kind() == SymbolKind::Text)
        .filter_map(program)
        .collect();
    programs.sort();
    Some(Facts {
        sha256: Sha256::digest(bytes)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect(),
        abi: abi(bytes).ok()?,
        programs,
    })
}

fn check(bytes: &[u8]) -> Result<(), ObjectError> {
    if bytes.is_empty() {
        return Err(ObjectError::NotBuilt);
    }
    let found = abi(bytes).map_err(ObjectError::Unreadable)?;
    if found == Some(ABI_VERSION) {
        Ok(())
    } else {
        Err(ObjectError::Abi { found })
    }
}

/// The value of the global [`ABI_GLOBAL`].
fn abi(bytes: &[u8]) -> Result<Option<u32>, object::Error> {
    let file = object::File::parse(bytes)?;
    let Some(symbol) = file.symbols().find(|s| s.name() == Ok(ABI_GLOBAL)) else {
        return Ok(None);
    };
    let Some(index) = symbol.section_index() else {
        return Ok(None);
    };
    let section = file.section_by_index(index)?;
    let start = symbol
        .address()
        .checked_sub(section.address())
        .and_then(|s| usize::try_from(s).ok());
    let word = start.and_then(|s| section.data().ok()?.get(s..)?.first_chunk::<4>().copied());
    Ok(word.map(|w| {
        if file.is_little_endian() {
            u32::from_le_bytes(w)
        } else {
            u32::from_be_bytes(w)
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_without_object_says_how_to_get_one() {
        let e = check(&[]).unwrap_err();
        assert!(e.to_string().contains("cargo xtask build"), "{e}");
    }

    #[test]
    fn what_is_no_object_is_refused() {
        assert!(matches!(
            check(b"\x7fELF, but no more"),
            Err(ObjectError::Unreadable(_))
        ));
    }

    #[test]
    fn what_this_binary_carries_then_its_programs_and_their_hooks() {
        let Some(facts) = facts() else {
            assert!(
                matches!(embedded(), Err(ObjectError::NotBuilt)),
                "an object, and no facts"
            );
            return;
        };
        assert_eq!(facts.abi, Some(ABI_VERSION));
        assert_eq!(facts.sha256.len(), 64);
        for (name, kind) in [("gwf_xdp", "xdp"), ("gwf_xdp_frags", "xdp"), ("gwf_tc", "tc")] {
            let program = Program {
                name: name.to_owned(),
                kind,
            };
            assert!(facts.programs.contains(&program), "{facts:?}");
        }
        assert!(
            facts.programs.iter().all(|p| p.name.starts_with("gwf_")),
            "{facts:?}"
        );
        assert_eq!(facts_of(b""), None);
    }

    #[test]
    fn the_test_binary_itself_is_an_elf_file_of_no_abi() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        assert!(matches!(check(&own), Err(ObjectError::Abi { found: None })));
        let half = &own[..own.len() / 2];
        assert!(
            matches!(check(half), Err(ObjectError::Unreadable(_))),
            "its tables are at its end"
        );
    }
}
