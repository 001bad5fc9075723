//! The rules of a table: which of two rows with the same key counts, and what a row means.
//!
//! ```text
//!   option               example                     says
//!   merge_mode           'aggregate'                 last (default), first, partial, aggregate
//!   merge.COLUMN         'sum'                       how a column of an aggregate table is folded
//!   sequence_by          'lsn'                       order of rows that arrive out of order
//!   sequence_group.COL   'price, currency'           columns of a partial table ordered by COL
//!   op_column            'op'                        what makes a row a delete
//!   op_insert, op_update, op_delete, op_ignore       its values, separated by commas
//!   tombstone_horizon    '7 days'                    how long a delete beats older rows
//!   unstored             'op, lsn'                   columns that INSERT takes and the table drops
//! ```
//!
//! # Invariants
//!
//! 1. The rules of a table never change: they are a property of its first version.
//! 2. Where a sequence is given, the table does not depend on the order in which rows arrive.

use super::DeltaError;
use crate::types::{format_duration_us, parse_duration_us};
use arrow::datatypes::{DataType, Field, Schema};
use std::collections::{BTreeMap, HashMap};

/// The property that holds the options: a JSON map.
pub(super) const OPTIONS: &str = "onefold.options";

const HORIZON_US: i64 = 7 * 86_400_000_000;

/// Which of several rows of one key counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum MergeMode {
    /// The last one, whole.
    #[default]
    Last,
    /// The first one, whole.
    First,
    /// Of each column the last value that is not NULL.
    Partial,
    /// Each column has its own function.
    Aggregate,
}

/// How one column of several rows of a key becomes one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fold {
    Last,
    First,
    LastNonNull,
    FirstNonNull,
    /// The values of the row with the highest sequence of this group.
    Group(usize),
    Sum,
    Count,
    Min,
    Max,
    BoolAnd,
    BoolOr,
    BitAnd,
    BitOr,
    BitXor,
}

const FOLDS: [(&str, Fold); 13] = [
    ("last", Fold::Last),
    ("first", Fold::First),
    ("last_non_null", Fold::LastNonNull),
    ("first_non_null", Fold::FirstNonNull),
    ("sum", Fold::Sum),
    ("count", Fold::Count),
    ("min", Fold::Min),
    ("max", Fold::Max),
    ("bool_and", Fold::BoolAnd),
    ("bool_or", Fold::BoolOr),
    ("bit_and", Fold::BitAnd),
    ("bit_or", Fold::BitOr),
    ("bit_xor", Fold::BitXor),
];

/// What a row asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Upsert,
    Delete,
    Ignore,
}

/// The column that says what a row asks for, and its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OperationColumn {
    pub(super) name: String,
    values: HashMap<String, Operation>,
}

impl OperationColumn {
    /// What `value` asks for; `None` if no option names it.
    pub(super) fn meaning(&self, value: &str) -> Option<Operation> {
        self.values.get(value).copied()
    }
}

/// The rules of one table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TableRules {
    pub(super) mode: MergeMode,
    /// By column, in an aggregate or partial table; a column not named has the mode's default.
    folds: BTreeMap<String, Fold>,
    /// Columns whose values order rows; empty if rows count in the order they arrive.
    pub(super) sequence_by: Vec<String>,
    /// By group of a partial table: the column that orders it.
    pub(super) groups: Vec<String>,
    pub(super) operation: Option<OperationColumn>,
    pub(super) horizon_us: i64,
    /// Columns that are taken and not stored.
    pub(super) unstored: Vec<String>,
}

impl TableRules {
    /// Reads the options of a table with the columns of `schema`.
    ///
    /// # Errors
    ///
    /// [`DeltaError::Definition`] for an option, a column or a value that there is not, and for
    /// rules that contradict each other.
    pub(super) fn try_new(
        table: &str,
        schema: &Schema,
        primary_key: &[String],
        options: &HashMap<String, String>,
    ) -> Result<Self, DeltaError> {
        let reader = Reader { schema, primary_key, options: canonical(options) };
        reader.read().map_err(|reason| DeltaError::Definition { table: table.to_owned(), reason })
    }

    /// How `column` is folded.
    pub(super) fn fold(&self, column: &str) -> Fold {
        let default = match self.mode {
            MergeMode::Last | MergeMode::Aggregate => Fold::Last,
            MergeMode::First => Fold::First,
            MergeMode::Partial => Fold::LastNonNull,
        };
        self.folds.get(column).copied().unwrap_or(default)
    }

    /// Whether the rows of an epoch can be written before the table is looked at: the last row of
    /// each key replaces what was there.
    pub(super) fn is_plain(&self) -> bool {
        self.mode == MergeMode::Last && self.sequence_by.is_empty() && self.operation.is_none()
    }

    /// Whether the row that is there must be read to know the row that will be.
    pub(super) const fn reads_current(&self) -> bool {
        matches!(self.mode, MergeMode::Partial | MergeMode::Aggregate)
    }

    /// Whether a delete must be remembered.
    pub(super) fn has_tombstones(&self) -> bool {
        !self.sequence_by.is_empty() && self.mode == MergeMode::Last
    }
}

/// The options by their bare names: DataFusion puts `format.` before names without a dot.
pub(super) fn canonical(options: &HashMap<String, String>) -> BTreeMap<String, String> {
    let bare = |(name, value): (&String, &String)| {
        let name = name.strip_prefix("format.").unwrap_or(name);
        (name.to_owned(), value.trim().to_owned())
    };
    options.iter().map(bare).collect()
}

/// How two sets of options differ, in words.
pub(super) fn option_differences(
    declared: &BTreeMap<String, String>,
    found: &BTreeMap<String, String>,
) -> Vec<String> {
    let mut all = Vec::new();
    for (name, value) in declared {
        match found.get(name) {
            Some(other) if other == value => {}
            Some(other) => all.push(format!("option '{name}' is '{other}', not '{value}'")),
            None => all.push(format!("it has no option '{name}'")),
        }
    }
    let undeclared = found.iter().filter(|(name, _)| !declared.contains_key(*name));
    all.extend(undeclared.map(|(name, value)| format!("it has option '{name}' '{value}' too")));
    all
}

struct Reader<'a> {
    schema: &'a Schema,
    primary_key: &'a [String],
    options: BTreeMap<String, String>,
}

impl Reader<'_> {
    fn read(&self) -> Result<TableRules, String> {
        self.refuse_unknown()?;
        let mut rules = TableRules {
            mode: self.mode()?,
            sequence_by: self.columns("sequence_by")?,
            operation: self.operation()?,
            horizon_us: HORIZON_US,
            unstored: self.columns("unstored")?,
            ..TableRules::default()
        };
        if let Some(horizon) = self.options.get("tombstone_horizon") {
            rules.horizon_us = parse_duration_us(horizon)
                .map_err(|reason| format!("option 'tombstone_horizon': {reason}"))?;
        }
        self.folds(&mut rules)?;
        self.groups(&mut rules)?;
        self.refuse_contradictions(&rules)?;
        Ok(rules)
    }

    fn refuse_unknown(&self) -> Result<(), String> {
        const KNOWN: [&str; 9] = [
            "merge_mode",
            "sequence_by",
            "op_column",
            "op_insert",
            "op_update",
            "op_delete",
            "op_ignore",
            "tombstone_horizon",
            "unstored",
        ];
        let is_known = |name: &str| {
            KNOWN.contains(&name)
                || name.starts_with("merge.")
                || name.starts_with("sequence_group.")
        };
        match self.options.keys().find(|name| !is_known(name)) {
            Some(name) => Err(format!(
                "no option '{name}'; besides those of its store a table has {}, merge.COLUMN and \
                 sequence_group.COLUMN",
                KNOWN.join(", ")
            )),
            None => Ok(()),
        }
    }

    fn mode(&self) -> Result<MergeMode, String> {
        match self.options.get("merge_mode").map(String::as_str) {
            None | Some("last") => Ok(MergeMode::Last),
            Some("first") => Ok(MergeMode::First),
            Some("partial") => Ok(MergeMode::Partial),
            Some("aggregate") => Ok(MergeMode::Aggregate),
            Some(other) => Err(format!(
                "option 'merge_mode' is last, first, partial or aggregate, not '{other}'"
            )),
        }
    }

    /// The columns that an option lists.
    fn columns(&self, option: &str) -> Result<Vec<String>, String> {
        let Some(list) = self.options.get(option) else { return Ok(Vec::new()) };
        let mut columns: Vec<String> = Vec::new();
        for name in list.split(',').map(str::trim) {
            self.field(option, name)?;
            if columns.iter().any(|known| known == name) {
                return Err(format!("option '{option}' names {name} twice"));
            }
            columns.push(name.to_owned());
        }
        Ok(columns)
    }

    fn field(&self, option: &str, name: &str) -> Result<&Field, String> {
        self.schema
            .field_with_name(name)
            .map_err(|_| format!("option '{option}': there is no column '{name}'"))
    }

    fn operation(&self) -> Result<Option<OperationColumn>, String> {
        const DEFAULTS: [(&str, &str, Operation); 4] = [
            ("op_insert", "c, r, I, +I, insert", Operation::Upsert),
            ("op_update", "u, U, +U, update", Operation::Upsert),
            ("op_delete", "d, D, -D, delete", Operation::Delete),
            ("op_ignore", "-U", Operation::Ignore),
        ];
        let Some(name) = self.options.get("op_column") else {
            let stray = DEFAULTS.iter().find(|(option, ..)| self.options.contains_key(*option));
            return match stray {
                Some((option, ..)) => Err(format!("option '{option}' needs 'op_column'")),
                None => Ok(None),
            };
        };
        let field = self.field("op_column", name)?;
        if !is_text(field.data_type()) {
            return Err(format!("option 'op_column': {name} is {}, no text", field.data_type()));
        }
        let mut values = HashMap::new();
        for (option, default, operation) in DEFAULTS {
            let list = self.options.get(option).map_or(default, String::as_str);
            for value in list.split(',').map(str::trim).filter(|value| !value.is_empty()) {
                if values.insert(value.to_owned(), operation).is_some_and(|old| old != operation) {
                    return Err(format!("option '{option}': '{value}' has another meaning too"));
                }
            }
        }
        Ok(Some(OperationColumn { name: name.clone(), values }))
    }

    fn folds(&self, rules: &mut TableRules) -> Result<(), String> {
        for (option, function) in &self.options {
            let Some(name) = option.strip_prefix("merge.") else { continue };
            if rules.mode != MergeMode::Aggregate {
                return Err(format!("option '{option}' needs 'merge_mode' 'aggregate'"));
            }
            let data_type = self.field(option, name)?.data_type();
            if self.primary_key.iter().any(|key| key == name) {
                return Err(format!("option '{option}': {name} is in the PRIMARY KEY"));
            }
            let fold = FOLDS.iter().find(|(known, _)| known == function).map(|(_, fold)| *fold);
            let names = || FOLDS.map(|(name, _)| name).join(", ");
            let fold = fold.ok_or_else(|| {
                format!("option '{option}' is one of {}, not '{function}'", names())
            })?;
            if !fits(fold, data_type) {
                return Err(format!("option '{option}': {function} does not fit {data_type}"));
            }
            rules.folds.insert(name.to_owned(), fold);
        }
        Ok(())
    }

    fn groups(&self, rules: &mut TableRules) -> Result<(), String> {
        for option in self.options.keys() {
            let Some(leader) = option.strip_prefix("sequence_group.") else { continue };
            if rules.mode != MergeMode::Partial {
                return Err(format!("option '{option}' needs 'merge_mode' 'partial'"));
            }
            self.field(option, leader)?;
            let group = Fold::Group(rules.groups.len());
            rules.groups.push(leader.to_owned());
            for name in self.columns(option)?.into_iter().chain([leader.to_owned()]) {
                if self.primary_key.contains(&name) {
                    return Err(format!("option '{option}': {name} is in the PRIMARY KEY"));
                }
                if rules.folds.insert(name.clone(), group).is_some() {
                    return Err(format!("option '{option}': {name} is in another group too"));
                }
            }
        }
        Ok(())
    }

    fn refuse_contradictions(&self, rules: &TableRules) -> Result<(), String> {
        let has_sequence = !rules.sequence_by.is_empty();
        let refused = match rules.mode {
            MergeMode::Partial if has_sequence => Some(
                "a partial table has no 'sequence_by': name its columns in 'sequence_group.COLUMN'",
            ),
            MergeMode::Aggregate if has_sequence => Some(
                "an aggregate table has no 'sequence_by': a row that loses would be missing in its \
                 sums",
            ),
            MergeMode::First if rules.operation.is_some() => {
                Some("a table of 'merge_mode' 'first' has no 'op_column'")
            }
            _ if !rules.groups.is_empty() && rules.operation.is_some() => {
                Some("'op_column' and 'sequence_group' do not go together: a delete has no group")
            }
            _ => None,
        };
        if let Some(reason) = refused {
            return Err(reason.to_owned());
        }
        for name in &rules.sequence_by {
            let data_type = self.field("sequence_by", name)?.data_type();
            if data_type.is_nested() || *data_type == DataType::Boolean {
                return Err(format!("option 'sequence_by': {name} is {data_type}"));
            }
        }
        for name in &rules.unstored {
            let is_operation = rules.operation.as_ref().is_some_and(|own| own.name == *name);
            if self.primary_key.contains(name) {
                return Err(format!("option 'unstored': {name} is in the PRIMARY KEY"));
            }
            if !is_operation && !rules.sequence_by.contains(name) {
                return Err(format!(
                    "option 'unstored': {name} is neither 'op_column' nor in 'sequence_by'"
                ));
            }
        }
        if self.options.contains_key("tombstone_horizon") && !rules.has_tombstones() {
            return Err("option 'tombstone_horizon' needs 'sequence_by'".to_owned());
        }
        Ok(())
    }
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

fn fits(fold: Fold, data_type: &DataType) -> bool {
    match fold {
        Fold::Sum => data_type.is_numeric(),
        Fold::Count => *data_type == DataType::Int64,
        Fold::BoolAnd | Fold::BoolOr => *data_type == DataType::Boolean,
        Fold::BitAnd | Fold::BitOr | Fold::BitXor => data_type.is_integer(),
        Fold::Min | Fold::Max => !data_type.is_nested(),
        _ => true,
    }
}

/// The rules of a table in words, for EXPLAIN and logs.
impl std::fmt::Display for TableRules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mode = match self.mode {
            MergeMode::Last => "last",
            MergeMode::First => "first",
            MergeMode::Partial => "partial",
            MergeMode::Aggregate => "aggregate",
        };
        write!(f, "merge={mode}")?;
        if !self.sequence_by.is_empty() {
            write!(f, ", sequence_by=[{}]", self.sequence_by.join(", "))?;
        }
        if let Some(operation) = &self.operation {
            write!(f, ", op_column={}", operation.name)?;
        }
        if self.has_tombstones() {
            write!(f, ", tombstones={}", format_duration_us(self.horizon_us.unsigned_abs()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_every_mistake_is_named() {
        let rules = read(&[("sequence_by", "lsn, n"), ("format.op_column", "op")]).unwrap();
        assert_eq!(rules.sequence_by, ["lsn", "n"]);
        let operation = rules.operation.clone().unwrap();
        for (value, meaning) in [
            ("c", Some(Operation::Upsert)),
            ("U", Some(Operation::Upsert)),
            ("d", Some(Operation::Delete)),
            ("-U", Some(Operation::Ignore)),
            ("x", None),
        ] {
            assert_eq!(operation.meaning(value), meaning, "{value}");
        }
        assert!(rules.has_tombstones() && !rules.is_plain() && !rules.reads_current());
        let own = read(&[("op_column", "op"), ("op_delete", "gone")]).unwrap().operation.unwrap();
        assert_eq!(own.meaning("gone"), Some(Operation::Delete));
        assert_eq!(own.meaning("d"), None);
        for (options, said) in [
            (vec![("sequenceby", "n")], "no option 'sequenceby'"),
            (vec![("sequence_by", "m")], "there is no column 'm'"),
            (vec![("sequence_by", "n, n")], "names n twice"),
            (vec![("op_delete", "d")], "needs 'op_column'"),
            (vec![("op_column", "n")], "n is Int64, no text"),
            (vec![("op_column", "op"), ("op_delete", "c")], "'c' has another meaning too"),
            (vec![("merge_mode", "newest")], "not 'newest'"),
            (vec![("merge.n", "sum")], "needs 'merge_mode' 'aggregate'"),
            (vec![("merge_mode", "aggregate"), ("merge.k", "sum")], "k is in the PRIMARY KEY"),
            (vec![("merge_mode", "aggregate"), ("merge.op", "sum")], "sum does not fit Utf8"),
            (vec![("merge_mode", "aggregate"), ("merge.n", "avg")], "not 'avg'"),
            (vec![("merge_mode", "aggregate"), ("sequence_by", "n")], "missing in its sums"),
            (vec![("merge_mode", "partial"), ("sequence_by", "n")], "name its columns"),
            (vec![("merge_mode", "first"), ("op_column", "op")], "has no 'op_column'"),
            (vec![("unstored", "n")], "neither 'op_column' nor in 'sequence_by'"),
            (vec![("tombstone_horizon", "1 day")], "needs 'sequence_by'"),
            (vec![("sequence_by", "n"), ("tombstone_horizon", "1 month")], "no fixed length"),
        ] {
            let error = read(&options).unwrap_err().to_string();
            assert!(error.contains(said), "{options:?}: {error}");
        }
    }

    #[test]
    fn columns_fold_as_their_mode_or_their_own_option_says() {
        let rules = read(&[("merge_mode", "aggregate"), ("merge.n", "sum")]).unwrap();
        assert_eq!((rules.fold("n"), rules.fold("op")), (Fold::Sum, Fold::Last));
        let rules = read(&[("merge_mode", "partial"), ("sequence_group.n", "op")]).unwrap();
        assert_eq!((rules.fold("op"), rules.fold("n")), (Fold::Group(0), Fold::Group(0)));
        assert_eq!(rules.fold("lsn"), Fold::LastNonNull);
    }

    fn read(options: &[(&str, &str)]) -> Result<TableRules, DeltaError> {
        let schema = Schema::new(vec![
            Field::new("k", DataType::Int64, false),
            Field::new("n", DataType::Int64, true),
            Field::new("lsn", DataType::Int64, true),
            Field::new("op", DataType::Utf8, true),
        ]);
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let options = options.iter().map(own).collect();
        TableRules::try_new("t", &schema, &["k".to_owned()], &options)
    }
}
