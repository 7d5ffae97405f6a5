//! A new program's stack: strings, arguments, environment, auxiliary vector.
//!
//! From high to low: the strings, sixteen random bytes, padding; then from the stack pointer up:
//! the argument count, the argument pointers, null, the environment pointers, null, the auxiliary
//! vector. Nothing of it is held in kernel memory as a whole: it is written piece by piece.
//! Linux: fs/binfmt_elf.c `create_elf_tables`.

use crate::errno::{E2BIG, Result};
use crate::strings::Strings;

/// The longest string, with its NUL.
pub const STRING_MAX: usize = 128 << 10;

/// Gives how many bytes the strings and the pointers to them may have, under a soft limit of the stack's
/// size.
///
/// Linux: fs/exec.c `bprm_stack_limits`.
pub fn room(stack_limit: u64) -> usize {
    const LEAST: u64 = 128 << 10;
    const MOST: u64 = 6 << 20;
    (stack_limit / 4).clamp(LEAST, MOST) as usize
}

/// What is put on the stack.
#[derive(Clone, Debug)]
pub struct Content<'a> {
    /// Arguments.
    pub args: &'a Strings,
    /// Environment.
    pub env: &'a Strings,
    /// The path that was executed (`AT_EXECFN`).
    pub path: &'a [u8],
    /// Pairs of the auxiliary vector that are plain numbers, without the end.
    pub auxv: &'a [(u64, u64)],
    /// For `AT_RANDOM`.
    pub random: [u8; 16],
}

/// Where everything is.
#[derive(Clone, Copy, Debug)]
pub struct Stack {
    /// The stack pointer.
    pub sp: u64,
    /// Its end.
    pub top: u64,
    /// Where the argument strings are.
    pub arg_range: (u64, u64),
    /// Where the environment strings are.
    pub env_range: (u64, u64),
    /// Where the auxiliary vector is, the pair of zeroes at its end included.
    pub auxv_range: (u64, u64),
    random_at: u64,
}

const AT_PLATFORM: u64 = 15;
const AT_RANDOM: u64 = 25;
const AT_EXECFN: u64 = 31;
const PLATFORM: &[u8] = b"x86_64";

/// Words on their way out, a page at a time.
struct Words<'a> {
    bytes: [u8; 4096],
    len: usize,
    put: &'a mut dyn FnMut(&[u8]) -> Result<()>,
}

impl Words<'_> {
    fn word(&mut self, value: u64) -> Result<()> {
        self.bytes[self.len..self.len + 8].copy_from_slice(&value.to_le_bytes());
        self.len += 8;
        if self.len == self.bytes.len() { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        let len = core::mem::take(&mut self.len);
        (self.put)(&self.bytes[..len])
    }
}

impl Stack {
    /// Lays the stack out below `top`.
    ///
    /// # Errors
    /// `E2BIG` if arguments, environment and path are more than `room` allows.
    pub fn lay_out(top: u64, content: &Content<'_>, room: usize) -> Result<Stack> {
        let (args, env) = (content.args, content.env);
        let strings = args.bytes() + env.bytes() + content.path.len() + 1;
        if strings + 8 * (args.count().max(1) + env.count()) > room {
            return Err(E2BIG);
        }
        let pointers = (args.count() + env.count() + 3 + 2 * (content.auxv.len() + 4)) * 8;
        let strings_at = (top - (strings + PLATFORM.len() + 1) as u64 - 8) & !15;
        let random_at = strings_at - 16;
        let sp = (random_at - pointers as u64) & !15;
        let env_at = strings_at + args.bytes() as u64;
        let path_at = env_at + env.bytes() as u64;
        let auxv_at = sp + 8 * (args.count() + env.count() + 3) as u64;
        Ok(Stack {
            sp,
            top,
            arg_range: (strings_at, env_at),
            env_range: (env_at, path_at),
            auxv_range: (auxv_at, sp + pointers as u64),
            random_at,
        })
    }

    /// Writes it all through `put`, which gets the bytes from the stack pointer up to the top one piece after
    /// the other.
    ///
    /// # Errors
    /// Those of `put`.
    pub fn write(&self, content: &Content<'_>, put: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let path_at = self.env_range.1;
        let platform_at = path_at + content.path.len() as u64 + 1;
        let mut words = Words { bytes: [0; 4096], len: 0, put };
        words.word(content.args.count() as u64)?;
        for (strings, at) in [(content.args, self.arg_range.0), (content.env, self.env_range.0)] {
            strings.starts().try_for_each(|start| words.word(at + start as u64))?;
            words.word(0)?;
        }
        content.auxv.iter().try_for_each(|&(key, value)| words.word(key).and_then(|()| words.word(value)))?;
        for pair in [(AT_RANDOM, self.random_at), (AT_EXECFN, path_at), (AT_PLATFORM, platform_at), (0, 0)] {
            words.word(pair.0)?;
            words.word(pair.1)?;
        }
        let words_written = content.args.count() + content.env.count() + 3 + 2 * (content.auxv.len() + 4);
        let padding = (self.random_at - self.sp) as usize / 8 - words_written;
        (0..padding).try_for_each(|_| words.word(0))?;
        words.flush()?;
        put(&content.random)?;
        content.args.blocks().chain(content.env.blocks()).try_for_each(&mut *put)?;
        for part in [content.path, &[0], PLATFORM, &[0]] {
            put(part)?;
        }
        let end = platform_at + PLATFORM.len() as u64 + 1;
        put(&[0; 32][..(self.top - end) as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn a_program_finds_its_arguments_and_environment() {
        let args = [&b"sh"[..], b"", b"x y"];
        let env = [&b"A=1"[..], b"BB=22"];
        for extra in 0..3 {
            let auxv: Vec<(u64, u64)> = (0..extra).map(|i| (100 + i, i)).collect();
            let (all_args, all_env) = (Strings::of(args).unwrap(), Strings::of(env).unwrap());
            let content =
                Content { args: &all_args, env: &all_env, path: b"/bin/sh", auxv: &auxv, random: [7; 16] };
            let stack = Stack::lay_out(0x7fff_0000, &content, room(0)).unwrap();
            let mut bytes = Vec::new();
            let mut put = |piece: &[u8]| {
                bytes.extend_from_slice(piece);
                Ok(())
            };
            stack.write(&content, &mut put).unwrap();
            assert_eq!(stack.sp % 16, 0);
            assert_eq!(stack.sp + bytes.len() as u64, 0x7fff_0000);
            let word = |i: usize| u64::from_le_bytes(bytes[8 * i..8 * i + 8].try_into().unwrap());
            let string = |at: u64| {
                let from = &bytes[(at - stack.sp) as usize..];
                from[..from.iter().position(|&b| b == 0).unwrap()].to_vec()
            };
            assert_eq!(word(0), 3);
            assert_eq!([string(word(1)), string(word(2)), string(word(3))], args);
            assert_eq!((word(4), word(7)), (0, 0));
            assert_eq!([string(word(5)), string(word(6))], env);
            let aux = |key| (0..).map(|i| 8 + 2 * i).find(|&i| word(i) == key).map(|i| word(i + 1)).unwrap();
            assert_eq!(string(aux(AT_EXECFN)), b"/bin/sh");
            assert_eq!(string(aux(AT_PLATFORM)), b"x86_64");
            let random = (aux(AT_RANDOM) - stack.sp) as usize;
            assert_eq!(bytes[random..random + 16], [7; 16]);
            assert_eq!(stack.arg_range.0, word(1));
            assert_eq!(stack.arg_range.1, word(5));
            let [first, end] =
                [stack.auxv_range.0, stack.auxv_range.1].map(|at| (at - stack.sp) as usize / 8);
            assert_eq!((first, word(end - 2), word(end - 1)), (8, 0, 0));
        }
    }

    #[test]
    fn too_many_arguments_are_refused() {
        let args = Strings::of([&[b'x'; 1000][..]; 200]).unwrap();
        let env = Strings::new();
        let content = Content { args: &args, env: &env, path: b"", auxv: &[], random: [0; 16] };
        let needed = 200 * (1001 + 8) + 1;
        assert_eq!(Stack::lay_out(1 << 40, &content, needed - 1).unwrap_err(), E2BIG);
        assert!(Stack::lay_out(1 << 40, &content, needed).is_ok());
    }

    #[test]
    fn the_room_is_a_quarter_of_the_stack() {
        assert_eq!([room(0), room(8 << 20), room(u64::MAX)], [128 << 10, 2 << 20, 6 << 20]);
    }
}
