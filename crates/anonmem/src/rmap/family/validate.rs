//! What is to hold of families at rest.

use super::{
    mark::marked,
    records::{is_home, is_recorded},
};
use crate::{ids::MmId, mm::slot::MmSlot, objects::Objects, rmap::reverse_map::Broken, vma::vma::Vma};
use anonmem_hal::Machine;

/// What the address spaces add up to.
#[derive(Default)]
struct Found {
    members: u64,
    records: u64,
}

type Check = Result<(), Broken>;

/// Counts members and records, and looks for VMAs that a walk would not find.
pub(super) fn validate<M: Machine>(objects: &Objects<M>) -> Check {
    let mut found = Found::default();
    let mut result = Ok(());
    objects.mms.for_each_live(&objects.frames, |id, slot| {
        if result.is_ok() {
            result = validate_mm(objects, id, slot, &mut found);
        }
    });
    result?;
    let mut members = 0;
    objects.families.for_each_live(&objects.frames, |id, family| {
        let at = id.raw().get().into();
        match family.members.validate(objects) {
            Ok(n) if n == family.live.get() && n > 0 => members += n,
            Ok(n) => result = Err(Broken { rule: "a family counts its members", at, expected: n, found: 0 }),
            Err(_) => result = Broken::unless_equal("the members of a family are in order", at, 1, 0),
        }
    });
    result?;
    Broken::unless_equal("address spaces in families", 0, found.members, members)?;
    Broken::unless_equal("records of VMAs", 0, found.records, objects.chains.live())
}

fn validate_mm<M: Machine>(objects: &Objects<M>, id: MmId, slot: &MmSlot<M>, found: &mut Found) -> Check {
    let at = id.raw().get().into();
    let records = slot.member.records.validate(objects).map_err(|_| {
        let rule = "the records of an address space are in order";
        Broken { rule, at, expected: 1, found: 0 }
    })?;
    found.records += records;
    found.members += u64::from(slot.member.place().is_some());
    Broken::unless_equal(
        "a member of a family is linked to it",
        at,
        u64::from(slot.member.place().is_some()),
        u64::from(slot.member.links.is_linked()),
    )?;
    let (mut recorded, mut result) = (0, Ok(()));
    slot.tree.for_each(objects.nodes(), |_, vma| {
        let vma = objects.vma(vma);
        recorded += u64::from(is_recorded(vma));
        if result.is_ok() {
            result = validate_vma(slot, vma);
        }
    });
    result?;
    Broken::unless_equal("VMAs that are recorded", at, recorded, records)
}

/// A VMA with pages is of its address space's family, and found by its address or by a record.
fn validate_vma<M: Machine>(slot: &MmSlot<M>, vma: &Vma<M>) -> Check {
    let at = vma.start().0;
    let Some(family) = marked(vma) else {
        return Broken::unless_equal("a VMA without pages has no record", at, 0, u64::from(is_recorded(vma)));
    };
    let same = slot.member.place().is_some_and(|(own, _)| own == family);
    Broken::unless_equal("a VMA with pages is of the family", at, 1, u64::from(same))?;
    Broken::unless_equal("a VMA with pages is found", at, 1, u64::from(is_home(vma) || is_recorded(vma)))
}
