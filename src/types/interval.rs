//! Intervals as SQL, in names of columns too.

/// An interval as it is typed in SQL: `INTERVAL '1 month 2 hours'`.
#[must_use]
pub fn format_interval(months: i32, days: i32, nanoseconds: i64) -> String {
    const UNITS: [(i64, &str); 6] = [
        (3_600_000_000_000, "hour"),
        (60_000_000_000, "minute"),
        (1_000_000_000, "second"),
        (1_000_000, "millisecond"),
        (1_000, "microsecond"),
        (1, "nanosecond"),
    ];
    let mut parts = vec![(i64::from(months), "month"), (i64::from(days), "day")];
    let mut rest = nanoseconds;
    for (size, name) in UNITS {
        parts.push((rest / size, name));
        rest %= size;
    }
    let parts = parts.into_iter().filter(|(count, _)| *count != 0);
    let parts: Vec<String> = parts
        .map(|(count, name)| format!("{count} {name}{}", if count.abs() > 1 { "s" } else { "" }))
        .collect();
    let text = if parts.is_empty() { "0 seconds".to_owned() } else { parts.join(" ") };
    format!("INTERVAL '{text}'")
}

/// `name`, which DataFusion made of an expression, with its intervals as they are typed in SQL.
#[must_use]
pub fn with_intervals(name: &str) -> String {
    const START: &str = "IntervalMonthDayNano(\"IntervalMonthDayNano { ";
    const END: &str = " }\")";
    let mut text = String::with_capacity(name.len());
    let mut rest = name;
    while let Some((before, after)) = rest.split_once(START) {
        text.push_str(before);
        let found = after.split_once(END).and_then(|(own, after)| Some((parsed(own)?, after)));
        let (own, after) = found.unwrap_or_else(|| (START.to_owned(), after));
        text.push_str(&own);
        rest = after;
    }
    text + rest
}

/// `months: 0, days: 0, nanoseconds: 1` as SQL.
fn parsed(own: &str) -> Option<String> {
    let (months, own) = own.strip_prefix("months: ")?.split_once(", days: ")?;
    let (days, nanoseconds) = own.split_once(", nanoseconds: ")?;
    Some(format_interval(months.parse().ok()?, days.parse().ok()?, nanoseconds.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::compute::kernels::cast_utils::parse_interval_month_day_nano;
    use arrow::datatypes::IntervalMonthDayNano;
    use datafusion::common::ScalarValue;
    use datafusion::logical_expr::lit;

    #[test]
    fn an_interval_is_read_back_as_it_was() {
        for (months, days, nanoseconds, text) in [
            (0, 0, 60_000_000_000, "INTERVAL '1 minute'"),
            (14, -1, 0, "INTERVAL '14 months -1 day'"),
            (0, 0, 0, "INTERVAL '0 seconds'"),
            (
                0,
                2,
                90_061_001_002_003,
                "INTERVAL '2 days 25 hours 1 minute 1 second 1 millisecond \
              2 microseconds 3 nanoseconds'",
            ),
            (0, 0, -5_400_000_000_000, "INTERVAL '-1 hour -30 minutes'"),
        ] {
            assert_eq!(format_interval(months, days, nanoseconds), text);
            let own = text.trim_start_matches("INTERVAL '").trim_end_matches('\'');
            let read = parse_interval_month_day_nano(own).unwrap();
            assert_eq!(read, IntervalMonthDayNano::new(months, days, nanoseconds), "{own}");
        }
    }

    #[test]
    fn a_name_of_datafusion_shows_sql() {
        let width = IntervalMonthDayNano::new(0, 0, 60_000_000_000);
        let width = lit(ScalarValue::IntervalMonthDayNano(Some(width)));
        for name in [width.schema_name().to_string(), width.to_string()] {
            assert_eq!(
                with_intervals(&format!("f({name},{name})+1")),
                "f(INTERVAL '1 minute',INTERVAL '1 minute')+1"
            );
        }
        for name in ["", "a", "IntervalMonthDayNano(\"IntervalMonthDayNano { months: x }\")"] {
            assert_eq!(with_intervals(name), name);
        }
    }
}
