//! `key = ...` and `key IN (...)`: the rows of known keys, found through the key index.
//!
//! The index of the writer is used only where it is there, nobody is committing, and it is of the
//! version that is read. Otherwise the scan prunes by statistics, and finds the same rows.

use super::DeltaError;
use super::table::{DeltaTable, TableView};
use arrow::array::ArrayRef;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};
use std::collections::BTreeMap;

/// Keys looked up at most; for more a scan is as good.
const KEYS_MAX: usize = 10_000;
/// The same where a key can cost a read of the disk.
const COLD_KEYS_MAX: usize = 100;

/// Rows to read, by file.
pub(super) type Rows = BTreeMap<u32, Vec<u32>>;

impl DeltaTable {
    /// The rows that can pass `filters`, if these name the keys and the index can tell.
    pub(super) fn rows_of_keys(
        &self,
        view: &TableView,
        filters: &[Expr],
    ) -> Result<Option<Rows>, DeltaError> {
        let Some(keys) = self.named_keys(filters) else { return Ok(None) };
        let Ok(writer) = self.writer.try_lock() else { return Ok(None) };
        let is_current = writer.snapshot.version() == view.version
            && !writer.is_unknown
            && writer.owed.is_empty();
        let Some(index) = writer.index.as_ref().filter(|_| is_current) else { return Ok(None) };
        let mut hashes = Vec::new();
        self.shape.hasher.hash(&keys, &mut hashes)?;
        let mut rows = Rows::new();
        if index.has_cold() && hashes.len() > COLD_KEYS_MAX {
            return Ok(None);
        }
        for hash in hashes {
            if let Some(slot) = index.get(hash)? {
                rows.entry(slot.place.0).or_default().push(slot.place.1);
            }
        }
        for rows in rows.values_mut() {
            rows.sort_unstable();
            rows.dedup();
        }
        Ok(Some(rows))
    }

    /// The keys that `filters` allow, column by column; `None` if they do not name them.
    fn named_keys(&self, filters: &[Expr]) -> Option<Vec<ArrayRef>> {
        let conjuncts: Vec<&Expr> = filters.iter().flat_map(split_conjunction).collect();
        let mut columns = Vec::new();
        for name in self.primary_key() {
            let data_type = self.shape.schema.field_with_name(name).ok()?.data_type();
            let values = conjuncts.iter().find_map(|conjunct| values_of(conjunct, name))?;
            let cast = values.iter().map(|value| value.cast_to(data_type).ok());
            let cast = cast.collect::<Option<Vec<ScalarValue>>>()?;
            if cast.iter().any(ScalarValue::is_null) {
                return None;
            }
            columns.push(cast);
        }
        let is_one = columns.iter().all(|values| values.len() == 1);
        if !is_one && (columns.len() > 1 || columns[0].len() > KEYS_MAX) {
            return None;
        }
        columns.into_iter().map(|values| ScalarValue::iter_to_array(values).ok()).collect()
    }
}

/// The values that `expr` allows for the column `name`.
fn values_of(expr: &Expr, name: &str) -> Option<Vec<ScalarValue>> {
    let is_it = |expr: &Expr| matches!(expr, Expr::Column(column) if column.name == name);
    let value = |expr: &Expr| match expr {
        Expr::Literal(value, _) => Some(value.clone()),
        _ => None,
    };
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) => {
            if is_it(left) {
                value(right).map(|value| vec![value])
            } else if is_it(right) {
                value(left).map(|value| vec![value])
            } else {
                None
            }
        }
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or, right }) => {
            let mut values = values_of(left, name)?;
            values.extend(values_of(right, name)?);
            Some(values)
        }
        Expr::InList(list) if !list.negated && is_it(&list.expr) => {
            list.list.iter().map(value).collect()
        }
        _ => None,
    }
}
