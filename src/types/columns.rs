//! The hidden columns that carry a row's position and its partition's watermark through a plan.
//!
//! ```text
//!   position    = partition ordinal << 40 | row number    UInt64, never NULL
//!   watermark   = wm_p(o) in microseconds                  Int64, NULL: nothing promised yet
//! ```
//!
//! The watermark of a row is what its partition promised *before* that row: lateness belongs to
//! the row and its log, never to the batch. Both are stamped at the source, before any filter.

use arrow::datatypes::{DataType, Field};

/// Name of the hidden position column, `UInt64` and never NULL.
pub const POSITION_COLUMN: &str = "__onefold_position";

/// Name of the hidden watermark column, nullable `Int64`: microseconds since the Unix epoch.
pub const WATERMARK_COLUMN: &str = "__onefold_watermark";

/// Name of the hidden column that carries a row's event time where the query does not show it.
pub const TIME_COLUMN: &str = "__onefold_time";

/// Name of the hidden column of a rollup's rows that is true where a group leaves the table.
pub const DELETE_COLUMN: &str = "__onefold_delete";

/// Name of the last column of a change feed, `Int64` and never NULL: 1 for a row that came, -1 for
/// one that went.
pub const CHANGE_COLUMN: &str = "__onefold_change";

/// The two hidden columns, position first.
#[must_use]
pub fn hidden_fields() -> [Field; 2] {
    [
        Field::new(POSITION_COLUMN, DataType::UInt64, false),
        Field::new(WATERMARK_COLUMN, DataType::Int64, true),
    ]
}

/// Whether `name` is one of the hidden columns.
#[must_use]
pub fn is_hidden(name: &str) -> bool {
    [POSITION_COLUMN, WATERMARK_COLUMN, TIME_COLUMN, DELETE_COLUMN, CHANGE_COLUMN].contains(&name)
}

/// Where a row stands among all rows of one epoch or one scan: by partition, then by row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

impl Position {
    const ROW_BITS: u32 = 40;
    const BRANCH_BITS: u32 = 4;

    /// Most branches of a union, whose rows come each behind those of the branch before.
    pub const BRANCHES_MAX: u64 = 1 << Self::BRANCH_BITS;

    /// Most partitions that one epoch or scan can tell apart.
    pub const PARTITIONS_MAX: u64 = 1 << (64 - Self::ROW_BITS - Self::BRANCH_BITS);

    /// Most rows of one partition that one epoch or scan can tell apart.
    pub const ROWS_MAX: u64 = 1 << Self::ROW_BITS;

    /// The position of row `row` in the partition with ordinal `partition`.
    ///
    /// Both must be below their maximum; the caller checks, as only it can name the partition.
    #[must_use]
    pub const fn new(partition: u64, row: u64) -> Self {
        debug_assert!(partition < Self::PARTITIONS_MAX && row < Self::ROWS_MAX);
        Self(partition << Self::ROW_BITS | row)
    }

    /// What is added to the positions of the rows of a branch, the first of which is 0.
    #[must_use]
    pub const fn of_branch(branch: u64) -> u64 {
        debug_assert!(branch < Self::BRANCHES_MAX);
        branch << (64 - Self::BRANCH_BITS)
    }

    /// The ordinal of the partition within the epoch or scan, in whichever branch of a union.
    #[must_use]
    pub const fn partition(self) -> u64 {
        self.0 >> Self::ROW_BITS & (Self::PARTITIONS_MAX - 1)
    }

    /// The number of the row within its partition's part of the epoch or scan.
    #[must_use]
    pub const fn row(self) -> u64 {
        self.0 & (Self::ROWS_MAX - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_a_union_is_of_its_partition_in_every_branch() {
        let (partition, row) = (Position::PARTITIONS_MAX - 1, Position::ROWS_MAX - 1);
        let mut last = None;
        for branch in 0..Position::BRANCHES_MAX {
            let own = Position(Position::new(partition, row).0 + Position::of_branch(branch));
            assert_eq!((own.partition(), own.row()), (partition, row));
            assert!(Some(own) > last, "branches come one behind the other");
            last = Some(own);
        }
    }
}
