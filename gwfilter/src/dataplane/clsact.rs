//! TC before Linux 6.6: a filter of the `clsact` qdisc, where there is no TCX.
//!
//! Such a filter has no link that could be pinned. The kernel keeps it and its program all the same, whoever ends, until somebody deletes
//! it; so the pin beside the links' is of the program, and says only that the filter is ours to take off. What TCX has and this has not: a
//! place at the head that others cannot take, and an owner. Whoever may configure the network can replace it.

use std::fs;
use std::os::fd::AsRawFd as _;

use aya::pin::PinError;
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
};
use aya::programs::{Link as _, ProgramError, ProgramInfo, SchedClassifier, TcAttachType};
use aya::sys::SyscallError;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

use super::attach::{StepError, refused};
use super::pins::{Hook, Pin, Pins, interface_name};

/// The first there is. A filter of Cilium's has the same by default, and then the older one goes first.
const PRIORITY: u16 = 1;
/// Tells ours among the filters of this priority.
const HANDLE: TcHandle = TcHandle::new(0x6777, 0x6601);

/// Puts `program` into our filter of `device`, which is made if it is not there; otherwise one program replaces the other at one instant.
///
/// # Errors
/// The kernel refuses it.
pub(super) fn attach(
    program: &mut SchedClassifier,
    device: &str,
    pins: &Pins,
    pin: Pin,
) -> Result<(), StepError> {
    match qdisc_add_clsact(device) {
        Ok(()) | Err(TcError::AlreadyAttached) => {}
        Err(TcError::NetlinkError(e)) if e.raw_os_error() == Some(libc::EEXIST) => {}
        Err(e) => return Err(refused(e.into())),
    }
    let ours = SchedClassifierLink::attached(device, TcAttachType::Ingress, PRIORITY, HANDLE, None);
    let ours = ours.map_err(|e| refused(ProgramError::IOError(e)))?;
    let replaced = program.attach_to_link(ours);
    let id = match replaced {
        Ok(id) => id,
        Err(_) => {
            let place = TcAttachOptions::Netlink(NlOptions {
                priority: PRIORITY,
                handle: HANDLE,
                classid: None,
            });
            program
                .attach_with_options(device, TcAttachType::Ingress, place)
                .map_err(refused)?
        }
    };
    // Dropped, it would take the filter off.
    std::mem::forget(program.take_link(id).map_err(refused)?);
    mark(program, pins, pin).inspect_err(|_| {
        // A filter that nobody could tell as ours would be there for good.
        detach(pin);
    })
}

/// Pins the program, in the place of the one before.
fn mark(program: &mut SchedClassifier, pins: &Pins, pin: Pin) -> Result<(), StepError> {
    let path = pins.path(pin);
    let mut aside = path.clone().into_os_string();
    aside.push("-new");
    let failed = |source: PinError| StepError::Pin {
        path: path.display().to_string(),
        source,
    };
    // What a sudden end left.
    let _ = fs::remove_file(&aside);
    program.pin(&aside).map_err(failed)?;
    let call = "rename";
    fs::rename(&aside, &path).map_err(|io_error| failed(SyscallError { call, io_error }.into()))
}

/// The id of the program that is pinned for our filter.
///
/// # Errors
/// The pin cannot be opened.
pub(super) fn program_of(pins: &Pins, pin: Pin) -> Result<u32, StepError> {
    let info = ProgramInfo::from_pin(pins.path(pin)).map_err(refused)?;
    Ok(info.id())
}

/// Takes our filter off, if it is there. The qdisc stays: it may be another's too, and without filters it does nothing.
pub(super) fn detach(pin: Pin) {
    if pin.hook != Hook::Clsact {
        return;
    }
    let ours = interface_name(pin.ifindex).and_then(|device| {
        SchedClassifierLink::attached(&device, TcAttachType::Ingress, PRIORITY, HANDLE, None).ok()
    });
    // Gone already, with its device or by somebody else's hand: then it is off, which is what is wanted.
    if let Some(link) = ours {
        let _ = link.detach();
    }
}

/// Whether the kernel says that our filter is not there. That it cannot be asked is no such answer.
pub(super) fn is_gone(ifindex: u32) -> bool {
    matches!(ask(ifindex), Ok(Some(libc::ENOENT | libc::EINVAL | libc::ENODEV)))
}

/// Asks for our filter by its place; the kernel's error number, or none if it is there.
fn ask(ifindex: u32) -> nix::Result<Option<i32>> {
    // `struct nlmsghdr` and `struct tcmsg` (Linux, `include/uapi/linux/netlink.h`, `rtnetlink.h`), in the machine's byte order.
    const LENGTH: u32 = 36;
    const RTM_GETTFILTER: u16 = 46;
    const NLM_F_REQUEST: u16 = 1;
    const NLMSG_ERROR: u16 = 2;
    /// `TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)`.
    const PARENT: u32 = 0xffff_fff2;
    const ETH_P_ALL: u16 = 3;
    let place = u32::from(PRIORITY) << 16 | u32::from(ETH_P_ALL.to_be());
    let mut question = Vec::new();
    question.extend(LENGTH.to_ne_bytes());
    question.extend(RTM_GETTFILTER.to_ne_bytes());
    question.extend(NLM_F_REQUEST.to_ne_bytes());
    // Sequence and port, then the family with its padding: all of no meaning here.
    question.extend([0; 12]);
    question.extend(ifindex.to_ne_bytes());
    question.extend(u32::from(HANDLE).to_ne_bytes());
    question.extend(PARENT.to_ne_bytes());
    question.extend(place.to_ne_bytes());
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    send(socket.as_raw_fd(), &question, MsgFlags::empty())?;
    let mut answer = [0; 4096];
    let size = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    let answer = answer.get(..size).unwrap_or_default();
    let kind = answer
        .get(4..)
        .and_then(|rest| rest.first_chunk())
        .map(|b| u16::from_ne_bytes(*b));
    let errno = answer
        .get(16..)
        .and_then(|rest| rest.first_chunk())
        .map(|b| i32::from_ne_bytes(*b));
    Ok(match (kind, errno) {
        (Some(NLMSG_ERROR), Some(errno)) => Some(-errno),
        _ => None,
    })
}
