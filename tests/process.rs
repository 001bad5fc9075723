//! Kills the real program again and again, at random times, until it has read everything, and
//! compares its table with that of a run nobody disturbed. Bounded to a minute.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const FILES: u64 = 12;
const ROWS: u64 = 3_000;
const LIMIT: Duration = Duration::from_mins(1);

#[test]
#[allow(clippy::disallowed_methods, reason = "a process is killed by the wall clock")]
fn a_program_killed_at_random_ends_with_the_same_table() {
    let began = Instant::now();
    let folder = tempfile::tempdir().unwrap();
    write_events(folder.path());
    let undisturbed = script(folder.path(), "undisturbed");
    assert!(run(&undisturbed).wait().unwrap().success());
    let expected = table(folder.path(), "undisturbed");
    assert!(expected.starts_with("n,s\n") && expected.len() > 8, "{expected}");
    let killed = script(folder.path(), "killed");
    let mut seed = std::process::id();
    let mut kills = 0;
    loop {
        let mut child = run(&killed);
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let patience = Duration::from_millis(40 + u64::from(seed >> 16) % 600 + 20 * kills);
        let deadline = Instant::now() + patience;
        let ended = loop {
            if let Some(ended) = child.try_wait().unwrap() {
                break Some(ended);
            }
            if Instant::now() > deadline && began.elapsed() < LIMIT / 2 {
                child.kill().unwrap();
                child.wait().unwrap();
                break None;
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        match ended {
            Some(ended) => {
                assert!(ended.success());
                break;
            }
            None => kills += 1,
        }
        assert!(began.elapsed() < LIMIT, "not done after {kills} kills");
    }
    assert!(kills > 0, "the program was never killed");
    assert_eq!(table(folder.path(), "killed"), expected, "after {kills} kills");
    assert!(run(&killed).wait().unwrap().success());
    assert_eq!(table(folder.path(), "killed"), expected, "run once more");
}

/// Files with retries inside and between them.
fn write_events(folder: &Path) {
    let raw = folder.join("raw");
    std::fs::create_dir(&raw).unwrap();
    for file in 0..FILES {
        let mut text = String::new();
        for row in 0..ROWS {
            let number = file * ROWS + row;
            let id = if number % 10 == 9 { number - 7 } else { number };
            let (minute, second) = (id / 60 % 60, id % 60);
            let hour = id / 3600;
            writeln!(
                text,
                "{{\"id\":\"e{id}\",\"v\":{id},\"at\":\"2026-01-01T{hour:02}:{minute:02}:{second:02}Z\"}}"
            )
            .unwrap();
        }
        std::fs::write(raw.join(format!("{file:03}.json")), text).unwrap();
    }
}

fn script(folder: &Path, table: &str) -> std::path::PathBuf {
    let path = folder.join(format!("{table}.sql"));
    let folder = folder.display();
    let text = format!(
        "SET onefold.epoch_rows_max = 1000;
         CREATE UNBOUNDED EXTERNAL TABLE events (id VARCHAR NOT NULL, v BIGINT, at TIMESTAMP,
           WATERMARK FOR at AS at - INTERVAL '1 minute')
         STORED AS JSON LOCATION '{folder}/raw/';
         CREATE EXTERNAL TABLE t (id VARCHAR NOT NULL, v BIGINT, at TIMESTAMP, PRIMARY KEY (id))
         STORED AS DELTA LOCATION '{folder}/{table}';
         INSERT INTO t SELECT id, v, at FROM events DEDUP BY id WITHIN INTERVAL '1 hour';"
    );
    std::fs::write(&path, text).unwrap();
    path
}

fn run(script: &Path) -> std::process::Child {
    Command::new(env!("CARGO_BIN_EXE_onefold"))
        .arg("run")
        .arg(script)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Rows and a sum over them, and what the ledger says was emitted and dropped.
fn table(folder: &Path, table: &str) -> String {
    let location = folder.join(table).display().to_string();
    let sql = format!(
        "CREATE EXTERNAL TABLE t STORED AS DELTA LOCATION '{location}';
         SELECT count(*) AS n, sum(v) AS s FROM t;
         SELECT sum(rows_read) AS r, sum(rows_emitted) AS e, sum(rows_duplicate) AS d,
           sum(rows_late) AS l FROM onefold_history('t')"
    );
    let done = Command::new(env!("CARGO_BIN_EXE_onefold"))
        .args(["sql", "--format", "csv", "-c", &sql])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}
