//! Reading a frame: the one operation that the parsers need, so that they run over kernel memory and over a slice.

/// A frame that starts with its Ethernet header.
pub trait PacketRead {
    /// `N` bytes from `off` on, or nothing if any of them is beyond what can be read. A parser must take `None` as
    /// "not known", never as "not there".
    fn read<const N: usize>(&self, off: u32) -> Option<[u8; N]>;

    /// Bytes of the whole frame, those that [`read`](Self::read) cannot reach included.
    fn frame_len(&self) -> u32;

    /// Whether the frame has so many bytes.
    #[inline(always)]
    fn holds(&self, bytes: u32) -> bool {
        bytes <= self.frame_len()
    }
}

/// A frame in memory.
#[derive(Clone, Copy, Debug)]
pub struct SliceReader<'a>(pub &'a [u8]);

impl PacketRead for SliceReader<'_> {
    fn read<const N: usize>(&self, off: u32) -> Option<[u8; N]> {
        let start = usize::try_from(off).ok()?;
        let bytes = self.0.get(start..)?.get(..N)?;
        bytes.try_into().ok()
    }

    fn frame_len(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::{PacketRead, SliceReader};

    #[test]
    fn read_within_the_slice_then_the_bytes() {
        let r = SliceReader(&[1, 2, 3, 4]);
        assert_eq!(r.read::<2>(2), Some([3, 4]));
        assert_eq!(r.read::<4>(0), Some([1, 2, 3, 4]));
        assert_eq!(r.frame_len(), 4);
    }

    #[test]
    fn read_past_the_end_then_nothing() {
        let r = SliceReader(&[1, 2, 3, 4]);
        assert_eq!(r.read::<2>(3), None);
        assert_eq!(r.read::<1>(4), None);
        assert_eq!(r.read::<1>(u32::MAX), None);
    }
}
