//! What the loop tells of packets: counters, and single ones.

use std::sync::Arc;

use gwfilter_common::abi::NO_LISTENER;
use tracing::{error, warn};

use super::Agent;
use crate::dataplane::tables::{Tables, TablesError};
use crate::plan::Names;
use crate::telemetry::counters::{Book, Reading};
use crate::telemetry::{chain, packet};

/// The counters with their names.
fn reading(names: &Names, tables: &Tables) -> Result<Reading, TablesError> {
    let mut reading = Reading {
        unattributed: tables.listener(NO_LISTENER)?,
        ..Reading::default()
    };
    for (index, name) in &names.listeners {
        let key = (Arc::clone(&name.gateway), Arc::clone(&name.listener));
        reading.listeners.insert(key, tables.listener(*index)?);
    }
    for (index, policy) in &names.rules {
        reading.rules.insert(Arc::clone(policy), tables.rule(*index)?);
    }
    Ok(reading)
}

/// Begins after what earlier agents counted up to this moment: it is in the totals, and no news.
pub(super) fn begun(names: &Names, tables: &Tables) -> Book {
    let mut book = Book::default();
    if let Ok(reading) = reading(names, tables) {
        book.begin(reading);
    }
    book
}

impl Agent {
    /// The counters with their names, and how many lines of the packet log were left out.
    pub(super) fn read_counters(&mut self) -> Result<(Reading, u64), TablesError> {
        let tables = self.dataplane.tables();
        let reading = reading(self.enforcer.names(), tables)?;
        Ok((reading, tables.suppressed_lines()?))
    }

    pub(super) fn tell_counters(&mut self) {
        let (reading, suppressed) = match self.read_counters() {
            Ok(read) => read,
            Err(e) => {
                error!(error = chain(&e), "counters cannot be read");
                return;
            }
        };
        let interfaces = self.interfaces.summary();
        for line in self.book.lines(reading) {
            line.log(&interfaces);
        }
        if suppressed > self.suppressed {
            warn!(
                lines = suppressed - self.suppressed,
                total = suppressed,
                "packet log lines were left out"
            );
        }
        self.suppressed = suppressed;
    }

    pub(super) fn tell_packets(&mut self) {
        let Some((reader, sink)) = &mut self.packet_log else {
            return;
        };
        reader.flush();
        let interface = |ifindex| self.interfaces.name(ifindex);
        for line in sink.take() {
            packet::log(&line, self.enforcer.names(), interface, self.settings.log_format);
        }
    }
}
