#!/usr/bin/env bash
# The program over HTTP against moto's S3, and its tables read by delta-rs and DuckDB, row for row.
# usage: tests/servers.sh PROGRAM     (needs python3 with venv, and PyPI)
set -euo pipefail
cd "$(dirname "$0")/.."
program=$1
target="${CARGO_TARGET_DIR:-$HOME/.cache/onefold/target}"
venv="$target/servers-venv"
if [ ! -f "$venv/ready-1" ]; then
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check \
    'moto[s3]==5.2.5' flask flask-cors deltalake==1.6.6 pyarrow \
    duckdb==1.5.5 duckdb-extension-delta==1.5.5 duckdb-extensions==1.5.5
  touch "$venv/ready-1"
fi
"$venv/bin/python" tests/readers.py "$program"
exec "$venv/bin/python" tests/servers.py "$program" "$venv/bin/moto_server"
