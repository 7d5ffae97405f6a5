//! The rows of the table: what is measured, what each side includes, and what anonmem aims at. `all` has
//! them, `row` says what one is made of.

mod all;
mod row;

pub use all::{NOT_YET, ROWS};
pub use row::{Aim, Entries, HostOnly, Limit, NotYet, Row, Unit};

/// The row with this name.
pub fn find(id: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.id == id)
}

#[cfg(test)]
mod tests {
    use super::{
        HostOnly::{Exception, SystemCall},
        *,
    };

    #[test]
    fn every_row_that_is_named_exists_once() {
        let ids: Vec<_> = ROWS.iter().map(|r| r.id).chain(NOT_YET.iter().map(|r| r.id)).collect();
        for id in &ids {
            assert_eq!(ids.iter().filter(|other| *other == id).count(), 1, "{id}");
        }
        for row in ROWS {
            if let Some(Aim::Row(_, other)) = row.aim {
                assert!(find(other).is_some(), "{}", row.id);
            }
            if let Some(limit) = row.limit {
                assert!(find(limit.row()).is_some(), "{}", row.id);
            }
            // What each entry of the host costs is shown; that it is only the host's is said.
            assert_eq!(row.entries.exceptions > 0.0, row.host_only.contains(&Exception), "{}", row.id);
            assert_eq!(row.entries.syscalls > 0.0, row.host_only.contains(&SystemCall), "{}", row.id);
        }
    }
}
