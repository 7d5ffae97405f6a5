//! How large a memory manager is.

/// The machine says how many CPUs it may have (`Machine::Cpus`), and what exists once per CPU is that large:
/// with 64 CPUs it is six times this. What making one takes of a stack is measured in
/// `machines/hosted/tests/machine/stack.rs`.
#[test]
fn a_memory_manager_for_eight_cpus_is_small() {
    let bytes = size_of::<anonmem::Vm<anonmem_lab::Sim>>();
    assert!(bytes < 35 << 10, "{bytes} bytes");
}
