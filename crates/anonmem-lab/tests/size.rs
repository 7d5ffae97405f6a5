//! What a memory manager takes of the stack of whoever makes it.

/// The machine says how many CPUs it may have (`Machine::Cpus`), and what exists once per CPU is that large:
/// with 64 CPUs it is six times this.
#[test]
fn a_memory_manager_for_eight_cpus_fits_a_kernels_stack() {
    let bytes = size_of::<anonmem::Vm<anonmem_lab::Sim>>();
    assert!(bytes < 38 << 10, "{bytes} bytes");
}
