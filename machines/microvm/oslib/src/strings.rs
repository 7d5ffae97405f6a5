//! Arguments and environment on their way from one program to the next: many strings in few blocks of memory.
//!
//! A program chooses how many there are, so every byte of memory for them may be refused.

use crate::errno::{ENOMEM, Result};
use alloc::vec::Vec;

/// Bytes of a block, if memory has that much in one piece; else of a page.
const BLOCK: usize = 64 << 10;
const PAGE: usize = 4096;

/// NUL-terminated strings in a row.
#[derive(Debug, Default)]
pub struct Strings {
    blocks: Vec<Vec<u8>>,
    count: usize,
    bytes: usize,
}

impl Strings {
    /// Makes an empty list.
    pub const fn new() -> Self {
        Strings { blocks: Vec::new(), count: 0, bytes: 0 }
    }

    /// Makes a list of strings.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn of<'a>(strings: impl IntoIterator<Item = &'a [u8]>) -> Result<Self> {
        let mut all = Strings::new();
        strings.into_iter().try_for_each(|string| all.push(string))?;
        Ok(all)
    }

    /// Gives how many strings there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Gives their bytes, with a NUL each.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Says whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds a string, which has no NUL.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn push(&mut self, string: &[u8]) -> Result<()> {
        self.append(string)?;
        self.end()
    }

    /// Adds bytes to a string that [`end`](Self::end) will end.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn append(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let room = self.blocks.last().map_or(0, |last| last.capacity() - last.len());
            if room == 0 {
                self.blocks.try_reserve(1).map_err(|_| ENOMEM)?;
                self.blocks.push(block()?);
                continue;
            }
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            if let Some(last) = self.blocks.last_mut() {
                last.extend_from_slice(now);
            }
            self.bytes += now.len();
            bytes = later;
        }
        Ok(())
    }

    /// Ends the string that was appended to.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn end(&mut self) -> Result<()> {
        self.append(&[0])?;
        self.count += 1;
        Ok(())
    }

    /// Puts `strings` where the first one is; in front if there is none.
    ///
    /// # Errors
    /// `ENOMEM`; the list is of no use then.
    pub fn replace_first(&mut self, strings: &[&[u8]]) -> Result<()> {
        if self.count > 0 {
            while let Some(first) = self.blocks.first_mut() {
                let end = first.iter().position(|&byte| byte == 0);
                let gone = end.map_or(first.len(), |end| end + 1);
                first.drain(..gone);
                self.bytes -= gone;
                if first.is_empty() {
                    self.blocks.remove(0);
                }
                if end.is_some() {
                    break;
                }
            }
            self.count -= 1;
        }
        let mut front = Strings::of(strings.iter().copied())?;
        front.blocks.try_reserve(self.blocks.len()).map_err(|_| ENOMEM)?;
        front.blocks.append(&mut self.blocks);
        front.count += self.count;
        front.bytes += self.bytes;
        *self = front;
        Ok(())
    }

    /// Gives the bytes of all strings, block by block.
    pub fn blocks(&self) -> impl Iterator<Item = &[u8]> {
        self.blocks.iter().map(|block| &block[..])
    }

    /// Gives where each string starts, counted from the first one's start.
    pub fn starts(&self) -> impl Iterator<Item = usize> {
        let mut start = 0;
        let ends = self.blocks.iter().flatten().enumerate().filter(|(_, byte)| **byte == 0);
        ends.map(move |(end, _)| core::mem::replace(&mut start, end + 1))
    }
}

fn block() -> Result<Vec<u8>> {
    let mut block = Vec::new();
    let large = block.try_reserve_exact(BLOCK);
    large.or_else(|_| block.try_reserve_exact(PAGE)).map_err(|_| ENOMEM)?;
    Ok(block)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(strings: &Strings) -> Vec<Vec<u8>> {
        let bytes = strings.blocks().collect::<Vec<_>>().concat();
        assert_eq!(bytes.len(), strings.bytes());
        let starts: Vec<usize> = strings.starts().collect();
        assert_eq!(starts.len(), strings.count());
        let string = |&at: &usize| bytes[at..].split(|&b| b == 0).next().unwrap().to_vec();
        starts.iter().map(string).collect()
    }

    #[test]
    fn strings_are_kept_in_order_across_blocks() {
        let long = std::vec![b'x'; BLOCK + 10];
        let strings = Strings::of([&b"a"[..], b"", &long, b"b c"]).unwrap();
        assert_eq!(list(&strings), [b"a".to_vec(), Vec::new(), long, b"b c".to_vec()]);
    }

    #[test]
    fn the_first_is_replaced_by_others() {
        let long = std::vec![b'x'; 2 * BLOCK];
        for first in [&b"script"[..], b"", &long] {
            let mut strings = Strings::of([first, b"argument"]).unwrap();
            strings.replace_first(&[b"/bin/sh", b"-e", b"script"]).unwrap();
            assert_eq!(list(&strings), [&b"/bin/sh"[..], b"-e", b"script", b"argument"]);
        }
        let mut none = Strings::new();
        none.replace_first(&[b"x"]).unwrap();
        assert_eq!(list(&none), [b"x"]);
    }
}
