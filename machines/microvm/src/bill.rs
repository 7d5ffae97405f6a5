//! x
use alloc::string::String;
/// x
pub fn collect(_ns: u64) -> String {
    todo!()
}
