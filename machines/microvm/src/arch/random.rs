//! A seed.

use core::arch::x86_64::_rdrand64_step;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::cpu::has_rdrand;
use super::time;

static STATE: AtomicU64 = AtomicU64::new(0);

/// 64 unpredictable bits (RDRAND where the CPU has it, else from the time stamp counter).
pub fn random_u64() -> u64 {
    if has_rdrand() {
        for _ in 0..10 {
            let mut value = 0;
            // SAFETY: the CPU has the instruction.
            if unsafe { rdrand(&mut value) } {
                return value;
            }
        }
    }
    let turn = STATE.fetch_add(0x9e37_79b9_7f4a_7c15, Relaxed);
    mix(turn ^ time::tsc().rotate_left(32) ^ time::wall_ns())
}

#[target_feature(enable = "rdrand")]
unsafe fn rdrand(value: &mut u64) -> bool {
    _rdrand64_step(value) == 1
}

/// The finaliser of SplitMix64: every input bit reaches every output bit.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
