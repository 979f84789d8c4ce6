//! What became of the frames of a stream, from when each was sent and when it came. Pure.

use std::ops::Range;

use super::frame::Fate;

/// One stream's frames. Times are nanoseconds of the monotonic clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// What it is called.
    pub name: String,
    /// What should have become of every frame.
    pub fate: Fate,
    /// How many were sent.
    pub sent: u64,
    /// How many of them do not count, as the link was down; they may still not arrive if none may.
    pub excused: u64,
    /// How many arrived that must not, or were lost that must arrive.
    pub wrong: u64,
    /// The longest time for which it went wrong: from when the first wrong frame of a row was sent to when the next right one was.
    pub longest_wrong: u64,
    /// When the first wrong frame was sent.
    pub first_wrong: Option<u64>,
    /// The longest time from one arrival to the next, but for times without a link; none if frames must not arrive.
    pub longest_silence: Option<u64>,
    /// How many arrived that were not sent: the meter is at fault.
    pub strays: u64,
}

/// Counts. `sent` has the time of each number, from 0 on; `arrived` says when it came, 0 for not at all. What was sent in `down` need
/// not arrive.
pub(super) fn account(
    name: &str,
    fate: Fate,
    sent: &[u64],
    arrived: impl Fn(usize) -> u64,
    numbers: usize,
    down: &[Range<u64>],
) -> Account {
    let excused = |time: &u64| down.iter().any(|range| range.contains(time));
    let mut out = Account {
        name: name.to_owned(),
        fate,
        sent: sent.len() as u64,
        excused: sent.iter().filter(|time| excused(time)).count() as u64,
        wrong: 0,
        longest_wrong: 0,
        first_wrong: None,
        longest_silence: None,
        strays: (sent.len()..numbers)
            .filter(|number| arrived(*number) != 0)
            .count() as u64,
    };
    // Since when it goes wrong.
    let mut since = None;
    for (number, time) in sent.iter().enumerate() {
        let came = arrived(number) != 0;
        let right = match fate {
            Fate::Never => !came,
            Fate::Always => came || excused(time),
        };
        if right {
            since = None;
            continue;
        }
        let began = *since.get_or_insert(*time);
        let until = sent.get(number + 1).copied().unwrap_or(*time);
        out.wrong += 1;
        out.longest_wrong = out.longest_wrong.max(until.saturating_sub(began));
        out.first_wrong.get_or_insert(*time);
    }
    if fate == Fate::Always {
        let mut times: Vec<u64> = (0..sent.len()).map(arrived).filter(|time| *time != 0).collect();
        times.sort_unstable();
        let down_between = |before: u64, after: u64| down.iter().any(|r| r.start < after && before < r.end);
        let pairs = times.iter().zip(times.iter().skip(1));
        out.longest_silence = pairs
            .filter(|(before, after)| !down_between(**before, **after))
            .map(|(before, after)| after - before)
            .max();
    }
    out
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;

    fn counted(fate: Fate, sent: &[u64], arrived: &[u64], down: &[Range<u64>]) -> Account {
        account(
            "x",
            fate,
            sent,
            |at| arrived.get(at).copied().unwrap_or(0),
            8,
            down,
        )
    }

    #[test]
    fn all_as_it_should_be_then_nothing_wrong() {
        let account = counted(Fate::Always, &[10, 20, 30], &[11, 25, 31], &[]);
        assert_eq!((account.sent, account.wrong, account.strays), (3, 0, 0));
        assert_eq!((account.longest_wrong, account.longest_silence), (0, Some(14)));
        let account = counted(Fate::Never, &[10, 20, 30], &[0, 0, 0], &[]);
        assert_eq!(
            (account.sent, account.wrong, account.longest_silence),
            (3, 0, None)
        );
    }

    #[test]
    fn frames_lost_then_how_many_how_long_and_since_when() {
        let account = counted(Fate::Always, &[10, 20, 30, 40, 50], &[11, 0, 0, 41, 0], &[]);
        assert_eq!(
            (account.wrong, account.longest_wrong, account.first_wrong),
            (3, 20, Some(20))
        );
        assert_eq!(account.longest_silence, Some(30));
    }

    #[test]
    fn frames_arrived_that_must_not_then_how_many_and_how_long() {
        let account = counted(Fate::Never, &[10, 20, 30, 40], &[0, 21, 31, 0], &[]);
        assert_eq!(
            (account.wrong, account.longest_wrong, account.first_wrong),
            (2, 20, Some(20))
        );
    }

    #[test]
    fn out_of_order_then_not_lost_and_the_silence_is_between_arrivals() {
        let account = counted(Fate::Always, &[10, 20, 30], &[11, 90, 31], &[]);
        assert_eq!((account.wrong, account.longest_silence), (0, Some(59)));
    }

    #[test]
    fn sent_without_a_link_then_it_need_not_arrive_but_still_must_not() {
        let account = counted(
            Fate::Always,
            &[10, 20, 30, 40],
            &[11, 0, 0, 41],
            from_ref(&(15..35)),
        );
        assert_eq!(
            (account.wrong, account.excused, account.longest_silence),
            (0, 2, None)
        );
        let account = counted(
            Fate::Always,
            &[10, 20, 30, 40],
            &[11, 0, 0, 41],
            from_ref(&(15..30)),
        );
        assert_eq!((account.wrong, account.excused), (1, 1));
        let account = counted(Fate::Never, &[10, 20], &[0, 21], from_ref(&(15..35)));
        assert_eq!(account.wrong, 1);
    }

    #[test]
    fn a_frame_that_nobody_sent_then_a_stray() {
        let account = counted(Fate::Never, &[10], &[0, 7], &[]);
        assert_eq!((account.wrong, account.strays), (0, 1));
    }
}
