//! The lock order: the one list, outermost first. `docs/locking.md` says what each lock protects.
//!
//! A lock may be taken only if its rank exceeds that of every lock held; a try-lock is exempt, because it
//! cannot wait. All sleeping locks come before all spin locks, so none is taken under one.
//! [`crate::lockdep`] checks it.
//!
//! Linux: the comments at the top of mm/rmap.c and mm/filemap.c.

/// A place in the lock order.
pub trait Level: Send + Sync + 'static {
    /// Its rank; the low four bits are for several locks of one level.
    const RANK: u16;
    /// Its name in messages.
    const NAME: &'static str;
    /// Whether the lock sleeps.
    const SLEEPS: bool;
}

macro_rules! levels {
    ($($(#[$doc:meta])* $name:ident: $kind:ident,)*) => {
        #[repr(u16)]
        enum Place { $($name),* }
        $(
            $(#[$doc])*
            #[derive(Debug)]
            pub enum $name {}
            impl Level for $name {
                const RANK: u16 = (Place::$name as u16 + 1) << 4;
                const NAME: &'static str = stringify!($name);
                const SLEEPS: bool = levels!(@ $kind);
            }
        )*
        /// The number of levels.
        pub const LEVELS: usize = [$(Place::$name),*].len();
        /// The name of the level with `rank`.
        pub fn name_of(rank: u16) -> &'static str {
            const NAMES: &[&str] = &[$(stringify!($name)),*];
            NAMES[index_of(rank)]
        }
        /// Whether the level with `rank` sleeps.
        pub fn sleeps(rank: u16) -> bool {
            const SLEEPS: &[bool] = &[$(levels!(@ $kind)),*];
            SLEEPS[index_of(rank)]
        }
    };
    (@ sleeping) => { true };
    (@ spin) => { false };
}

/// The place of the level with `rank` in the list, from 0.
pub const fn index_of(rank: u16) -> usize {
    (rank >> 4) as usize - 1
}

levels! {
    /// The scanner of KSM: its hand, its tables, and the chains of stable nodes.
    KsmScan: sleeping,
    /// `Mm::mmap_lock`. Two at once only in fork: parent, then child (subclass 1).
    MmapLock: sleeping,
    /// A VMA's lock. A fault that holds it may wait for a folio's.
    VmaLock: sleeping,
    /// A folio's lock bit (`PG_locked`).
    FolioLock: sleeping,
    /// The lock of an anon_vma's root. A child's tree is never locked apart from its root.
    AnonVmaRoot: sleeping,
    /// Whose turn it is to list the many tables that map one folio.
    SplitTurn: spin,
    /// A table above the last level (Linux: `pmd_lock`).
    Pmd: spin,
    /// A last-level table. Two at once by address: the lower first, the other as subclass 1.
    Ptl: spin,
    /// A swap device: the cluster that the next search for free slots starts at.
    SwapDevice: spin,
    /// The messages of a userfaultfd.
    Userfault: spin,
    /// The list of page tables that wait for a grace period.
    RcuList: spin,
    /// The free list of a type-stable slab.
    Slab: spin,
    /// A CPU's list of free pages.
    Pcp: spin,
    /// The buddy allocator.
    Zone: spin,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_the_one_of_the_document() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/locking.md");
        let text = std::fs::read_to_string(path).expect("docs/locking.md");
        let told = text.lines().filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split("` | ");
            let (name, kind) = (cells.next()?, cells.next()?);
            let sleeps = kind.starts_with("sleeping");
            (sleeps || kind.starts_with("spin")).then_some((name, sleeps))
        });
        let ranks = (1..=LEVELS as u16).map(|place| place << 4);
        assert!(told.eq(ranks.clone().map(|rank| (name_of(rank), sleeps(rank)))), "names, order and kinds");
        assert!(ranks.map(|rank| !sleeps(rank)).is_sorted(), "a sleeping lock after a spin lock");
        assert_eq!(name_of(Ptl::RANK + 1), "Ptl");
    }
}
