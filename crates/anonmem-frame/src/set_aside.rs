//! Frames that are set aside for slabs, where there are more frames than names can tell apart.
//!
//! A name has 26 bits for a frame ([`RawHandle`](crate::RawHandle)). A machine with more than 256 GiB
//! therefore keeps its first frames for what has a name: a 64th of memory. Programs never get these frames,
//! and slabs get no others. Slabs give no frame back, so the frames are handed out one after the other.
//!
//! Linux has no such limit, because its links are pointers of 64 bits. Here they are 32, in every node of a
//! tree and in the metadata of every folio.

use anonmem_hal::Pfn;

/// Memory is set aside in chunks of so many frames, and comes to the free lists in such chunks: 128 MiB.
pub(crate) const CHUNK: u32 = 1 << 15;
/// The most frames that names can tell apart.
pub(crate) const NAMED: u64 = 1 << 26;
/// The part of memory that is set aside if there are more.
const SHARE: u64 = 64;

/// How many frames are set aside of so many that begin at `base`: up to the end of a chunk
/// that comes to the free lists together.
pub(crate) const fn set_aside_of(base: Pfn, frames: u64) -> u32 {
    if frames <= NAMED {
        return 0;
    }
    let end = base.0 + frames / SHARE;
    (end - end % CHUNK as u64 - base.0) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_what_is_set_aside_and_whole_chunks_follow() {
        assert_eq!(set_aside_of(Pfn(0x100), NAMED), 0);
        for base in [0, 1, 0x100, 12_345_678] {
            for frames in [NAMED + 1, 3 * NAMED, (1 << 32) - 1] {
                let aside = u64::from(set_aside_of(Pfn(base), frames));
                assert!(aside <= NAMED && aside > frames / SHARE - u64::from(CHUNK), "{aside} of {frames}");
                assert!((base + aside).is_multiple_of(u64::from(CHUNK)));
            }
        }
    }
}
