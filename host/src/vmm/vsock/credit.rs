//! Credit accounting of one connection, in both directions (virtio 1.2, section 5.10.6.3).
//!
//! All counters are free-running `u32`s that wrap. The guest's two, `buf_alloc` and `fwd_cnt`, are
//! hostile: what may be sent is computed so that a guest that shrinks its buffer, goes backwards
//! or claims to have consumed what it never got has less credit, never more.

/// What this side grants the guest on every connection: the most that it buffers for a host
/// program that does not read.
pub(super) const BUF_ALLOC: u32 = 256 << 10;

/// The guest hears of freed space once this much is free beyond what it knows of.
const ANNOUNCE: u32 = BUF_ALLOC / 4;

/// More credit than this is not believed. It keeps what is in flight far below half of the
/// counters' range, so that backwards and forwards can be told apart.
const MOST_CREDIT: u32 = 1 << 30;

/// The guest claims to have consumed bytes that were never sent to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FalseForwardCount;

/// How much the guest takes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PeerCredit {
    /// Bytes sent to the guest.
    tx_cnt: u32,
    /// `buf_alloc` as last heard.
    buf_alloc: u32,
    /// `fwd_cnt` as last believed.
    fwd_cnt: u32,
}

impl PeerCredit {
    /// Takes over the two fields of any packet of the connection.
    ///
    /// A driver stamps packets on several processors and may queue them in another order, so a
    /// count that is behind the last one is stale, not false, and ignored.
    pub(super) fn update(&mut self, buf_alloc: u32, fwd_cnt: u32) -> Result<(), FalseForwardCount> {
        self.buf_alloc = buf_alloc;
        let advance = fwd_cnt.wrapping_sub(self.fwd_cnt);
        if advance <= self.in_flight() {
            self.fwd_cnt = fwd_cnt;
            Ok(())
        } else if advance > u32::MAX / 2 {
            Ok(())
        } else {
            Err(FalseForwardCount)
        }
    }

    /// Bytes that may be sent now.
    pub(super) fn available(&self) -> u32 {
        self.buf_alloc
            .min(MOST_CREDIT)
            .saturating_sub(self.in_flight())
    }

    /// Notes that `bytes` were sent; at most [`available`](Self::available).
    pub(super) fn sent(&mut self, bytes: u32) {
        self.tx_cnt = self.tx_cnt.wrapping_add(bytes);
    }

    fn in_flight(&self) -> u32 {
        self.tx_cnt.wrapping_sub(self.fwd_cnt)
    }

    #[cfg(test)]
    pub(super) fn starting_at(count: u32) -> Self {
        Self {
            tx_cnt: count,
            buf_alloc: 0,
            fwd_cnt: count,
        }
    }
}

/// How much this side takes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct OwnCredit {
    /// Bytes that left this side's buffer.
    fwd_cnt: u32,
    /// `fwd_cnt` as the guest last heard it.
    announced: u32,
}

impl OwnCredit {
    /// Notes that `bytes` no longer take space.
    pub(super) fn forwarded(&mut self, bytes: u32) {
        self.fwd_cnt = self.fwd_cnt.wrapping_add(bytes);
    }

    /// Whether the guest should hear of freed space even if nothing else is to be said.
    pub(super) fn announcement_due(&self) -> bool {
        self.fwd_cnt.wrapping_sub(self.announced) >= ANNOUNCE
    }

    /// `buf_alloc` and `fwd_cnt` for a packet that goes out now.
    pub(super) fn announce(&mut self) -> (u32, u32) {
        self.announced = self.fwd_cnt;
        (BUF_ALLOC, self.fwd_cnt)
    }

    #[cfg(test)]
    pub(super) fn starting_at(count: u32) -> Self {
        Self {
            fwd_cnt: count,
            announced: count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn credit_survives_the_wrap_of_its_counters() {
        let mut credit = PeerCredit::starting_at(u32::MAX - 10);
        credit.update(100, u32::MAX - 10).unwrap();
        credit.sent(60);
        assert_eq!(credit.available(), 40);
        credit.update(100, 49).unwrap();
        assert_eq!(credit.available(), 100);
    }

    #[test]
    fn shrinking_the_buffer_below_what_is_in_flight_leaves_nothing() {
        let mut credit = PeerCredit::default();
        credit.update(1000, 0).unwrap();
        credit.sent(800);
        credit.update(10, 0).unwrap();
        assert_eq!(credit.available(), 0);
        credit.update(10, 795).unwrap();
        assert_eq!(credit.available(), 5);
    }

    #[test]
    fn consuming_what_was_never_sent_is_a_lie() {
        let mut credit = PeerCredit::default();
        credit.update(1000, 0).unwrap();
        credit.sent(10);
        assert_eq!(credit.update(1000, 11), Err(FalseForwardCount));
        assert_eq!(credit.available(), 990);
    }

    #[test]
    fn a_stale_count_is_ignored() {
        let mut credit = PeerCredit::default();
        credit.update(1000, 0).unwrap();
        credit.sent(500);
        credit.update(1000, 500).unwrap();
        credit.update(1000, 300).unwrap();
        assert_eq!(credit.available(), 1000);
    }

    #[test]
    fn freed_space_is_announced_across_the_wrap() {
        let mut credit = OwnCredit::starting_at(u32::MAX - 100);
        credit.forwarded(ANNOUNCE - 1);
        assert!(!credit.announcement_due());
        credit.forwarded(1);
        assert!(credit.announcement_due());
        assert_eq!(credit.announce(), (BUF_ALLOC, ANNOUNCE - 101));
        assert!(!credit.announcement_due());
    }

    proptest! {
        /// Whatever the guest says, unacknowledged bytes never exceed the largest buffer it
        /// claimed.
        #[test]
        fn in_flight_never_exceeds_what_was_granted(
            start: u32,
            steps in prop::collection::vec((any::<u32>(), any::<u32>(), any::<u32>()), 1..200),
        ) {
            let mut credit = PeerCredit::starting_at(start);
            let mut largest = 0;
            for (buf_alloc, fwd_cnt, want) in steps {
                let _ = credit.update(buf_alloc, fwd_cnt);
                largest = largest.max(buf_alloc.min(MOST_CREDIT));
                credit.sent(want.min(credit.available()));
                prop_assert!(credit.in_flight() <= largest);
            }
        }
    }
}
