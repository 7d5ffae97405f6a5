//! Descriptions that are on their way through a socket (`SCM_RIGHTS`).
//!
//! They are kept in one table, and a message has a number in it. So it can be told which sockets nobody can
//! receive any more, because they are only in queues of each other: those go ([`collect`]).
//!
//! A parcel that nobody received may hold the last description of a socket that has parcels, too, and so on.
//! Such a chain is let go in a loop: a kernel stack is small, and a chain is as long as a program likes.
//!
//! Linux: net/core/scm.c, net/unix/af_unix.c `too_many_unix_fds`, net/unix/garbage.c. Differs: the number of
//! messages with descriptions has a limit.

use super::file::OpenFile;
use crate::arch::lock::SpinLock;
use crate::heap;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use anonmem_oslib::Result;
use anonmem_oslib::errno::{ENOMEM, ETOOMANYREFS};

/// The most descriptions of one message.
pub const MOST: usize = 253;
/// The most messages with descriptions that are on their way.
const MOST_OF_ALL: usize = 4096;

/// Descriptions of one message.
pub type Files = Vec<Arc<OpenFile>>;

/// A process, a user and a group (`struct ucred`).
pub type Who = (u32, u32, u32);

/// Who is said to have sent something.
#[derive(Clone, Copy, Debug)]
pub struct Signature {
    /// What is told in any case: the sender says so, or wants it.
    pub told: Option<Who>,
    /// What is told if the receiver wants it.
    pub wanted: Who,
}

impl Signature {
    /// What goes along to a receiver who wants it or not.
    pub fn for_receiver(self, wants: Credentials) -> Option<Who> {
        self.told.or_else(|| (wants == Credentials::Told).then_some(self.wanted))
    }
}

/// Whether a receiver is told who has sent something (`SO_PASSCRED`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Credentials {
    /// It is not.
    #[default]
    Untold,
    /// It is.
    Told,
}

/// Whether what is received goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taking {
    /// It does.
    Away,
    /// It stays for the next one (`MSG_PEEK`).
    Look,
}

/// Who sends descriptions.
#[derive(Clone, Copy, Debug)]
pub struct Sender {
    /// The user who answers for them.
    pub user: u32,
    /// With more than so many descriptions on their way, the user sends none.
    pub most: usize,
}

/// What is on its way.
struct InFlight {
    user: u32,
    files: Files,
    /// The queue that it is in, or about to be: a number of its own. `None` while its sender looks for one.
    queue: Option<usize>,
}

struct Parcels {
    last: u64,
    sent: BTreeMap<u64, InFlight>,
    /// How many descriptions of a user's are on their way; not none.
    of_user: BTreeMap<u32, usize>,
    /// What nobody received and has yet to go. Has room for all of `sent`.
    lost: Vec<Files>,
    /// Somebody lets `lost` go.
    clearing: bool,
}

static PARCELS: SpinLock<Parcels> = SpinLock::new(Parcels {
    last: 0,
    sent: BTreeMap::new(),
    of_user: BTreeMap::new(),
    lost: Vec::new(),
    clearing: false,
});

impl Parcels {
    /// Sends descriptions on their way; gives them back if that cannot be.
    fn add(
        &mut self,
        files: Files,
        sender: Sender,
    ) -> core::result::Result<u64, (Files, anonmem_oslib::Errno)> {
        let of_user = self.of_user.get(&sender.user).copied().unwrap_or(0);
        if self.sent.len() >= MOST_OF_ALL || of_user > sender.most {
            return Err((files, ETOOMANYREFS));
        }
        if heap::is_short() || self.lost.try_reserve(self.sent.len() + 1).is_err() {
            return Err((files, ENOMEM));
        }
        self.last += 1;
        self.of_user.insert(sender.user, of_user + files.len());
        self.sent.insert(self.last, InFlight { user: sender.user, files, queue: None });
        Ok(self.last)
    }

    /// Takes a parcel that is still on its way.
    fn take(&mut self, number: u64) -> Option<Files> {
        let InFlight { user, files, .. } = self.sent.remove(&number)?;
        let left = self.of_user.get(&user).map_or(0, |there| there.saturating_sub(files.len()));
        if left > 0 {
            self.of_user.insert(user, left);
        } else {
            self.of_user.remove(&user);
        }
        Some(files)
    }
}

/// Descriptions on their way; they go when it is dropped.
pub struct Parcel(u64);

impl Parcel {
    /// Sends them on their way; none of nothing.
    ///
    /// # Errors
    /// `ETOOMANYREFS`, `ENOMEM`.
    pub fn of(files: Files, sender: Sender) -> Result<Option<Parcel>> {
        if files.is_empty() {
            return Ok(None);
        }
        let added = PARCELS.lock().add(files, sender);
        match added {
            Ok(number) => Ok(Some(Parcel(number))),
            // Not under the lock: a description may end with it.
            Err((refused, error)) => {
                drop(refused);
                Err(error)
            }
        }
    }

    /// Gives them to who looks at the message, and keeps them for who receives it. Linux: `unix_peek_fds`.
    pub fn look(&self) -> Files {
        PARCELS.lock().sent.get(&self.0).map(|sent| sent.files.clone()).unwrap_or_default()
    }

    /// Says in which queue it will be.
    pub fn goes_to(&self, queue: usize) {
        if let Some(sent) = PARCELS.lock().sent.get_mut(&self.0) {
            sent.queue = Some(queue);
        }
    }

    /// Gives them to who has received them.
    pub fn open(self) -> Files {
        let files = PARCELS.lock().take(self.0);
        files.unwrap_or_default()
    }
}

impl Drop for Parcel {
    fn drop(&mut self) {
        {
            let mut parcels = PARCELS.lock();
            let Some(files) = parcels.take(self.0) else { return };
            parcels.lost.push(files);
        }
        let_go();
    }
}

/// Lets what is lost go, unless somebody does: that may be the caller of this.
fn let_go() {
    if core::mem::replace(&mut PARCELS.lock().clearing, true) {
        return;
    }
    loop {
        let next = {
            let mut parcels = PARCELS.lock();
            let next = parcels.lost.pop();
            parcels.clearing = next.is_some();
            next
        };
        let Some(files) = next else { return };
        drop(files);
    }
}

/// Lets sockets go that nobody can receive any more. Called when somebody has let go of a socket that others
/// still have. Without memory for it, they stay until the next time.
///
/// All is decided under the table's lock. A socket that only parcels have is had by nobody else meanwhile: to
/// have it, one must open a parcel, which takes the lock.
///
/// Linux: net/unix/garbage.c `unix_gc`.
pub fn collect() {
    {
        let mut parcels = PARCELS.lock();
        if parcels.sent.is_empty() {
            return;
        }
        let Some(unreachable) = parcels.unreachable() else { return };
        let room = parcels.sent.len();
        if unreachable.is_empty() || parcels.lost.try_reserve(room).is_err() {
            return;
        }
        for number in unreachable {
            let files = parcels.take(number);
            parcels.lost.extend(files);
        }
    }
    let_go();
}

/// A list in the order of its first words, with several entries for one.
struct Index<T>(Vec<(usize, T)>);

impl<T: Copy> Index<T> {
    /// Makes one of at most `most` entries; `None` without memory.
    fn new(most: usize, fill: impl FnOnce(&mut dyn FnMut(usize, T))) -> Option<Self> {
        let mut entries = Vec::new();
        entries.try_reserve_exact(most).ok()?;
        let mut fits = true;
        fill(&mut |key, value| {
            fits &= entries.len() < most;
            if fits {
                entries.push((key, value));
            }
        });
        entries.sort_unstable_by_key(|(key, _)| *key);
        fits.then_some(Index(entries))
    }

    /// What is listed for `key`.
    fn of(&self, key: usize) -> impl Iterator<Item = T> + '_ {
        let from = self.0.partition_point(|(other, _)| *other < key);
        self.0[from..].iter().take_while(move |(other, _)| *other == key).map(|(_, value)| *value)
    }
}

fn address(file: &Arc<OpenFile>) -> usize {
    Arc::as_ptr(file).addr()
}

impl Parcels {
    /// The parcels in queues of sockets that nobody can have any more. `None` without memory.
    fn unreachable(&self) -> Option<Vec<u64>> {
        let all =
            || self.sent.iter().flat_map(|(number, sent)| sent.files.iter().map(move |file| (*number, file)));
        let mut queues = 0;
        let sockets = all().filter(|(_, file)| {
            let before = queues;
            file.queues(&mut |_| queues += 1);
            queues > before
        });
        let nr_sockets = sockets.count();
        // Parcels that have a socket; sockets that read a queue; parcels that are in a queue.
        let carriers = Index::new(nr_sockets, |add| {
            all().for_each(|(number, file)| {
                let mut is_socket = false;
                file.queues(&mut |_| is_socket = true);
                if is_socket {
                    add(address(file), number);
                }
            })
        })?;
        let is_had = |file: &Arc<OpenFile>| Arc::strong_count(file) > carriers.of(address(file)).count();
        let readers = Index::new(queues, |add| {
            all().for_each(|(_, file)| {
                let had = is_had(file);
                file.queues(&mut |queue| add(queue, had));
            })
        })?;
        let waiting = Index::new(self.sent.len(), |add| {
            self.sent.iter().for_each(|(number, sent)| {
                if let Some(queue) = sent.queue {
                    add(queue, *number);
                }
            })
        })?;
        let mut reached = BTreeSet::new();
        let mut pending: Vec<u64> = Vec::new();
        pending.try_reserve_exact(self.sent.len()).ok()?;
        // What is in a queue that somebody reads who is not on his way, or who is had elsewhere, too.
        for (number, sent) in &self.sent {
            let read_elsewhere = |queue: usize| {
                let mut readers = readers.of(queue).peekable();
                readers.peek().is_none() || readers.any(|had| had)
            };
            if sent.queue.is_none_or(read_elsewhere) && reached.insert(*number) {
                pending.push(*number);
            }
        }
        // And what is in the queues of the sockets among those, and so on.
        while let Some(number) = pending.pop() {
            for file in &self.sent[&number].files {
                file.queues(&mut |queue| {
                    for inner in waiting.of(queue) {
                        if reached.insert(inner) {
                            pending.push(inner);
                        }
                    }
                });
            }
        }
        let mut unreachable = Vec::new();
        unreachable.try_reserve_exact(self.sent.len() - reached.len()).ok()?;
        unreachable.extend(self.sent.keys().filter(|number| !reached.contains(number)));
        Some(unreachable)
    }
}

/// Lets all go, at the kernel's end.
pub fn clear() {
    let all = {
        let mut parcels = PARCELS.lock();
        (core::mem::take(&mut parcels.sent), core::mem::take(&mut parcels.lost))
    };
    drop(all);
}
