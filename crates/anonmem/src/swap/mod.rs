//! Pages that leave memory and come back.
//!
//! ```text
//!   mapped ──reclaim──▶ in the swap cache, unmapped ──written──▶ on the device
//!     ▲                        │  ▲                                 │
//!     │   do_swap_page (found) │  └──── read, locked ◀── do_swap_page
//!     └────────────────────────┘
//! ```
//!
//! - [`device`]: devices, their slots, swapon and swapoff.
//! - `slot`: allocating slots; `SwapRef`, the owner of one count of a slot.
//! - `cache`: from an entry to the page in memory, and reading it if it is not there.
//! - the protocol of a slot's word is `anonmem_frame::swap`; the fault is `fault/swap.rs`.
//!
//! Linux: mm/swapfile.c, mm/swap_state.c, mm/page_io.c.

pub(crate) mod cache;
pub(crate) mod device;
pub(crate) mod slot;
mod swapon;
#[cfg(test)]
mod tests;
