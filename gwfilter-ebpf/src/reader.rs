//! Packet readers: direct loads, checked against the end of the linear part.
#![expect(
    clippy::cast_possible_truncation,
    reason = "the length of a packet or of a header fits 32 bits"
)]

use core::mem::MaybeUninit;

use aya_ebpf::helpers::generated::{bpf_skb_load_bytes, bpf_xdp_get_buff_len, bpf_xdp_load_bytes};
use aya_ebpf::programs::{TcContext, XdpContext};
use gwfilter_common::read::PacketRead;

/// No header that is read starts beyond this; the verifier needs a bound on variable offsets. All bits
/// below a power of two.
const MAX_OFFSET: u32 = 0x1fff;

/// Where a frame came in.
pub(crate) trait Interface {
    /// The index of the interface.
    fn ifindex(&self) -> u32;
}

impl Interface for XdpReader<'_> {
    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: the context is this program's.
        unsafe { (*self.0.ctx).ingress_ifindex }
    }
}

impl Interface for XdpFragsReader<'_> {
    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: the context is this program's.
        unsafe { (*self.0.ctx).ingress_ifindex }
    }
}

impl Interface for TcReader<'_> {
    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: the context is this program's.
        unsafe { (*self.0.skb.skb).ifindex }
    }
}

/// Where the linear part of a frame begins and ends.
pub(crate) trait Linear {
    /// The two addresses.
    fn linear(&self) -> (usize, usize);
}

impl Linear for XdpReader<'_> {
    #[inline(always)]
    fn linear(&self) -> (usize, usize) {
        bounds(self.0)
    }
}

impl Linear for XdpFragsReader<'_> {
    #[inline(always)]
    fn linear(&self) -> (usize, usize) {
        bounds(self.0)
    }
}

impl Linear for TcReader<'_> {
    #[inline(always)]
    fn linear(&self) -> (usize, usize) {
        let skb = self.0.skb.skb;
        // SAFETY: the context is this program's.
        unsafe {
            (
                (&raw const (*skb).data).read_volatile() as usize,
                (&raw const (*skb).data_end).read_volatile() as usize,
            )
        }
    }
}

#[inline(always)]
fn bounds(ctx: &XdpContext) -> (usize, usize) {
    // SAFETY: the context is this program's.
    unsafe {
        (
            (&raw const (*ctx.ctx).data).read_volatile() as usize,
            (&raw const (*ctx.ctx).data_end).read_volatile() as usize,
        )
    }
}

/// A frame of which the first `N` bytes are known to be readable, so that reading there is a load and nothing more.
pub(crate) struct Head<'a, R, const N: usize> {
    at: usize,
    frame: &'a R,
}

impl<'a, R: Linear, const N: usize> Head<'a, R, N> {
    /// Nothing if the linear part is shorter.
    #[inline(always)]
    pub(crate) fn of(frame: &'a R) -> Option<Self> {
        let (at, end) = frame.linear();
        if at + N > end {
            return None;
        }
        Some(Self { at, frame })
    }
}

impl<R: PacketRead, const N: usize> PacketRead for Head<'_, R, N> {
    #[inline(always)]
    fn read<const M: usize>(&self, off: u32) -> Option<[u8; M]> {
        if off as usize + M > N {
            return self.frame.read(off);
        }
        // SAFETY: within the bytes that `of` found readable; the verifier checks the same.
        Some(unsafe { words(self.at + off as usize) })
    }

    #[inline(always)]
    fn frame_len(&self) -> u32 {
        self.frame.frame_len()
    }

    #[inline(always)]
    fn holds(&self, bytes: u32) -> bool {
        self.frame.holds(bytes)
    }
}

/// `N` bytes at `data + off` if they end before `data_end`.
///
/// The bounds are loaded anew for each read: a pointer that lived on would carry, in the verifier's eyes, what was proven of it on the
/// way, and keep it from seeing that two ways are one.
#[inline(always)]
fn direct<const N: usize>(data: *const u32, data_end: *const u32, off: u32) -> Option<[u8; N]> {
    if off > MAX_OFFSET {
        return None;
    }
    // SAFETY: both point to fields of the program's context.
    let (data, data_end) = unsafe { (data.read_volatile() as usize, data_end.read_volatile() as usize) };
    let at = data + bounded(off) as usize;
    if at + N > data_end {
        return None;
    }
    // SAFETY: the context's `data` and `data_end` delimit packet memory, and the read lies between them; the verifier
    // checks the same.
    Some(unsafe { words(at) })
}

/// The `N` bytes at `at`, in as few loads as they take: the compiler does not know that the machine takes words at any address, and would
/// load (and spill) bytes one by one.
///
/// # Safety
/// They are readable.
#[inline(always)]
unsafe fn words<const N: usize>(at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    let to: *mut u8 = bytes.as_mut_ptr();
    let mut off = 0;
    // SAFETY: each load and store lies within the `N` bytes: `off` never passes what is left of them.
    unsafe {
        if N >= 8 {
            to.cast::<u64>().write_unaligned(load::u64(at));
            off = 8;
        }
        if N >= 16 {
            to.add(8).cast::<u64>().write_unaligned(load::u64(at + 8));
            off = 16;
        }
        if N - off >= 4 {
            to.add(off).cast::<u32>().write_unaligned(load::u32(at + off));
            off += 4;
        }
        if N - off >= 2 {
            to.add(off).cast::<u16>().write_unaligned(load::u16(at + off));
            off += 2;
        }
        while off < N {
            to.add(off).write(*((at + off) as *const u8));
            off += 1;
        }
    }
    bytes
}

/// Loads of one instruction at any address. Not by a pointer of the type, which would have to be aligned.
mod load {
    macro_rules! load {
        ($word:ident, $instruction:literal) => {
            /// # Safety
            /// The bytes at `at` are readable.
            #[inline(always)]
            pub(super) unsafe fn $word(at: usize) -> $word {
                #[cfg(target_arch = "bpf")]
                {
                    let word: $word;
                    // SAFETY: it loads what the caller says is readable, and nothing else.
                    unsafe {
                        core::arch::asm!(
                            $instruction,
                            word = out(reg) word,
                            at = in(reg) at,
                            options(pure, readonly, nostack),
                        );
                    }
                    word
                }
                #[cfg(not(target_arch = "bpf"))]
                // SAFETY: as the caller says.
                unsafe {
                    (at as *const $word).read_unaligned()
                }
            }
        };
    }
    load!(u64, "{word} = *(u64 *)({at} + 0)");
    load!(u32, "{word} = *(u32 *)({at} + 0)");
    load!(u16, "{word} = *(u16 *)({at} + 0)");
}

/// The same number, which is within the bound, masked with it where the compiler cannot see that this changes nothing.
///
/// LLVM adds to the packet's pointer another register than the one it compared, or what it kept of it on the stack; verifiers before Linux
/// 6.10 do not credit the one with what was proven of the other ("math between pkt pointer and register with unbounded min value").
#[inline(always)]
fn bounded(off: u32) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut off = u64::from(off);
        // SAFETY: one instruction on one register. Without any instruction, its place in the source would be the next one's too, which the
        // kernel refuses.
        unsafe {
            core::arch::asm!("{0} &= {1}", inout(reg) off, const MAX_OFFSET, options(pure, nomem, nostack, preserves_flags));
        }
        off
    }
    #[cfg(not(target_arch = "bpf"))]
    u64::from(off & MAX_OFFSET)
}

/// [`direct`] for XDP.
#[inline(always)]
fn direct_xdp<const N: usize>(ctx: &XdpContext, off: u32) -> Option<[u8; N]> {
    // SAFETY: the context is this program's.
    let (data, data_end) = unsafe { (&raw const (*ctx.ctx).data, &raw const (*ctx.ctx).data_end) };
    direct(data, data_end, off)
}

/// A frame in one buffer.
pub(crate) struct XdpReader<'a>(pub(crate) &'a XdpContext);

impl PacketRead for XdpReader<'_> {
    #[inline(always)]
    fn read<const N: usize>(&self, off: u32) -> Option<[u8; N]> {
        direct_xdp(self.0, off)
    }

    #[inline(always)]
    fn frame_len(&self) -> u32 {
        (self.0.data_end() - self.0.data()) as u32
    }
}

/// A frame that may continue in further buffers: read directly where it can be, by helper beyond.
pub(crate) struct XdpFragsReader<'a>(pub(crate) &'a XdpContext);

impl PacketRead for XdpFragsReader<'_> {
    #[inline(always)]
    fn read<const N: usize>(&self, off: u32) -> Option<[u8; N]> {
        if let Some(bytes) = direct_xdp(self.0, off) {
            return Some(bytes);
        }
        let mut bytes = MaybeUninit::<[u8; N]>::uninit();
        // SAFETY: the buffer is as long as said.
        let rc = unsafe { bpf_xdp_load_bytes(self.0.ctx, off, bytes.as_mut_ptr().cast(), N as u32) };
        // SAFETY: the helper has written all of it when it answers 0.
        (rc == 0).then(|| unsafe { bytes.assume_init() })
    }

    #[inline(always)]
    fn frame_len(&self) -> u32 {
        // SAFETY: the context is this program's.
        unsafe { bpf_xdp_get_buff_len(self.0.ctx) as u32 }
    }

    /// Only what goes on in further buffers is worth a call.
    #[inline(always)]
    fn holds(&self, bytes: u32) -> bool {
        bytes <= (self.0.data_end() - self.0.data()) as u32 || bytes <= self.frame_len()
    }
}

/// An skb: its linear part directly (a helper call a field would cost every packet of the card dear), the rest by helper.
pub(crate) struct TcReader<'a>(pub(crate) &'a TcContext);

impl PacketRead for TcReader<'_> {
    #[inline(always)]
    fn read<const N: usize>(&self, off: u32) -> Option<[u8; N]> {
        let skb = self.0.skb.skb;
        // SAFETY: the context is this program's.
        let (data, data_end) = unsafe { (&raw const (*skb).data, &raw const (*skb).data_end) };
        if let Some(bytes) = direct(data, data_end, off) {
            return Some(bytes);
        }
        let mut bytes = MaybeUninit::<[u8; N]>::uninit();
        // SAFETY: the buffer is as long as said.
        let rc = unsafe { bpf_skb_load_bytes(skb.cast(), off, bytes.as_mut_ptr().cast(), N as u32) };
        // SAFETY: the helper has written all of it when it answers 0.
        (rc == 0).then(|| unsafe { bytes.assume_init() })
    }

    #[inline(always)]
    fn frame_len(&self) -> u32 {
        self.0.len()
    }
}
