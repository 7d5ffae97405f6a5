//! Clocks, sleeping, timers.

use super::call::{Call, ensure_room, only};
use super::file::install;
use super::user;
use crate::arch::time as clock;
use crate::fs::counter::Counter;
use crate::fs::event::Event;
use crate::fs::file::OpenFile;
use crate::fs::timer::{Effect, Setting, Timer};
use crate::proc::signal;
use crate::sched::Interruptible;
use alloc::boxed::Box;
use alloc::sync::Arc;
use anonmem_oslib::Result;
use anonmem_oslib::abi::{self as layout, Fields, Packer, TICK_NS};
use anonmem_oslib::errno::{EAGAIN, EINVAL, ETIMEDOUT};
use anonmem_oslib::restart::{ERESTART_RESTARTBLOCK, ERESTARTSYS};
use anonmem_oslib::sigframe::{Detail, SigInfo};
use anonmem_oslib::signal::{SIGALRM, SIGNALS, code};
use anonmem_oslib::vfs::FileType;
use core::sync::atomic::Ordering::SeqCst;
use linux_raw_sys::general as abi;

const NS: u64 = 1_000_000_000;

/// Gives a clock's time.
fn now_of(c: &Call<'_>, id: u32) -> Result<u64> {
    match id {
        abi::CLOCK_REALTIME | abi::CLOCK_REALTIME_COARSE | abi::CLOCK_TAI => Ok(clock::wall_ns()),
        abi::CLOCK_MONOTONIC
        | abi::CLOCK_MONOTONIC_RAW
        | abi::CLOCK_MONOTONIC_COARSE
        | abi::CLOCK_BOOTTIME => Ok(clock::now_ns()),
        abi::CLOCK_PROCESS_CPUTIME_ID => Ok(c.thread.process.cpu_time_ns()),
        abi::CLOCK_THREAD_CPUTIME_ID => Ok(c.thread.cpu_time_ns()),
        // The clocks of a process or thread by number (`clock_getcpuclockid`): bit 2 says thread.
        id if id >> 31 != 0 && id & 3 == 2 => {
            let number = !(id >> 3) & 0x1fff_ffff;
            match (id & 4, number) {
                (0, 0) => Ok(c.thread.process.cpu_time_ns()),
                (0, pid) => crate::proc::table::process(pid).map(|p| p.cpu_time_ns()).ok_or(EINVAL),
                (_, 0) => Ok(c.thread.cpu_time_ns()),
                (_, tid) => crate::proc::table::thread(tid).map(|t| t.cpu_time_ns()).ok_or(EINVAL),
            }
        }
        _ => Err(EINVAL),
    }
}

/// Gives the time since boot at which a clock shows `at`, for the clocks that can be waited for.
fn boot_time(id: u32, at: u64) -> Result<u64> {
    match id {
        abi::CLOCK_MONOTONIC | abi::CLOCK_BOOTTIME => Ok(at),
        abi::CLOCK_REALTIME | abi::CLOCK_TAI => {
            Ok(clock::now_ns().saturating_add(at).saturating_sub(clock::wall_ns()))
        }
        _ => Err(EINVAL),
    }
}

pub(super) fn clock_gettime(c: &mut Call<'_>) -> Result<usize> {
    let now = now_of(c, c.u32(0))?;
    user::write(c.args[1], &layout::timespec(now))?;
    Ok(0)
}

pub(super) fn clock_getres(c: &mut Call<'_>) -> Result<usize> {
    now_of(c, c.u32(0))?;
    user::write_unless_null(c.args[1], &layout::timespec(1))?;
    Ok(0)
}

pub(super) fn gettimeofday(c: &mut Call<'_>) -> Result<usize> {
    user::write_unless_null(c.args[0], &layout::timeval(clock::wall_ns()))?;
    user::write_unless_null(c.args[1], &[0; 8])?;
    Ok(0)
}

pub(super) fn time(c: &mut Call<'_>) -> Result<usize> {
    let seconds = clock::wall_ns() / NS;
    user::write_unless_null(c.args[0], &seconds.to_le_bytes())?;
    Ok(seconds as usize)
}

pub(super) fn times(c: &mut Call<'_>) -> Result<usize> {
    let process = &c.thread.process;
    let ticks = |ns: u64| ns / TICK_NS;
    let (own, children) = (ticks(process.cpu_time_ns()), ticks(process.children_ns.load(SeqCst)));
    user::write_unless_null(c.args[0], &Packer::new().u64(own).u64(0).u64(children).u64(0).0)?;
    Ok(ticks(clock::now_ns()) as usize)
}

/// Sleeps until `deadline`; a signal gives `ERESTARTSYS`.
fn sleep(deadline: u64) -> Result<()> {
    let nothing = Event::new();
    match nothing.wait::<()>(Some(deadline), Interruptible::Yes, || None) {
        Err(ETIMEDOUT) | Ok(()) => Ok(()),
        Err(error) => Err(error),
    }
}

fn sleep_for(c: &Call<'_>, duration: u64, remaining: u64) -> Result<usize> {
    let kept = c.thread.restart.lock().take();
    let deadline = kept.unwrap_or_else(|| clock::now_ns().saturating_add(duration));
    match sleep(deadline) {
        Ok(()) => Ok(0),
        Err(ERESTARTSYS) => {
            let left = deadline.saturating_sub(clock::now_ns());
            user::write_unless_null(remaining, &layout::timespec(left))?;
            *c.thread.restart.lock() = Some(deadline);
            Err(ERESTART_RESTARTBLOCK)
        }
        Err(error) => Err(error),
    }
}

pub(super) fn nanosleep(c: &mut Call<'_>) -> Result<usize> {
    sleep_for(c, user::timespec(c.args[0])?, c.args[1])
}

pub(super) fn clock_nanosleep(c: &mut Call<'_>) -> Result<usize> {
    let (id, flags, time) = (c.u32(0), c.u32(1), user::timespec(c.args[2])?);
    if flags & abi::TIMER_ABSTIME != 0 {
        sleep(boot_time(id, time)?)
            .map_err(|e| if e == ERESTARTSYS { anonmem_oslib::restart::ERESTARTNOHAND } else { e })?;
        return Ok(0);
    }
    boot_time(id, 0)?;
    sleep_for(c, time, c.args[3])
}

/// Gives the process's alarm, made when it is first needed.
fn alarm_timer(c: &Call<'_>) -> Arc<Timer> {
    let process = &c.thread.process;
    let mut alarm = process.alarm.lock();
    alarm
        .get_or_insert_with(|| {
            let process = Arc::downgrade(process);
            Timer::new(
                abi::CLOCK_MONOTONIC,
                Box::new(move |_| {
                    if let Some(process) = process.upgrade() {
                        signal::send(
                            &process,
                            SigInfo { signal: SIGALRM, code: code::SI_KERNEL, detail: Detail::None },
                        );
                    }
                }),
            )
        })
        .clone()
}

/// When something is due that is set to `ns` from now; zero means never.
fn due_in(ns: u64) -> Option<u64> {
    (ns > 0).then(|| clock::now_ns().saturating_add(ns))
}

pub(super) fn alarm(c: &mut Call<'_>) -> Result<usize> {
    let due = due_in(u64::from(c.u32(0)) * NS);
    if due.is_some() {
        ensure_room()?;
    }
    let old = alarm_timer(c).set(due, 0);
    Ok(old.value_ns.div_ceil(NS) as usize)
}

/// Only the timer of real time exists.
fn real_timer(c: &Call<'_>) -> Result<Arc<Timer>> {
    if c.u32(0) == abi::ITIMER_REAL { Ok(alarm_timer(c)) } else { Err(EINVAL) }
}

/// Sets a timer. One that is armed has a place in a queue, and one that is disarmed gives it back.
fn set(timer: &Arc<Timer>, due: Option<u64>, interval: u64) -> Result<Setting> {
    if due.is_some() {
        ensure_room()?;
    }
    Ok(timer.set(due, interval))
}

fn put_itimerval(address: u64, setting: Setting) -> Result<()> {
    user::write_unless_null(address, &layout::itimerval(setting.interval_ns, setting.value_ns))
}

pub(super) fn setitimer(c: &mut Call<'_>) -> Result<usize> {
    let timer = real_timer(c)?;
    let old = match c.args[1] {
        0 => timer.set(None, 0),
        at => {
            let (interval, value) = (user::timeval(at)?, user::timeval(at + 16)?);
            set(&timer, due_in(value), interval)?
        }
    };
    put_itimerval(c.args[2], old)?;
    Ok(0)
}

pub(super) fn getitimer(c: &mut Call<'_>) -> Result<usize> {
    put_itimerval(c.args[1], real_timer(c)?.get())?;
    Ok(0)
}

/// What a time counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    /// The start of its clock.
    Epoch,
    /// Now.
    Now,
}

/// Reads `struct itimerspec`: when it is due and the interval, by clock `id`.
fn itimerspec(address: u64, id: u32, from: From) -> Result<(Option<u64>, u64)> {
    let bytes: [u8; 32] = user::read_array(address)?;
    let interval = user::time_of(Fields(&bytes), 0, NS, 1)?;
    let value = user::time_of(Fields(&bytes), 16, NS, 1)?;
    let due = match value {
        0 => None,
        at if from == From::Epoch => Some(boot_time(id, at)?),
        ns => due_in(ns),
    };
    Ok((due, interval))
}

fn put_itimerspec(address: u64, setting: Setting) -> Result<()> {
    user::write_unless_null(address, &layout::itimerspec(setting.interval_ns, setting.value_ns))
}

/// What a POSIX timer does when it is due (`struct sigevent`).
#[derive(Clone, Copy, Debug)]
enum Notify {
    Nothing,
    Process(u32),
    Thread(u32, u32),
}

/// Reads `struct sigevent`; a null one means SIGALRM. Gives the value that goes along, if there is one.
fn sigevent(address: u64) -> Result<(Notify, Option<u64>)> {
    const SIGEV_SIGNAL: u32 = 0;
    const SIGEV_NONE: u32 = 1;
    const SIGEV_THREAD_ID: u32 = 4;
    if address == 0 {
        return Ok((Notify::Process(SIGALRM), None));
    }
    let bytes: [u8; 20] = user::read_array(address)?;
    let event = Fields(&bytes);
    let number = event.u32(8);
    let notify = match event.u32(12) {
        SIGEV_NONE => Notify::Nothing,
        _ if !(1..=SIGNALS).contains(&number) => return Err(EINVAL),
        SIGEV_SIGNAL => Notify::Process(number),
        SIGEV_THREAD_ID => Notify::Thread(number, event.u32(16)),
        _ => return Err(EINVAL),
    };
    Ok((notify, Some(event.u64(0))))
}

pub(super) fn timer_create(c: &mut Call<'_>) -> Result<usize> {
    const TIMERS_MAX: usize = 256;
    let clock = c.u32(0);
    boot_time(clock, 0)?;
    let (notify, value) = sigevent(c.args[1])?;
    let process = &c.thread.process;
    let id = {
        let mut timers = process.timers.lock();
        if timers.len() >= TIMERS_MAX {
            return Err(EAGAIN);
        }
        let id = (0..).find(|id| !timers.contains_key(id)).unwrap_or(0);
        let info = |signal| {
            let detail = Detail::Timer { id, value: value.unwrap_or(u64::from(id)) };
            SigInfo { signal, code: code::SI_TIMER, detail }
        };
        let weak = Arc::downgrade(process);
        let effect: Effect = match notify {
            Notify::Nothing => Box::new(|_| {}),
            Notify::Process(number) => {
                let info = info(number);
                Box::new(move |_| weak.upgrade().into_iter().for_each(|process| signal::send(&process, info)))
            }
            Notify::Thread(number, tid) => {
                let info = info(number);
                let thread = move || crate::proc::table::thread(tid);
                Box::new(move |_| {
                    thread().into_iter().for_each(|thread| signal::send_to_thread(&thread, info))
                })
            }
        };
        timers.insert(id, Timer::new(clock, effect));
        id
    };
    let told = user::write(c.args[2], &id.to_le_bytes());
    if told.is_err() {
        process.timers.lock().remove(&id);
    }
    told.map(|()| 0)
}

fn posix_timer(c: &Call<'_>) -> Result<Arc<Timer>> {
    c.thread.process.timers.lock().get(&c.u32(0)).cloned().ok_or(EINVAL)
}

pub(super) fn timer_settime(c: &mut Call<'_>) -> Result<usize> {
    let timer = posix_timer(c)?;
    let from = if c.u32(1) & abi::TIMER_ABSTIME != 0 { From::Epoch } else { From::Now };
    let (due, interval) = itimerspec(c.args[2], timer.clock, from)?;
    put_itimerspec(c.args[3], set(&timer, due, interval)?)?;
    Ok(0)
}

pub(super) fn timer_gettime(c: &mut Call<'_>) -> Result<usize> {
    put_itimerspec(c.args[1], posix_timer(c)?.get())?;
    Ok(0)
}

pub(super) fn timer_delete(c: &mut Call<'_>) -> Result<usize> {
    let timer = c.thread.process.timers.lock().remove(&c.u32(0)).ok_or(EINVAL)?;
    timer.disarm();
    Ok(0)
}

pub(super) fn timerfd_create(c: &mut Call<'_>) -> Result<usize> {
    boot_time(c.u32(0), 0)?;
    let flags = only(c.u32(1), abi::O_CLOEXEC | abi::O_NONBLOCK)?;
    let counter = Counter::timed(c.u32(0));
    let status = abi::O_RDWR | flags & abi::O_NONBLOCK;
    install(c, OpenFile::anonymous(FileType::Regular, counter, b"anon_inode:[timerfd]", status), flags)
}

fn timerfd(c: &Call<'_>) -> Result<(Arc<Counter>, Arc<Timer>)> {
    let counter = c.thread.files().get(c.u32(0))?.object::<Counter>().ok_or(EINVAL)?;
    let timer = counter.timer.clone().ok_or(EINVAL)?;
    Ok((counter, timer))
}

pub(super) fn timerfd_settime(c: &mut Call<'_>) -> Result<usize> {
    const TFD_TIMER_ABSTIME: u32 = 1;
    let (counter, timer) = timerfd(c)?;
    let from = if c.u32(1) & TFD_TIMER_ABSTIME != 0 { From::Epoch } else { From::Now };
    let (due, interval) = itimerspec(c.args[2], timer.clock, from)?;
    let old = set(&timer, due, interval)?;
    counter.reset();
    put_itimerspec(c.args[3], old)?;
    Ok(0)
}

pub(super) fn timerfd_gettime(c: &mut Call<'_>) -> Result<usize> {
    put_itimerspec(c.args[1], timerfd(c)?.1.get())?;
    Ok(0)
}
