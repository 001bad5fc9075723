//! The command line as a user meets it: output, exit codes, errors on standard error.

use std::process::{Command, Output, Stdio};

#[test]
fn a_query_prints_its_rows_and_ends_with_zero() {
    let done = onefold(&["sql", "--format", "csv", "-c", "SELECT 1 AS a; SELECT 'x' AS b"]);
    assert_eq!(done.status.code(), Some(0));
    assert_eq!(text(&done.stdout), "a\n1\nb\nx\n");
    assert!(done.stderr.is_empty());
}

#[test]
fn a_folder_is_a_table_by_its_path_and_a_delta_table_never() {
    let folder = tempfile::tempdir().unwrap();
    let run = |sql: &str| {
        let program = env!("CARGO_BIN_EXE_onefold");
        let arguments = ["sql", "--format", "csv", "-c", sql];
        Command::new(program).args(arguments).current_dir(folder.path()).output().unwrap()
    };
    let make =
        "CREATE EXTERNAL TABLE t (k INT NOT NULL, PRIMARY KEY (k)) STORED AS DELTA LOCATION 't';
        INSERT INTO t VALUES (1); REPLACE INTO t VALUES (1);
        COPY (SELECT 7 AS a) TO 'one.parquet'";
    assert_eq!(run(make).status.code(), Some(0));
    assert_eq!(text(&run("SELECT * FROM 'one.parquet'").stdout), "a\n7\n");
    let bare = run("SELECT count(*) FROM t");
    assert!(text(&bare.stderr).contains("table 'datafusion.public.t' not found"), "{bare:?}");
    let path = run("SELECT count(*) FROM './t'");
    assert!(text(&path.stderr).contains("./t is a Delta table"), "{path:?}");
    let again = "CREATE EXTERNAL TABLE t STORED AS DELTA LOCATION 't'; SELECT count(*) AS n FROM t";
    assert_eq!(text(&run(again).stdout), "n\n1\n");
}

#[test]
fn the_example_script_runs_and_counts_each_click_once() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/sql/dedup.sql");
    let done = onefold(&["sql", "--format", "ndjson", "-f", script]);
    assert_eq!(done.status.code(), Some(0), "{}", text(&done.stderr));
    let out = text(&done.stdout);
    assert!(out.contains(r#"{"page":"about","clicks":1}"#), "{out}");
    assert!(out.contains(r#"{"page":"home","clicks":4}"#), "{out}");
}

#[test]
fn mistakes_of_the_user_end_with_one_and_say_where() {
    let wrong = onefold(&["sql", "-c", "SELECT *\nFROM t DEDUP BY a"]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(wrong.stdout.is_empty());
    assert!(text(&wrong.stderr).contains("line 2, column 8: WITHIN is missing"));
    let planned =
        "SELECT 1;\n\n  SELECT * FROM (VALUES (1)) AS v(a)\nDEDUP BY a WITHIN INTERVAL '1 h'";
    let wrong = onefold(&["sql", "-c", planned]);
    let message = text(&wrong.stderr);
    assert!(message.contains("line 4, column 1: WITHIN an interval needs a time"), "{message}");
    assert_eq!(onefold(&["sql", "-f", "no/such/file.sql"]).status.code(), Some(1));
    assert_eq!(onefold(&["optimize", "/no/such/table"]).status.code(), Some(1));
    assert_eq!(onefold(&["nonsense"]).status.code(), Some(1));
    assert_eq!(onefold(&["--help"]).status.code(), Some(0));
}

#[test]
fn a_failure_while_running_ends_with_two() {
    let failed = onefold(&["sql", "-c", "SELECT 1 / (a - a) FROM (VALUES (1)) AS v(a)"]);
    assert_eq!(failed.status.code(), Some(2), "{}", text(&failed.stderr));
}

#[test]
fn tables_are_kept_up_by_command() {
    let folder = tempfile::tempdir().unwrap();
    let table = folder.path().join("t").display().to_string();
    let create = format!(
        "CREATE EXTERNAL TABLE t (k BIGINT, PRIMARY KEY (k)) STORED AS DELTA LOCATION '{table}';
         INSERT INTO t VALUES (1); INSERT INTO t VALUES (2); DELETE FROM t WHERE k = 1"
    );
    let said = |arguments: &[&str]| {
        let output = onefold(arguments);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    said(&["sql", "-c", &create]);
    assert!(said(&["restore", &table, "--version", "2"]).contains("| 4       |"));
    assert!(said(&["optimize", &table]).contains("| 5       | 2             | 1           |"));
    assert!(said(&["checkpoint", &table]).contains("| 5       |"));
    assert!(said(&["vacuum", &table]).contains("| 0              |"), "all is young");
    let short = onefold(&["vacuum", &table, "--retain", "23 hours"]);
    assert_eq!(short.status.code(), Some(1), "{}", text(&short.stderr));
    let open = format!("CREATE EXTERNAL TABLE t STORED AS DELTA LOCATION '{table}'");
    let query =
        format!("{open}; SELECT count(*) FROM t; OPTIMIZE t; SELECT k FROM t VERSION AS OF 5");
    assert!(said(&["sql", "--format", "csv", "-c", &query]).contains("count(*)\n2\n"));
}

#[test]
fn programs_that_change_a_table_say_nothing_and_leave_a_checksum_for_every_version() {
    let folder = tempfile::tempdir().unwrap();
    let table = folder.path().join("t").display().to_string();
    let script = folder.path().join("script.sql").display().to_string();
    let open = format!("CREATE EXTERNAL TABLE t STORED AS DELTA LOCATION '{table}'");
    let create = open.replace(" t ", " t (k BIGINT NOT NULL, v INT, PRIMARY KEY (k)) ");
    let statements = [
        "INSERT INTO t VALUES (1, 1), (2, 2), (3, 3)",
        "UPDATE t SET v = v + 1 WHERE k = 1",
        "DELETE FROM t WHERE k = 2; REPLACE INTO t VALUES (3, 4); INSERT INTO t VALUES (4, 4)",
        "MERGE INTO t USING (SELECT 1 AS k) AS s ON t.k = s.k WHEN MATCHED THEN DELETE",
        "OPTIMIZE t",
        "RESTORE t TO VERSION AS OF 1",
        "RESTORE t TO VERSION AS OF 1", // whose files are there already
        "ALTER TABLE t ADD COLUMN w BIGINT; INSERT INTO t VALUES (5, 5, 5)",
        "ALTER TABLE t ALTER COLUMN v TYPE BIGINT; ALTER TABLE t ADD CONSTRAINT c CHECK (v > 0)",
        "TRUNCATE TABLE t",
        "INSERT INTO t VALUES (6, 6, 6)",
        "ALTER TABLE t ADD COLUMN x TIMESTAMP; INSERT INTO t VALUES (7, 7, 7, NULL)",
    ];
    for (round, statement) in statements.iter().enumerate() {
        let text_of = format!("{}; {statement}", if round == 0 { &create } else { &open });
        std::fs::write(&script, &text_of).unwrap();
        let arguments: &[&str] =
            if round % 2 == 0 { &["sql", "-c", &text_of] } else { &["run", &script] };
        let done = onefold(arguments);
        let said = text(&done.stderr);
        assert_eq!((done.status.code(), said.as_str()), (Some(0), ""), "{statement}");
        let log = std::fs::read_dir(format!("{table}/_delta_log")).unwrap();
        let names = log.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let names: Vec<String> = names.collect();
        let count = |kind: &str| names.iter().filter(|name| name.ends_with(kind)).count();
        assert_eq!(count(".crc"), count(".json"), "{statement}: {names:?}");
    }
}

#[test]
fn late_rows_are_told_with_what_would_have_kept_them() {
    let folder = tempfile::tempdir().unwrap();
    let times = ["00:10", "01:10", "00:20", "02:10", "00:30", "01:30", "03:30"];
    let rows = times.map(|at| format!(r#"{{"k": 1, "at": "2026-01-01T00:{at}"}}"#));
    std::fs::create_dir(folder.path().join("src")).unwrap();
    std::fs::write(folder.path().join("src/0.json"), rows.join("\n")).unwrap();
    let script = "CREATE UNBOUNDED EXTERNAL TABLE ev (k BIGINT, at TIMESTAMP,
          WATERMARK FOR at AS at - INTERVAL '0 seconds')
        STORED AS JSON LOCATION 'src/' OPTIONS ('file_order' 'event_time', 'file_delay' '0 seconds');
        CREATE EXTERNAL TABLE t (w TIMESTAMP NOT NULL, c BIGINT, PRIMARY KEY (w))
        STORED AS DELTA LOCATION 't';
        INSERT INTO t SELECT tumble(at, INTERVAL '1 minute'), count(*) FROM ev
        GROUP BY tumble(at, INTERVAL '1 minute');";
    std::fs::write(folder.path().join("run.sql"), script).unwrap();
    let mut program = Command::new(env!("CARGO_BIN_EXE_onefold"));
    let done = program.args(["run", "run.sql"]).current_dir(folder.path()).output().unwrap();
    assert_eq!(done.status.code(), Some(0), "{}", text(&done.stderr));
    let out = text(&done.stdout);
    let late = out.lines().find(|line| line.contains("+ late")).unwrap();
    assert!(late.contains(" 3   DROPPED; the oldest is of 2026-01-01T00:00:20Z, "), "{late}");
    assert!(late.contains("by 1 minute 10 seconds when it came: more than that"), "{late}");
}

fn onefold(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_onefold"))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}
