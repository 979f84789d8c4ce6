//! Bad packets from good ones, by a seed: the same on every machine.

use std::vec::Vec;

/// A small generator (splitmix64): no quality needed but repeatability.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next word.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, or 0.
    pub fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.word() >> 32).unwrap_or(0) % n.max(1)
    }
}

/// Changes a frame in one to four places: a bit, a byte, a header field near the front, its length.
pub fn mutate(random: &mut Random, frame: &mut Vec<u8>) {
    const ODD: [u8; 12] = [0, 1, 5, 6, 17, 0x2f, 43, 44, 51, 60, 0x81, 0xff];
    for _ in 0..1 + random.below(4) {
        let front = random.below(frame.len().min(80));
        let anywhere = random.below(frame.len());
        let odd = ODD.get(random.below(ODD.len())).copied().unwrap_or(0);
        let word = random.word();
        match random.below(6) {
            0 => change(frame, front, |b| b ^ (1 << (word & 7))),
            1 => change(frame, anywhere, |b| b ^ (1 << (word & 7))),
            2 => change(frame, front, |_| odd),
            3 => change(frame, front, |b| {
                b.wrapping_add(if word & 1 == 0 { 1 } else { 255 })
            }),
            4 => frame.truncate(anywhere.max(14)),
            _ => {
                let more = random.below(40);
                frame.extend((0..more).map(|i| word.to_le_bytes().get(i % 8).copied().unwrap_or(0)));
            }
        }
    }
}

fn change(frame: &mut [u8], at: usize, f: impl FnOnce(u8) -> u8) {
    if let Some(b) = frame.get_mut(at) {
        *b = f(*b);
    }
}
