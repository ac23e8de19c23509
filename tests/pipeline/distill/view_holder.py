"""A process that maps view 1 of a store, says so, and lets go of it when told: STORE SCRATCH."""

import os
import sys
from pathlib import Path

from compress_ssl.pipeline.distill.mapped_view import MappedView
from compress_ssl.storage import open_store

store, scratch = map(Path, sys.argv[1:])
mapped = MappedView(open_store(store)["train"], 1, scratch)
(file,) = scratch.glob("*.float16")
print(os.stat(file).st_ino, float(mapped.embeddings.double().sum()), flush=True)
sys.stdin.readline()
mapped.close()
