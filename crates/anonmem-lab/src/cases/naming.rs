//! The names of a memory manager's objects in the columns: `folio20.mapping`, `anon_vma#17.refcount`,
//! `mm0.pte[16]`.
//!
//! A number after `#` is that of the object's handle, so it is what links to the object show as their value.
//! An entry of a page table is called by the page number of its address. Asked in the middle of an execution:
//! what is a table then may be a page later.

use crate::{
    Sim,
    names::{Named, Names},
};
use anonmem::Vm;
use anonmem_frame::{Counts, Kind, Mapping, MappingWord};
use anonmem_hal::{Arch, Entry, Pfn, Pte, Sharing, SoftLeaf, arch::Toy};

/// Entries of a table.
const ENTRIES: usize = 1 << Toy::INDEX_BITS;

/// Names the objects of `vm`, which runs on `sim`; `roots`: the address spaces' numbers and their upper
/// tables.
pub(crate) fn name_objects(names: &mut Names, vm: &'static Vm<Sim>, sim: &Sim, roots: Vec<(usize, Pfn)>) {
    let sim = sim.clone();
    names.ask(move |address| {
        let (even, bit_lock) = (address & !1, address & 1 == 1);
        if let Some((pfn, Kind::Table, offset)) = vm.frames().frame_of(even) {
            return Some(entry(&sim, &roots, pfn, offset));
        }
        if let Some(place) = vm.place_of(even) {
            let table = place.number.filter(|_| place.kind == "table").map(|n| table(&sim, &roots, Pfn(n)));
            let name = match (place.kind, place.field, place.number) {
                ("folio", "flags", Some(n)) if bit_lock => format!("folio{n}.lock"),
                _ if bit_lock => return None,
                ("folio" | "frame", field, Some(n)) if place.is_exact() => {
                    format!("{}{n}.{field}", place.kind)
                }
                ("table", field, Some(n)) => {
                    format!("{}.{field}", table.unwrap_or_else(|| format!("table{n}")))
                }
                ("vm_area_struct", ..) => place.called("vma").to_string(),
                ("mm_struct", ..) => place.called("mm").to_string(),
                _ => place.to_string(),
            };
            let format: Option<fn(u64) -> String> = match (place.kind, place.field) {
                ("folio", "mapping") => Some(mapping),
                ("folio", "counts") => Some(counts),
                _ => None,
            };
            return Some(Named { name, format });
        }
        let (pfn, _, offset) = vm.frames().frame_of(address).filter(|_| !bit_lock)?;
        let name = if offset == 0 { format!("page{}", pfn.0) } else { format!("page{}+{offset:#x}", pfn.0) };
        Some(Named { name, format: None })
    });
}

/// An entry of table `pfn`.
fn entry(sim: &Sim, roots: &[(usize, Pfn)], pfn: Pfn, offset: usize) -> Named {
    let i = offset / 8;
    if let Some((mm, _)) = roots.iter().find(|(_, root)| *root == pfn) {
        return Named { name: format!("mm{mm}.pmd[{i}]"), format: Some(pmd) };
    }
    match above(sim, roots, pfn) {
        Some((mm, upper)) => {
            Named { name: format!("mm{mm}.pte[{}]", upper * ENTRIES + i), format: Some(pte) }
        }
        None => Named { name: format!("table{}[{i}]", pfn.0), format: Some(pte) },
    }
}

/// What table `pfn` is called.
fn table(sim: &Sim, roots: &[(usize, Pfn)], pfn: Pfn) -> String {
    if let Some((mm, _)) = roots.iter().find(|(_, root)| *root == pfn) {
        return format!("mm{mm}.pmd");
    }
    match above(sim, roots, pfn) {
        Some((mm, upper)) => format!("mm{mm}.pte[{}..{}]", upper * ENTRIES, (upper + 1) * ENTRIES),
        None => format!("table{}", pfn.0),
    }
}

/// The address space and the upper entry that point to table `pfn`.
fn above(sim: &Sim, roots: &[(usize, Pfn)], pfn: Pfn) -> Option<(usize, usize)> {
    let points = |root: Pfn, i: usize| sim.word(root, i * 8) == Toy::encode_entry(Entry::Table(pfn), 1);
    roots.iter().find_map(|(mm, root)| (0..ENTRIES).find(|i| points(*root, *i)).map(|i| (*mm, i)))
}

fn pmd(raw: u64) -> String {
    if raw & 3 == 2 && raw >> 2 & 3 != 1 {
        return format!("{raw:#x}, no entry of an upper table");
    }
    match Toy::decode_entry(raw, 1) {
        Entry::None => "none".into(),
        Entry::Table(pfn) => format!("table{}", pfn.0),
        Entry::Leaf(leaf) => format!("leaf of folio{}", leaf.pfn.0),
        Entry::Migration { pfn, .. } => format!("migration of folio{}", pfn.0),
    }
}

fn pte(raw: u64) -> String {
    if raw & 3 == 3 {
        return pmd(raw);
    }
    let present = match Toy::decode_pte(raw) {
        Pte::None => return "none".into(),
        Pte::Soft(SoftLeaf::Swap { entry, bits }) => {
            let exclusive = if bits.sharing == Sharing::Exclusive { " excl" } else { "" };
            return format!("swap{}.{}{exclusive}", entry.device, entry.offset);
        }
        Pte::Soft(SoftLeaf::Migration { pfn, .. }) => return format!("migrating folio{}", pfn.0),
        Pte::Soft(SoftLeaf::Marker(marker)) => return format!("{marker:?}"),
        Pte::Present(present) => present,
    };
    let letters = [
        (present.prot.read, 'r'),
        (present.prot.write, 'w'),
        (present.prot.exec, 'x'),
        (present.young, 'a'),
        (present.dirty, 'd'),
    ];
    let letters: String = letters.iter().filter(|(on, _)| *on).map(|(_, letter)| letter).collect();
    format!("folio{} {letters}", present.pfn.0)
}

fn mapping(raw: u64) -> String {
    match MappingWord::from_bits(raw).decode() {
        Mapping::None => "none".into(),
        Mapping::Anon(anon_vma) => format!("anon_vma#{}", anon_vma.object().get()),
        Mapping::Shm(object) => format!("shm_object#{}", object.get()),
        Mapping::Ksm(node) => format!("stable_node#{}", node.get()),
    }
}

fn counts(raw: u64) -> String {
    let counts = Counts::from_bits(raw);
    let exclusive = if counts.is_exclusive() { " excl" } else { "" };
    format!("maps {} refs {} pins {}{exclusive}", counts.maps(), counts.refs(), counts.pins())
}
