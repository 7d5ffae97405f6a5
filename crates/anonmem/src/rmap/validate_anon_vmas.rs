//! What is to hold of anon_vmas at rest.

use crate::{objects::Objects, rmap::reverse_map::Broken, vma::vma::Vma};
use anonmem_hal::Machine;

/// What the VMAs add up to.
#[derive(Default)]
struct Linked {
    vmas: u64,
    chains: u64,
}

type Check = Result<(), Broken>;

/// Counts the links, and what counts them.
pub(super) fn validate<M: Machine>(objects: &Objects<M>) -> Check {
    let mut linked = Linked::default();
    let mut result = Ok(());
    objects.vmas.for_each_live(&objects.frames, |_, vma| {
        if result.is_ok() {
            result = validate_chains(objects, vma, &mut linked);
        }
    });
    result?;
    validate_anon_vmas(objects, &linked)
}

/// Every chain is of one family, and one of them is for the VMA's own anon_vma.
fn validate_chains<M: Machine>(objects: &Objects<M>, vma: &Vma<M>, linked: &mut Linked) -> Check {
    let (own, at) = (vma.anon_vma(), vma.start().0);
    let mut found_own = own.is_none();
    let mut next = vma.chains();
    while let Some(chain) = next.get() {
        linked.chains += 1;
        let id = objects.chain(chain).anon_vma();
        let lives = objects.anon_vmas.is_live(&objects.frames, id);
        Broken::unless_equal("a linked anon_vma is live", at, 1, u64::from(lives))?;
        let same = own.is_some_and(|own| objects.anon_vma(own).root() == objects.anon_vma(id).root());
        Broken::unless_equal("chains are of one family", at, 1, u64::from(same))?;
        found_own |= own == Some(id);
        next = objects.chain(chain).next();
    }
    linked.vmas += u64::from(own.is_some());
    Broken::unless_equal("a VMA is linked to its anon_vma", at, 1, u64::from(found_own))
}

fn validate_anon_vmas<M: Machine>(objects: &Objects<M>, linked: &Linked) -> Check {
    let (mut live, mut refs, mut children, mut vmas, mut chains, mut not_roots) = (0, 0, 0, 0, 0, 0);
    let mut result = Ok(());
    objects.anon_vmas.for_each_live(&objects.frames, |id, anon_vma| {
        let (refcount, nr_children, nr_vmas) = anon_vma.counts();
        live += 1;
        refs += u64::from(refcount);
        children += nr_children;
        vmas += nr_vmas;
        not_roots += u64::from(anon_vma.root() != Some(id));
        let parent_lives = anon_vma.parent().is_some_and(|p| objects.anon_vmas.is_live(&objects.frames, p));
        let at = id.raw().get().into();
        match anon_vma.tree().validate(objects) {
            Ok(n) if n > 0 && parent_lives => chains += n,
            Ok(n) => result = Broken::unless_equal("an anon_vma has VMAs and a parent", at, 1, n + 2),
            Err(_) => result = Broken::unless_equal("an interval tree is in order", at, 1, 0),
        }
    });
    result?;
    Broken::unless_equal("VMAs that anon_vmas count", 0, linked.vmas, vmas)?;
    Broken::unless_equal("children that anon_vmas count", 0, live, children)?;
    Broken::unless_equal("references to anon_vmas", 0, live + not_roots, refs)?;
    Broken::unless_equal("chains in interval trees", 0, linked.chains, chains)?;
    Broken::unless_equal("chains of VMAs", 0, linked.chains, objects.chains.live())
}
