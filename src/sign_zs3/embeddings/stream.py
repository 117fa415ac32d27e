"""Files of word vectors, plain or gzip, read forwards in blocks: they are far larger than what is kept of them."""

import gzip
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from sign_zs3.errors import UserError
from sign_zs3.limits import GZIP_RATIO, GZIP_ROOM, MAX_WIDTH, MAX_WORD

Vector = npt.NDArray[np.float32]
Progress = Callable[[int], object]
"""Called with the number of bytes of the file that have been read since the last call."""

BLOCK = 1 << 22


class VectorFile:
    """An open file of word vectors, `size` bytes on the disk; `open_vectors` makes one."""

    def __init__(self, path: Path, raw: BinaryIO, progress: Progress | None, compressed: bool) -> None:
        self.path = path
        self.size = os.fstat(raw.fileno()).st_size
        self.compressed = compressed
        file: BinaryIO | gzip.GzipFile = gzip.GzipFile(fileobj=raw, mode="rb") if compressed else raw
        self._raw, self._file, self._progress, self._reported = raw, file, progress, 0

    def read(self, count: int) -> bytes:
        """Read up to `count` bytes; fewer only at the end of the file."""
        with self._readable():
            found = self._file.read(count)
            self._refuse_bomb()
        self._report()
        return found

    def lines(self, limit: int = BLOCK) -> Iterator[bytes]:
        """Iterate over lines; one longer than `limit` bytes comes in pieces."""
        with self._readable():
            for number, line in enumerate(iter(lambda: self._file.readline(limit), b"")):
                if number % 1024 == 0:
                    self._report()
                    self._refuse_bomb()
                yield line
        self._report()

    def seek(self, offset: int) -> None:
        """Go to a byte of the uncompressed content; forwards, since gzip starts again from 0 to go back."""
        if not self.can_hold(offset):
            raise self.cut_short(f"says that it goes on at byte {offset:,}")
        with self._readable():
            self._file.seek(offset)

    def can_hold(self, count: int) -> bool:
        """Return whether the file's size allows for a content of `count` bytes."""
        return count <= (max(GZIP_ROOM, self.size * GZIP_RATIO) if self.compressed else self.size)

    def check_header(self, where: str, count: int, width: int, least: int, length: int = 0) -> None:
        """Refuse a header, itself `length` bytes, whose vectors of `least` bytes or more each the file cannot hold."""
        says = f"{where} says {count} vectors of {width} numbers"
        if count < 1 or not 1 <= width <= MAX_WIDTH:
            raise UserError(
                f"{self.path}: {says}: expected at least one vector of 1 to {MAX_WIDTH}; the file is damaged, fetch it "
                "again"
            )
        if not self.can_hold(length + count * least):
            raise self.cut_short(f"{says}, which need {count * least:,} bytes, but the file has {self.size:,}")

    def check_finite(self, vector: Vector, where: str) -> Vector:
        """Return the vector of an entry unless it holds NaN or infinity."""
        if not np.isfinite(vector).all():
            raise UserError(f"{self.path}: {where} has a value that is no finite number; fetch the file again")
        return vector

    def cut_short(self, found: str) -> UserError:
        """Return the error for a file that ends too early, from what was found in it."""
        return UserError(f"{self.path}: {found}: the file is cut short or damaged; fetch it again")

    def _refuse_bomb(self) -> None:
        if self.compressed and not self.can_hold(self._file.tell()):
            raise UserError(
                f"{self.path}: unpacks to more than {GZIP_RATIO} times its size: expected word vectors, whose numbers "
                "do not; unpack it yourself, if you trust it"
            )

    def _report(self) -> None:
        # the first bytes are read twice
        if self._progress is not None and (position := self._raw.tell()) > self._reported:
            self._progress(position - self._reported)
            self._reported = position

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, zlib.error, OSError) as error:
            kind = "gzip file" if self.compressed else "file"
            raise UserError(f"{self.path}: cannot be read ({error}): expected a whole {kind}; fetch it again") from None


@contextmanager
def open_vectors(path: Path, progress: Progress | None = None) -> Iterator[VectorFile]:
    """Open a file of word vectors, gzip or not by its first bytes; a UserError where it cannot be read."""
    if path.is_dir():
        raise UserError(f"{path}: is a directory: expected a file of word vectors; give the file inside it")
    if not path.exists():
        raise UserError(f"{path}: no such file: expected word vectors of word2vec, fastText or GloVe")
    if not path.is_file():
        raise UserError(f"{path}: is a pipe or device: expected a file of word vectors; write it to a file first")
    try:
        raw = path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): expected a file of word vectors") from None
    with raw:
        magic = raw.peek(2)[:2]
        if not magic:
            raise UserError(f"{path}: is empty: expected word vectors of word2vec, fastText or GloVe; fetch it again")
        yield VectorFile(path, raw, progress, compressed=magic == b"\x1f\x8b")


class Blocks:
    """The content of a binary file from byte `offset` on, where it stands, a block at a time."""

    def __init__(self, file: VectorFile, offset: int = 0) -> None:
        self.file = file
        self._data, self._at, self._base = b"", 0, offset

    @property
    def offset(self) -> int:
        """The byte of the content that comes next."""
        return self._base + self._at

    def entries(self, separator: bytes, size: int, count: int, what: str) -> Iterator[tuple[bytes, bytes, int]]:
        """Iterate over `count` entries: a word, a separator of one byte, then `size` bytes; errors call them `what`.

        Yields:
            The word, a block and where in the block the bytes after the separator start.
        """
        data, at = self._data, self._at
        for number in range(1, count + 1):
            start = data.find(separator, at) + 1
            while start == 0 or start + size > len(data):
                if start == 0 and len(data) - at > MAX_WORD:
                    raise self.file.cut_short(f"{what} {number} of {count} has a word of more than {MAX_WORD} bytes")
                more = self.file.read(BLOCK)
                if not more:
                    raise self.file.cut_short(f"ends in {what} {number} of {count}")
                self._base += at
                data, at = data[at:] + more, 0
                start = data.find(separator) + 1
            yield data[at : start - 1], data, start
            at = start + size
        self._data, self._at = data, at

    def take(self, count: int, what: str) -> bytes:
        """Read exactly `count` bytes; `what` they are is for the error where the file ends before."""
        found = self._data[self._at : self._at + count]
        self._at += len(found)
        if len(found) < count:
            more = self.file.read(count - len(found))
            self._base, self._data, self._at = self.offset + len(more), b"", 0
            found += more
        if len(found) < count:
            raise self.file.cut_short(f"ends in {what}")
        return found

    def skip_to(self, offset: int) -> None:
        """Go forwards to a byte of the content."""
        if offset <= self._base + len(self._data):
            self._at = offset - self._base
        else:
            self.file.seek(offset)
            self._base, self._data, self._at = offset, b"", 0

    def rest(self) -> bytes:
        """Read what is left, up to a block."""
        return self._data[self._at :] + self.file.read(BLOCK)
