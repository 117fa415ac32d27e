"""A check of MATLAB files before SciPy reads them.

SciPy allocates as many cells as a header claims, decompresses whatever is compressed, and crashes the process on cells
nested without end and on number types that do not exist. So the wanted variable is decompressed and walked here first.
"""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from math import prod
from pathlib import Path

from sign_zs3.limits import MAX_MATLAB, MAX_MATLAB_DEPTH, MAX_MATLAB_ELEMENTS

_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _OBJECT, _CHAR, _SPARSE = 1, 2, 3, 4, 5
_NUMBERS = range(6, 16)
# types of elements: int8, int32, uint32; all numbers; what characters are stored as
_INT8, _INT32, _UINT32 = 1, 5, 6
_OF_NUMBERS = frozenset({1, 2, 3, 4, 5, 6, 7, 9, 12, 13})
_OF_TEXT = frozenset({1, 2, 4, 16, 17, 18})


def unpacked(path: Path, name: str) -> BytesIO:
    """Return a file for `scipy.io.loadmat` that holds one variable, decompressed; versions but 5 to 7.2 as they are.

    What is too large, or is not what its headers say, is a ValueError.
    """
    from scipy.io.matlab import matfile_version

    with path.open("rb") as file:
        content = file.read(MAX_MATLAB + 1)
    if len(content) > MAX_MATLAB:
        raise ValueError(f"found more than {MAX_MATLAB:,} bytes")
    if matfile_version(BytesIO(content))[0] != 1:
        return BytesIO(content)
    order = "<" if content[126:128] == b"IM" else ">"
    kept, at = content[:128], 128
    while at < len(content):
        kind, size = _unpack(f"{order}2I", content, at)
        element = content[at : at + 8 + size]
        if len(element) < 8 + size:
            raise ValueError("it ends in a variable")
        at += 8 + size
        if kind == _COMPRESSED:
            # its name comes first
            if _name(_Walk(zlib.decompressobj().decompress(element[8:], 1024), order)) != name.encode():
                continue
            unpacking = zlib.decompressobj()
            element = unpacking.decompress(element[8:], MAX_MATLAB + 1)
            if len(element) > MAX_MATLAB:
                raise ValueError(f"a variable unpacks to more than {MAX_MATLAB:,} bytes")
            if not unpacking.eof:
                raise ValueError("a variable is cut short")
        elif kind != _MATRIX:
            raise ValueError(f"found an element of type {kind} in the place of a variable")
        if _name(_Walk(element, order)) == name.encode():
            _Walk(element, order).matrix()
            kept += element
    return BytesIO(kept)


def _name(walk: _Walk) -> bytes | None:
    """Return the name of a variable; None where there is none."""
    try:
        return walk.header()[2] if walk.start() else None
    except ValueError:  # an opaque object has other parts
        return None


class _Walk:
    """A walk, as SciPy goes, through a variable's content, unpacked and with its tag, in the byte order < or >."""

    def __init__(self, content: bytes, order: str) -> None:
        self.content = content
        self.order = order
        self.at = self.count = 0

    def start(self) -> int:
        """Go past the tag of a matrix; return its size."""
        kind, size = _unpack(f"{self.order}2I", self.content, self.at)
        if kind != _MATRIX:
            raise ValueError(f"found an element of type {kind} where a matrix belongs")
        self.at += 8
        return size

    def element(self, *kinds: int) -> bytes:
        """Go past an element of one of some types, and return its data."""
        (kind,) = _unpack(f"{self.order}I", self.content, self.at)
        if small := kind >> 16:
            start, size, after, kind = self.at + 4, small, 8, kind & 0xFFFF
        else:
            (size,) = _unpack(f"{self.order}I", self.content, self.at + 4)
            start, after = self.at + 8, 8 + size + -size % 8
        if (small and small > 4) or start + size > len(self.content):
            raise ValueError("an element is cut short")
        if kind not in kinds:
            raise ValueError(f"found an element of type {kind} where one of {sorted(kinds)} belongs")
        self.at += after
        return self.content[start : start + size]

    def header(self) -> tuple[int, tuple[int, ...], bytes]:
        """Go past the header of a matrix; return class and flags, sizes and name."""
        if _unpack(f"{self.order}2I", self.content, self.at) != (_UINT32, 8):
            raise ValueError("found no flags in an array")
        (flags,) = _unpack(f"{self.order}I", self.element(_UINT32), 0)
        sizes = self.element(_INT32, _UINT32)
        if len(sizes) % 4 or not 8 <= len(sizes) <= 4 * 32:
            raise ValueError("found an array of less than 2 or more than 32 dimensions")
        return flags, _unpack(f"{self.order}{len(sizes) // 4}i", sizes, 0), self.element(_INT8)

    def matrix(self, depth: int = 0) -> None:
        """Go past a matrix, refusing one that claims more than there is."""
        self.count += 1
        if depth > MAX_MATLAB_DEPTH or self.count > MAX_MATLAB_ELEMENTS:
            raise ValueError(f"found more than {MAX_MATLAB_ELEMENTS:,} arrays, or {MAX_MATLAB_DEPTH} in each other")
        if not self.start():
            return
        flags, sizes, _ = self.header()
        kind, elements = flags & 0xFF, prod(sizes)
        if min(sizes, default=0) < 0:
            raise ValueError(f"found an array of {sizes}")
        if kind in (_CELL, _STRUCT, _OBJECT):
            fields = 1
            if kind != _CELL:
                if kind == _OBJECT:
                    self.element(_INT8)
                (width,) = _unpack(f"{self.order}i", self.element(_INT32), 0)
                if width < 1:
                    raise ValueError(f"found names of {width} characters")
                fields = len(self.element(_INT8)) // width
            # each takes a tag at least
            if elements * max(1, fields) * 8 > len(self.content):
                raise ValueError(f"found an array that claims {elements:,} parts")
            for _ in range(elements * fields):
                self.matrix(depth + 1)
        elif kind == _CHAR or kind in _NUMBERS:
            size = len(self.element(*(_OF_TEXT if kind == _CHAR else _OF_NUMBERS)))
            if elements > size:
                raise ValueError(f"found an array of {elements:,} numbers in {size:,} bytes")
            if kind != _CHAR and flags & 0x800:
                self.element(*_OF_NUMBERS)
        elif kind == _SPARSE:
            for _ in range(4 if flags & 0x800 else 3):
                self.element(*_OF_NUMBERS)
        else:
            raise ValueError("found a function or an object")


def _unpack(form: str, content: bytes, at: int) -> tuple[int, ...]:
    try:
        found: tuple[int, ...] = struct.unpack_from(form, content, at)
    except struct.error as error:
        raise ValueError("it is cut short") from error
    return found
