//! What the tests of userfaultfd share.

mod events;
mod fills;
mod large;
mod moves;
mod protection;
mod scans;
mod waits;

use crate::{
    Advice, Config, Error, LockMode, Mm, RegisterMode, Uffd, UffdFaults, UffdFeatures,
    testing::{M, P, RW, World, pages},
    vma::{flags::VmFlags, vma::Backing},
};
use anonmem_frame::NewFolio;
use anonmem_hal::{CpuId, SourceError, Va};

/// The first page of the memory that is watched, and of memory beside it that is not.
const AT: u64 = 64;
const BESIDE: u64 = 256;

fn in_every_mode(f: impl Fn(&World)) {
    for lock_mode in [LockMode::Mmap, LockMode::Vma, LockMode::Speculative] {
        World::run_with(Config { lock_mode, ..Config::default() }, |w| {
            w.vm.swap_on(0, 2048, 0).unwrap();
            f(w);
            w.vm.validate().unwrap();
            w.vm.swap_off(0).unwrap();
        });
    }
}

/// An address space with 16 pages at [`AT`] and 16 at [`BESIDE`], and a userfaultfd for the first ones.
fn watched<'v>(w: &'v World, mode: RegisterMode, features: UffdFeatures) -> (Mm<'v, M>, Uffd<'v, M>) {
    let mm = w.vm.new_mm().unwrap();
    mm.map_raw(pages(AT, 16), RW, Backing::Anonymous);
    mm.map_raw(pages(BESIDE, 16), RW, Backing::Anonymous);
    let uffd = mm.userfaultfd(UffdFaults::Any).unwrap();
    uffd.agree(features).unwrap();
    uffd.register(Va(AT * P), 16 * P, mode).unwrap();
    (mm, uffd)
}

fn missing(w: &World) -> (Mm<'_, M>, Uffd<'_, M>) {
    watched(w, RegisterMode::MISSING, UffdFeatures::empty())
}

/// Puts `byte` into every byte of the frame.
fn full_of(w: &World, byte: u8) -> impl FnMut(u64, &NewFolio<'_, M>) -> Result<(), SourceError> {
    let source = w.sources.register([byte; P as usize].as_slice());
    move |_, new| new.fill_from(source, 0)
}

fn at(page: u64) -> Va {
    Va(page * P)
}

fn page_out(w: &World, mm: &Mm<'_, M>, page: u64) -> bool {
    let folio = w.vm.frames.try_get(mm.pagemap(at(page)).pfn.unwrap()).unwrap();
    w.vm.reclaim_folio(folio)
}

/// Does `f` on another CPU while `g` runs on this one.
fn together<R: Send>(w: &World, f: impl FnOnce() -> R + Send, g: impl FnOnce()) -> R {
    let cpus = w.vm.machine().cpus().clone();
    std::thread::scope(|scope| {
        let other = scope.spawn(move || cpus.run_on(CpuId(1), f));
        g();
        other.join().unwrap()
    })
}

#[test]
fn features_are_agreed_upon_once() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        let uffd = mm.userfaultfd(UffdFaults::UserOnly).unwrap();
        assert!(!uffd.has_agreed());
        let unknown = UffdFeatures::from_bits_retain(1 << 17);
        assert!(matches!(uffd.agree(unknown), Err(Error::Invalid(_))));
        assert!(!uffd.has_agreed(), "what is refused changes nothing");
        uffd.agree(UffdFeatures::WP_ASYNC).unwrap();
        assert!(uffd.features().contains(UffdFeatures::WP_UNPOPULATED), "it comes along");
        assert!(matches!(uffd.agree(UffdFeatures::empty()), Err(Error::Invalid(_))));
    });
}

#[test]
fn registering_splits_and_unregistering_merges() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        mm.map_raw(pages(AT, 16), RW, Backing::Anonymous);
        let uffd = mm.userfaultfd(UffdFaults::Any).unwrap();
        uffd.agree(UffdFeatures::empty()).unwrap();
        uffd.register(at(AT + 4), 4 * P, RegisterMode::MISSING).unwrap();
        let ranges = || mm.layout().iter().map(|(range, _)| range.pages().0).collect::<std::vec::Vec<_>>();
        assert_eq!(ranges(), [4, 4, 8]);
        assert!(mm.layout()[1].1.contains(VmFlags::UFFD_MISSING));
        let other = mm.userfaultfd(UffdFaults::Any).unwrap();
        other.agree(UffdFeatures::empty()).unwrap();
        other.register(at(AT + 8), 4 * P, RegisterMode::MISSING).unwrap();
        assert_eq!(ranges(), [4, 4, 4, 4], "watched by another, though for the same");
        assert_eq!(other.register(at(AT + 4), 8 * P, RegisterMode::MISSING), Err(Error::Busy));
        assert!(matches!(other.unregister(at(AT + 4), 4 * P), Err(Error::Invalid(_))));
        uffd.register(at(AT + 2), 6 * P, RegisterMode::MISSING).unwrap();
        assert_eq!(ranges(), [2, 6, 4, 4]);
        w.vm.validate().unwrap();
        other.unregister(at(AT), 16 * P).unwrap_err();
        drop(other);
        assert_eq!(ranges(), [2, 6, 8], "its end is the end of its watch");
        uffd.unregister(at(AT), 16 * P).unwrap();
        assert_eq!(ranges(), [16]);
    });
}

#[test]
fn what_cannot_be_watched_is_refused() {
    World::run(|w| {
        let (mm, uffd) = missing(w);
        let register = |page: u64, n: u64, mode| uffd.register(at(page), n * P, mode);
        let invalid = |result| assert!(matches!(result, Err(Error::Invalid(_))), "{result:?}");
        invalid(register(AT, 1, RegisterMode::empty()));
        invalid(register(AT, 1, RegisterMode::from_bits_retain(8)));
        invalid(register(AT, 0, RegisterMode::MISSING));
        invalid(uffd.register(Va(AT * P + 1), P, RegisterMode::MISSING));
        invalid(uffd.register(at(AT), P + 1, RegisterMode::MISSING));
        invalid(register(1, 1, RegisterMode::MISSING));
        invalid(register(AT + 16, 4, RegisterMode::MISSING));
        invalid(register(AT, 1, RegisterMode::MINOR));
        invalid(uffd.register(at(AT), u64::MAX - P + 1, RegisterMode::MISSING));
        let source = w.sources.register([3; 4 * P as usize].as_slice());
        mm.map_raw(pages(600, 4), RW, Backing::Source(source));
        invalid(register(600, 4, RegisterMode::MISSING));
        invalid(register(600, 4, RegisterMode::WP));
        mm.map_raw(pages(700, 4), RW - VmFlags::WRITE - VmFlags::MAYWRITE, Backing::Anonymous);
        assert_eq!(register(700, 4, RegisterMode::MISSING), Err(Error::NotPermitted));
        invalid(uffd.unregister(at(800), P));
        let lazy = mm.userfaultfd(UffdFaults::Any).unwrap();
        lazy.agree(UffdFeatures::WP_ASYNC).unwrap();
        lazy.register(at(600), 4 * P, RegisterMode::WP).unwrap();
        lazy.unregister(at(600), 4 * P).unwrap();
        mm.munmap(pages(600, 4)).unwrap();
    });
}

#[test]
fn an_address_space_that_has_ended_is_said_to_have() {
    World::run(|w| {
        let (mm, uffd) = missing(w);
        drop(mm);
        assert_eq!(
            uffd.copy(at(AT), P, Default::default(), &mut full_of(w, 1)).result(),
            Err(Error::NoProcess)
        );
        assert_eq!(uffd.write_protect(at(AT), P, Default::default()), Err(Error::NoProcess));
        let moved = uffd.move_pages(at(AT), at(BESIDE), P, Default::default());
        assert_eq!(moved.result(), Err(Error::NoProcess));
        assert_eq!(uffd.register(at(AT), P, RegisterMode::MISSING), Err(Error::OutOfMemory));
        assert_eq!(uffd.unregister(at(AT), P), Err(Error::OutOfMemory));
        w.vm.validate().unwrap();
    });
}

#[test]
fn registering_is_all_or_nothing_of_each_mapping() {
    World::run(|w| {
        let failures = w.fail_each_allocation(
            || {
                let mm = w.vm.new_mm().unwrap();
                mm.map_raw(pages(AT, 16), RW, Backing::Anonymous);
                mm.store(AT * P, 1).unwrap();
                let uffd = mm.userfaultfd(UffdFaults::Any).unwrap();
                uffd.agree(UffdFeatures::empty()).unwrap();
                (mm, uffd)
            },
            |(_, uffd)| uffd.register(at(AT + 4), 4 * P, RegisterMode::MISSING),
            |(mm, _), error| {
                assert_eq!((error, mm.layout().len()), (Error::OutOfMemory, 1));
                w.vm.validate().unwrap();
            },
        );
        assert!(failures > 2, "only {failures} allocations failed");
    });
}

/// What was dropped is missing again.
#[test]
fn dropping_pages_leaves_the_watch() {
    in_every_mode(|w| {
        let (mm, uffd) = missing(w);
        assert_eq!(uffd.copy(at(AT), P, Default::default(), &mut full_of(w, 7)).out(), P as i64);
        assert_eq!(mm.load(AT * P + 5), Ok(7));
        mm.madvise(at(AT), P, Advice::DontNeed).unwrap();
        assert_eq!(uffd.copy(at(AT), P, Default::default(), &mut full_of(w, 8)).out(), P as i64);
        assert_eq!(mm.load(AT * P + 5), Ok(8));
    });
}
