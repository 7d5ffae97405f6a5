//! What the oracle says.

use crate::ops::Outcome;

/// What is wrong with an outcome.
pub type Verdict = Result<(), String>;

/// One outcome is right and no other.
pub(super) fn expect(found: &Outcome, wanted: &Outcome) -> Verdict {
    if found == wanted { Ok(()) } else { Err(format!("expected {wanted:?}, got {found:?}")) }
}
