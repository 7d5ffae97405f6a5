//! Who a thread is: user and group numbers, and capabilities.
//!
//! The rules are those of credentials(7) and capabilities(7), without file capabilities, ambient sets and
//! securebits. What the kernel asks of them is little (the limits that root is above); programs ask them
//! back.
//!
//! Linux: kernel/sys.c `__sys_setuid` and its siblings, security/commoncap.c.

use crate::errno::{EINVAL, EPERM, Result};
use crate::vfs::inode::Meta;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// A set of capabilities, a bit each.
pub type Caps = u64;

/// A capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are Linux's")]
pub enum Cap {
    DacOverride = 1,
    SetGid = 6,
    SetUid = 7,
    SetPcap = 8,
    IpcLock = 14,
    IpcOwner = 15,
    SysPtrace = 19,
    SysAdmin = 21,
    SysNice = 23,
    SysResource = 24,
}

/// The number of the last capability.
pub const CAP_LAST: u32 = 40;
/// All capabilities.
pub const ALL_CAPS: Caps = (1 << (CAP_LAST + 1)) - 1;
/// "Leave this one as it is".
pub const SAME: u32 = u32::MAX;
/// The most supplementary groups.
pub const GROUPS_MAX: usize = 65_536;

/// Real, effective, saved and file-system number of a user or group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ids {
    /// The one who started it.
    pub real: u32,
    /// The one whose rights it has.
    pub effective: u32,
    /// The one it may become again.
    pub saved: u32,
    /// The one who opens files.
    pub fs: u32,
}

impl Ids {
    fn has(&self, id: u32) -> bool {
        [self.real, self.effective, self.saved].contains(&id)
    }

    /// `setuid`, `setgid`.
    fn set(mut self, id: u32, privileged: bool) -> Result<Self> {
        match (id, privileged) {
            (SAME, _) => return Err(EINVAL),
            (_, true) => self = Ids { real: id, effective: id, saved: id, fs: id },
            (_, false) if id == self.real || id == self.saved => self.effective = id,
            (_, false) => return Err(EPERM),
        }
        self.fs = self.effective;
        Ok(self)
    }

    /// `setreuid`, `setregid`.
    fn set_re(mut self, real: u32, effective: u32, privileged: bool) -> Result<Self> {
        let old = self;
        if real != SAME {
            if !privileged && real != old.real && real != old.effective {
                return Err(EPERM);
            }
            self.real = real;
        }
        if effective != SAME {
            if !privileged && !old.has(effective) {
                return Err(EPERM);
            }
            self.effective = effective;
        }
        if real != SAME || (effective != SAME && effective != old.real) {
            self.saved = self.effective;
        }
        self.fs = self.effective;
        Ok(self)
    }

    /// `setresuid`, `setresgid`.
    fn set_res(mut self, [real, effective, saved]: [u32; 3], privileged: bool) -> Result<Self> {
        let old = self;
        for (id, place) in
            [(real, &mut self.real), (effective, &mut self.effective), (saved, &mut self.saved)]
        {
            if id == SAME {
                continue;
            }
            if !privileged && !old.has(id) {
                return Err(EPERM);
            }
            *place = id;
        }
        self.fs = self.effective;
        Ok(self)
    }

    /// `setfsuid`, `setfsgid`: refused silently.
    fn set_fs(mut self, id: u32, privileged: bool) -> Self {
        if id != SAME && (privileged || self.has(id) || id == self.fs) {
            self.fs = id;
        }
        self
    }
}

/// Which numbers a call sets, and how.
#[derive(Clone, Copy, Debug)]
pub enum SetIds {
    /// `setuid`, `setgid`.
    One(u32),
    /// `setreuid`, `setregid`.
    RealEffective(u32, u32),
    /// `setresuid`, `setresgid`.
    All([u32; 3]),
    /// `setfsuid`, `setfsgid`.
    Fs(u32),
}

impl SetIds {
    fn apply(self, ids: Ids, privileged: bool) -> Result<Ids> {
        match self {
            SetIds::One(id) => ids.set(id, privileged),
            SetIds::RealEffective(real, effective) => ids.set_re(real, effective, privileged),
            SetIds::All(three) => ids.set_res(three, privileged),
            SetIds::Fs(id) => Ok(ids.set_fs(id, privileged)),
        }
    }
}

/// Who a thread is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cred {
    /// Its user.
    pub user: Ids,
    /// Its group.
    pub group: Ids,
    /// Its supplementary groups.
    pub groups: Arc<Vec<u32>>,
    /// What it can do now.
    pub effective: Caps,
    /// What it may make effective.
    pub permitted: Caps,
    /// What an executed program may get.
    pub inheritable: Caps,
    /// What an executed program may get at most.
    pub bounding: Caps,
    /// Whether becoming somebody else leaves the permitted set alone (`PR_SET_KEEPCAPS`).
    pub keeps_caps: bool,
}

impl Cred {
    /// Root, with everything.
    pub fn root() -> Self {
        Cred {
            user: Ids::default(),
            group: Ids::default(),
            groups: Arc::default(),
            effective: ALL_CAPS,
            permitted: ALL_CAPS,
            inheritable: 0,
            bounding: ALL_CAPS,
            keeps_caps: false,
        }
    }

    /// Says whether it may do what `cap` is for.
    pub fn has(&self, cap: Cap) -> bool {
        self.effective & 1 << cap as u32 != 0
    }

    /// Says whether a file with these permissions may be opened for all of `wanted` (4 to read, 2 to write).
    #[doc(alias = "generic_permission")]
    pub fn may(&self, meta: &Meta, wanted: u32) -> bool {
        let bits = if self.user.fs == meta.uid {
            meta.mode >> 6
        } else if self.group.fs == meta.gid || self.groups.contains(&meta.gid) {
            meta.mode >> 3
        } else {
            meta.mode
        };
        bits & wanted == wanted || self.has(Cap::DacOverride)
    }

    /// Changes the user.
    ///
    /// # Errors
    /// `EPERM`, `EINVAL`.
    pub fn set_user(&mut self, set: SetIds) -> Result<()> {
        let old = self.user;
        self.user = set.apply(old, self.has(Cap::SetUid))?;
        if !matches!(set, SetIds::Fs(_)) {
            self.follow_user(old);
        }
        Ok(())
    }

    /// Changes the group.
    ///
    /// # Errors
    /// `EPERM`, `EINVAL`.
    pub fn set_group(&mut self, set: SetIds) -> Result<()> {
        self.group = set.apply(self.group, self.has(Cap::SetGid))?;
        Ok(())
    }

    /// Changes the supplementary groups.
    ///
    /// # Errors
    /// `EPERM`.
    pub fn set_groups(&mut self, groups: Vec<u32>) -> Result<()> {
        if !self.has(Cap::SetGid) {
            return Err(EPERM);
        }
        self.groups = Arc::new(groups);
        Ok(())
    }

    /// Capabilities go with root.
    #[doc(alias = "cap_emulate_setxuid")]
    fn follow_user(&mut self, old: Ids) {
        let is_root = |ids: Ids| ids.has(0);
        if is_root(old) && !is_root(self.user) && !self.keeps_caps {
            self.permitted = 0;
            self.effective = 0;
        }
        if old.effective == 0 && self.user.effective != 0 {
            self.effective = 0;
        }
        if old.effective != 0 && self.user.effective == 0 {
            self.effective = self.permitted;
        }
    }

    /// Changes the capabilities.
    ///
    /// # Errors
    /// `EPERM` if it would get more than it may.
    #[doc(alias = "cap_capset")]
    pub fn set_caps(&mut self, effective: Caps, permitted: Caps, inheritable: Caps) -> Result<()> {
        let within = |set: Caps, limit: Caps| set & !limit == 0;
        let may_inherit = if self.has(Cap::SetPcap) {
            self.inheritable | self.bounding
        } else {
            self.inheritable | self.permitted
        };
        if !within(inheritable, may_inherit)
            || !within(inheritable, self.inheritable | self.bounding)
            || !within(permitted, self.permitted)
            || !within(effective, permitted)
        {
            return Err(EPERM);
        }
        (self.effective, self.permitted, self.inheritable) = (effective, permitted, inheritable);
        Ok(())
    }

    /// Takes `cap` out of what programs may get.
    ///
    /// # Errors
    /// `EPERM`, `EINVAL` if there is no such capability.
    pub fn drop_bounding(&mut self, cap: u32) -> Result<()> {
        if !self.has(Cap::SetPcap) {
            return Err(EPERM);
        }
        if cap > CAP_LAST {
            return Err(EINVAL);
        }
        self.bounding &= !(1 << cap);
        Ok(())
    }

    /// What becomes of it when a program is executed: root's programs get everything, others' nothing.
    #[doc(alias = "cap_bprm_creds_from_file")]
    pub fn exec(&mut self) {
        self.user.saved = self.user.effective;
        self.user.fs = self.user.effective;
        self.group.saved = self.group.effective;
        self.group.fs = self.group.effective;
        let root = self.user.effective == 0 || self.user.real == 0;
        self.permitted = if root { self.inheritable | self.bounding } else { 0 };
        self.effective = if self.user.effective == 0 { self.permitted } else { 0 };
        self.keeps_caps = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn who_gives_up_root_loses_the_capabilities() {
        let mut cred = Cred::root();
        cred.set_user(SetIds::RealEffective(SAME, 1000)).unwrap();
        assert!(!cred.has(Cap::IpcLock) && cred.permitted == ALL_CAPS);
        assert_eq!(cred.user, Ids { real: 0, effective: 1000, saved: 1000, fs: 1000 });
        cred.set_user(SetIds::RealEffective(SAME, 0)).unwrap();
        assert!(cred.has(Cap::IpcLock));
        cred.set_user(SetIds::One(1000)).unwrap();
        assert_eq!((cred.permitted, cred.effective), (0, 0));
        assert_eq!(cred.set_user(SetIds::One(0)), Err(EPERM));
        assert_eq!(cred.set_user(SetIds::All([1000, SAME, 7])), Err(EPERM));
        assert_eq!(cred.set_groups(Vec::new()), Err(EPERM));
    }

    #[test]
    fn one_class_of_permissions_decides() {
        let (mut user, root) = (Cred::root(), Cred::root());
        user.set_groups(vec![7]).unwrap();
        user.set_group(SetIds::One(1000)).unwrap();
        user.set_user(SetIds::One(1000)).unwrap();
        let meta = |mode, uid, gid| Meta { mode, uid, gid, ..Meta::default() };
        assert!(!user.may(&meta(0o600, 0, 0), 4) && root.may(&meta(0, 5, 5), 6));
        assert!(user.may(&meta(0o604, 0, 0), 4) && !user.may(&meta(0o604, 0, 0), 6));
        assert!(user.may(&meta(0o060, 0, 7), 6) && user.may(&meta(0o060, 0, 1000), 6));
        assert!(!user.may(&meta(0o077, 1000, 7), 4), "an owner's bits are all that an owner has");
    }

    #[test]
    fn capabilities_can_be_kept_and_dropped_but_not_taken() {
        let mut cred = Cred::root();
        cred.keeps_caps = true;
        cred.set_user(SetIds::All([5, 5, 5])).unwrap();
        assert_eq!((cred.permitted, cred.effective), (ALL_CAPS, 0));
        let lock = 1 << Cap::IpcLock as u32;
        cred.set_caps(lock, lock, 0).unwrap();
        assert!(cred.has(Cap::IpcLock));
        assert_eq!(cred.set_caps(lock, ALL_CAPS, 0), Err(EPERM));
        assert_eq!(cred.set_caps(lock, 0, 0), Err(EPERM));
        cred.exec();
        assert_eq!((cred.permitted, cred.effective, cred.keeps_caps), (0, 0, false));
    }

    #[test]
    fn a_program_of_root_gets_what_is_not_taken_from_all() {
        let mut cred = Cred::root();
        cred.set_caps(0, 0, 0).unwrap();
        cred.exec();
        assert_eq!(cred.effective, ALL_CAPS);
        cred.drop_bounding(Cap::IpcLock as u32).unwrap();
        assert_eq!(cred.drop_bounding(CAP_LAST + 1), Err(EINVAL));
        cred.exec();
        assert!(!cred.has(Cap::IpcLock) && cred.has(Cap::SetUid));
    }
}
