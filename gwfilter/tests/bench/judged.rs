//! The object with a list in force, filled by the agent's own planner and writer.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use gwfilter::dataplane::tables::Tables;
use gwfilter::desired::{
    Counts, Desired, Judge, Matrix, Outcome, ProxyTables, SourceTables, Target, Verdict,
};
use gwfilter::gateway::model::{Protocol, TupleKey};
use gwfilter::plan::{Planner, Settings};
use gwfilter_common::abi::PACKET_LOG_OFF;
use gwfilter_common::reason::Reason;
use gwfilter_common::testing::Image;
use xtask::site::{VIP_PORT, VIP_V4, VIP_V6, destination};

use crate::object::{Hook, Object};
use crate::sources::{Family, List};

/// The object with a list in force.
pub(crate) struct Judged {
    pub(crate) object: Object,
    /// Holds the maps.
    _tables: Tables,
}

impl Judged {
    /// Refuses packets from the list's addresses at the gateway's address.
    pub(crate) fn by_source(list: &List) -> Result<Self> {
        let mut tables = SourceTables::default();
        match list {
            List::V4(nets) => {
                tables.table4 = Some(Arc::new(nets.iter().map(|net| (*net, refused())).collect()));
            }
            List::V6(nets) => {
                tables.table6 = Some(Arc::new(nets.iter().map(|net| (*net, refused())).collect()));
            }
        }
        Self::new(gateway(list.family())?, Judge::Source(tables))
    }

    /// Refuses the list's addresses where a PROXY header names them, at the gateway's IPv4 address.
    pub(crate) fn by_header(list: &List) -> Result<Self> {
        let counts = Counts {
            peers: 1,
            clients: 2,
            dests: 1,
            ports: 1,
        };
        let mut matrix = Matrix {
            peers4: Arc::default(),
            peers6: Arc::default(),
            clients4: Arc::default(),
            clients6: Arc::default(),
            dests4: Arc::default(),
            dests6: Arc::default(),
            ports: Arc::default(),
            counts,
            verdicts: Arc::new(BTreeMap::from([(counts.cell(0, 1, 0, 0), refused())])),
        };
        match list {
            List::V4(nets) => matrix.clients4 = Arc::new(nets.iter().map(|net| (*net, 1)).collect()),
            List::V6(nets) => matrix.clients6 = Arc::new(nets.iter().map(|net| (*net, 1)).collect()),
        }
        let tables = ProxyTables {
            matrix: Some(Arc::new(matrix)),
            never4: Arc::default(),
            never6: Arc::default(),
            trusted4: None,
            trusted6: None,
        };
        Self::new(gateway(Family::V4)?, Judge::Proxy(Arc::new(tables)))
    }

    fn new(to: SocketAddr, judge: Judge) -> Result<Self> {
        let mut object = Object::load(PACKET_LOG_OFF, 0)?;
        object.control(Image::default().control)?;
        let mut tables = Tables::take(&mut object.ebpf)?;
        let settings = Settings {
            drain_ms: 0,
            rewritten_drain_ms: 0,
        };
        let key = TupleKey {
            addr: to.ip(),
            port: to.port(),
            protocol: Protocol::Tcp,
        };
        let target = Target {
            listener: "istio-system/istio-ingressgateway:http2".into(),
            judge,
            observe: false,
            node_address: false,
            pod_address: false,
            reset: false,
            drain_ms: 0,
        };
        let desired = Desired {
            tuples: [(key, target)].into(),
            rewritten: Vec::new(),
        };
        let plan = Planner::new(settings).plan(&desired, 1)?;
        let left = tables.apply(&plan.ops)?;
        if let Some(error) = left.first() {
            bail!("not all was written: {error}");
        }
        Ok(Self {
            object,
            _tables: tables,
        })
    }

    pub(crate) fn program(&self, hook: Hook) -> Result<BorrowedFd<'_>> {
        let program = self.object.ebpf.program(hook.program());
        Ok(program.context(hook.program())?.fd()?.as_fd())
    }
}

fn refused() -> Outcome {
    Outcome {
        verdict: Verdict::Drop,
        reason: Reason::DeniedByRule,
        rule: Some("ns[istio-system]-policy[deny]-rule[0]".into()),
    }
}

/// Where packets go to.
pub(crate) fn gateway(family: Family) -> Result<SocketAddr> {
    let address = match family {
        Family::V4 => VIP_V4,
        Family::V6 => VIP_V6,
    };
    destination(address, VIP_PORT)
}
