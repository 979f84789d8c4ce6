//! Holds the PROXY parsers against a real Envoy: where they find a header, Envoy takes the same one or refuses the connection.
//! `docs/oracle.md` says how it works.

mod ask;
mod envoy;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use gwfilter_common::proxy::{Parsed, parse};
use gwfilter_common::read::SliceReader;
use gwfilter_common::testing::proxy::{Reading, Relation, Taken, envoy as slow, relation};
use xtask::envoy::Release;
use xtask::netns::Namespace;

use crate::ask::{Stream, ask};
use crate::envoy::Envoy;

/// Connections at a time.
const BATCH: usize = 400;
/// A stream that Envoy refused is asked again alone before it counts: a loaded machine may have made it wait too long.
const AGAIN: usize = 3;

fn number(variable: &str, default: u64) -> Result<u64> {
    match std::env::var(variable) {
        Ok(text) => text
            .parse()
            .with_context(|| format!("{variable}={text} is no number")),
        Err(_) => Ok(default),
    }
}

/// `GWFILTER_ENVOY` for the newest release, and what `cargo xtask setup` installed.
fn binary(release: Release) -> Result<PathBuf> {
    match (release, std::env::var_os("GWFILTER_ENVOY")) {
        (Release::Newest, Some(path)) => Ok(path.into()),
        _ => xtask::envoy::binary(release),
    }
}

fn parsed(bytes: &[u8]) -> Result<Parsed> {
    Ok(parse(&SliceReader(bytes), 0, u32::try_from(bytes.len())?))
}

/// The kind of an answer, for the figures.
fn kind(parsed: &Parsed) -> &'static str {
    match parsed {
        Parsed::Header(_) => "header",
        Parsed::Local => "local",
        Parsed::Unknown => "unknown",
        Parsed::Incomplete => "incomplete",
        Parsed::Invalid => "invalid",
        Parsed::NotAHeader => "no header",
    }
}

/// What is wrong, if anything: the parsers with Envoy, or the slow reader, which is how the tests without Envoy know it.
fn fault(stream: &Stream, (reading, taken): Taken) -> Result<Option<&'static str>> {
    let whole = parsed(&stream.bytes)?;
    let first = parsed(stream.bytes.get(..stream.first).unwrap_or_default())?;
    for parsed in [whole, first] {
        if relation(&parsed, reading) == Relation::Unsound {
            return Ok(Some("the parser finds a header that Envoy does not take"));
        }
        // Torn TLVs are all that the parsers do not look at.
        if relation(&parsed, reading) == Relation::Refused && stream.bytes.starts_with(b"P") {
            return Ok(Some("the parser takes a line that Envoy refuses"));
        }
        if let (Parsed::Header(header), Reading::Ends(..)) = (parsed, reading)
            && usize::try_from(header.len)? != taken
        {
            return Ok(Some("the parser finds another end of the header"));
        }
    }
    // The first segment holds all that Envoy takes: then the parser finds it too, but for what it says that it leaves.
    let left =
        matches!(reading, Reading::Ends(..)) && taken <= stream.first && !matches!(first, Parsed::Header(_));
    if left && !oddity(stream) {
        return Ok(Some("the parser leaves a header that Envoy takes"));
    }
    let agrees = match slow(&stream.bytes) {
        (Reading::Refused | Reading::Waits, _) => reading == Reading::Refused,
        (Reading::Zone, _) => true,
        other => other == (reading, taken),
    };
    Ok((!agrees).then_some("the slow reader is not Envoy"))
}

/// Whether the stream may hold what the parser leaves to Envoy: a NUL byte or a zone in a line of text.
fn oddity(stream: &Stream) -> bool {
    stream.bytes.starts_with(b"P") && (stream.bytes.contains(&0) || stream.bytes.contains(&b'%'))
}

#[derive(Default)]
struct Figures {
    streams: u64,
    /// What the parser says of the first segment, and what Envoy does, by name.
    table: BTreeMap<(&'static str, &'static str), u64>,
    /// Of the headers that Envoy takes and the first segment holds, those that the parser does not find.
    missed: u64,
    taken: u64,
}

impl Figures {
    fn add(&mut self, stream: &Stream, (reading, taken): Taken) -> Result<()> {
        let first = parsed(stream.bytes.get(..stream.first).unwrap_or_default())?;
        let does = match reading {
            Reading::Ends(..) => "takes the header's ends",
            Reading::Own => "keeps the connection's ends",
            Reading::Refused | Reading::Waits | Reading::Zone => "closes",
        };
        self.streams += 1;
        *self.table.entry((kind(&first), does)).or_default() += 1;
        if matches!(reading, Reading::Ends(..)) && taken <= stream.first {
            self.taken += 1;
            self.missed += u64::from(!matches!(first, Parsed::Header(_)));
        }
        Ok(())
    }
}

/// Asks about `wanted` streams from the seeds at `GWFILTER_ORACLE_SEED` on, and fails at the first disagreement.
fn differential(release: Release, wanted: u64) -> Result<String> {
    xtask::rights::require_root()?;
    let namespace = Namespace::new("proxy-oracle")?;
    let mut envoy = Envoy::start(&namespace, &binary(release)?)?;
    let begin = Instant::now();
    let seed = number("GWFILTER_ORACLE_SEED", 1)? << 32;
    let mut figures = Figures::default();
    namespace.enter(|| {
        while figures.streams < wanted {
            let from = seed + figures.streams;
            let count = (wanted - figures.streams).min(BATCH as u64);
            let streams: Vec<Stream> = (from..from + count).map(Stream::of).collect();
            let answers = ask(&mut envoy, &streams)?;
            for (stream, mut answer) in streams.iter().zip(answers) {
                let mut fault = fault(stream, answer)?;
                for _ in 0..AGAIN {
                    if fault.is_none() || answer.0 != Reading::Refused {
                        break;
                    }
                    let again = ask(&mut envoy, std::slice::from_ref(stream))?;
                    answer = again.first().copied().context("one stream has one answer")?;
                    fault = crate::fault(stream, answer)?;
                }
                if let Some(fault) = fault {
                    bail!(
                        "{fault}: {:?} of {} first bytes, {:?} of all; slow reader {:?}; Envoy {answer:?}; \"{}\"",
                        parsed(stream.bytes.get(..stream.first).unwrap_or_default())?,
                        stream.first,
                        parsed(&stream.bytes)?,
                        slow(&stream.bytes),
                        stream.bytes.escape_ascii()
                    );
                }
                figures.add(stream, answer)?;
            }
        }
        Ok(())
    })??;
    let mut report = format!(
        "Envoy {}: {} streams in {:.0?}, 0 disagreements; of {} headers that Envoy takes and the first segment holds, the parser leaves {} (NUL bytes, zones)\n",
        release.version(),
        figures.streams,
        begin.elapsed(),
        figures.taken,
        figures.missed
    );
    for ((parser, envoy), count) in &figures.table {
        writeln!(report, "  {count:>7}  parser: {parser:<10}  Envoy {envoy}")?;
    }
    if figures.taken < figures.streams / 10 {
        bail!("too few headers that Envoy takes: the run says nothing\n{report}");
    }
    Ok(report)
}

#[test]
fn random_headers_then_newest_envoy_reads_them_as_we_do() {
    let streams = number("GWFILTER_ORACLE_HEADERS", 10_000).unwrap();
    println!("{}", differential(Release::Newest, streams).unwrap());
}

#[test]
fn random_headers_then_oldest_envoy_reads_them_as_we_do() {
    let streams = number("GWFILTER_ORACLE_HEADERS", 10_000).unwrap();
    println!(
        "{}",
        differential(Release::Oldest, (streams / 4).min(20_000)).unwrap()
    );
}
