"""Mutations of files: of their bytes, and of what lies packed or described inside."""

from __future__ import annotations

import copy
import gzip
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from random import Random
from typing import Any

import torch

Mutator = Callable[[Random, bytes], bytes]

WORDS = (
    *(0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 10**6, 10**9),
    *(2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**60, 2**63, 2**64 - 1),
)
TEXTS = (
    *(b"0", b"-1", b"255", b"1000000000", b"99999999999999999999", b"1e999", b"nan", b"../../../x", b"/etc/passwd"),
    *(b"\\", b"\0", b"\n", b"\r\n", b"\t", b" ", b":", b"[", b"]", b"{", b"}", b"'", b'"', b"&a ", b"*a", b"<<: *d"),
    *(b"!!python/", b"!!int ", b"!!float ", b"!!bool x", b"!!timestamp 1-1-1", b"%", b"\xff\xfe", b"\xef\xbb\xbf"),
    *(b"\x1f\x8b", b"PK\x03\x04", 15 * b"(", 17 * b"[", 5000 * b"a", "\u0663\u2028\x85".encode()),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2, 7, 8, 255, 4096, 10**6, 10**9, 2**31, 2**63 - 1, 2**63, 10**30, -(10**9)),
    *(0.0, 0.5, 1.0, -1.0, 1e-30, 1e300, float("inf"), float("nan"), "", "x", "../../x", "/tmp/x", "a\nb", "\ud800"),
    *("\0", "x" * 10**5, [], {}, [1], [0], [1] * 300, [10**9], [0.1] * 5000, ["x"], [[]], {"x": 1}),
    *("small", "timm/resnet18", "plain", "fcn"),
)


def overwrite(random: Random, data: bytes) -> bytes:
    """Flip bits, or put extreme numbers or texts in the place of what is there."""
    made = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 4, 16))):
        # headers, which come first, decide more than numbers
        at = random.randrange(min(len(made), random.choice((64, 512, 1 << 30))))
        kind = random.randrange(4)
        if kind == 0:
            made[at] ^= 1 << random.randrange(8)
        elif kind == 1:
            made[at] = random.randrange(256)
        elif kind == 2:
            size = random.choice("BHIQ")
            word = random.choice(WORDS) & ((1 << 8 * struct.calcsize(size)) - 1)
            part = struct.pack(random.choice("<>") + size, word)
            made[at : at + len(part)] = part
        else:
            part = random.choice(TEXTS)
            made[at : at + random.choice((0, len(part)))] = part
    return bytes(made)


def shorten(random: Random, data: bytes) -> bytes:
    """Cut the end, or a piece out of it."""
    start = random.randrange(len(data))
    return data[:start] + (data[random.randrange(start, len(data)) :] if random.random() < 0.5 else b"")


def repeat(random: Random, data: bytes) -> bytes:
    """Put a piece in once or many times more, where it is or elsewhere."""
    start = random.randrange(len(data))
    piece = data[start : start + random.choice((1, 8, 64, 512))] * random.choice((1, 1, 2, 50))
    at = random.choice((start, random.randrange(len(data))))
    return data[:at] + piece + data[at:]


def insert(random: Random, data: bytes) -> bytes:
    """Put a text or noise in."""
    at = random.randrange(len(data) + 1)
    return data[:at] + random.choice((random.choice(TEXTS), random.randbytes(random.choice((1, 4, 40))))) + data[at:]


def swap(random: Random, data: bytes) -> bytes:
    """Exchange two pieces."""
    size = random.choice((1, 4, 8, 40))
    one, two = sorted(random.randrange(len(data)) for _ in range(2))
    made = bytearray(data)
    made[one : one + size], made[two : two + size] = data[two : two + size], data[one : one + size]
    return bytes(made)


BYTES: tuple[Mutator, ...] = (overwrite, overwrite, overwrite, shorten, repeat, insert, swap)


def any_bytes(random: Random, data: bytes) -> bytes:
    """One or more of the mutations of bytes."""
    for _ in range(random.choice((1, 1, 2, 3))):
        data = random.choice(BYTES)(random, data or b"\0")
    return data


# -- inside ------------------------------------------------------------------------------------------------------------


def in_gzip(random: Random, data: bytes) -> bytes:
    """Mutate what is packed."""
    return gzip.compress(any_bytes(random, gzip.decompress(data)), 1) if data[:2] == b"\x1f\x8b" else data


def in_zip(random: Random, data: bytes) -> bytes:
    """Mutate a part of an archive, with its right checksum, stored or packed."""
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return any_bytes(random, data)
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(made, "w") as new:
        parts = old.infolist()
        described = [part for part in parts if part.filename.endswith(("data.pkl", "names.npy", "version"))] or parts
        chosen = random.choice(random.choice((parts, described)))
        for part in parts:
            content = old.read(part)
            if part is chosen:
                content = any_bytes(random, content) if random.random() < 0.9 else bytes(10**6) + content
            packed = random.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
            new.writestr(part.filename, content, packed)
    return made.getvalue()


def in_png(random: Random, data: bytes) -> bytes:
    """Mutate a chunk, with its right checksum; of pixels what is packed in it."""
    if data[:4] != b"\x89PNG":
        return any_bytes(random, data)
    chunks, at = [], 8
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    chosen = random.randrange(len(chunks))
    kind, content = chunks[chosen]
    if kind == b"IDAT" and len(chunks) < 6:
        content = zlib.compress(any_bytes(random, zlib.decompress(content)))
    elif content:
        content = any_bytes(random, content)
    chunks[chosen] = (random.choice((kind, kind, kind, b"iCCP", b"zTXt", b"eXIf", b"tRNS", b"acTL", b"PLTE")), content)
    made = [struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks]
    return data[:8] + b"".join(made)


def in_mat(random: Random, data: bytes) -> bytes:
    """Mutate a variable that is packed."""
    if len(data) < 136 or struct.unpack_from("<I", data, 128)[0] != 15:
        return any_bytes(random, data)
    size = struct.unpack_from("<I", data, 132)[0]
    packed = zlib.compress(any_bytes(random, zlib.decompress(data[136 : 136 + size])), 1)
    return data[:132] + struct.pack("<I", len(packed)) + packed


def in_safetensors(random: Random, data: bytes) -> bytes:
    """Mutate the header, as bytes or as JSON, with its right length."""
    if data[:1] == b"\x80":
        return any_bytes(random, data)
    (size,) = struct.unpack_from("<Q", data)
    header, rest = data[8 : 8 + size], data[8 + size :]
    header = any_bytes(random, header) if random.random() < 0.5 else in_json(random, header)
    return struct.pack("<Q", len(header)) + header + rest


def in_json(random: Random, data: bytes) -> bytes:
    """Put hostile values in the place of some, or add and take away."""
    return json.dumps(hostile(random, json.loads(data))).encode()


def in_checkpoint(random: Random, data: bytes) -> bytes:
    """Put hostile values in the place of some that torch stores."""
    if data[:2] != b"PK" or random.random() < 0.3:
        return in_zip(random, data)
    try:
        content = torch.load(io.BytesIO(data), weights_only=True)
    except Exception:
        return in_zip(random, data)
    wanted = [key for key in ("sign_zs3", "hyper_parameters", "state_dict") if key in content]
    if not wanted or random.random() < 0.1:
        content = hostile(random, content)
    else:
        key = random.choice(wanted)
        content = {**content, key: hostile(random, content[key])}
    made = io.BytesIO()
    torch.save(content, made)
    return made.getvalue()


def hostile(random: Random, content: Any) -> Any:
    """A copy of plain values and tensors, some of them others."""
    content = copy.deepcopy(content)
    for _ in range(random.choice((1, 1, 2, 4))):
        holder, key = content, None
        while isinstance(holder, (dict, list)) and holder:
            key = random.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
            if not isinstance(holder[key], (dict, list)) or not holder[key] or random.random() < 0.2:
                break
            holder = holder[key]
        if not isinstance(holder, (dict, list)) or key is None or not holder:
            return random.choice(VALUES)
        kind = random.randrange(8)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[random.choice(("x", "weights", "freeze", "../x", "names"))] = random.choice(VALUES)
        elif isinstance(holder[key], torch.Tensor):
            holder[key] = random.choice(TENSORS)(holder[key])
        else:
            holder[key] = copy.deepcopy(random.choice(VALUES))
    return content


TENSORS: tuple[Callable[[torch.Tensor], Any], ...] = (
    lambda value: value * float("nan"),
    lambda value: value.reshape(-1)[:1].expand(10**5, 10**4) if value.numel() else value,
    lambda value: value.double(),
    lambda value: value.to(torch.int64),
    lambda value: value.flatten(),
    lambda value: value[None],
    lambda value: torch.zeros(0),
    lambda value: value.to_sparse() if value.ndim else value,
    lambda value: value.to("meta"),
    lambda value: 1,
    lambda value: value + 1e30,
    lambda value: torch.nn.Parameter(value.float(), requires_grad=True),
)
