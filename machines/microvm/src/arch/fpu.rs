//! The floating-point and vector state of user tasks.

use super::trap::TrapFrame;

/// The size of the state image that [`save_user`] writes (an XSAVE area, standard format; at least 512).
pub fn image_size() -> usize {
    todo!()
}

/// Writes the running user task's state to `image` (for a signal frame; XSAVE layout).
pub fn save_user(_frame: &TrapFrame, _image: &mut [u8]) {
    todo!()
}

/// Loads the running user task's state from `image`, from user memory: invalid bits are cleared.
pub fn restore_user(_frame: &mut TrapFrame, _image: &[u8]) {
    todo!()
}

/// The state that a program has after execve.
pub fn reset_user(_frame: &mut TrapFrame) {
    todo!()
}
