"""Plain RocksDB as a peer: builds and runs crates/engine/examples/raw_reads.rs."""

import json
import os
import shutil
import subprocess
from pathlib import Path

from servers import ROOT, binary, folder, placed

NAME = "raw_reads"


def build():
    """The program; built with the whole workspace's features, so that RocksDB is not built again."""
    program = Path(binary()).parent / "examples" / NAME
    target = Path(binary()).resolve().parent.parent
    subprocess.run(
        ["cargo", "build", "--release", "--workspace", "--example", NAME, *(["--locked"] if os.environ.get("CI") else [])],
        cwd=ROOT, env={**os.environ, "CARGO_TARGET_DIR": str(target)}, stdin=subprocess.DEVNULL, check=True)
    return program


def measure(program, keys, value_bytes, memory_bytes, seconds, threads, cgroup=None):
    """Fills, settles and reads in one process; gives what it printed. Its rows are gone afterwards."""
    rows = folder("raw")
    words = [program, rows, keys, value_bytes, memory_bytes, seconds, *threads]
    try:
        done = subprocess.run([*placed(cgroup), *map(str, words)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              text=True, check=True)
    finally:
        shutil.rmtree(rows)
    return json.loads(done.stdout)
