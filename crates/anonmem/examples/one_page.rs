//! One page of memory, from the first fault to the end of its process, with what the memory manager knows of
//! it after each step. docs/walkthrough.md explains the output line by line; a test keeps the two equal.
//!
//! `cargo run -p anonmem --example one_page`

use anonmem::{
    Advice, Config, Mm, MmapRequest, Prot, Va, Vm, VmFlags, VmaInfo,
    hal::{PAGE_SIZE, Pfn, Pte, Sharing, SoftLeaf},
};
use anonmem_frame::{Mapping, RawHandle};
use anonmem_testkit::{Program, VecMachine};
use std::{cell::RefCell, error::Error, fmt::Write};

fn main() -> Result<(), Box<dyn Error>> {
    print!("{}", tour()?);
    Ok(())
}

/// Does the steps, and draws what there is after each.
///
/// # Errors
/// If a step fails, which none does.
pub(crate) fn tour() -> Result<String, Box<dyn Error>> {
    let vm = Vm::new(VecMachine::new(256), Config::default())?;
    vm.swap_on(0, 64, 0)?;
    let mut tour = Tour::new(&vm);

    let parent = vm.new_mm()?;
    let va = parent.mmap(MmapRequest::anonymous(4 * PAGE_SIZE as u64, Prot::READ | Prot::WRITE))?;
    tour.step("the parent maps four pages", va, &[("parent", &parent)])?;

    assert_eq!(parent.load(va)?, 0);
    tour.step("the parent loads from the first page", va, &[("parent", &parent)])?;

    parent.store(va, 7)?;
    tour.step("the parent stores 7 there", va, &[("parent", &parent)])?;

    let child = parent.fork()?;
    tour.step("the parent forks", va, &[("parent", &parent), ("child", &child)])?;

    child.store(va, 8)?;
    assert_eq!((parent.load(va)?, child.load(va)?), (7, 8));
    tour.step("the child stores 8", va, &[("parent", &parent), ("child", &child)])?;

    parent.store(va, 9)?;
    tour.step("the parent stores 9", va, &[("parent", &parent), ("child", &child)])?;

    parent.madvise(va, PAGE_SIZE as u64, Advice::PageOut)?;
    tour.step("the parent's page goes to swap", va, &[("parent", &parent), ("child", &child)])?;

    assert_eq!(parent.load(va)?, 9);
    tour.step("the parent loads it again", va, &[("parent", &parent), ("child", &child)])?;

    drop(child);
    tour.step("the child exits", va, &[("parent", &parent)])?;

    drop(parent);
    tour.step("the parent exits", va, &[])?;
    Ok(tour.text)
}

/// What has been drawn so far, and the names of what was seen.
struct Tour<'v> {
    vm: &'v Vm<VecMachine>,
    text: String,
    steps: usize,
    /// Frames that had a page; `None` when the page has left, so that the frame's next page gets another
    /// name.
    pages: RefCell<Vec<Option<Pfn>>>,
    anon_vmas: RefCell<Vec<RawHandle>>,
}

impl<'v> Tour<'v> {
    fn new(vm: &'v Vm<VecMachine>) -> Self {
        Self { vm, text: String::new(), steps: 0, pages: RefCell::default(), anon_vmas: RefCell::default() }
    }

    /// Draws the address `va` in each process, the pages there, and the counts of all objects.
    fn step(
        &mut self,
        what: &str,
        va: Va,
        processes: &[(&str, &Mm<'_, VecMachine>)],
    ) -> Result<(), Box<dyn Error>> {
        // What waits for a grace period, such as page tables, is gone.
        self.vm.drain();
        self.vm.validate()?;
        self.steps += 1;
        let mut text = format!("{}. {what}\n", self.steps);
        let mut seen = Vec::new();
        for (name, mm) in processes {
            if let Some(vma) = mm.vma_at(va) {
                writeln!(text, "   {name:<7} VMA    {}", describe_vma(&vma))?;
            }
            let entry = self.vm.machine().entry(mm.root(), va);
            writeln!(text, "   {name:<7} entry  {}", self.describe_entry(entry, &mut seen))?;
        }
        for page in self.pages.borrow_mut().iter_mut() {
            *page = page.filter(|pfn| seen.contains(pfn));
        }
        for pfn in seen {
            writeln!(text, "   {:<7} word   {}", self.page(pfn), self.describe_folio(pfn))?;
        }
        let s = self.vm.stats();
        writeln!(text, "   total   VMAs {}, anon_vmas {}, links {}", s.vmas, s.anon_vmas, s.chains)?;
        let swapped: u64 = self.vm.swap_devices().map(|device| device.used).sum();
        writeln!(text, "           pages {}, page tables {}, swap slots {swapped}", s.user, s.tables)?;
        self.text += &text;
        Ok(())
    }

    fn page(&self, pfn: Pfn) -> String {
        format!("page {}", name(&self.pages, Some(pfn), b'A'))
    }

    fn describe_entry(&self, entry: Pte, seen: &mut Vec<Pfn>) -> String {
        match entry {
            Pte::None => "empty".into(),
            Pte::Present(present) => {
                let may = if present.prot.write { "read and write" } else { "read" };
                let used = if present.dirty { ", dirty" } else { "" };
                if present.special {
                    return format!("the zero page, {may}{used}");
                }
                if !seen.contains(&present.pfn) {
                    seen.push(present.pfn);
                }
                format!("{}, {may}{used}", self.page(present.pfn))
            }
            Pte::Soft(SoftLeaf::Swap { entry, bits }) => {
                let was = if bits.sharing == Sharing::Exclusive { ", was exclusive" } else { "" };
                format!("slot {} of swap device {}{was}", entry.offset, entry.device)
            }
            Pte::Soft(other) => format!("{other:?}"),
        }
    }

    fn describe_folio(&self, pfn: Pfn) -> String {
        let frames = self.vm.frames();
        let Some(folio) = frames.folio(pfn) else { return "free".into() };
        let counts = folio.counts();
        let exclusive = if frames.page_is_exclusive(pfn) { ", exclusive" } else { "" };
        let owner = match folio.mapping() {
            Mapping::Anon(anon_vma) => format!("anon_vma {}", name(&self.anon_vmas, anon_vma.object(), b'a')),
            other => format!("{other:?}"),
        };
        format!("mappings {}, references {}{exclusive}; {owner}", counts.maps(), counts.refs())
    }
}

fn describe_vma(vma: &VmaInfo) -> String {
    let may = if vma.flags.contains(VmFlags::WRITE) { "read and write" } else { "read" };
    format!("{} pages, {may}", vma.range.pages().0)
}

/// A letter for each thing, in the order in which the things are seen.
fn name<T: PartialEq>(seen: &RefCell<Vec<T>>, thing: T, first: u8) -> char {
    let mut seen = seen.borrow_mut();
    let number = seen.iter().position(|old| *old == thing).unwrap_or_else(|| {
        seen.push(thing);
        seen.len() - 1
    });
    char::from(first + number as u8)
}
