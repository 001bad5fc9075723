"""Lets delta-rs and DuckDB read every version of tables that a random workload wrote.

usage: readers.py PROGRAM [SEED STAGES STEPS]      (servers.sh calls it; a SEED is for a soak)

Each seed writes tables of every merge mode and targets of every kind of pipeline, in stages:

    age what is there by 30 hours; change a schema; STEPS statements; pipelines; compare

A stage is compared before the next one ages it, so no version is lost unseen; where a vacuum
deleted a file, all versions that it kept are compared again. Proven of each version: our scan,
delta-rs and DuckDB have the same rows, NULLs and bits of floats included, whole and for a WHERE
that statistics can answer; and no key is there twice. Proven of each stage: the session that wrote
has the rows of the newest version. Whether they are the right rows is asked elsewhere, of models.
"""

import collections
import datetime
import decimal
import json
import os
import random
import re
import subprocess
import sys
import tempfile

import duckdb
import pyarrow
import pyarrow.parquet
from deltalake import DeltaTable, QueryBuilder
from duckdb_extensions import import_extension

PROGRAM = sys.argv[1]

STAGES = 3
STEPS = 40
# Each session knows the versions of those before it, and may restore them.
SESSION_STEPS = 20
SEEDS = (1, 2, 3)

# Of a seed: checkpoint_interval, compact_files_min. The last one has logs without a checkpoint.
SPACINGS = ((2, 2), (7, 4), (100_000, 16))

# How often an engine is also asked for some of the rows of a version; DuckDB opens it again.
SHARE_FILTERED = {"delta_rs": 1.0, "duck": 0.2}

HOUR_S = 3600
AGED_HOURS = 30

Table = collections.namedtuple("Table", "columns options names values own")

# `names` and `values` are what a row must have besides k, v and s; `own` are statements of its own.
TABLES = {
    "last": Table(
        "k BIGINT NOT NULL, v BIGINT, s VARCHAR, PRIMARY KEY (k), CHECK (v < 1000000)", "", "", "",
        ["DELETE FROM last WHERE v = (SELECT max(v) FROM last)",
         "UPDATE last SET s = concat(repeat(chr(1114111), {small} + 20), k) WHERE k < {high}",
         "MERGE INTO last USING (SELECT value AS k FROM {series}) AS x ON last.k = x.k "
         "WHEN MATCHED THEN UPDATE SET s = 'm' WHEN NOT MATCHED BY SOURCE AND last.v > {value} "
         "THEN DELETE WHEN NOT MATCHED THEN INSERT (k, s) VALUES (x.k, 'n')"]),
    "first": Table(
        "k BIGINT NOT NULL, s VARCHAR, v BIGINT, PRIMARY KEY (k)", "OPTIONS ('merge_mode' 'first')",
        "", "", []),
    "partial": Table(
        "k BIGINT NOT NULL, v BIGINT, s VARCHAR, at TIMESTAMP, a INT, b DOUBLE, c DATE, n BIGINT, "
        "z TIMESTAMP WITH TIME ZONE, PRIMARY KEY (k)",
        "OPTIONS ('merge_mode' 'partial', 'sequence_group.at' 'a, b', 'sequence_group.n' 'c, z')",
        "", "",
        ["INSERT INTO partial (k, v) SELECT value, 9007199254740993 + {small} FROM {series}",
         "INSERT INTO partial (k, at, a) SELECT value, TIMESTAMP '2024-05-01T00:00:00.000001' + "
         "INTERVAL '{small} seconds', {value} FROM {series}",
         "INSERT INTO partial (k, at, b, s) SELECT value, TIMESTAMP '1969-12-31T23:59:59' + "
         "INTERVAL '{small} days', {value} / 7.0, nullif('p{small}', 'p3') FROM {series}",
         "INSERT INTO partial (k, n, c, z) SELECT value, {small}, DATE '0999-12-31', "
         "TIMESTAMP '2024-05-01T00:00:00.000001Z' FROM {series}"]),
    "folds": Table(
        "k BIGINT NOT NULL, v BIGINT, s VARCHAR, n BIGINT, lo DOUBLE, hi REAL, every BOOLEAN, "
        "some BOOLEAN, ba INT, bo BIGINT, bx SMALLINT, f VARCHAR, l VARCHAR, fn VARCHAR, "
        "ln BIGINT, d DECIMAL(30, 3), x DOUBLE, PRIMARY KEY (k)",
        "OPTIONS ('merge_mode' 'aggregate', 'merge.v' 'sum', 'merge.s' 'max', 'merge.n' 'count', "
        "'merge.lo' 'min', 'merge.hi' 'max', 'merge.every' 'bool_and', 'merge.some' 'bool_or', "
        "'merge.ba' 'bit_and', 'merge.bo' 'bit_or', 'merge.bx' 'bit_xor', 'merge.f' 'first', "
        "'merge.l' 'last', 'merge.fn' 'first_non_null', 'merge.ln' 'last_non_null', "
        "'merge.d' 'sum', 'merge.x' 'sum')", "", "",
        ["INSERT INTO folds (k, v, s, n, lo, hi, every, some, ba, bo, bx, f, l, fn, ln, d, x) "
         "SELECT value, {value} AS v, 's{step}' AS s, 1 AS n, "
         "{value} / 3.0 - value AS lo, {value} / 4.0 AS hi, value % 5 <> {small} AS every, "
         "value = {value} AS some, 4095 - {value} AS ba, value * {value} AS bo, {value} AS bx, "
         "'f{step}' AS f, nullif('l{small}', 'l2') AS l, nullif('f{small}', 'f1') AS fn, "
         "nullif({small}, 4) AS ln, {value} / 8.0 AS d, 1.0 / (value + {small} + 1) AS x "
         "FROM {series}"] * 3 +
        ["INSERT INTO folds (k, n, lo, hi) SELECT value, value % 2, 'NaN', '-0.0' FROM {series}"]),
    "cdc": Table(
        "k BIGINT NOT NULL, v BIGINT, s VARCHAR, lsn BIGINT, op VARCHAR, PRIMARY KEY (k)",
        "OPTIONS ('sequence_by' 'lsn', 'op_column' 'op', 'unstored' 'lsn, op')",
        ", lsn, op", ", {small} AS lsn, 'u' AS op",
        ["INSERT INTO cdc (k, lsn, op) SELECT value, {small} + 20, 'd' FROM {series}",
         "INSERT INTO cdc (k, v, s, lsn, op) SELECT value, {value}, 'late', {small} - 5, '+I' "
         "FROM {series}"]),
    "ops": Table(
        "s VARCHAR, k BIGINT NOT NULL, v BIGINT, a INT NOT NULL, b VARCHAR NOT NULL, op VARCHAR, "
        "PRIMARY KEY (k)",
        "PARTITIONED BY (s) OPTIONS ('sequence_by' 'a, b', 'op_column' 'op', 'op_delete' 'gone', "
        "'op_ignore' 'old', 'tombstone_horizon' '1 second')",
        ", a, b, op", ", {small} AS a, 's{value}' AS b, 'c' AS op",
        ["INSERT INTO ops (k, a, b, op) SELECT value, {small}, 't', CASE WHEN value % 3 = 0 THEN "
         "'old' ELSE 'gone' END FROM {series}"]),
    "parts": Table(
        "p VARCHAR, k BIGINT NOT NULL, day DATE NOT NULL, v BIGINT, s VARCHAR, m DECIMAL(9, 2), "
        "PRIMARY KEY (k, day)",
        "PARTITIONED BY (p, m)", ", p, day", ", concat('a/', value % 3) AS p, "
        "DATE '2024-02-28' + CAST({small} % 3 AS INT) AS day",
        ["UPDATE parts SET p = '100 % = {small}', m = {value} / 100.0 WHERE k < {high}",
         "UPDATE parts SET p = NULL, v = {value} WHERE k BETWEEN {low} AND {high}",
         "DELETE FROM parts WHERE p = 'a/1' OR day > DATE '2024-02-29' AND k < {high}",
         "INSERT INTO parts (k, day, p) SELECT value, DATE '2024-02-29', '' FROM {series}"]),
    "wide": Table(
        "k INT NOT NULL, v SMALLINT, s VARCHAR, b BOOLEAN NOT NULL, f FLOAT, d DECIMAL(6, 2), "
        "PRIMARY KEY (k), CHECK (v >= 0)", "PARTITIONED BY (b)",
        ", b, f, d", ", value % 2 = 0 AS b, value / 3.0 AS f, value / 100.0 AS d", []),
}

# Statements for every table, the commoner ones twice.
ALL = [
    "INSERT INTO {t} (k, v, s{names}) SELECT value, value % 7 * {value}, 'i{step}'{values} "
    "FROM {series}",
    "INSERT INTO {t} (k, v, s{names}) SELECT value % 9, {value}, nullif('j{small}', 'j1'){values} "
    "FROM {series}",
    "UPDATE {t} SET v = v + 1, s = 'u{small}' WHERE k BETWEEN {low} AND {high}",
    "DELETE FROM {t} WHERE k BETWEEN {low} AND {low} + 4",
    "MERGE INTO {t} USING (SELECT value AS k FROM {series}) AS x ON {t}.k = x.k "
    "WHEN MATCHED AND {t}.k % 3 = 0 THEN DELETE WHEN MATCHED THEN UPDATE SET v = {value} "
    "WHEN NOT MATCHED THEN INSERT (k, v{names}) VALUES (x.k, {value}{merged})",
] * 2 + [
    "REPLACE INTO {t} (k, v, s{names}) SELECT value, {value}, NULL{values} FROM {series}",
    "UPDATE {t} SET s = NULL WHERE v > {value}",
    "OPTIMIZE {t}",
    "{checkpoint} {t}",
    "RESTORE {t} TO VERSION AS OF {version}",
]
# At most one of these in a session, for some tables.
SELDOM = [
    "TRUNCATE TABLE {t}",
    "INSERT OVERWRITE {t} (k, v, s{names}) SELECT value, {value}, 'o'{values} FROM {series}",
    "DELETE FROM {t} WHERE k % 2 = {small} % 2",
]

# Two of these, in any order, begin a stage of `wide`.
EVOLUTIONS = [
    "ALTER TABLE wide ALTER COLUMN k TYPE BIGINT, ALTER COLUMN v TYPE INT;"
    "INSERT INTO wide (k, v, b) VALUES (4000000000, 70000, true), (3, 2147400000, false)",
    "ALTER TABLE wide ALTER COLUMN f TYPE DOUBLE, ALTER COLUMN d TYPE DECIMAL(12, 4);"
    "INSERT INTO wide (k, f, d, b) VALUES (7, 0.1, 123456.0101, false), (70, 'NaN', -1, true)",
    "ALTER TABLE wide ALTER COLUMN b DROP NOT NULL;"
    "INSERT INTO wide (k, v) VALUES (8, 8), (88, 88)",
    "ALTER TABLE wide ADD CONSTRAINT early CHECK (k < 5000000000);"
    "UPDATE wide SET s = 'early' WHERE k < {high};"
    "ALTER TABLE wide DROP CONSTRAINT early",
]
KINDS = {"BIGINT": "k * 3", "VARCHAR": "concat('x', k)", "DOUBLE": "k / 7.0", "BOOLEAN": "k > 9",
         "DATE": "DATE '2024-02-29'", "DECIMAL(38, 10)": "k / 7.0", "BYTEA": "X'00ff'",
         "TIMESTAMP WITH TIME ZONE": "TIMESTAMP '2024-02-29T23:59:59.999999Z'",
         "TIMESTAMP": "TIMESTAMP '1969-12-31T23:59:59.999999'"}

STREAMS = """
CREATE UNBOUNDED EXTERNAL TABLE events (id VARCHAR NOT NULL, k VARCHAR, n BIGINT, at TIMESTAMP,
  WATERMARK FOR at AS at - INTERVAL '40 seconds')
STORED AS JSON LOCATION '{folder}/events/' OPTIONS ('file_delay' '0 seconds');
CREATE UNBOUNDED EXTERNAL TABLE changes (k BIGINT NOT NULL, v BIGINT, s VARCHAR,
  lsn BIGINT NOT NULL, op VARCHAR) STORED AS JSON LOCATION '{folder}/changes/';
"""

# Each target: its columns, what stands behind them, and its query.
PIPELINES = {
    "minutes": ("k VARCHAR NOT NULL, minute TIMESTAMP NOT NULL, c BIGINT, s BIGINT, a DOUBLE, "
                "ids BYTEA, d DECIMAL(38, 2), PRIMARY KEY (k, minute)", "",
                "SELECT coalesce(k, 'none') AS k, date_bin(INTERVAL '1 minute', at) AS minute, "
                "count(*) AS c, sum(n) AS s, avg(n) AS a, hll_state(id) AS ids, "
                "sum(CAST(n * 3 AS DECIMAL(28, 2))) AS d FROM events "
                "GROUP BY coalesce(k, 'none'), date_bin(INTERVAL '1 minute', at) "
                "HAVING count(*) % 3 <> 0"),
    "visits": ("k VARCHAR NOT NULL, start TIMESTAMP NOT NULL, until TIMESTAMP, c BIGINT, "
               "PRIMARY KEY (k, start)", "",
               "SELECT coalesce(k, 'none') AS k, session(at, INTERVAL '9 seconds') AS start, "
               "session_end(at, INTERVAL '9 seconds') AS until, count(*) AS c FROM events "
               "GROUP BY coalesce(k, 'none'), session(at, INTERVAL '9 seconds')"),
    "hops": ("k VARCHAR NOT NULL, start TIMESTAMP NOT NULL, c BIGINT, PRIMARY KEY (k, start)",
             "PARTITIONED BY (k)",
             "SELECT coalesce(k, 'none') AS k, "
             "hop(at, INTERVAL '1 minute', INTERVAL '3 minutes') AS start, count(*) AS c "
             "FROM events GROUP BY coalesce(k, 'none'), "
             "hop(at, INTERVAL '1 minute', INTERVAL '3 minutes') HAVING sum(n) > 0"),
    "levels": ("k VARCHAR NOT NULL, hour TIMESTAMP NOT NULL, minute TIMESTAMP NOT NULL, "
               "level INT NOT NULL, c BIGINT, s BIGINT, PRIMARY KEY (k, hour, minute, level)",
               "PARTITIONED BY (level)",
               "SELECT k, coalesce(hour, TIMESTAMP '1970-01-01') AS hour, "
               "coalesce(minute, TIMESTAMP '1970-01-01') AS minute, "
               "grouping(hour, minute) AS level, count(*) AS c, sum(n) AS s "
               "FROM (SELECT coalesce(k, 'none') AS k, date_trunc('hour', at) AS hour, "
               "date_trunc('minute', at) AS minute, n FROM events) "
               "GROUP BY k, ROLLUP(hour, minute)"),
    "ids": ("id VARCHAR NOT NULL, k VARCHAR, n BIGINT, at TIMESTAMP, PRIMARY KEY (id)",
            "PARTITIONED BY (k)",
            "SELECT id, k, n, at FROM events DEDUP BY id WITHIN INTERVAL '3 minutes'"),
    "feed": ("k BIGINT NOT NULL, v BIGINT, s VARCHAR, lsn BIGINT, op VARCHAR, PRIMARY KEY (k)",
             "OPTIONS ('sequence_by' 'lsn', 'op_column' 'op', 'unstored' 'op')",
             "SELECT k, v, s, lsn, op FROM changes"),
    "sums": ("k BIGINT NOT NULL, v BIGINT, s VARCHAR, PRIMARY KEY (k)",
             "OPTIONS ('merge_mode' 'aggregate', 'merge.v' 'sum', 'merge.s' 'last_non_null')",
             "SELECT k, v, s FROM changes"),
}
# Pipelines over the changes of those.
SECOND = {
    "totals": ("k VARCHAR NOT NULL, c BIGINT, s BIGINT, PRIMARY KEY (k)", "",
               "SELECT k, sum(c) AS c, sum(s) AS s FROM minutes_changes GROUP BY k"),
    "copy": ("k BIGINT NOT NULL, s VARCHAR, v BIGINT, PRIMARY KEY (k)", "PARTITIONED BY (s)",
             "SELECT k, s, v FROM feed_changes WHERE k % 4 <> 0"),
}
# What else happens to those, between two runs.
BESIDE = ["OPTIMIZE {p}", "CHECKPOINT {p}", "RESTORE {p} TO VERSION AS OF {version}"]
BESIDE_ROWS = ["UPDATE {p} SET v = 7, s = 'dml' WHERE k BETWEEN {low} AND {high}",
               "DELETE FROM {p} WHERE k BETWEEN {low} AND {high}"]


class World:
    """Tables in a folder, and a seed that says what happens to them."""

    def __init__(self, folder, seed, steps):
        self.folder, self.seed, self.steps = folder, seed, steps
        self.random = random.Random(seed)
        self.checkpoint_interval, self.compact_files_min = (
            SPACINGS[seed - 1] if seed in SEEDS else
            (self.random.choice((1, 2, 5, 30, 100_000)), self.random.choice((2, 3, 8, 16))))
        self.floors = collections.Counter()  # what may be restored begins here
        self.evolutions = self.random.sample(EVOLUTIONS, len(EVOLUTIONS))
        self.done = collections.Counter()  # how often each kind of statement came

    def location(self, table):
        return os.path.join(self.folder, table)

    def versions(self, table):
        """All that are kept: the oldest has a checkpoint, and none is missing."""
        names = os.listdir(os.path.join(self.location(table), "_delta_log"))
        found = sorted(int(name[:20]) for name in names if name[20:] == ".json")
        assert found == list(range(found[0], found[-1] + 1)), (table, found)
        assert found[0] == 0 or f"{found[0]:020}.checkpoint.parquet" in names, (table, names)
        return found

    def files(self, table):
        """All that other engines may read."""
        found = os.walk(self.location(table))
        return {os.path.join(folder, name) for folder, _, names in found for name in names
                if "_onefold" not in folder}

    def onefold(self, command, sql, expect=0):
        """Runs a script; what it said and did is in the message if that was not expected."""
        settings = (f"SET onefold.checkpoint_interval = {self.checkpoint_interval};"
                    f"SET onefold.compact_files_min = {self.compact_files_min};"
                    "SET datafusion.execution.time_zone = '+00:00';")
        path = os.path.join(self.folder, "script.sql")
        with open(path, "w") as script:
            script.write(settings + sql)
        arguments = ["sql", "-f", path] if command == "sql" else ["run", path]
        done = subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, timeout=300)
        assert done.returncode == expect, f"seed {self.seed}, {done.stderr}\nof\n{sql}"
        return done

    def declared(self):
        """The tables of statements; the definition is in the log once they are there."""
        return "".join(self.opened(name) if os.path.exists(self.location(name)) else
                       self.created(name, table.columns, table.options)
                       for name, table in TABLES.items())

    def opened(self, name):
        return f"CREATE EXTERNAL TABLE {name} STORED AS DELTA LOCATION '{self.location(name)}';\n"

    def created(self, name, columns, options):
        return (f"CREATE EXTERNAL TABLE {name} ({columns}) STORED AS DELTA "
                f"LOCATION '{self.location(name)}' {options};\n")

    def filled(self, text, **names):
        """A statement with numbers in place of its braces, and those of its parts."""
        self.done[text] += 1
        low = self.random.randrange(60)
        numbers = {"low": low, "high": low + self.random.randrange(20),
                   "value": self.random.randrange(1000), "small": self.random.randrange(30)}
        numbers["series"] = "generate_series({low}, {high})".format(**numbers)
        parts = {name: str(part).format(**numbers) for name, part in names.items()}
        merged = re.sub(r" AS \w+(?=,|$)", "", parts.get("values", ""))
        parts["merged"] = merged.replace("value", "x.k")
        return text.format(**numbers, **parts) + ";\n"

    def restorable(self, table):
        return self.random.choice([v for v in self.versions(table) if v >= self.floors[table]])

    def statements(self):
        """Statements of a session, for the tables at random, of kinds that fit the table."""
        seldom = {name for name in TABLES if self.random.random() < 0.5}
        for step in range(SESSION_STEPS):
            name = self.random.choice(list(TABLES))
            table, kinds = TABLES[name], ALL + TABLES[name].own * 3
            if name in seldom and self.random.random() < 0.2:
                kinds = SELDOM
                seldom.remove(name)
            checkpoint = "CHECKPOINT" if self.checkpoint_interval < 100 else "OPTIMIZE"
            yield self.filled(
                self.random.choice(kinds), t=name, step=step, names=table.names,
                values=table.values, version=self.restorable(name), checkpoint=checkpoint)

    def evolve(self, stage):
        """Schemas change: the types of `wide`, which no RESTORE crosses; any one, by a column."""
        if stage == 0:
            return
        sql = self.declared()
        for _ in self.evolutions[:2]:
            sql += self.filled(self.evolutions.pop())
        grown, kind = self.random.choice(list(TABLES)), self.random.choice(list(KINDS))
        sql += (f"ALTER TABLE {grown} ADD COLUMN x{stage} {kind};\n"
                f"UPDATE {grown} SET x{stage} = {KINDS[kind]} WHERE k % 2 = 0;\n")
        self.onefold("sql", sql)
        self.floors["wide"] = self.versions("wide")[-1]

    def refused(self):
        """What a CHECK forbids is in no version."""
        before = self.versions("last")[-1]
        too_large = "INSERT INTO last (k, v) VALUES (1, 1000000)"
        done = self.onefold("sql", self.declared() + too_large, expect=1)
        assert "v < 1000000" in done.stderr, done.stderr
        assert self.versions("last")[-1] == before, "a row that a CHECK forbids"

    def work(self, stage):
        """One session writes, cleans up in between, and shows the rows that it has then."""
        self.onefold("sql", self.declared())
        for _ in range(0, self.steps, SESSION_STEPS):
            work = list(self.statements())
            if stage and self.checkpoint_interval < 100:
                for name in TABLES:  # a vacuum may take what was to be restored
                    restores = [n for n, sql in enumerate(work) if f"RESTORE {name}" in sql]
                    at = self.random.randint(restores[-1] + 1 if restores else 0, len(work))
                    work.insert(at, f"VACUUM {name} RETAIN 24 HOURS;\n")
            shown = "".join(f"COPY (SELECT * FROM {name}) TO '{self.out(name, 'seen')}';\n"
                            for name in TABLES)
            self.onefold("sql", self.declared() + "".join(work) + shown)

    def out(self, table, what):
        return os.path.join(self.folder, "out", f"{table}-{what}.parquet")

    def feed(self, file):
        """A file more of each stream: rows out of order, retries, NULLs, and some late ones."""
        dice = self.random
        began = datetime.datetime(2024, 5, 1)
        with open(os.path.join(self.folder, "events", f"{file:03}.json"), "w") as out:
            for row in range(200):
                second = 400 * file + 2 * row + dice.randrange(-30, 30)
                out.write(json.dumps({
                    "id": f"e{dice.randrange(150 * file, 150 * file + 250)}",
                    "k": dice.choice((None, "a", "b", "c/d %")),
                    "n": dice.choice((None, dice.randrange(-50, 50))),
                    "at": (began + datetime.timedelta(seconds=second)).isoformat()}) + "\n")
        with open(os.path.join(self.folder, "changes", f"{file:03}.json"), "w") as out:
            for _ in range(150):
                out.write(json.dumps({
                    "k": dice.randrange(60), "v": dice.choice((None, dice.randrange(99))),
                    "s": dice.choice((None, "x", "y/z")), "op": dice.choice("cudrI"),
                    "lsn": dice.randrange(15 * file, 15 * file + 60)}) + "\n")

    def pipelines(self, stage, is_first):
        """Each goes on, in epochs of some rows; then things happen to its table."""
        streams = STREAMS.format(folder=self.folder)
        first = "SET onefold.epoch_rows_max = 170;" + streams
        second = "SET onefold.epoch_rows_max = 25;" + "".join(
            f"CREATE UNBOUNDED EXTERNAL TABLE {name}_changes STORED AS DELTA "
            f"LOCATION '{self.location(name)}';\n" for name in ("minutes", "feed"))
        for pipelines, sql in ((PIPELINES, first), (SECOND, second)):
            for name, (columns, options, select) in pipelines.items():
                sql += self.created(name, columns, options) + f"INSERT INTO {name} {select};\n"
            self.onefold("run", sql)
        if is_first:  # a version whose source is vacuumed cannot go on
            for name in SECOND:
                self.floors[name] = self.versions(name)[-1]
        beside = ""
        for name in [*PIPELINES, *SECOND]:
            kinds = BESIDE + BESIDE_ROWS * 2 * (name in ("feed", "sums", "copy"))
            for kind in self.random.sample(kinds, self.random.randrange(3)):
                beside += self.filled(kind, p=name, version=self.restorable(name))
            if stage and self.checkpoint_interval < 100:
                beside += f"VACUUM {name};\n"
        opened = "".join(self.opened(name) for name in [*PIPELINES, *SECOND])
        self.onefold("sql", opened + beside)

    def age(self):
        """All files become older, as the store tells it; by that a vacuum goes."""
        for folder, _, names in os.walk(self.folder):
            for path in (os.path.join(folder, name) for name in names):
                if not path.startswith((os.path.join(self.folder, "events"),
                                        os.path.join(self.folder, "changes"))):
                    then = os.stat(path).st_mtime - AGED_HOURS * HOUR_S
                    os.utime(path, (then, then))


class Readers:
    """The rows of a version, as each engine has them."""

    def __init__(self, world):
        import_extension("delta")
        self.world, self.duckdb = world, duckdb.connect()
        self.duckdb.execute("LOAD delta")
        # By table: the newest version there was, and the files of all.
        self.compared = collections.defaultdict(lambda: (-1, set()))

    def ours(self, table, versions):
        """Of many versions at once, and of the table as it is."""
        asked = self.world.opened(table)
        for version in versions:
            out = self.world.out(table, version)
            asked += f"COPY (SELECT * FROM {table} VERSION AS OF {version}) TO '{out}';\n"
        asked += f"COPY (SELECT * FROM {table}) TO '{self.world.out(table, 'newest')}';\n"
        self.world.onefold("sql", asked)
        return {version: self.read(table, version) for version in [*versions, "newest"]}

    def read(self, table, what):
        path = self.world.out(table, what)
        found = pyarrow.parquet.ParquetFile(path).read()
        os.remove(path)
        return found

    def delta_rs(self, table, version=None):
        """What answers a WHERE at a version, or at the newest one that the engine finds."""
        opened = DeltaTable(self.world.location(table), version=version)
        assert version is not None or opened.version() == self.world.versions(table)[-1], table
        read = QueryBuilder().register("t", opened)
        return lambda where="": pyarrow.table(
            read.execute(f"SELECT * FROM t {where}").read_all())

    def duck(self, table, version=None):
        at = "" if version is None else f", version => {version}"
        scan = f"SELECT * FROM delta_scan('{self.world.location(table)}'{at}) "
        return lambda where="": self.duckdb.execute(scan + where).to_arrow_table()


def exact(value):
    """A value that is equal to itself as another engine has it, and to nothing else."""
    if isinstance(value, float):
        return "float", value.hex()  # NaN is NaN, and -0 is not 0
    if isinstance(value, decimal.Decimal):
        return value.normalize()
    if isinstance(value, datetime.datetime) and value.tzinfo:
        return value.astimezone(datetime.timezone.utc)
    return value


def rows_of(table, columns):
    """Rows in an order of their own; a column that is not there yet is NULL."""
    assert set(table.column_names) <= set(columns), (table.column_names, columns)
    values = [table.column(name).to_pylist() if name in table.column_names else
              [None] * table.num_rows for name in columns]
    return sorted((tuple(map(exact, row)) for row in zip(*values)), key=repr)


def compare(readers, table, key, dice):
    """At versions that were not compared yet the engines have our rows, and every key once.

    Where a file is gone since, those that are kept are compared again.
    """
    world, files = readers.world, readers.world.files(table)
    versions, (newest, before) = world.versions(table), readers.compared[table]
    fresh = [v for v in versions if v > newest or before - files]
    readers.compared[table] = versions[-1], files
    ours = readers.ours(table, fresh)
    columns = ours["newest"].column_names
    for version in [*fresh, "newest"]:
        rows = rows_of(ours[version], columns)
        keys = {tuple(row[columns.index(name)] for name in key) for row in rows}
        assert len(keys) == len(rows), (world.seed, table, version, "a key is there twice")
        for engine in (readers.delta_rs, readers.duck):
            what = (world.seed, table, version, engine.__name__)
            read = engine(table, None if version == "newest" else version)
            found = read()
            assert version != "newest" or found.column_names == columns, (*what, found)
            differ(rows, rows_of(found, columns), what)
            if dice.random() < SHARE_FILTERED[engine.__name__]:
                where, some = predicate(rows, columns, found.column_names, dice)
                differ(some, rows_of(read(where), columns), (*what, where))
    return len(fresh)


def replayed(world, table):
    """The most commits that a reader of one version reads, there being no checkpoint."""
    names = os.listdir(os.path.join(world.location(table), "_delta_log"))
    checkpoints = {int(name[:20]) for name in names if "checkpoint" in name[20:]}
    longest = length = 0
    for version in world.versions(table):
        length = 0 if version in checkpoints else length + 1
        longest = max(longest, length)
    return longest


def differ(ours, theirs, what):
    """Says which rows only one of them has."""
    if ours != theirs:
        count, other = collections.Counter(ours), collections.Counter(theirs)
        raise AssertionError((*what, "only ours", list((count - other).elements())[:5],
                              "only theirs", list((other - count).elements())[:5]))


def predicate(rows, columns, there, dice):
    """A WHERE that statistics may answer, and the rows that it is true for.

    NaN, which is in no statistics, is greater than all only to an engine that does not look at
    them: DuckDB answers so of a file of pyarrow, too.
    """
    row = dice.choice(rows) if rows else ()
    at = [n for n, value in enumerate(row) if columns[n] in there and literal(value)]
    if not at:
        return f"WHERE {columns[0]} IS NULL", [r for r in rows if r[0] is None]
    at = dice.choice(at)
    value = plain(row[at])
    sign = dice.choice(("=", "<", "IS NULL") + (">=",) * (type(value) is not float))
    if sign == "IS NULL":
        return f'WHERE "{columns[at]}" IS NULL', [r for r in rows if r[at] is None]
    keeps = {"=": lambda v: v == value, ">=": lambda v: v >= value, "<": lambda v: v < value}
    where = f'WHERE "{columns[at]}" {sign} {literal(row[at])}'
    return where, [r for r in rows if r[at] is not None and keeps[sign](plain(r[at]))]


def plain(value):
    return float.fromhex(value[1]) if isinstance(value, tuple) else value


def literal(value):
    """The value in SQL; None if it is not asked for."""
    value = plain(value)
    if isinstance(value, float):
        return f"CAST('{value!r}' AS DOUBLE)" if value == value else None  # not of NaN
    if isinstance(value, (bool, int)):
        return str(value)
    if isinstance(value, str):
        return f"'{value}'"
    if isinstance(value, decimal.Decimal):
        return f"CAST('{value:f}' AS DECIMAL(38, 10))"
    if isinstance(value, datetime.datetime):
        return f"CAST('{value}' AS TIMESTAMP{'TZ' if value.tzinfo else ''})"
    return f"DATE '{value}'" if isinstance(value, datetime.date) else None


def keys_of(columns):
    return columns.split("PRIMARY KEY (")[1].split(")")[0].split(", ")


def workload(seed, stages, steps):
    """All stages of one seed; what was done in them."""
    compared = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in ("out", "events", "changes"):
            os.mkdir(os.path.join(folder, name))
        world = World(folder, seed, steps)
        readers, dice = Readers(world), random.Random(seed)
        columns = {**{name: table.columns for name, table in TABLES.items()},
                   **{name: text[0] for name, text in {**PIPELINES, **SECOND}.items()}}
        for stage in range(stages):
            world.age()
            world.evolve(stage)
            world.work(stage)
            world.refused()
            for name in TABLES:
                seen = readers.read(name, "seen")
                differ(rows_of(seen, seen.column_names),
                       rows_of(readers.delta_rs(name)(), seen.column_names),
                       (seed, name, "as the session that wrote has it"))
            for file in (2 * stage, 2 * stage + 1):
                world.feed(file)
                world.pipelines(stage, file == 2 * stage)
            for name in columns:
                compared += compare(readers, name, keys_of(columns[name]), dice)
        cleaned = sum(world.versions(name)[0] > 0 for name in columns)
        longest = max(replayed(world, name) for name in columns)
    print(f"seed {seed}: delta-rs and DuckDB read our rows at each of {compared} versions of "
          f"{len(columns)} tables, {cleaned} of them vacuumed, up to {longest} commits behind a "
          "checkpoint", flush=True)
    return world.done


def main():
    given, done = list(map(int, sys.argv[2:])), collections.Counter()
    if given:
        workload(*given)
        return
    for seed in SEEDS:
        done += workload(seed, STAGES, STEPS)
    own = [kind for table in TABLES.values() for kind in table.own]
    missing = {*ALL, *SELDOM, *EVOLUTIONS, *own, *BESIDE, *BESIDE_ROWS} - done.keys()
    assert not missing, missing


main()
