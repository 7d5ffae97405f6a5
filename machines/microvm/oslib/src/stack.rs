//! A new program's stack: strings, arguments, environment, auxiliary vector.
//!
//! From high to low: the strings, sixteen random bytes, padding; then from the stack pointer up:
//! the argument count, the argument pointers, null, the environment pointers, null, the auxiliary
//! vector. Linux: fs/binfmt_elf.c `create_elf_tables`.

use crate::errno::{E2BIG, ENOMEM, Result};
use alloc::vec::Vec;

/// The largest total of arguments and environment: a quarter of the default stack limit.
pub const ARG_MAX: usize = 2 << 20;

/// What is put on the stack.
#[derive(Clone, Debug)]
pub struct Content<'a> {
    /// Arguments.
    pub args: &'a [Vec<u8>],
    /// Environment.
    pub env: &'a [Vec<u8>],
    /// The path that was executed (`AT_EXECFN`).
    pub path: &'a [u8],
    /// Pairs of the auxiliary vector that are plain numbers, without the end.
    pub auxv: &'a [(u64, u64)],
    /// For `AT_RANDOM`.
    pub random: [u8; 16],
}

/// The finished stack.
#[derive(Clone, Debug)]
pub struct Stack {
    /// The stack pointer; `bytes` belong there.
    pub sp: u64,
    /// Everything from the stack pointer to the top.
    pub bytes: Vec<u8>,
    /// Where the argument strings are.
    pub arg_range: (u64, u64),
    /// Where the environment strings are.
    pub env_range: (u64, u64),
}

const AT_PLATFORM: u64 = 15;
const AT_RANDOM: u64 = 25;
const AT_EXECFN: u64 = 31;

/// Lays the stack out below `top`.
///
/// # Errors
/// `E2BIG` if arguments and environment are too long, `ENOMEM` if the kernel heap has no room.
pub fn build(top: u64, content: &Content<'_>) -> Result<Stack> {
    let strings_len = strings(content).map(|s| s.len() + 1).sum::<usize>();
    let pointers = (content.args.len() + content.env.len() + 3 + 2 * (content.auxv.len() + 4)) * 8;
    if strings_len + pointers > ARG_MAX {
        return Err(E2BIG);
    }
    let strings_at = (top - strings_len as u64 - 8) & !15;
    let random_at = strings_at - 16;
    let sp = (random_at - pointers as u64) & !15;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact((top - sp) as usize).map_err(|_| ENOMEM)?;

    let mut at = strings_at;
    let mut next = |s: &[u8]| {
        let start = at;
        at += s.len() as u64 + 1;
        start
    };
    let args_len = content.args.iter().map(|arg| arg.len() as u64 + 1).sum::<u64>();
    let env_at = strings_at + args_len;
    let mut word = |value: u64| bytes.extend_from_slice(&value.to_le_bytes());
    word(content.args.len() as u64);
    content.args.iter().for_each(|arg| word(next(arg)));
    word(0);
    content.env.iter().for_each(|env| word(next(env)));
    word(0);
    let path_at = next(content.path);
    let platform_at = next(PLATFORM);
    for &(key, value) in content.auxv {
        word(key);
        word(value);
    }
    for pair in [(AT_RANDOM, random_at), (AT_EXECFN, path_at), (AT_PLATFORM, platform_at), (0, 0)] {
        word(pair.0);
        word(pair.1);
    }
    bytes.resize((random_at - sp) as usize, 0);
    bytes.extend_from_slice(&content.random);
    for string in strings(content) {
        bytes.extend_from_slice(string);
        bytes.push(0);
    }
    bytes.resize((top - sp) as usize, 0);
    Ok(Stack { sp, bytes, arg_range: (strings_at, env_at), env_range: (env_at, path_at) })
}

const PLATFORM: &[u8] = b"x86_64";

fn strings<'a>(content: &'a Content<'_>) -> impl Iterator<Item = &'a [u8]> {
    let tail: [&'a [u8]; 2] = [content.path, PLATFORM];
    content.args.iter().chain(content.env).map(|s| &s[..]).chain(tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_finds_its_arguments_and_environment() {
        let args = [b"sh".to_vec(), b"".to_vec(), b"x y".to_vec()];
        let env = [b"A=1".to_vec(), b"BB=22".to_vec()];
        for extra in 0..3 {
            let auxv: Vec<(u64, u64)> = (0..extra).map(|i| (100 + i, i)).collect();
            let content = Content { args: &args, env: &env, path: b"/bin/sh", auxv: &auxv, random: [7; 16] };
            let stack = build(0x7fff_0000, &content).unwrap();
            assert_eq!(stack.sp % 16, 0);
            assert_eq!(stack.sp + stack.bytes.len() as u64, 0x7fff_0000);
            let word = |i: usize| u64::from_le_bytes(stack.bytes[8 * i..8 * i + 8].try_into().unwrap());
            let string = |at: u64| {
                let from = &stack.bytes[(at - stack.sp) as usize..];
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
            assert_eq!(stack.bytes[random..random + 16], [7; 16]);
            assert_eq!(stack.arg_range.0, word(1));
            assert_eq!(stack.arg_range.1, word(5));
        }
    }

    #[test]
    fn too_many_arguments_are_refused() {
        let args = [std::vec![b'x'; ARG_MAX]];
        let content = Content { args: &args, env: &[], path: b"", auxv: &[], random: [0; 16] };
        assert_eq!(build(0x7fff_0000, &content).unwrap_err(), E2BIG);
    }
}
