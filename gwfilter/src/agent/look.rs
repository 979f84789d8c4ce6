//! Looks at the machine and at what was left in the kernel, and puts right what is not as it was left.

use std::time::Duration;

use tracing::{error, info, warn};

use super::Agent;
use crate::dataplane::Dataplane;
use crate::dataplane::tables::Look;
use crate::telemetry::chain;

/// Entries of tables that are read, or freed, at one turn of the loop: some milliseconds' worth.
const SLICE: usize = 1024;
/// Time between two such slices.
pub(super) const SLICES: Duration = Duration::from_millis(5);
/// Entries of tables that are read at one look: more than that, and the next look goes on.
pub(super) const ENTRIES: usize = 100_000;

/// What is left wrong in the tables. A wrong table may refuse what is let in, so nobody vouches for it: if it cannot be put right, the lease
/// ends.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    /// Found in the last look at all tables, or in the one that goes on.
    wrong: Option<String>,
    /// In the one that goes on.
    fresh: bool,
}

impl Sweep {
    /// Takes in one slice.
    fn looked(&mut self, look: &Look) {
        for find in &look.finds {
            // One that is only not pinned is as it was written; one that cannot be read is not known to be wrong.
            let wrong = !matches!(find.name, "table-pin-gone" | "table-unreadable");
            if let Some(why) = find.failure.as_ref().filter(|_| wrong) {
                self.wrong = Some(format!("{}, and it cannot be written anew: {why}", find.what));
                self.fresh = true;
            }
        }
        if !look.more {
            if !self.fresh {
                self.wrong = None;
            }
            self.fresh = false;
        }
    }

    /// Whether no table is known to be wrong.
    pub(super) fn vouched(&self) -> Result<(), String> {
        self.wrong.clone().map_or(Ok(()), Err)
    }
}

impl Agent {
    /// Frees a little of what is out of use, and looks at a little of what is in use; gives back how much may still be looked at.
    pub(super) fn slice(&mut self, unread: usize) -> usize {
        let tables = self.dataplane.tables();
        for e in tables.free_old(SLICE) {
            warn!(
                error = chain(&e),
                "an old table is freed at once and not by and by"
            );
        }
        if unread == 0 {
            return 0;
        }
        let look = tables.verify(SLICE);
        self.sweep.looked(&look);
        // Unloaded by somebody: the pins are gone with all the rest.
        if !look.finds.is_empty() && self.dataplane.pins().present() {
            for find in &look.finds {
                self.interfaces.watch().table(find);
            }
            self.aside.changed();
        }
        if look.more {
            unread.saturating_sub(SLICE)
        } else {
            0
        }
    }

    /// Looks at interfaces and addresses.
    pub(super) async fn network(&mut self) {
        self.network_and(false).await;
    }

    /// As [`Self::network`]; `verify`: also whether every program is where it should be.
    pub(super) async fn network_and(&mut self, verify: bool) {
        let world = match self.netlink.world(self.settings.interfaces.is_empty()).await {
            Ok(world) => world,
            Err(e) => {
                let text = chain(&e);
                if self.network_error.as_ref() != Some(&text) {
                    error!(
                        error = text,
                        "interfaces and addresses cannot be read; those known stay"
                    );
                    self.network_error = Some(text);
                }
                return;
            }
        };
        if self.network_error.take().is_some() {
            info!("interfaces and addresses can be read again");
        }
        if self.facts.local_addresses.as_ref() != Some(&world.addresses) {
            info!(
                addresses = world.addresses.len(),
                "addresses of this machine changed"
            );
            self.facts.local_addresses = Some(world.addresses.clone());
            self.enforce();
        }
        let finds = self.interfaces.finds();
        if verify {
            self.interfaces.verify(&world, &mut self.dataplane);
        }
        self.interfaces.follow(&world, &mut self.dataplane);
        if self.interfaces.finds() != finds {
            self.aside.changed();
        }
    }
}

/// Says how what an earlier agent left in force compares with what is about to be.
pub(super) fn compare(dataplane: &mut Dataplane) {
    match dataplane.tables().compare_earlier() {
        Ok(None) => {}
        Ok(Some(compared)) => info!(
            same = compared.same,
            otherwise = compared.otherwise,
            no_longer = compared.no_longer,
            anew = compared.anew,
            "destinations that an earlier agent left in force"
        ),
        Err(e) => warn!(
            error = chain(&e),
            "what an earlier agent left in force cannot be read"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::tables::Find;

    fn look(name: &'static str, failure: Option<&str>, more: bool) -> Look {
        let find = Find {
            name,
            what: "source4-1".to_owned(),
            failure: failure.map(str::to_owned),
        };
        Look {
            finds: vec![find],
            more,
        }
    }

    #[test]
    fn a_wrong_table_that_cannot_be_put_right_then_not_vouched_for_until_a_whole_look_finds_none() {
        let clean = |more| Look {
            finds: Vec::new(),
            more,
        };
        let mut sweep = Sweep::default();
        sweep.looked(&look("table-changed", Some("no memory"), true));
        let why = sweep.vouched().unwrap_err();
        assert!(why.contains("source4-1") && why.contains("no memory"), "{why}");
        // The same look ends, and the next one begins: it has not come to that table yet.
        sweep.looked(&clean(false));
        sweep.looked(&clean(true));
        sweep.vouched().unwrap_err();
        sweep.looked(&look("table-changed", None, false));
        sweep.vouched().unwrap();
        for (name, failure, vouched) in [
            ("table-replaced", Some("no memory"), false),
            ("table-replaced", None, true),
            ("table-pin-gone", Some("no memory"), true),
            ("table-unreadable", Some("no memory"), true),
        ] {
            let mut sweep = Sweep::default();
            sweep.looked(&look(name, failure, false));
            assert_eq!(sweep.vouched().is_ok(), vouched, "{name} {failure:?}");
        }
    }
}
