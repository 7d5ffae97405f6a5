//! The shared objects of a scenario: a dense number for every address, and the state of each in the
//! execution that runs.

use crate::memory::{Clock, View, c11::History, race::Accesses};

/// Everything that is known about one address in this execution.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) address: usize,
    /// How many stores there were.
    pub(crate) version: u32,
    /// The CPU that holds it as a lock, plus one.
    pub(crate) writer: u8,
    /// How many hold it as readers.
    pub(crate) readers: u8,
    /// A writer sleeps until the readers have left: new readers sleep, too.
    pub(crate) queued: bool,
    touched: bool,
    /// What the newest store carries.
    pub(crate) message: View,
    /// What the last exclusive unlock carries.
    pub(crate) unlocked: View,
    /// What the shared unlocks carry.
    pub(crate) unlocked_shared: View,
    /// Mazurkiewicz clocks: the last write, and the reads since.
    pub(crate) write_clock: Clock,
    pub(crate) read_clock: Clock,
    /// The steps that a waiting CPU could notice: stores, and releases of a lock.
    pub(crate) change_clock: Clock,
    /// The waits for such a step.
    pub(crate) wait_clock: Clock,
    pub(crate) plain: Accesses,
    pub(crate) history: History,
}

/// What is known about an address over all executions: its number, and who touches it.
#[derive(Clone, Copy, Debug)]
struct Slot {
    address: usize,
    /// The object's number plus one; 0: the slot is empty.
    number: u32,
    /// The CPUs that touched it in any execution, as long as it is not shared.
    touched_by: u8,
    /// Those of them that wrote, or otherwise changed it.
    written_by: u8,
    /// Whether two CPUs touch it and one of them writes: only then can the order of accesses matter.
    shared: bool,
    /// Whether it is a lock of readers and writers whose sleeping writers can matter: see [`Objects::queue`].
    queues: bool,
}

const _: () = assert!(crate::limits::MAX_CPUS <= 8, "Slot::touched_by has a bit for each CPU");
const _: () = assert!(size_of::<Slot>() == 16);

impl Slot {
    const EMPTY: Self =
        Self { address: 0, number: 0, touched_by: 0, written_by: 0, shared: false, queues: false };

    fn share(&mut self) {
        (self.touched_by, self.written_by, self.shared) = (0, 0, true);
    }
}

impl Object {
    fn new(address: usize) -> Self {
        Self {
            address,
            version: 0,
            writer: 0,
            readers: 0,
            queued: false,
            touched: false,
            message: View::ZERO,
            unlocked: View::ZERO,
            unlocked_shared: View::ZERO,
            write_clock: Clock::ZERO,
            read_clock: Clock::ZERO,
            change_clock: Clock::ZERO,
            wait_clock: Clock::ZERO,
            plain: Accesses::NONE,
            history: History::default(),
        }
    }

    fn reset(&mut self) {
        self.version = 0;
        self.writer = 0;
        self.readers = 0;
        self.queued = false;
        self.touched = false;
        self.message = View::ZERO;
        self.unlocked = View::ZERO;
        self.unlocked_shared = View::ZERO;
        self.write_clock = Clock::ZERO;
        self.read_clock = Clock::ZERO;
        self.change_clock = Clock::ZERO;
        self.wait_clock = Clock::ZERO;
        self.plain = Accesses::NONE;
        self.history.clear();
    }
}

/// The table of objects. Numbers stay the same over all executions of one exploration.
#[derive(Debug)]
pub(crate) struct Objects {
    list: Vec<Object>,
    /// Open addressing.
    table: Vec<Slot>,
    touched: Vec<u32>,
    /// Whether an object was found to be shared that was taken for private before: what was explored so far
    /// left out steps that may matter.
    pub(crate) learned: bool,
    /// Whether something was learned that what was explored so far did not heed: a lock needs steps of its
    /// own, frames have contents.
    pub(crate) learned_rules: bool,
}

impl Default for Objects {
    fn default() -> Self {
        Self::new()
    }
}

impl Objects {
    pub(crate) fn new() -> Self {
        Self {
            list: Vec::new(),
            table: vec![Slot::EMPTY; 1024],
            touched: Vec::new(),
            learned: false,
            learned_rules: false,
        }
    }

    /// The number of the object at `address`.
    #[inline]
    pub(crate) fn id(&mut self, address: usize) -> u32 {
        let slot = self.slot(address);
        self.table[slot].number - 1
    }

    /// Whether `cpu` has touched `address` before, as it does now, and nobody else cares. Quick, because most
    /// accesses are like that; no means that [`meet`](Self::meet) has to be asked.
    #[inline]
    pub(crate) fn is_private(&self, address: usize, cpu: usize, write: bool) -> bool {
        let slot = &self.table[hash(address) & (self.table.len() - 1)];
        let by = if write { slot.written_by } else { slot.touched_by };
        slot.address == address && by >> cpu & 1 == 1
    }

    /// Notes that `cpu` touches `address`. Returns the object's number and whether it is shared.
    #[inline]
    pub(crate) fn meet(&mut self, address: usize, cpu: usize, write: bool) -> (u32, bool) {
        let index = self.slot(address);
        let slot = &mut self.table[index];
        if !slot.shared {
            slot.touched_by |= 1 << cpu;
            slot.written_by |= u8::from(write) << cpu;
            if slot.written_by != 0 && !slot.touched_by.is_power_of_two() {
                slot.share();
                self.learned = true;
            }
        }
        (slot.number - 1, slot.shared)
    }

    /// Takes the object at `address` for shared from now on.
    pub(crate) fn suspect(&mut self, address: usize) {
        let index = self.slot(address);
        let slot = &mut self.table[index];
        self.learned |= !slot.shared;
        slot.share();
    }

    /// From now on writers of the lock at `address` that find readers sleep as a step of their own, and new
    /// readers sleep behind them.
    ///
    /// That is what a real lock always does. It matters only where a CPU waits while it reads: then the steps
    /// are worth their cost.
    pub(crate) fn queue(&mut self, address: usize) {
        let index = self.slot(address);
        let slot = &mut self.table[index];
        self.learned_rules |= !slot.queues;
        slot.queues = true;
    }

    /// Whether writers of the lock at `address` sleep as a step of their own.
    #[inline]
    pub(crate) fn queues(&mut self, address: usize) -> bool {
        let index = self.slot(address);
        self.table[index].queues
    }

    #[inline]
    fn slot(&mut self, address: usize) -> usize {
        let mask = self.table.len() - 1;
        let mut index = hash(address) & mask;
        loop {
            let slot = &self.table[index];
            if slot.address == address && slot.number != 0 {
                return index;
            }
            if slot.number == 0 {
                return self.insert(address);
            }
            index = (index + 1) & mask;
        }
    }

    #[cold]
    fn insert(&mut self, address: usize) -> usize {
        self.list.push(Object::new(address));
        if self.list.len() * 2 > self.table.len() {
            let larger = vec![Slot::EMPTY; self.table.len() * 4];
            let old = core::mem::replace(&mut self.table, larger);
            for slot in old.into_iter().filter(|s| s.number != 0) {
                self.place(slot);
            }
        }
        self.place(Slot { address, number: self.list.len() as u32, ..Slot::EMPTY })
    }

    fn place(&mut self, new: Slot) -> usize {
        let mask = self.table.len() - 1;
        let mut index = hash(new.address) & mask;
        while self.table[index].number != 0 {
            index = (index + 1) & mask;
        }
        self.table[index] = new;
        index
    }

    /// The object, marked as used in this execution.
    #[inline]
    pub(crate) fn touch(&mut self, id: u32) -> &mut Object {
        let object = &mut self.list[id as usize];
        if !object.touched {
            object.touched = true;
            self.touched.push(id);
        }
        object
    }

    /// The object as it is.
    #[inline]
    pub(crate) fn get(&self, id: u32) -> &Object {
        &self.list[id as usize]
    }

    /// Forgets the execution that ran.
    pub(crate) fn reset(&mut self) {
        for id in self.touched.drain(..) {
            self.list[id as usize].reset();
        }
    }

    /// The objects used in this execution.
    pub(crate) fn used(&self) -> &[u32] {
        &self.touched
    }

    /// Forgets who stored and accessed what in the `len` bytes at `start`: they were overwritten as a whole.
    pub(crate) fn overwritten(&mut self, start: usize, len: usize) {
        for &id in &self.touched {
            let object = &mut self.list[id as usize];
            if (start..start + len).contains(&object.address) {
                object.history.clear();
                object.plain = Accesses::NONE;
                object.message = View::ZERO;
                object.version += 1;
            }
        }
    }
}

#[inline]
fn hash(address: usize) -> usize {
    (address as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) as usize >> 32
}
