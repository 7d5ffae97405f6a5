//! The bytes of a pipe: a bounded ring.

use crate::errno::{ENOMEM, Errno};
use alloc::vec::Vec;

/// A bounded queue of bytes. Its memory is allocated when it is made, so that writing cannot fail.
#[derive(Debug)]
pub struct Ring {
    bytes: Vec<u8>,
    head: usize,
    len: usize,
}

impl Ring {
    /// Makes a ring that holds `capacity` bytes.
    ///
    /// # Errors
    /// `ENOMEM` if the kernel heap has no room.
    pub fn new(capacity: usize) -> Result<Self, Errno> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(capacity).map_err(|_| ENOMEM)?;
        bytes.resize(capacity, 0);
        Ok(Ring { bytes, head: 0, len: 0 })
    }

    /// Gives the number of bytes that wait to be read.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Says whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Gives the number of bytes that can be written now.
    pub fn room(&self) -> usize {
        self.bytes.len() - self.len
    }

    /// Takes as many bytes of `from` as fit, and says how many.
    pub fn write(&mut self, from: &[u8]) -> usize {
        let n = from.len().min(self.room());
        let tail = (self.head + self.len) % self.bytes.len().max(1);
        let first = n.min(self.bytes.len() - tail);
        self.bytes[tail..tail + first].copy_from_slice(&from[..first]);
        self.bytes[..n - first].copy_from_slice(&from[first..n]);
        self.len += n;
        n
    }

    /// Gives the bytes that wait longest, as far as they lie together; all of them after one
    /// [`consume`](Self::consume).
    pub fn front(&self) -> &[u8] {
        let first = self.len.min(self.bytes.len() - self.head);
        &self.bytes[self.head..self.head + first]
    }

    /// Forgets the first `n` waiting bytes.
    pub fn consume(&mut self, n: usize) {
        let n = n.min(self.len);
        self.head = (self.head + n) % self.bytes.len().max(1);
        self.len -= n;
    }

    /// Moves as many waiting bytes as fit into `to`, and says how many.
    pub fn read(&mut self, to: &mut [u8]) -> usize {
        let n = to.len().min(self.len);
        let first = n.min(self.bytes.len() - self.head);
        to[..first].copy_from_slice(&self.bytes[self.head..self.head + first]);
        to[first..n].copy_from_slice(&self.bytes[..n - first]);
        self.head = (self.head + n) % self.bytes.len().max(1);
        self.len -= n;
        n
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    #[test]
    fn a_ring_is_a_queue_for_every_size_and_offset() {
        let mut ring = Ring::new(7).unwrap();
        let mut model = VecDeque::new();
        let mut next = 0u8;
        for round in 0..200usize {
            let chunk: std::vec::Vec<u8> = (0..round % 9)
                .map(|_| {
                    next = next.wrapping_add(1);
                    next
                })
                .collect();
            let n = ring.write(&chunk);
            assert_eq!(n, chunk.len().min(7 - model.len()));
            model.extend(&chunk[..n]);
            let mut out = [0; 9];
            let got = ring.read(&mut out[..(round * 5) % 8]);
            let want: std::vec::Vec<u8> = model.drain(..got).collect();
            assert_eq!(&out[..got], &want[..]);
            assert_eq!(ring.len(), model.len());
        }
    }
}
