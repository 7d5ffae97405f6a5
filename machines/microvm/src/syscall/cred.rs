//! Who the caller is: user and group numbers, capabilities, and the limits that depend on them.

use super::call::Call;
use super::user;
use crate::proc::{mm, table};
use crate::sched;
use alloc::vec::Vec;
use anonmem_oslib::Result;
use anonmem_oslib::abi::{Fields, Packer};
use anonmem_oslib::cred::{self, Caps, Cred, GROUPS_MAX, Ids, SetIds};
use anonmem_oslib::errno::{EINVAL, ENOMEM, EPERM, ESRCH};
use linux_raw_sys::general as abi;

/// Gives one of the caller's numbers.
pub(super) fn get(c: &Call<'_>, pick: fn(&Cred) -> u32) -> Result<usize> {
    Ok(pick(&c.thread.cred()) as usize)
}

/// Gives real, effective and saved number.
pub(super) fn get_all(c: &Call<'_>, pick: fn(&Cred) -> Ids) -> Result<usize> {
    let ids = pick(&c.thread.cred());
    for (&at, id) in c.args.iter().zip([ids.real, ids.effective, ids.saved]) {
        user::write(at, &id.to_le_bytes())?;
    }
    Ok(0)
}

/// Changes who the caller is; its address space keeps to the limits that then hold.
fn change(c: &Call<'_>, change: impl FnOnce(&mut Cred) -> Result<()>) -> Result<usize> {
    let mut cred = c.thread.cred();
    change(&mut cred)?;
    c.thread.set_cred(cred);
    keep_to_limits(c);
    Ok(0)
}

/// Makes the running task's address space keep to the limits of the caller.
fn keep_to_limits(c: &Call<'_>) {
    if let Some(space) = sched::current_mm() {
        mm::set_limits(&space, &c.thread.process.limits(), &c.thread.cred());
    }
}

pub(super) fn set(c: &mut Call<'_>, number: u32) -> Result<usize> {
    let (a, b, d) = (c.u32(0), c.u32(1), c.u32(2));
    let old = c.thread.cred();
    match number {
        abi::__NR_setuid => change(c, |cred| cred.set_user(SetIds::One(a))),
        abi::__NR_setgid => change(c, |cred| cred.set_group(SetIds::One(a))),
        abi::__NR_setreuid => change(c, |cred| cred.set_user(SetIds::RealEffective(a, b))),
        abi::__NR_setregid => change(c, |cred| cred.set_group(SetIds::RealEffective(a, b))),
        abi::__NR_setresuid => change(c, |cred| cred.set_user(SetIds::All([a, b, d]))),
        abi::__NR_setresgid => change(c, |cred| cred.set_group(SetIds::All([a, b, d]))),
        abi::__NR_setfsuid => change(c, |cred| cred.set_user(SetIds::Fs(a))).and(Ok(old.user.fs as usize)),
        _ => change(c, |cred| cred.set_group(SetIds::Fs(a))).and(Ok(old.group.fs as usize)),
    }
}

pub(super) fn getgroups(c: &mut Call<'_>) -> Result<usize> {
    let groups = c.thread.cred().groups;
    if c.i32(0) < 0 || (c.len(0) > 0 && c.len(0) < groups.len()) {
        return Err(EINVAL);
    }
    if c.len(0) > 0 {
        for (i, group) in groups.iter().enumerate() {
            user::write(c.args[1] + 4 * i as u64, &group.to_le_bytes())?;
        }
    }
    Ok(groups.len())
}

pub(super) fn setgroups(c: &mut Call<'_>) -> Result<usize> {
    let count = c.u32(0) as usize;
    if !c.thread.cred().has(cred::Cap::SetGid) {
        return Err(EPERM);
    }
    if count > GROUPS_MAX {
        return Err(EINVAL);
    }
    let bytes = user::read(c.args[1], 4 * count)?;
    let mut groups = Vec::new();
    groups.try_reserve_exact(count).map_err(|_| ENOMEM)?;
    groups.extend((0..count).map(|i| Fields(&bytes).u32(4 * i)));
    change(c, |cred| cred.set_groups(groups))
}

/// How many words a set has in each version of the structures; unknown versions are told the newest.
fn words(c: &Call<'_>) -> Result<(usize, u32)> {
    const VERSION_1: u32 = 0x1998_0330;
    const VERSION_2: u32 = 0x2007_1026;
    const VERSION_3: u32 = 0x2008_0522;
    let header: [u8; 8] = user::read_array(c.args[0])?;
    let pid = Fields(&header).u32(4);
    match Fields(&header).u32(0) {
        VERSION_1 => Ok((1, pid)),
        VERSION_2 | VERSION_3 => Ok((2, pid)),
        _ => {
            user::write(c.args[0], &VERSION_3.to_le_bytes())?;
            Err(EINVAL)
        }
    }
}

pub(super) fn capget(c: &mut Call<'_>) -> Result<usize> {
    let (words, tid) = match words(c) {
        // A probe for the version.
        Err(EINVAL) if c.args[1] == 0 => return Ok(0),
        found => found?,
    };
    let cred = match tid {
        0 => c.thread.cred(),
        tid if (tid as i32) < 0 => return Err(EINVAL),
        tid => table::thread(tid).ok_or(ESRCH)?.cred(),
    };
    let word = |p: Packer, at: u32| {
        let part = |set: Caps| (set >> (32 * at)) as u32;
        p.u32(part(cred.effective)).u32(part(cred.permitted)).u32(part(cred.inheritable))
    };
    let sets = (0..words as u32).fold(Packer::new(), word);
    user::write_unless_null(c.args[1], &sets.0)?;
    Ok(0)
}

pub(super) fn capset(c: &mut Call<'_>) -> Result<usize> {
    let (words, tid) = words(c)?;
    if tid != 0 && tid != c.thread.tid {
        return Err(EPERM);
    }
    let bytes = user::read(c.args[1], 12 * words)?;
    let set = |at: usize| -> Caps {
        let part = |word: usize| Caps::from(Fields(&bytes).u32(12 * word + at)) << (32 * word);
        (0..words).map(part).sum::<Caps>() & cred::ALL_CAPS
    };
    change(c, |cred| cred.set_caps(set(0), set(4), set(8)))
}

/// `PR_CAPBSET_READ`.
pub(super) fn in_bounding_set(c: &Call<'_>, cap: u32) -> Result<usize> {
    if cap > cred::CAP_LAST {
        return Err(EINVAL);
    }
    Ok(usize::from(c.thread.cred().bounding & 1 << cap != 0))
}

/// `PR_CAPBSET_DROP`.
pub(super) fn drop_bounding(c: &Call<'_>, cap: u32) -> Result<usize> {
    change(c, |cred| cred.drop_bounding(cap))
}

/// `PR_SET_KEEPCAPS`.
pub(super) fn keep_caps(c: &Call<'_>, keep: u64) -> Result<usize> {
    match keep {
        0 | 1 => change(c, |cred| {
            cred.keeps_caps = keep == 1;
            Ok(())
        }),
        _ => Err(EINVAL),
    }
}
