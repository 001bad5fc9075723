"""Runs the program against an S3 server and lets other engines read what it wrote.

servers.sh calls it: PROGRAM and the path of moto_server. Every version of a random workload is in
readers.py.
"""

import http.server
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

PROGRAM, MOTO = sys.argv[1:3]

SOURCE = """
SET onefold.epoch_rows_max = 4000;
CREATE UNBOUNDED EXTERNAL TABLE clicks (
  event_id VARCHAR NOT NULL, post_id BIGINT, amount DOUBLE, event_time TIMESTAMP,
  WATERMARK FOR event_time AS event_time - INTERVAL '30 seconds'
) STORED AS GENERATOR OPTIONS ('rows' '{rows}', 'duplicate_percent' '10');
"""

# The last click of each post: every epoch replaces rows, so there are deletion vectors.
TABLE = """
CREATE EXTERNAL TABLE last_clicks (
  post_id BIGINT NOT NULL, event_id VARCHAR, amount DOUBLE, event_time TIMESTAMP,
  PRIMARY KEY (post_id)
) STORED AS DELTA LOCATION '{location}';
"""

INSERT = """
INSERT INTO last_clicks SELECT post_id % 500 AS post_id, event_id, amount, event_time
FROM clicks DEDUP BY event_id WITHIN INTERVAL '1 hour';
"""

SELECT = "SELECT post_id, event_id, amount, CAST(event_time AS VARCHAR) AS at FROM last_clicks"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def onefold(*arguments, environment=None, expect=0):
    done = subprocess.run(
        [PROGRAM, *arguments], env={**os.environ, **(environment or {})},
        capture_output=True, text=True, timeout=300)
    assert done.returncode == expect, (done.returncode, done.stdout, done.stderr)
    return done


def run(folder, location, rows, environment=None, expect=0):
    path = os.path.join(folder, "job.sql")
    with open(path, "w") as script:
        script.write(SOURCE.format(rows=rows) + TABLE.format(location=location) + INSERT)
    return onefold("run", path, environment=environment, expect=expect)


def own_rows(location, environment=None):
    sql = TABLE.format(location=location) + SELECT
    done = onefold("sql", "--format", "ndjson", "-c", sql, environment=environment)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return sorted((r["post_id"], r["event_id"], r["amount"], r["at"]) for r in rows)


def deltalake_rows(location, options=None):
    from deltalake import DeltaTable, QueryBuilder
    table = DeltaTable(location, storage_options=options)
    sql = "SELECT post_id, event_id, amount, CAST(event_time AS VARCHAR) AS at FROM t"
    read = QueryBuilder().register("t", table).execute(sql)
    import pyarrow
    rows = pyarrow.table(read.read_all()).to_pylist()
    return sorted((r["post_id"], r["event_id"], r["amount"], r["at"]) for r in rows)


def duckdb_delta():
    import duckdb
    from duckdb_extensions import import_extension
    import_extension("delta")
    connection = duckdb.connect()
    connection.execute("LOAD delta")
    return connection


def duckdb_rows(location):
    sql = ("SELECT post_id, event_id, amount, strftime(event_time, '%Y-%m-%dT%H:%M:%S.%f') "
           f"FROM delta_scan('{location}')")
    return duckdb_delta().execute(sql).fetchall()


def same_time(rows):
    """Times as engines write them differ in zeros at the end and in the T."""
    return sorted((a, b, c, at.replace(" ", "T").rstrip("0").rstrip(".")) for a, b, c, at in rows)


def local_readers(folder):
    location = os.path.join(folder, "last_clicks")
    for rows in (12_000, 30_000):  # the second run goes on where the first ended
        run(folder, location, rows)
        ours = same_time(own_rows(location))
        assert len(ours) == 500, len(ours)
        assert same_time(deltalake_rows(location)) == ours, "deltalake reads other rows"
        assert same_time(duckdb_rows(location)) == ours, "duckdb reads other rows"
    vectors = [name for name in os.listdir(location) if name.endswith(".bin")]
    assert vectors, "no deletion vector was written"
    print(f"delta-rs and DuckDB read the same {len(ours)} rows, {len(vectors)} vector files")


def every_partition(folder):
    """Values of every type name partitions that the engines read as we wrote them."""
    from datetime import date, datetime, timezone
    from decimal import Decimal
    from deltalake import DeltaTable, QueryBuilder
    import pyarrow
    connection = duckdb_delta()
    location = os.path.join(folder, "kinds")
    onefold("sql", "-c", f"""
        SET datafusion.execution.time_zone = '+00:00';
        CREATE EXTERNAL TABLE kinds (k BIGINT NOT NULL, a BOOLEAN, b TINYINT, c SMALLINT, d INT,
          e BIGINT, f DATE, g TIMESTAMP, h TIMESTAMP WITH TIME ZONE, i DECIMAL(20, 3), j VARCHAR,
          PRIMARY KEY (k)) STORED AS DELTA PARTITIONED BY (a, b, c, d, e, f, g, h, i, j)
          LOCATION '{location}';
        INSERT INTO kinds VALUES
          (1, true, 127, -32768, 2147483647, 9223372036854775807, DATE '9999-12-31',
           TIMESTAMP '1969-12-31T23:59:59.999999', TIMESTAMP '2026-05-01T10:00:00.000001Z',
           '-0.005', 'x/y z%'),
          (2, false, -128, 32767, -2147483648, -9223372036854775808, DATE '0001-01-01',
           TIMESTAMP '2200-01-31T23:59:59', TIMESTAMP '1900-01-01T00:00:00Z',
           '12345678901234567.891', 'a=b'),
          (3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '')""")
    utc = timezone.utc
    expected = [
        (1, True, 127, -32768, 2147483647, 9223372036854775807, date(9999, 12, 31),
         datetime(1969, 12, 31, 23, 59, 59, 999999), datetime(2026, 5, 1, 10, 0, 0, 1, utc),
         Decimal("-0.005"), "x/y z%"),
        (2, False, -128, 32767, -2147483648, -9223372036854775808, date(1, 1, 1),
         datetime(2200, 1, 31, 23, 59, 59), datetime(1900, 1, 1, tzinfo=utc),
         Decimal("12345678901234567.891"), "a=b"),
        (3,) + (None,) * 10,
    ]
    other = QueryBuilder().register("t", DeltaTable(location))
    read = pyarrow.table(other.execute("SELECT * FROM t ORDER BY k").read_all()).to_pylist()
    assert [tuple(row[name] for name in "kabcdefghij") for row in read] == expected, read
    scan = f"""SELECT k, a, b, c, d, e, f, g, epoch_us(h), i, j
               FROM delta_scan('{location}') ORDER BY k"""
    epoch = datetime(1970, 1, 1, tzinfo=utc)
    micros = [row[8] and round((row[8] - epoch).total_seconds() * 1_000_000) for row in expected]
    wanted = [row[:8] + (at,) + row[9:] for row, at in zip(expected, micros)]
    read = connection.execute(scan).fetchall()
    assert read == wanted, read
    one = f"SELECT k FROM delta_scan('{location}') WHERE j = 'a=b' AND f < DATE '1000-01-01'"
    assert connection.execute(one).fetchall() == [(2,)]
    print("delta-rs and DuckDB read partitions of every type")


BOUNDS = {
    "DOUBLE": ["119.57142857142857", "-0.0", "0.0", "1e300"],
    "REAL": ["61.25", "-0.0", "0.0"],
    "DECIMAL(38, 10)": ["1234567890123456789012345678.0000000003", "-0.0000000001"],
    "DECIMAL(18, 2)": ["1234567890123456.79"],
    "BIGINT": ["9007199254740993", "-9223372036854775808"],
    "DATE": ["9999-12-31", "0001-01-01"],
    "TIMESTAMP": ["2024-05-01 00:00:00.000001", "1969-12-31 23:59:59.999999"],
    "VARCHAR": ["x" * 33, "", "it''s 100 %"],
    "BOOLEAN": ["true", "false"],
}


def every_bound(folder):
    """The greatest value of a file, and the least one, is found in it, also behind a vector."""
    from deltalake import DeltaTable, QueryBuilder
    import pyarrow
    connection, lost = duckdb_delta(), []
    for number, (kind, texts) in enumerate(BOUNDS.items()):
        location = os.path.join(folder, f"bounds{number}")
        rows = [f"({2 * n}, '{text}'), ({2 * n + 1}, '{text}')" for n, text in enumerate(texts)]
        inserts = ";".join(f"INSERT INTO t VALUES {row}" for row in rows)
        onefold("sql", "-c", f"""CREATE EXTERNAL TABLE t (k BIGINT NOT NULL, v {kind},
            PRIMARY KEY (k)) STORED AS DELTA LOCATION '{location}'; {inserts};
            DELETE FROM t WHERE k % 2 = 1""")
        for version in (len(texts), len(texts) + 1):  # without vectors, and with them
            table = DeltaTable(location, version=version)
            for text in texts:
                for sign in ("=", ">=", "<="):
                    where = f"v {sign} CAST('{text}' AS {kind})"
                    plan = QueryBuilder().register("t", table)
                    read = plan.execute(f"SELECT k FROM t WHERE {where}").read_all()
                    scan = f"delta_scan('{location}', version => {version})"
                    every = f"SELECT k, {where} FROM {scan}"  # nothing is passed over
                    wanted = {k for k, is_true in connection.execute(every).fetchall() if is_true}
                    found = connection.execute(f"SELECT k FROM {scan} WHERE {where}").fetchall()
                    if set(pyarrow.table(read).column("k").to_pylist()) != wanted:
                        lost.append(("delta-rs", version, where))
                    if {k for k, in found} != wanted:
                        lost.append(("DuckDB", version, where))
    assert not lost, "\n".join(map(str, lost))
    print(f"delta-rs and DuckDB find the bounds of files of {len(BOUNDS)} types")


def s3(folder):
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    server = subprocess.Popen([MOTO, "-H", "127.0.0.1", "-p", str(port)],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            try:
                urllib.request.urlopen(endpoint, timeout=1)
                break
            except OSError:
                time.sleep(0.2)
        bucket = urllib.request.Request(f"{endpoint}/lake", method="PUT")
        urllib.request.urlopen(bucket)
        environment = {
            "AWS_ENDPOINT_URL": endpoint, "AWS_ENDPOINT": endpoint, "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1",
        }
        location = "s3://lake/last_clicks"
        first = run(folder, location, 20_000, environment)
        again = run(folder, location, 20_000, environment)
        assert again.stdout.split("rows read")[1].split()[0] == "0", again.stdout
        ours = same_time(own_rows(location, environment))
        assert len(ours) == 500, first.stdout
        read = deltalake_rows(location, {
            **{key: value for key, value in environment.items() if key != "AWS_ENDPOINT"},
            "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "false"})
        assert same_time(read) == ours, "deltalake reads other rows from S3"
        local = os.path.join(folder, "same")
        run(folder, local, 20_000)
        assert same_time(own_rows(local)) == ours, "S3 and a folder give other rows"
        print(f"the same {len(ours)} rows over HTTP")
        odd_folders(environment, {
            **{key: value for key, value in environment.items() if key != "AWS_ENDPOINT"},
            "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "false"})
    finally:
        server.terminate()
        server.wait()


def odd_folders(environment, options):
    """Partitions whose names must be escaped, for the log and over HTTP."""
    from deltalake import DeltaTable, QueryBuilder
    import pyarrow
    texts = ["a/b", "100 %25", "x=y&z+1", "#?", "<|>~*", "M\u00fc", " "]
    values = ", ".join(f"('{text}', {key}, 1)" for key, text in enumerate(texts))
    table = """CREATE EXTERNAL TABLE odd (p VARCHAR, k BIGINT NOT NULL, v BIGINT, PRIMARY KEY (k))
        STORED AS DELTA PARTITIONED BY (p) LOCATION 's3://lake/odd';"""
    onefold("sql", "-c", f"{table} INSERT INTO odd VALUES {values}; UPDATE odd SET v = 2",
            environment=environment)
    asked = f"{table} SELECT p FROM odd WHERE v = 2 ORDER BY k"
    done = onefold("sql", "--format", "ndjson", "-c", asked, environment=environment)
    assert [json.loads(line)["p"] for line in done.stdout.splitlines()] == texts, done.stdout
    other = QueryBuilder().register("t", DeltaTable("s3://lake/odd", storage_options=options))
    read = pyarrow.table(other.execute("SELECT p FROM t WHERE v = 2 ORDER BY k").read_all())
    assert read.column("p").to_pylist() == texts, read
    print(f"{len(texts)} odd names of partitions over HTTP")


class Careless(http.server.BaseHTTPRequestHandler):
    """An S3 that ignores If-None-Match: it must be refused before anything is written."""

    objects = {}

    def do_PUT(self):
        length = int(self.headers.get("Content-Length", 0))
        Careless.objects[self.path.split("?")[0]] = self.rfile.read(length)
        self.answer(200, b"", {"ETag": '"x"'})

    def do_GET(self):
        path = self.path.split("?")[0]
        if path in Careless.objects:
            body = Careless.objects[path]
            return self.answer(200, body, {"ETag": '"x"', "Content-Length-Known": "1"})
        if "list-type" in self.path:
            keys = "".join(
                f"<Contents><Key>{key[len('/lake/'):]}</Key><LastModified>2026-01-01T00:00:00.000Z"
                f"</LastModified><ETag>x</ETag><Size>{len(body)}</Size></Contents>"
                for key, body in sorted(Careless.objects.items()))
            listing = f"<ListBucketResult><IsTruncated>false</IsTruncated>{keys}</ListBucketResult>"
            return self.answer(200, listing.encode(), {"Content-Type": "application/xml"})
        return self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>", {})

    def do_HEAD(self):
        self.do_GET()

    def do_DELETE(self):
        Careless.objects.pop(self.path.split("?")[0], None)
        self.answer(204, b"", {})

    do_POST = do_DELETE

    def answer(self, status, body, headers):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


def careless(folder):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Careless)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    environment = {
        "AWS_ENDPOINT": endpoint, "AWS_ALLOW_HTTP": "true", "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1",
    }
    refused = run(folder, "s3://lake/t", 1_000, environment, expect=1)
    assert "ignores put-if-absent" in refused.stderr, refused.stderr
    data = [key for key in Careless.objects if "/part-" in key]
    assert not data, data
    server.shutdown()
    print("a store that ignores put-if-absent is refused")


with tempfile.TemporaryDirectory() as scratch:
    local_readers(scratch)
with tempfile.TemporaryDirectory() as scratch:
    every_partition(scratch)
with tempfile.TemporaryDirectory() as scratch:
    s3(scratch)
with tempfile.TemporaryDirectory() as scratch:
    careless(scratch)
with tempfile.TemporaryDirectory() as scratch:
    every_bound(scratch)
