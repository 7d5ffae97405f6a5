//! No memory is left: who must go. The decision, without the killing.
//!
//! Several CPUs run out at once, and a process that was killed gives its memory back only after a while. So a
//! decision and what it leads to are one step under one lock, and the decision asks four things in this
//! order: is there memory by now, is somebody ending who will give some back, has somebody just ended whose
//! memory may still be on its way, and only then who is the largest. Otherwise an innocent process is killed
//! beside the guilty one.
//!
//! Linux: mm/oom_kill.c `out_of_memory` under `oom_lock`; mm/page_alloc.c `__alloc_pages_may_oom`, whose last
//! attempt has the high watermark.

/// How long one who is ending may take before somebody else is chosen, in nanoseconds. It may wait for what
/// only a third one can give. Linux: the oom reaper gives up after a second.
pub const PATIENCE_NS: u64 = 5_000_000_000;
/// How long after an end its memory may be on its way: others may still hold the address space.
pub const SETTLE_NS: u64 = 20_000_000;

/// A process, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its number.
    pub id: u32,
    /// What happens to it.
    pub fate: Fate,
}

/// What happens to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It has ended, and given everything back.
    Over,
    /// It is to end and has not yet given its memory back.
    Ending,
    /// It goes on, and must not be killed.
    Protected,
    /// It goes on; how much would be gained, adjusted.
    Lives(i64),
}

/// How much memory there is by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// None, or hardly any.
    Short,
    /// Enough for anybody's allocation.
    Back,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Try again at once: there is memory.
    TryAgain,
    /// Try again in a while: some is on its way.
    Wait,
    /// End this one.
    Kill(u32),
    /// Nobody can be killed.
    Nobody,
}

/// What is remembered from one decision to the next. All decisions are made on one of these, under one lock
/// that is held until the victim is marked as ending.
#[derive(Debug)]
pub struct Chooser {
    /// Who was seen ending, and since when.
    ending: Option<(u32, u64)>,
    /// Who took too long.
    given_up: Option<u32>,
    /// When the last one who was seen ending was seen no more.
    ended_ns: Option<u64>,
}

impl Chooser {
    /// Nobody was chosen yet.
    pub const fn new() -> Self {
        Chooser { ending: None, given_up: None, ended_ns: None }
    }

    /// Decides at `now_ns`.
    pub fn decide(
        &mut self,
        now_ns: u64,
        memory: Memory,
        candidates: impl Iterator<Item = Candidate>,
    ) -> Decision {
        let (mut ending, mut largest) = (None, None::<(i64, u32)>);
        for candidate in candidates {
            match candidate.fate {
                Fate::Ending if self.given_up != Some(candidate.id) => {
                    // The one that was seen before, so that its time goes on.
                    let known = self.ending.is_some_and(|(id, _)| id == candidate.id);
                    ending = if known { Some(candidate.id) } else { ending.or(Some(candidate.id)) };
                }
                Fate::Lives(points) if largest.is_none_or(|(most, _)| points > most) => {
                    largest = Some((points, candidate.id));
                }
                Fate::Over | Fate::Ending | Fate::Protected | Fate::Lives(_) => {}
            }
        }
        if memory == Memory::Back {
            return Decision::TryAgain;
        }
        if let Some(id) = ending {
            let since = match self.ending {
                Some((known, since)) if known == id => since,
                _ => now_ns,
            };
            self.ending = Some((id, since));
            if now_ns.saturating_sub(since) < PATIENCE_NS {
                return Decision::Wait;
            }
            self.given_up = Some(id);
        } else if self.ending.take().is_some() {
            self.ended_ns = Some(now_ns);
        }
        if self.ended_ns.is_some_and(|ended| now_ns.saturating_sub(ended) < SETTLE_NS) {
            return Decision::Wait;
        }
        match largest {
            Some((_, id)) => {
                self.ending = Some((id, now_ns));
                Decision::Kill(id)
            }
            None => Decision::Nobody,
        }
    }
}

impl Default for Chooser {
    fn default() -> Self {
        Chooser::new()
    }
}

#[cfg(test)]
mod tests {
    use super::Memory::{Back, Short};
    use super::*;
    use std::vec::Vec;

    fn lives(id: u32, points: i64) -> Candidate {
        Candidate { id, fate: Fate::Lives(points) }
    }

    fn ending(id: u32) -> Candidate {
        Candidate { id, fate: Fate::Ending }
    }

    fn decide(chooser: &mut Chooser, now: u64, memory: Memory, all: &[Candidate]) -> Decision {
        chooser.decide(now, memory, all.iter().copied())
    }

    #[test]
    fn the_largest_is_killed_and_nobody_beside_it() {
        let mut chooser = Chooser::new();
        let small = lives(1, 10);
        assert_eq!(decide(&mut chooser, 0, Short, &[small, lives(2, 1000)]), Decision::Kill(2));
        // The next CPU comes while the victim is on its way out.
        assert_eq!(decide(&mut chooser, 1, Short, &[small, ending(2)]), Decision::Wait);
        // It has ended; its memory is not back yet.
        assert_eq!(decide(&mut chooser, 2, Short, &[small]), Decision::Wait);
        assert_eq!(decide(&mut chooser, 3, Back, &[small]), Decision::TryAgain);
        assert_eq!(decide(&mut chooser, 3 + SETTLE_NS, Short, &[small]), Decision::Kill(1));
    }

    #[test]
    fn one_who_ends_by_itself_is_waited_for() {
        let mut chooser = Chooser::new();
        assert_eq!(decide(&mut chooser, 0, Short, &[lives(1, 10), ending(2)]), Decision::Wait);
    }

    #[test]
    fn one_who_cannot_end_is_given_up() {
        let mut chooser = Chooser::new();
        let all = [lives(1, 10), ending(2), lives(3, 20)];
        assert_eq!(decide(&mut chooser, 7, Short, &all), Decision::Wait);
        assert_eq!(decide(&mut chooser, 7 + PATIENCE_NS - 1, Short, &all), Decision::Wait);
        assert_eq!(decide(&mut chooser, 7 + PATIENCE_NS, Short, &all), Decision::Kill(3));
        assert_eq!(
            decide(&mut chooser, 9 + PATIENCE_NS, Short, &[lives(1, 10), ending(2), ending(3)]),
            Decision::Wait
        );
    }

    #[test]
    fn the_protected_are_spared_and_the_dead_are_not_asked() {
        let over = Candidate { id: 4, fate: Fate::Over };
        let protected = Candidate { id: 5, fate: Fate::Protected };
        assert_eq!(decide(&mut Chooser::new(), 0, Short, &[over, protected]), Decision::Nobody);
        assert_eq!(
            decide(&mut Chooser::new(), 0, Short, &[over, protected, lives(6, -5)]),
            Decision::Kill(6)
        );
    }

    /// Four CPUs of a guilty process and one of an innocent run out again and again, in any order, while the
    /// guilty one ends in any number of steps and its memory comes back a little later: the innocent one is
    /// never chosen.
    #[test]
    fn an_innocent_process_survives_every_order() {
        let mut seed = 1u64;
        let mut random = move |n: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) % n
        };
        for _ in 0..2000 {
            let mut chooser = Chooser::new();
            let (mut now, mut memory, mut guilty) = (0, Short, Fate::Lives(50_000));
            let mut memory_in = random(15) * 1_000_000;
            let mut killed = Vec::new();
            for _ in 0..100 {
                now += random(2_000_000);
                let all = [lives(1, 1200), Candidate { id: 2, fate: guilty }];
                match decide(&mut chooser, now, memory, &all) {
                    Decision::Kill(id) => {
                        killed.push(id);
                        guilty = Fate::Ending;
                    }
                    Decision::Wait | Decision::TryAgain | Decision::Nobody => {}
                }
                if guilty == Fate::Ending && random(5) == 0 {
                    guilty = Fate::Over;
                    memory_in += now;
                }
                if guilty == Fate::Over && now >= memory_in {
                    memory = Back;
                }
            }
            assert_eq!(killed, [2]);
        }
    }
}
