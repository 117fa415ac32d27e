"""Word vectors are read in a memory that does not grow with their file."""

from __future__ import annotations

import gzip
import json
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from sign_zs3.data.splits import COCO_STUFF_CLASSES, VOC_CLASSES
from sign_zs3.embeddings import read_vectors, words_of
from sign_zs3.errors import UserError

COUNT, WIDTH = 250_000, 300

SCRIPT = """
import json, sys
from pathlib import Path
from sign_zs3.embeddings import build_table, read_vectors
peak = lambda: int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
before = peak()
names = ["w0000007 w0249999", "w0123456", "gone"]
table = build_table({"word2vec": read_vectors(sys.argv[1], names)}, names, "drop")
table.save(sys.argv[2])
print(json.dumps({"before": before, "after": peak(), "torch": "torch" in sys.modules}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
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


LARGE = 2**31 - 1
FASTTEXT = struct.pack("<2i", 793712314, 12)
ARGUMENTS = struct.pack("<12id", 300, 5, 5, 5, 5, 1, 2, 1, LARGE, 3, 6, 100, 1e-4)


@pytest.mark.parametrize(
    "content",
    [
        b"1000000000 300\ndog " + bytes(1200),
        b"1 1000000000\ndog " + bytes(1200),
        b"10 16384\n" + bytes(50_000_000),
        b"dog " + 50_000_000 * b"1",
        b"2 300\ndog" + 25_000_000 * b" 1",
        FASTTEXT + struct.pack("<12id", LARGE, 5, 5, 5, 5, 1, 2, 1, LARGE, 3, 6, 100, 1e-4),
        FASTTEXT + ARGUMENTS + struct.pack("<3iqq", LARGE, LARGE, 0, LARGE, -1) + bytes(1000),
        FASTTEXT + ARGUMENTS + struct.pack("<3iqq", 1, 1, 0, 1, -1) + b"dog\0" + struct.pack("<qb", 1, 0)
        + b"\0" + struct.pack("<2q", LARGE + 1, 300) + bytes(1200),
        FASTTEXT + ARGUMENTS + struct.pack("<3iqq", 1, 1, 0, 1, -1) + bytes([65]) * 50_000_000,
    ],
    ids=range(9),
)  # fmt: skip
@pytest.mark.parametrize("compressed", [False, True])
def test_what_a_damaged_file_claims_is_not_allocated(tmp_path: Path, content: bytes, compressed: bool) -> None:
    path = tmp_path / "vectors"
    path.write_bytes(gzip.compress(content, 1) if compressed else content)
    tracemalloc.start()
    try:
        with pytest.raises(UserError):
            read_vectors(path, ["dog"])
        assert tracemalloc.get_traced_memory()[1] < 40e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("dataset", ["voc", "coco_stuff"])
def test_a_table_for_a_data_set_needs_no_torch(dataset: str, tmp_path: Path) -> None:
    """Torch alone takes more than GoogleNews' vectors may."""
    words = sorted(words_of(["background", *VOC_CLASSES, *COCO_STUFF_CLASSES.values()]))
    source = tmp_path / "glove.txt"
    source.write_text("".join(f"{word} {number} 1\n" for number, word in enumerate(words) if " " not in word))
    command = ["embed", "--classes", dataset, "--source", str(source), "--output", str(tmp_path / "table.npz")]
    script = (
        f"import sys; from sign_zs3.cli import main; assert main({command!r}) == 0; assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
