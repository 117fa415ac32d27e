"""The maps of a frozen network, computed once per image and kept on disk."""

import contextlib
import math
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from sign_zs3.data.datasets.base import Image
from sign_zs3.errors import UserError
from sign_zs3.files import from_home, refusing

_NOTE = """\
Maps that a frozen network computed of images, kept by sign-zs3 (option feature_cache): a folder per network,
a file per image, size and mirroring. Nothing else is in them: delete what you like, it is computed again when needed.
"""


class FeatureCache:
    """Files of a network's maps: ``FOLDER/KEY/NAME.safetensors`` with a float16 tensor per level.

    A name stands for an image's content, size and mirroring, and is fit for a file name: with the key, maps of another
    network, size or image are never read. Images are encoded whole, and training crops the maps, whose border cells
    have thus seen the pixels around the crop, as far as the network sees, and no padding.

    Several processes may fill one cache at once: files are written beside and renamed. Copies sent to other processes
    can read but not encode.

    Args:
        folder: Where the caches of all networks are.
        key: Stands for all that decides the maps but the image: weights, architecture, normalisation; fit for a
            folder's name. A function is called at the first use, when a checkpoint's weights are there.
        encode: From one image, uint8 (1, 3, H, W) on the CPU, to its maps, one per stride, float (1, C_l, h_l, w_l) on
            any device; called without gradients. It pads a side to a multiple of the coarsest stride and `extra` more,
            and gives a cell per stride and, where `extra` is above 0, one more.
        strides: Pixels per cell of each level, fine to coarse; each divides the last.
        extra: See `Places`.

    Raises:
        ValueError: A stride does not divide the coarsest one, or there is none.
    """

    def __init__(
        self,
        folder: str | Path,
        key: str | Callable[[], str],
        encode: Callable[[Tensor], Sequence[Tensor]],
        strides: Sequence[int],
        extra: int = 0,
    ) -> None:
        divide = all(stride > 0 and strides[-1] % stride == 0 for stride in strides)
        if not (strides and divide and list(strides) == sorted(strides)):
            raise ValueError(f"strides {tuple(strides)}: expected them fine to coarse, each a divisor of the last")
        self._root = Path(from_home(folder))
        self._key = key
        self.strides, self.extra = tuple(strides), extra
        self._encode: Callable[[Tensor], Sequence[Tensor]] | None = encode

    def __getstate__(self) -> dict[str, Any]:
        # a worker that is not forked would be sent the network
        return {**vars(self), "_key": self.folder.name, "_encode": None}

    @property
    def folder(self) -> Path:
        """``FOLDER/KEY``."""
        if not isinstance(self._key, str):
            self._key = self._key()
        return self._root / self._key

    def holds(self, name: str) -> bool:
        """Tell whether whole maps of that name are there; False for a broken or truncated file."""
        # a broken file makes the reader raise almost anything
        with contextlib.suppress(Exception), self._open(name) as file:
            return set(file.keys()) == {str(level) for level in range(len(self.strides))}
        return False

    def read(self, name: str, size: Sequence[int], window: tuple[slice, slice] | None = None) -> tuple[Tensor, ...]:
        """Read the maps of an image of `size` (height, width) in pixels.

        With a window, of rows and columns in pixels, only what lies in it; all four numbers are multiples of the
        coarsest stride. Per level they are float16 (C_l, h_l, w_l), as of an image of the window's size, contiguous, in
        memory of their own. A `UserError` where the file is not there, broken, or of an image of another size.
        """
        maps = []
        then = ", expected the maps that were there before the first batch; start again, which computes what is missing"
        with refusing(f"feature_cache: {self._path(name)} cannot be read", then), self._open(name) as file:
            for level, stride in enumerate(self.strides):
                whole = file.get_tensor(str(level))
                if tuple(whole.shape[1:]) != (expected := self._cells(size, stride)):
                    raise ValueError(f"found maps of {tuple(whole.shape[1:])} at stride {stride}, not {expected}")
                if window is not None:
                    counts = self._cells([axis.stop - axis.start for axis in window], stride)
                    starts = (axis.start // stride for axis in window)
                    rows, columns = (slice(first, first + count) for first, count in zip(starts, counts, strict=True))
                    whole = whole[:, rows, columns]
                maps.append(whole.clone(memory_format=torch.contiguous_format))
        return tuple(maps)

    def write(self, name: str, image: Image) -> None:
        """Compute the maps of an image, uint8 (3, H, W), and replace what was there under its name.

        A `UserError` where a value is no finite float16, or the file cannot be written; a ValueError where `encode`
        gave maps of other shapes than it should.
        """
        if self._encode is None:
            raise RuntimeError("a copy of a cache cannot encode: fill the cache in the process that holds the network")
        with torch.no_grad():
            encoded = self._encode(torch.from_numpy(np.require(image[None], requirements=["C", "W"])))
        maps = {}
        for level, (stride, found) in enumerate(zip(self.strides, encoded, strict=True)):
            expected = self._cells(image.shape[1:], stride)
            if found.ndim != 4 or found.shape[0] != 1 or tuple(found.shape[2:]) != expected:
                raise ValueError(f"encode gave {tuple(found.shape)} at stride {stride}, expected (1, C, *{expected})")
            half = found[0].detach().to(torch.float16)
            if not half.isfinite().all():
                raise UserError(
                    f"feature_cache: found a value of {float(found.abs().max()):.3g} in the maps at stride {stride}, "
                    "expected none above 65504, the largest that 16 bits hold; leave feature_cache out"
                )
            maps[str(level)] = half.cpu().contiguous()
        then = ", expected a folder with room for the maps; make room or name another folder"
        with refusing(f"feature_cache: {self._path(name)} cannot be written", then):
            self.folder.mkdir(parents=True, exist_ok=True)
            _replace(self._path(name), save(maps))
            note = self.folder.parent / "README.txt"
            if not note.exists():
                _replace(note, _NOTE.encode())

    def _cells(self, size: Sequence[int], stride: int) -> tuple[int, ...]:
        step = self.strides[-1]
        return tuple(math.ceil((side - self.extra) / step) * step // stride + (self.extra > 0) for side in size)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def _open(self, name: str) -> Any:
        # the reader refuses files that are longer or shorter than their header says
        return safe_open(self._path(name), "pt")


def _replace(path: Path, content: bytes) -> None:
    """Write a file beside its place, under a unique name since another run may write the same one, and rename it."""
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        beside.write_bytes(content)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
