//! A generated text that is read piece by piece.
//!
//! The generator ([`Synthetic::piece`]) is asked for one piece after the other, each from where the last one
//! ended in the generator's own terms (an address, a number). So a text may have any length, and takes the
//! memory of one piece. Reading from the start, or from before the piece at hand, generates anew.
//!
//! Linux: fs/seq_file.c.

use super::iov::To;
use alloc::vec::Vec;
use anonmem_oslib::Result;
use anonmem_oslib::errno::EFAULT;
use anonmem_oslib::vfs::Synthetic;

/// How far a text was generated.
#[derive(Debug)]
pub struct Seq {
    piece: Vec<u8>,
    /// Where the piece starts in the text.
    start: u64,
    /// Where the generator goes on; `None` at the text's end.
    next: Option<u64>,
}

impl Seq {
    /// Nothing was generated yet.
    pub const fn new() -> Self {
        Seq { piece: Vec::new(), start: 0, next: Some(0) }
    }

    /// Reads the text of `entry` at `offset`: up to the end of a piece.
    ///
    /// # Errors
    /// `EFAULT`, `ENOMEM`, what generating gives.
    pub fn read(&mut self, entry: &dyn Synthetic, offset: u64, to: &mut To<'_>) -> Result<usize> {
        if offset == 0 || offset < self.start {
            *self = Seq::new();
        }
        let mut done = 0;
        while to.left() > 0 {
            let at = (offset + done as u64 - self.start) as usize;
            if let Some(rest) = self.piece.get(at..).filter(|rest| !rest.is_empty()) {
                let wanted = rest.len().min(to.left());
                let put = to.put(rest);
                done += put;
                if put < wanted {
                    return if done > 0 { Ok(done) } else { Err(EFAULT) };
                }
                continue;
            }
            // No more than one piece a call, whatever its room: who looks at the start pays for no more.
            let Some(next) = self.next.filter(|_| done == 0) else { break };
            self.generate(entry, next)?;
        }
        Ok(done)
    }

    fn generate(&mut self, entry: &dyn Synthetic, next: u64) -> Result<()> {
        self.start += self.piece.len() as u64;
        self.piece.clear();
        self.next = entry.piece(next, &mut self.piece)?;
        Ok(())
    }
}

impl Default for Seq {
    fn default() -> Self {
        Seq::new()
    }
}
