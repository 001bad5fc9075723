//! Text to statement: the grammar of DEDUP BY, around DataFusion's own parser.
//!
//! ```text
//!   FROM events e DEDUP BY id WITHIN INTERVAL '1 hour' OF at AS d
//!                 |
//!                 v  tokens to tokens; sub-expressions are delimited by sqlparser itself
//!   FROM events e PIVOT (onefold_dedup(id) FOR within IN ('<options>', INTERVAL '1 hour', at)) AS d
//! ```
//!
//! The carrier is a construct the parser accepts wherever the clause may stand. It fails closed: a
//! session without our planner answers "unsupported", and never forgets the clause.
//!
//! # Invariants
//!
//! 1. Text without the clause is parsed from the very same tokens, so it means what it means in
//!    plain DataFusion.
//! 2. Strings, comments, quoted identifiers and aliases named `dedup` are never touched: only the
//!    unquoted word DEDUP followed by the keyword BY begins a clause, and no other SQL has that.
//!
//! # Not here
//!
//! What the expressions mean: that is `plan`.

mod carrier;
mod clause;
mod emit;
mod ends;
mod error;
mod script;
mod upkeep;
mod view;
mod watermark;

pub use carrier::{Carrier, read_carrier};
pub use clause::desugar;
pub use ends::spell_ends;
pub use error::SqlError;
pub use script::{ParsedStatement, is_complete, parse_script};
pub use view::ViewClause;
pub use watermark::WatermarkClause;
