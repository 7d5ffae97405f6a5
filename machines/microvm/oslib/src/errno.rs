//! Error numbers as a type, with Linux's names.

use linux_raw_sys::errno as raw;

/// An error number of the Linux ABI (positive).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

/// What an operation of the operating-system half returns.
pub type Result<T> = core::result::Result<T, Errno>;

impl Errno {
    /// Gives the value that a system call returns for this error.
    pub fn as_return(self) -> isize {
        -(self.0 as isize)
    }
}

macro_rules! errnos {
    ($($name:ident)*) => {
        $(
            #[doc = concat!("Linux `", stringify!($name), "`.")]
            pub const $name: Errno = Errno(raw::$name as i32);
        )*

        impl core::fmt::Debug for Errno {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                match *self {
                    $($name => f.write_str(stringify!($name)),)*
                    Errno(n) => write!(f, "errno {n}"),
                }
            }
        }
    };
}

errnos! {
    EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG ENOEXEC EBADF ECHILD EAGAIN ENOMEM EACCES EFAULT EBUSY
    EEXIST EXDEV ENODEV ENOTDIR EISDIR EINVAL ENFILE EMFILE ENOTTY ETXTBSY EFBIG ENOSPC ESPIPE EROFS
    EMLINK EPIPE ERANGE EDEADLK ENAMETOOLONG ENOSYS ENOTEMPTY ELOOP ENODATA EOVERFLOW ENOTSOCK
    EOPNOTSUPP EAFNOSUPPORT ENOTCONN ETIMEDOUT EDESTADDRREQ EPROTONOSUPPORT ECONNREFUSED EMSGSIZE
    ENOBUFS ESOCKTNOSUPPORT EIDRM EADDRINUSE EADDRNOTAVAIL EINPROGRESS EISCONN ENETUNREACH ENOPROTOOPT
    EPROTOTYPE ETOOMANYREFS
}
