//! Small objects: a page holds objects of one size behind a header; pages with free objects are linked per
//! class; an empty page goes back unless it is the class's last.

use core::alloc::Layout;
use core::ptr::{NonNull, null_mut};

use super::pages::{alloc_pages, free_pages};
use crate::arch::lock::SpinLock;
use crate::arch::mem::{PAGE, direct, phys_of};

const HEADER: usize = 64;
/// Sizes that fill a page behind its header well; the multiples of 64 serve larger alignments.
const SIZES: [usize; 16] = [16, 32, 48, 64, 96, 128, 192, 256, 320, 448, 576, 800, 1008, 1344, 1984, 2016];

/// The start of every page of small objects.
#[repr(C)]
struct Page {
    next: *mut Page,
    prev: *mut Page,
    free: *mut FreeObject,
    /// Objects in use.
    used: usize,
    class: usize,
}

#[repr(C)]
struct FreeObject {
    next: *mut FreeObject,
}

struct Class {
    /// Pages with at least one free object.
    partial: *mut Page,
}

// SAFETY: the pointers are to pages that the heap owns; the class's lock guards them.
unsafe impl Send for Class {}

static CLASSES: [SpinLock<Class>; SIZES.len()] =
    [const { SpinLock::new(Class { partial: null_mut() }) }; SIZES.len()];

/// The class for a layout, `None` for whole pages.
pub(super) fn class_of(layout: Layout) -> Option<usize> {
    if layout.align() > HEADER {
        return None;
    }
    let start = SIZES.partition_point(|size| *size < layout.size());
    (start..SIZES.len()).find(|class| SIZES[*class].is_multiple_of(layout.align()))
}

fn capacity(class: usize) -> usize {
    (PAGE as usize - HEADER) / SIZES[class]
}

/// One object; null when there is no memory.
pub(super) fn alloc(class: usize) -> *mut u8 {
    if let Some(object) = CLASSES[class].lock().take() {
        return object.as_ptr();
    }
    // The lock is not held while a page is fetched: two CPUs may both add one, which is only a page more.
    let Some(page) = new_page(class) else { return null_mut() };
    let mut guard = CLASSES[class].lock();
    guard.link(page);
    guard.take().map_or(null_mut(), NonNull::as_ptr)
}

/// Gives an object back.
pub(super) fn free(class: usize, object: *mut u8) {
    let page = (object as usize & !(PAGE as usize - 1)) as *mut Page;
    let empty = CLASSES[class].lock().give(page, object.cast(), capacity(class));
    if empty {
        free_pages(phys_of(page), 0);
    }
}

fn new_page(class: usize) -> Option<*mut Page> {
    let page = direct(alloc_pages(0)?).cast::<Page>();
    let mut free = null_mut::<FreeObject>();
    for index in (0..capacity(class)).rev() {
        // SAFETY: the object lies inside the new page, which nobody else has.
        let object = unsafe { page.byte_add(HEADER + index * SIZES[class]) }.cast::<FreeObject>();
        // SAFETY: as above.
        unsafe { object.write(FreeObject { next: free }) };
        free = object;
    }
    // SAFETY: the header is the start of the page.
    unsafe { page.write(Page { next: null_mut(), prev: null_mut(), free, used: 0, class }) };
    Some(page)
}

fn header<'a>(page: *mut Page) -> Option<&'a mut Page> {
    // SAFETY: null, or the header of a page of the class whose lock the caller holds; one reference at a
    // time is used.
    unsafe { page.as_mut() }
}

impl Class {
    fn take(&mut self) -> Option<NonNull<u8>> {
        let page = self.partial;
        let head = header(page)?;
        let object = NonNull::new(head.free)?;
        // SAFETY: a free object of this page.
        head.free = unsafe { object.read() }.next;
        head.used += 1;
        if head.free.is_null() {
            self.unlink(page);
        }
        Some(object.cast())
    }

    /// Says whether the page is empty and was taken out of the list: the caller frees it.
    fn give(&mut self, page: *mut Page, object: *mut FreeObject, capacity: usize) -> bool {
        let head = header(page).expect("an object has a page");
        let was_full = head.free.is_null();
        // SAFETY: the object is no longer in use and belongs to the page.
        unsafe { object.write(FreeObject { next: head.free }) };
        head.free = object;
        debug_assert!(head.used > 0 && head.used <= capacity, "a small object is freed twice");
        head.used -= 1;
        let empty = head.used == 0;
        if was_full {
            self.link(page);
        }
        let last = self.partial == page && header(page).is_some_and(|head| head.next.is_null());
        if empty && !last {
            self.unlink(page);
        }
        empty && !last
    }

    fn link(&mut self, page: *mut Page) {
        if let Some(first) = header(self.partial) {
            first.prev = page;
        }
        let head = header(page).expect("not null");
        head.next = self.partial;
        head.prev = null_mut();
        self.partial = page;
    }

    fn unlink(&mut self, page: *mut Page) {
        let head = header(page).expect("not null");
        let (prev, next) = (head.prev, head.next);
        match header(prev) {
            Some(prev) => prev.next = next,
            None => self.partial = next,
        }
        if let Some(next) = header(next) {
            next.prev = prev;
        }
    }
}
