//! Compaction: room for a large block, made of small ones.
//!
//! Any aligned window of the size will do. The one is chosen of which the fewest pages have to move, among
//! those that have nothing which cannot. Its pages go to frames outside, and it comes back as one free block.
//!
//! Linux: mm/compaction.c. Differs: no two scanners that meet. The cost of every window is known before the
//! first page moves.

use super::evacuate::{Effort, Evacuation};
use crate::{events::Event, rmap::machine::Machine, vm::Vm};
use anonmem_frame::{Kind, Mapping, OutFor, OutOfMemory};
use anonmem_hal::{Order, Pfn};
use core::ops::Range;

/// Windows that are tried before compaction gives up.
const TRIES: u32 = 4;

impl<M: Machine> Vm<M> {
    /// Makes a free block of 2^order frames, unless there is one. Returns how many pages had to move.
    ///
    /// # Locks
    /// As [`evacuate`](Self::evacuate).
    ///
    /// # Errors
    /// [`OutOfMemory`]: no window can be emptied, or there are no frames for what is in it.
    #[doc(alias = "try_to_compact_pages")]
    pub fn compact(&self, order: Order, effort: Effort) -> Result<u64, OutOfMemory> {
        self.frames.drain_pcp();
        self.compact_from(order, effort, 0)
    }

    /// Empties a window that costs at least `above` pages, the cheapest of those.
    ///
    /// # Errors
    /// As [`compact`](Self::compact).
    pub(super) fn compact_from(
        &self,
        order: Order,
        effort: Effort,
        mut above: u64,
    ) -> Result<u64, OutOfMemory> {
        // As for evacuation: what waits for a grace period would be in the way.
        self.reap();
        let mut moved = 0;
        for _ in 0..TRIES {
            let Some((window, cost)) = self.cheapest_window(order, above) else { break };
            if cost == 0 {
                return Ok(moved);
            }
            let Evacuation { moved: now, .. } = self.empty(window.clone(), effort, OutFor::Block);
            let given = self.frames.give_online(window, OutFor::Block);
            moved += now;
            // Fewer, if something stays there, or if others have taken a part out of use meanwhile.
            if given == order.pages() {
                self.count(Event::CompactSuccess);
                return Ok(moved);
            }
            // Not the same one again: it looked cheaper than it was.
            above = cost + 1;
        }
        self.count(Event::CompactFail);
        Err(OutOfMemory)
    }

    /// The window of 2^order frames whose pages cost the least to move, at least `above`, and how many they
    /// are.
    fn cheapest_window(&self, order: Order, above: u64) -> Option<(Range<Pfn>, u64)> {
        let (base, end) =
            (self.machine().base_pfn().0, self.machine().base_pfn().0 + self.machine().nr_frames());
        let first = base.next_multiple_of(order.pages());
        let windows = (first..end).step_by(order.pages() as usize).filter(|at| at + order.pages() <= end);
        let mut best: Option<(Range<Pfn>, u64)> = None;
        for window in windows.map(|at| Pfn(at)..Pfn(at + order.pages())) {
            let limit = best.as_ref().map_or(order.pages(), |(_, cost)| *cost);
            if let Some(cost) = self.cost_of(&window, limit).filter(|cost| *cost >= above) {
                let done = cost == above;
                best = Some((window, cost));
                if done {
                    break;
                }
            }
        }
        best
    }

    /// How many pages of a window have to move; `None` if there is one that cannot, or if they are `limit` or
    /// more.
    fn cost_of(&self, window: &Range<Pfn>, limit: u64) -> Option<u64> {
        let mut cost = 0;
        let mut at = window.start;
        while at < window.end {
            let pages = match self.frames.block_of(at) {
                None => 1,
                Some((head, Kind::Folio, order)) => {
                    // One that is as large as the window leaves as large a hole as it fills.
                    let inside = head >= window.start && order.pages() < window.end.0 - window.start.0;
                    cost += self.pages_to_move(head).filter(|_| inside)?;
                    order.pages()
                }
                Some((_, Kind::New, Order::ZERO)) => {
                    cost += 1;
                    1
                }
                // No arm for what else there may be: it does not move, and its window is out.
                Some((..)) => return None,
            };
            if cost >= limit {
                return None;
            }
            at = at.offset(pages);
        }
        Some(cost)
    }

    /// How many pages of the folio at `head` have to move; `None` if it cannot.
    fn pages_to_move(&self, head: Pfn) -> Option<u64> {
        let folio = self.frames.folio(head)?;
        let pages = folio.nr_pages().0 - folio.unmapped_pages();
        let moves = match folio.mapping() {
            Mapping::Anon(_) | Mapping::Ksm(_) => true,
            Mapping::Shm(_) => pages == 1,
            Mapping::None => false,
        };
        (!folio.maybe_pinned() && moves).then_some(pages)
    }
}

#[cfg(test)]
mod tests;
