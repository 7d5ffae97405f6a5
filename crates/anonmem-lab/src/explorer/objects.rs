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
    pub(crate) plain: Accesses,
    pub(crate) history: History,
    /// The CPUs that touched it in any execution, and whether one of them wrote.
    pub(crate) ever: Sharing,
}

/// Who touched an object, over all executions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Sharing {
    pub(crate) cpus: u16,
    pub(crate) written: bool,
}

impl Sharing {
    /// Whether two CPUs touch it and one of them writes.
    pub(crate) fn contended(self) -> bool {
        self.written && self.cpus.count_ones() > 1
    }
}

impl Object {
    fn new(address: usize) -> Self {
        Self {
            address,
            version: 0,
            writer: 0,
            readers: 0,
            touched: false,
            message: View::ZERO,
            unlocked: View::ZERO,
            unlocked_shared: View::ZERO,
            write_clock: Clock::ZERO,
            read_clock: Clock::ZERO,
            plain: Accesses::NONE,
            history: History::default(),
            ever: Sharing::default(),
        }
    }

    fn reset(&mut self) {
        self.version = 0;
        self.writer = 0;
        self.readers = 0;
        self.touched = false;
        self.message = View::ZERO;
        self.unlocked = View::ZERO;
        self.unlocked_shared = View::ZERO;
        self.write_clock = Clock::ZERO;
        self.read_clock = Clock::ZERO;
        self.plain = Accesses::NONE;
        self.history.clear();
    }
}

/// The table of objects. Numbers stay the same over all executions of one exploration.
#[derive(Debug)]
pub(crate) struct Objects {
    list: Vec<Object>,
    /// Open addressing; 0 is empty, otherwise the number plus one.
    table: Vec<u32>,
    touched: Vec<u32>,
}

impl Objects {
    pub(crate) fn new() -> Self {
        Self { list: Vec::new(), table: vec![0; 1024], touched: Vec::new() }
    }

    /// The number of the object at `address`.
    #[inline]
    pub(crate) fn id(&mut self, address: usize) -> u32 {
        let mask = self.table.len() - 1;
        let mut slot = hash(address) & mask;
        loop {
            match self.table[slot] {
                0 => return self.insert(address),
                id if self.list[id as usize - 1].address == address => return id - 1,
                _ => slot = (slot + 1) & mask,
            }
        }
    }

    #[cold]
    fn insert(&mut self, address: usize) -> u32 {
        self.list.push(Object::new(address));
        if self.list.len() * 2 > self.table.len() {
            self.table = vec![0; self.table.len() * 4];
            for i in 0..self.list.len() {
                self.link(i);
            }
        } else {
            self.link(self.list.len() - 1);
        }
        self.list.len() as u32 - 1
    }

    fn link(&mut self, index: usize) {
        let mask = self.table.len() - 1;
        let mut slot = hash(self.list[index].address) & mask;
        while self.table[slot] != 0 {
            slot = (slot + 1) & mask;
        }
        self.table[slot] = index as u32 + 1;
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

    /// How many objects are contended so far.
    pub(crate) fn contended(&self) -> usize {
        self.list.iter().filter(|o| o.ever.contended()).count()
    }
}

#[inline]
fn hash(address: usize) -> usize {
    (address as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) as usize >> 32
}
