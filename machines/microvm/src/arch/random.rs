//! A seed.

/// 64 unpredictable bits (RDRAND where the CPU has it, else from the time stamp counter).
pub fn random_u64() -> u64 {
    todo!()
}
