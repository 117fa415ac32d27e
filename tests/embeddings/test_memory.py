"""Word vectors are read in a memory that does not grow with their file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

COUNT, WIDTH = 250_000, 300

SCRIPT = """
import json, resource, sys
from sign_zs3.embeddings import build_table, read_vectors
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
names = ["w0000007 w0249999", "w0123456", "gone"]
table = build_table({"word2vec": read_vectors(sys.argv[1], names)}, names, "drop")
table.save(sys.argv[2])
print(json.dumps({"before": before, "after": peak(), "torch": "torch" in sys.modules}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is in KiB on Linux, in bytes elsewhere")
def test_a_word2vec_file_of_300_mb(tmp_path: Path) -> None:
    path = tmp_path / "vectors.bin"
    block = 25_000
    entries = np.zeros(block, dtype=[("word", "S9"), ("vector", "<f4", WIDTH)])
    assert entries.itemsize == 9 + 4 * WIDTH
    with path.open("wb") as file:
        file.write(b"%d %d\n" % (COUNT, WIDTH))
        for start in range(0, COUNT, block):
            entries["word"] = [b"w%07d " % number for number in range(start, start + block)]
            entries["vector"] = np.arange(start, start + block)[:, None]
            entries.tofile(file)
    assert path.stat().st_size > 300e6
    output = tmp_path / "table.npz"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path), str(output)], capture_output=True, text=True, check=False
    )
    path.unlink()
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["after"] - found["before"] < 40 * 1024, found
    # torch alone takes several hundred MB
    assert not found["torch"]
    with np.load(output) as table:
        assert table["names"].tolist() == ["w0000007 w0249999", "w0123456"]
        np.testing.assert_array_equal(table["word2vec"][:, 0], [(7 + 249_999) / 2, 123_456])
