//! The command's own standard streams, byte for byte and unbuffered.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

/// What became of bytes that were to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// All of them are out.
    All,
    /// Nobody reads any more.
    Closed,
}

/// Writes all bytes to a stream, waiting where it must.
///
/// # Errors
///
/// The stream refuses the bytes, for example because a disk is full.
pub fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<Written> {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                poll(&mut [PollFd::new(&fd, PollFlags::OUT)], None)?;
            }
            Err(Errno::PIPE) => return Ok(Written::Closed),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Written::All)
}

/// What reading standard input gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// So many bytes.
    Bytes(usize),
    /// Nothing yet.
    NotYet,
    /// The end. A stream that cannot be read has ended.
    End,
}

/// Reads once from a stream that poll said is readable.
pub fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> Input {
    match rustix::io::read(fd, buffer) {
        Ok(0) => Input::End,
        Ok(count) => Input::Bytes(count),
        Err(Errno::INTR | Errno::AGAIN) => Input::NotYet,
        Err(_) => Input::End,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_reader_that_left_is_told_apart_from_success() {
        let (near, far) = UnixStream::pair().unwrap();
        assert_eq!(write_all(near.as_fd(), b"x").unwrap(), Written::All);
        drop(far);
        assert_eq!(write_all(near.as_fd(), b"x").unwrap(), Written::Closed);
    }

    #[test]
    fn a_slow_reader_gets_everything() {
        let (near, far) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        let bytes = vec![7_u8; 1 << 20];
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            io::Read::read_to_end(&mut &far, &mut all).map(|_| all)
        });
        assert_eq!(write_all(near.as_fd(), &bytes).unwrap(), Written::All);
        drop(near);
        assert_eq!(reader.join().unwrap().unwrap(), bytes);
    }

    #[test]
    fn input_ends_once() {
        let (near, far) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        let mut buffer = [0; 4];
        assert_eq!(read(near.as_fd(), &mut buffer), Input::NotYet);
        rustix::io::write(&far, b"ab").unwrap();
        assert_eq!(read(near.as_fd(), &mut buffer), Input::Bytes(2));
        drop(far);
        assert_eq!(read(near.as_fd(), &mut buffer), Input::End);
    }
}
