//! Names of the objects that live in slabs, without their types.
//!
//! A name says which slab a slot belongs to, and neither the machine nor what the object is made of. So
//! whoever only names an object (a VMA its address space, a chain its anon_vma) does not import that object's
//! file.

use anonmem_frame::Handle;

macro_rules! ids {
    ($($(#[$doc:meta])* $id:ident, $tag:ident;)*) => {
        $(
            $(#[$doc])*
            pub type $id = Handle<$tag>;

            #[doc = concat!("Tells a [`", stringify!($id), "`] from the names of other objects.")]
            #[derive(Clone, Copy, PartialEq, Eq, Debug)]
            pub enum $tag {}
        )*
    };
}

ids! {
    /// Names an address space's slot.
    MmId, MmTag;
    /// Names a VMA's slot.
    VmaId, VmaTag;
    /// Names an anon_vma's slot.
    AnonVmaId, AnonVmaTag;
    /// Names a family's slot.
    FamilyId, FamilyTag;
    /// Names a shared object's slot.
    ShmId, ShmTag;
    /// Names the slot of a link between a VMA and an anon_vma.
    ChainId, ChainTag;
    /// Names the slot of a node of a tree of VMAs.
    NodeId, NodeTag;
    /// Names a userfaultfd's slot.
    UffdId, UffdTag;
    /// Names the slot of a message of a userfaultfd.
    UffdMessageId, UffdMessageTag;
    /// Names the slot of a stable node of KSM.
    StableId, StableTag;
}
