//! System V shared memory and semaphores.

use super::call::Call;
use super::user;
use crate::arch::time;
use crate::proc::ipc::sem::{self, MOST_OPERATIONS, Operation, Question, Told};
use crate::proc::ipc::shm::{self, Stay, Which};
use crate::sched;
use anonmem_oslib::Result;
use anonmem_oslib::abi::Fields;
use anonmem_oslib::errno::{E2BIG, EINVAL, ESRCH};
use linux_raw_sys::general as abi;

const IPC_RMID: u32 = 0;
const IPC_SET: u32 = 1;
const IPC_STAT: u32 = 2;
const IPC_INFO: u32 = 3;
/// What the C library adds to a command: the structures of today.
const IPC_64: u32 = 0x100;

pub(super) fn shmget(c: &mut Call<'_>) -> Result<usize> {
    let pid = c.thread.process.pid;
    Ok(shm::get(c.i32(0), c.args[1], c.u32(2), &c.thread.cred(), pid)? as usize)
}

pub(super) fn shmat(c: &mut Call<'_>) -> Result<usize> {
    let (space, pid) = (sched::current_mm().ok_or(ESRCH)?, c.thread.process.pid);
    Ok(shm::attach(&space, c.i32(0), c.args[1], c.u32(2), &c.thread.cred(), pid)? as usize)
}

pub(super) fn shmdt(c: &mut Call<'_>) -> Result<usize> {
    let space = sched::current_mm().ok_or(ESRCH)?;
    shm::detach(&space, c.args[0], c.thread.process.pid)?;
    Ok(0)
}

pub(super) fn shmctl(c: &mut Call<'_>) -> Result<usize> {
    const SHM_LOCK: u32 = 11;
    const SHM_UNLOCK: u32 = 12;
    const SHM_STAT: u32 = 13;
    const SHM_INFO: u32 = 14;
    const SHM_STAT_ANY: u32 = 15;
    let (id, cred, to) = (c.i32(0), c.thread.cred(), c.args[2]);
    if id < 0 {
        return Err(EINVAL);
    }
    let put = |(number, bytes): (usize, alloc::vec::Vec<u8>)| user::write(to, &bytes).map(|()| number);
    let stat = |which| shm::stat(which, &cred);
    let locked_limit = c.thread.process.limits()[abi::RLIMIT_MEMLOCK as usize].0;
    match c.u32(1) & !IPC_64 {
        IPC_RMID => shm::remove(id, &cred).map(|()| 0),
        IPC_SET => shm::set(id, &user::read_array(to)?, &cred).map(|()| 0),
        IPC_STAT => put((0, stat(Which::Number(id))?.1)),
        SHM_STAT => stat(Which::Index(id)).and_then(|(id, bytes)| put((id as usize, bytes))),
        SHM_STAT_ANY => stat(Which::IndexOfAny(id)).and_then(|(id, bytes)| put((id as usize, bytes))),
        IPC_INFO => put(shm::limits()),
        SHM_INFO => put(shm::usage()),
        SHM_LOCK => shm::lock(id, Stay::Yes, &cred, locked_limit).map(|()| 0),
        SHM_UNLOCK => shm::lock(id, Stay::No, &cred, locked_limit).map(|()| 0),
        _ => Err(EINVAL),
    }
}

pub(super) fn semget(c: &mut Call<'_>) -> Result<usize> {
    Ok(sem::get(c.i32(0), c.i32(1), c.u32(2), &c.thread.cred())? as usize)
}

/// `semop` has no time; `semtimedop` may have none.
pub(super) fn semop(c: &mut Call<'_>) -> Result<usize> {
    const SEMBUF: usize = 6;
    let has_time = c.frame.syscall_nr() == u64::from(abi::__NR_semtimedop) && c.args[3] != 0;
    let deadline = if has_time { Some(user::timespec(c.args[3])?) } else { None };
    let deadline = deadline.map(|timeout| time::now_ns().saturating_add(timeout));
    let count = c.u32(2) as usize;
    if count < 1 || c.i32(0) < 0 {
        return Err(EINVAL);
    }
    if count > MOST_OPERATIONS {
        return Err(E2BIG);
    }
    let bytes = user::read(c.args[1], SEMBUF * count)?;
    let operations: alloc::vec::Vec<Operation> = bytes
        .chunks_exact(SEMBUF)
        .map(|one| {
            let number = Fields(one).u16(0);
            Operation { number, change: Fields(one).u16(2) as i16, flags: Fields(one).u16(4) }
        })
        .collect();
    let who = (c.thread.process.pid, c.thread.tid);
    sem::operate(c.i32(0), &operations, deadline, &c.thread.cred(), who)?;
    Ok(0)
}

pub(super) fn semctl(c: &mut Call<'_>) -> Result<usize> {
    const GETPID: u32 = 11;
    const GETVAL: u32 = 12;
    const GETALL: u32 = 13;
    const GETNCNT: u32 = 14;
    const GETZCNT: u32 = 15;
    const SETVAL: u32 = 16;
    const SETALL: u32 = 17;
    const SEM_STAT: u32 = 18;
    const SEM_INFO: u32 = 19;
    const SEM_STAT_ANY: u32 = 20;
    let (id, number, cred, argument) = (c.i32(0), c.i32(1), c.thread.cred(), c.args[3]);
    let pid = c.thread.process.pid;
    if id < 0 {
        return Err(EINVAL);
    }
    let put = |(number, bytes): (usize, alloc::vec::Vec<u8>)| user::write(argument, &bytes).map(|()| number);
    let stat = |which| sem::stat(which, &cred);
    let ask = |question| sem::ask(id, number, question, &cred);
    match c.u32(2) & !IPC_64 {
        IPC_RMID => sem::remove(id, &cred).map(|()| 0),
        IPC_SET => sem::set(id, &user::read_array(argument)?, &cred).map(|()| 0),
        IPC_STAT => put((0, stat(Which::Number(id))?.1)),
        SEM_STAT => stat(Which::Index(id)).and_then(|(id, bytes)| put((id as usize, bytes))),
        SEM_STAT_ANY => stat(Which::IndexOfAny(id)).and_then(|(id, bytes)| put((id as usize, bytes))),
        IPC_INFO => put(sem::info(Told::Limits)),
        SEM_INFO => put(sem::info(Told::Usage)),
        GETPID => ask(Question::Pid),
        GETVAL => ask(Question::Value),
        GETNCNT => ask(Question::WaitForMore),
        GETZCNT => ask(Question::WaitForZero),
        GETALL => put((0, sem::values(id, &cred)?)),
        SETVAL => sem::set_values(id, number, core::iter::once(argument as i32), &cred, pid).map(|()| 0),
        SETALL => {
            let bytes = user::read(argument, 2 * sem::count_to_set(id, &cred)?)?;
            let values = bytes.chunks_exact(2).map(|two| i32::from(Fields(two).u16(0)));
            sem::set_values(id, 0, values, &cred, pid).map(|()| 0)
        }
        _ => Err(EINVAL),
    }
}
