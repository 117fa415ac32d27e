"""Pascal VOC 2012 with SBD's extra training masks, read in their native folders.

`train_aug` is built by rule from the lists that lie there: SBD (train and val) minus every VOC 2012 val
image, joined with VOC 2012 train. With the complete data sets that gives 10,582 images; the test list is VOC
2012 val, 1,449 images.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sign_zs3.data.datasets.base import Image, SegmentationDataset, Transform
from sign_zs3.data.protocol import Protocol
from sign_zs3.errors import UserError

log = logging.getLogger(__name__)

VOC_CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
"""The twenty classes in the order of their ids, 1..20."""

VOC_UNSEEN = ("pottedplant", "sheep", "sofa", "train", "tvmonitor")

_VOC_FETCH = (
    "unpack VOCtrainval_11-May-2012.tar (host.robots.ox.ac.uk/pascal/VOC/voc2012) so that {place} exists, or "
    "set download to true"
)
_SBD_FETCH = (
    "unpack benchmark.tgz (www2.eecs.berkeley.edu, Semantic Boundaries Dataset) so that {place} exists, or "
    "set download to true"
)


def voc_protocol(unseen: Sequence[str] | None = None) -> Protocol:
    """Returns the class split of Pascal VOC: 20 classes, background (0) and void (255) ignored.

    Args:
        unseen: Names of the unseen classes; None takes the last five, as SPNet, CaGNet and SIGN do.

    Raises:
        UserError: A name is no class of VOC.
    """
    names = dict(enumerate(VOC_CLASSES, 1))
    split = "default" if unseen is None else "custom"
    return Protocol.build("voc", split, names, VOC_UNSEEN if unseen is None else unseen, (0, 255))


class VOCDataset(SegmentationDataset):
    """Images and masks of VOC 2012, for training joined with those of SBD.

    Args:
        root: The folder that holds ``VOCdevkit``, or ``VOCdevkit``, or ``VOC2012``.
        split: ``"train"``: `train_aug` where `sbd_root` is given, else VOC 2012 train; ``"val"``: its val.
        sbd_root: The folder that holds ``benchmark_RELEASE``, or that one, or its ``dataset``; only
            ``"train"`` reads it.
        protocol: The class split; None takes `voc_protocol`'s default.
        hide_unseen: Turn unseen classes into 255 in the masks.
        transform: Augmentation, as in `SegmentationDataset`.

    Raises:
        UserError: A root, a list, or an image or mask of a list is missing.
    """

    def __init__(
        self,
        root: str | Path,
        split: Literal["train", "val"],
        sbd_root: str | Path | None = None,
        protocol: Protocol | None = None,
        hide_unseen: bool = False,
        transform: Transform | None = None,
    ) -> None:
        super().__init__(protocol or voc_protocol(), hide_unseen=hide_unseen, transform=transform)
        voc = _locate_voc(root)
        sbd = _locate_sbd(sbd_root) if sbd_root is not None and split == "train" else None
        self._items = _index(voc, sbd, split)
        _require([item.image for item in self._items], "images")
        _require([item.mask for item in self._items], "masks")

    def __len__(self) -> int:
        return len(self._items)

    def name(self, index: int) -> str:
        """Returns the image's id, e.g. ``"2007_000032"``."""
        return self._items[index].name

    def mask_source(self, index: int) -> str:
        """Returns the path of the mask."""
        return str(self._items[index].mask)

    def read(self, index: int) -> tuple[Image, NDArray[Any]]:
        """Reads an image, uint8 (H, W, 3) RGB, and its mask, (H, W) of ids 0..20 and 255.

        Raises:
            UserError: One of the files cannot be decoded.
        """
        return _read_image(self._items[index].image), self.read_mask(index)

    def read_mask(self, index: int) -> NDArray[Any]:
        """Reads a mask alone.

        Raises:
            UserError: The file cannot be decoded.
        """
        path = self._items[index].mask
        return _read_mat(path) if path.suffix == ".mat" else _read_png(path)


def download_voc(root: str | Path, sbd_root: str | Path | None = None) -> None:
    """Fetches what is missing of VOC 2012 (2 GB) and, where a root is given, of SBD (1.4 GB), by torchvision.

    Args:
        root: As in `VOCDataset`; ``VOCdevkit/VOC2012`` is made under it.
        sbd_root: As in `VOCDataset`; SBD's ``img``, ``cls``, ``train.txt`` and ``val.txt`` are put in it.

    Raises:
        UserError: The download failed.
    """
    from torchvision.datasets import SBDataset, VOCSegmentation

    if _find(root, _VOC_PLACES, _VOC_SIGN) is None:
        base = Path(root)
        if base.name == "VOC2012":
            base = base.parent
        if base.name == "VOCdevkit":
            base = base.parent
        log.info("downloading VOC 2012 to %s", base)
        try:
            VOCSegmentation(str(base), year="2012", image_set="train", download=True)
        except (OSError, RuntimeError) as error:
            raise UserError(f"root: the download to {base} failed ({_line(error)}); {_voc_fetch(base)}") from error
    if sbd_root is not None and _find(sbd_root, _SBD_PLACES, _SBD_SIGN) is None:
        log.info("downloading SBD to %s", sbd_root)
        try:
            SBDataset(str(sbd_root), image_set="train", mode="segmentation", download=True)
        except (OSError, RuntimeError) as error:
            fetch = _SBD_FETCH.format(place=Path(sbd_root) / "benchmark_RELEASE" / "dataset")
            raise UserError(f"sbd_root: the download to {sbd_root} failed ({_line(error)}); {fetch}") from error


@dataclass(frozen=True)
class _Item:
    name: str
    image: Path
    mask: Path


_VOC_PLACES, _VOC_SIGN = ("VOCdevkit/VOC2012", "VOC2012", "."), "ImageSets"
_SBD_PLACES, _SBD_SIGN = ("benchmark_RELEASE/dataset", "dataset", "."), "cls"


def _find(root: str | Path, places: Iterable[str], sign: str) -> Path | None:
    candidates = (Path(root) / place for place in places)
    return next((folder for folder in candidates if (folder / sign).is_dir()), None)


def _voc_fetch(root: Path) -> str:
    return _VOC_FETCH.format(place=root / "VOCdevkit" / "VOC2012")


def _locate_voc(root: str | Path) -> Path:
    folder = _find(root, _VOC_PLACES, _VOC_SIGN)
    if folder is None:
        raise UserError(
            f"root: found no VOC2012/ImageSets at {root}, expected the folder that holds VOCdevkit; "
            + _voc_fetch(Path(root))
        )
    return folder


def _locate_sbd(root: str | Path) -> Path:
    folder = _find(root, _SBD_PLACES, _SBD_SIGN)
    if folder is None:
        place = Path(root) / "benchmark_RELEASE" / "dataset"
        raise UserError(
            f"sbd_root: found no dataset/cls at {root}, expected the folder that holds benchmark_RELEASE; "
            + _SBD_FETCH.format(place=place)
        )
    return folder


def _index(voc: Path, sbd: Path | None, split: Literal["train", "val"]) -> list[_Item]:
    lists = voc / "ImageSets" / "Segmentation"
    images, masks = voc / "JPEGImages", voc / "SegmentationClass"
    names = _read_list(lists / f"{split}.txt")
    if sbd is None:
        if split == "train":
            log.info("no sbd_root: training on VOC 2012 train alone, without SBD's images")
        return [_Item(name, images / f"{name}.jpg", masks / f"{name}.png") for name in sorted(names)]

    in_voc = _files(masks)
    extra = (_read_list(sbd / "train.txt") | _read_list(sbd / "val.txt")) - _read_list(lists / "val.txt")
    items = []
    for name in sorted(names | extra):
        if name in names or f"{name}.png" in in_voc:
            items.append(_Item(name, images / f"{name}.jpg", masks / f"{name}.png"))
        else:
            items.append(_Item(name, sbd / "img" / f"{name}.jpg", sbd / "cls" / f"{name}.mat"))
    return items


def _read_list(path: Path) -> set[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: cannot be read ({_line(error)}), expected a list of image ids, one a line; unpack the "
            "data set again"
        ) from error
    names = {line.split()[0] for line in lines if line.strip()}
    if not names:
        raise UserError(f"{path}: found no image id, expected one a line; unpack the data set again")
    return names


def _files(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()


def _require(paths: list[Path], what: str) -> None:
    # one listing per folder: asking for 20,000 files one by one takes minutes on a network disk
    present = {folder: _files(folder) for folder in {path.parent for path in paths}}
    missing = [path for path in paths if path.name not in present[path.parent]]
    if missing:
        raise UserError(
            f"{missing[0]}: not found ({len(missing)} of the {len(paths)} {what} in the lists are missing), "
            f"expected every listed file; unpack the data set again so that {missing[0].parent} is complete"
        )


def _read_image(path: Path) -> Image:
    from PIL import Image as Pillow

    try:
        with Pillow.open(path) as file:
            return np.asarray(file.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise _undecodable(path, "a JPEG image", error) from error


def _read_png(path: Path) -> NDArray[Any]:
    from PIL import Image as Pillow

    try:
        with Pillow.open(path) as file:
            mode, mask = file.mode, np.asarray(file)
    except (OSError, SyntaxError, ValueError) as error:
        raise _undecodable(path, "a palette PNG", error) from error
    if mask.ndim != 2 or mode == "1":
        raise UserError(
            f"{path}: found a {mode} image, expected a mask with one id per pixel (palette or grey PNG); "
            "replace it by the original"
        )
    return mask


def _read_mat(path: Path) -> NDArray[Any]:
    from scipy.io import loadmat

    try:
        mask = np.asarray(loadmat(path)["GTcls"]["Segmentation"][0, 0])
    # a broken file makes the reader raise almost anything
    except Exception as error:
        raise _undecodable(path, "a MATLAB file with GTcls.Segmentation", error) from error
    if mask.ndim != 2 or not np.issubdtype(mask.dtype, np.integer):
        raise UserError(
            f"{path}: found GTcls.Segmentation of {mask.dtype} and shape {mask.shape}, expected whole "
            "numbers of shape (height, width); unpack SBD again"
        )
    return mask


def _undecodable(path: Path, expected: str, error: Exception) -> UserError:
    return UserError(f"{path}: cannot be decoded ({_line(error)}), expected {expected}; fetch the file again")


def _line(error: Exception) -> str:
    """Puts an error of another library on one line."""
    return " ".join(str(error).split()) or type(error).__name__
