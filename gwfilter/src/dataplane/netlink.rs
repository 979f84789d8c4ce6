//! Asks the kernel, by rtnetlink, for devices, addresses and default routes, and hears when they change.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::{Stream, StreamExt, TryStreamExt};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp};
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder, new_multicast_connection};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::choice::{self, Device, Found, World};

/// How long one question may take. The answer of a busy kernel takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why the kernel's answer is missing.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No socket.
    #[error("cannot open an rtnetlink socket")]
    Open(#[source] io::Error),
    /// The question failed.
    #[error("cannot list {what}")]
    List {
        /// What was asked for.
        what: &'static str,
        /// Why it failed.
        source: Box<rtnetlink::Error>,
    },
    /// The socket failed while something was asked.
    #[error("the rtnetlink socket failed in the middle of a listing; it is opened anew")]
    Broken,
    /// No answer.
    #[error("listing {what} took longer than {} s", PATIENCE.as_secs())]
    Timeout {
        /// What was asked for.
        what: &'static str,
    },
}

/// A connection to the kernel, made anew when it breaks. Dropping it ends its task.
#[derive(Debug)]
pub struct Netlink {
    connection: Connection,
    stirs: mpsc::Sender<()>,
}

#[derive(Debug)]
struct Connection {
    handle: Handle,
    task: tokio::task::JoinHandle<()>,
    /// Set before any question learns of it: whose answer is complete sees it not set.
    broken: Arc<AtomicBool>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Netlink {
    /// Connects, in this thread's network namespace. The receiver gets one message for each burst of changes to
    /// links or addresses, and when changes may have been missed; it says nothing of what changed, as only a new listing is certain.
    ///
    /// # Errors
    /// No socket.
    pub fn open() -> Result<(Self, mpsc::Receiver<()>), NetlinkError> {
        let (stirs, receiver) = mpsc::channel(1);
        let connection = Connection::open(stirs.clone())?;
        Ok((Self { connection, stirs }, receiver))
    }

    /// The network namespace as it is now. `routes`: with default routes, for which the kernel must hand out all routes there are;
    /// a router may have a million.
    ///
    /// # Errors
    /// A listing failed.
    pub async fn world(&mut self, routes: bool) -> Result<World, NetlinkError> {
        // An error at its socket ends a connection for good (`netlink_proto`).
        if self.connection.is_broken() {
            self.connection = Connection::open(self.stirs.clone())?;
        }
        let handle = &self.connection.handle;
        let links: Vec<LinkMessage> = collect("links", handle.link().get().execute()).await?;
        let found: Vec<AddressMessage> = collect("addresses", handle.address().get().execute()).await?;
        let mut default_routes = BTreeSet::new();
        let families: &[AddressFamily] = if routes {
            &[AddressFamily::Inet, AddressFamily::Inet6]
        } else {
            &[]
        };
        for family in families {
            let mut question = RouteMessageBuilder::<IpAddr>::new().build();
            question.header.address_family = *family;
            let mut routes = std::pin::pin!(handle.route().get(question).execute());
            let listing = async {
                while let Some(route) = routes.try_next().await? {
                    default_routes.extend(default_route(&route));
                }
                Ok::<(), rtnetlink::Error>(())
            };
            within("routes", listing).await?;
        }
        // Then an answer ends, too, as if there were no more: half a listing, or none, and no device would seem to be there.
        if self.connection.is_broken() {
            return Err(NetlinkError::Broken);
        }
        let mut devices: Vec<Device> = links.iter().map(device).collect();
        devices.sort_by_key(|d| d.index);
        let found: Vec<Found> = found.iter().filter_map(address).collect();
        Ok(World {
            devices,
            default_routes,
            addresses: choice::local_addresses(&found),
        })
    }

    /// Waits until none of these XDP programs is on a device of this network namespace; false if one stays.
    ///
    /// # Errors
    /// A listing failed.
    pub async fn gone(&mut self, programs: &BTreeSet<u32>) -> Result<bool, NetlinkError> {
        let deadline = Instant::now() + PATIENCE;
        while !programs.is_empty() {
            let world = self.world(false).await?;
            if !world
                .devices
                .iter()
                .any(|d| d.xdp_programs.iter().any(|id| programs.contains(id)))
            {
                return Ok(true);
            }
            if Instant::now() > deadline {
                return Ok(false);
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(true)
    }
}

impl Connection {
    /// Its end is told as a change that may have been missed.
    fn open(stirs: mpsc::Sender<()>) -> Result<Self, NetlinkError> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
        ];
        let (connection, handle, mut messages) =
            new_multicast_connection(&groups).map_err(NetlinkError::Open)?;
        let broken = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn({
            let broken = Arc::clone(&broken);
            async move {
                let relay = async {
                    while let Some((message, _)) = messages.next().await {
                        if stirring(&message.payload) {
                            // Full: a message is waiting already, and it will do.
                            let _ = stirs.try_send(());
                        }
                    }
                };
                let mut connection = std::pin::pin!(connection);
                tokio::select! {
                    () = connection.as_mut() => {}
                    () = relay => {}
                }
                // The connection still exists: no question has been cut off yet.
                broken.store(true, Ordering::Release);
                let _ = stirs.try_send(());
            }
        });
        Ok(Self { handle, task, broken })
    }

    fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }
}

/// Whether links or addresses changed, or may have: an overrun is the kernel's word that it left messages out.
const fn stirring(message: &NetlinkPayload<RouteNetlinkMessage>) -> bool {
    matches!(
        message,
        NetlinkPayload::Overrun(_)
            | NetlinkPayload::InnerMessage(
                RouteNetlinkMessage::NewLink(_)
                    | RouteNetlinkMessage::DelLink(_)
                    | RouteNetlinkMessage::NewAddress(_)
                    | RouteNetlinkMessage::DelAddress(_)
            )
    )
}

async fn collect<T>(
    what: &'static str,
    stream: impl Stream<Item = Result<T, rtnetlink::Error>>,
) -> Result<Vec<T>, NetlinkError> {
    within(what, stream.try_collect()).await
}

async fn within<T>(
    what: &'static str,
    listing: impl Future<Output = Result<T, rtnetlink::Error>>,
) -> Result<T, NetlinkError> {
    match tokio::time::timeout(PATIENCE, listing).await {
        Ok(answer) => answer.map_err(|source| NetlinkError::List {
            what,
            source: Box::new(source),
        }),
        Err(_) => Err(NetlinkError::Timeout { what }),
    }
}

fn device(message: &LinkMessage) -> Device {
    let flags = message.header.flags;
    let mut device = Device {
        index: message.header.index,
        ethernet: message.header.link_layer_type == LinkLayerType::Ether,
        loopback: flags.contains(LinkFlags::Loopback),
        up: flags.contains(LinkFlags::Up),
        ..Device::default()
    };
    let mut elsewhere = false;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => device.name.clone_from(name),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    if let LinkInfo::Kind(kind) = info {
                        device.kind = Some(kind.to_string());
                    }
                }
            }
            LinkAttribute::Mtu(mtu) => device.mtu = Some(*mtu),
            LinkAttribute::ParentDevName(_) => device.hardware = true,
            LinkAttribute::Link(lower) => device.lower = Some(*lower).filter(|l| *l != 0),
            LinkAttribute::LinkNetNsId(_) => elsewhere = true,
            LinkAttribute::Controller(master) => device.master = Some(*master),
            LinkAttribute::Xdp(parts) => device.xdp_programs = xdp_programs(parts),
            _ => {}
        }
    }
    // The other end of a veth pair is no lower device, nor is one in another namespace.
    if elsewhere || device.kind.as_deref() == Some("veth") {
        device.lower = None;
    }
    device
}

fn xdp_programs(parts: &[LinkXdp]) -> Vec<u32> {
    let mut ids = BTreeSet::new();
    for part in parts {
        match part {
            LinkXdp::ProgId(id) | LinkXdp::DrvProgId(id) | LinkXdp::SkbProgId(id) | LinkXdp::HwProgId(id) => {
                ids.insert(*id);
            }
            _ => {}
        }
    }
    ids.remove(&0);
    ids.into_iter().collect()
}

fn address(message: &AddressMessage) -> Option<Found> {
    let mut local = None;
    let mut address = None;
    let mut duplicate = message.header.flags.contains(AddressHeaderFlags::Dadfailed);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(a) => local = Some(*a),
            AddressAttribute::Address(a) => address = Some(*a),
            AddressAttribute::Flags(f) => duplicate |= f.contains(AddressFlags::Dadfailed),
            _ => {}
        }
    }
    let global = matches!(message.header.scope, AddressScope::Universe | AddressScope::Site);
    // On a point-to-point link `address` is the far end's.
    Some(Found {
        address: local.or(address)?,
        global,
        duplicate,
    })
}

/// The devices that a route leads out of, if it is a default route.
fn default_route(message: &RouteMessage) -> Vec<u32> {
    if message.header.destination_prefix_length != 0 || message.header.kind != RouteType::Unicast {
        return Vec::new();
    }
    let mut devices = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => devices.push(*index),
            RouteAttribute::MultiPath(hops) => devices.extend(hops.iter().map(|h| h.interface_index)),
            _ => {}
        }
    }
    devices
}
