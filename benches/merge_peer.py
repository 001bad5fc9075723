"""The `deltalake` package's MERGE over the data of benches/merge.rs; prints seconds per epoch.

usage: merge_peer.py FOLDER ROWS EPOCHS EPOCH_ROWS
"""

import sys
import time

import numpy
import pyarrow
from deltalake import DeltaTable, write_deltalake

folder, rows, epochs, epoch_rows = sys.argv[1], *map(int, sys.argv[2:5])


def batch(keys, value):
    return pyarrow.table({
        "k": pyarrow.array(keys, pyarrow.int64()),
        "v": pyarrow.array(numpy.full(len(keys), value), pyarrow.int64()),
        "amount": pyarrow.array(keys * 1.5, pyarrow.float64()),
    })


write_deltalake(folder, batch(numpy.arange(rows), 0))
state = 1
spent = 0.0
for epoch in range(1, epochs + 1):
    keys = set()
    while len(keys) < epoch_rows:
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        keys.add((state >> 33) % rows)
    source = batch(numpy.array(sorted(keys)), epoch)
    start = time.perf_counter()
    table = DeltaTable(folder)
    table.merge(source, "t.k = s.k", source_alias="s", target_alias="t") \
        .when_matched_update_all().when_not_matched_insert_all().execute()
    spent += time.perf_counter() - start
print(spent / epochs)
