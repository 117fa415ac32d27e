"""Pascal VOC 2012 with SBD's extra training masks, read in their native folders.

`train_aug` is built by rule from the lists that lie there: SBD (train and val) minus every VOC 2012 val
image, joined with VOC 2012 train. With the complete data sets that gives 10,582 images; the test list is VOC
2012 val, 1,449 images.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from sign_zs3.data.datasets.base import Transform
from sign_zs3.data.datasets.files import find_folder, names_in, read_index_mask, read_list, read_mat
from sign_zs3.data.datasets.listed import Item, ListedDataset
from sign_zs3.data.names import VOC_CLASSES
from sign_zs3.data.splits import published_protocol
from sign_zs3.errors import UserError
from sign_zs3.files import line_of
from sign_zs3.protocol import Protocol

log = logging.getLogger(__name__)

_VOC_FETCH = (
    "unpack VOCtrainval_11-May-2012.tar (host.robots.ox.ac.uk/pascal/VOC/voc2012) so that {place} exists, or "
    "set download to true"
)
_SBD_FETCH = (
    "unpack benchmark.tgz (www2.eecs.berkeley.edu, Semantic Boundaries Dataset) so that {place} exists, or "
    "set download to true"
)


def voc_protocol(unseen: Sequence[str] | None = None, split: str = "default") -> Protocol:
    """Return a class split of Pascal VOC: 20 classes; void (255) is ignored, and so is background (0) in most.

    Args:
        unseen: Names of the unseen classes; None takes those of `split`.
        split: ``"default"`` (SPNet, CaGNet, SIGN: the last five unseen) or ZS3's ``"zs3-2"`` to ``"zs3-10"``,
            where background is a seen class.

    Raises:
        UserError: A name is no class of VOC, or no split.
    """
    return published_protocol("voc", dict(enumerate(VOC_CLASSES, 1)), split, unseen)


class VOCDataset(ListedDataset):
    """Images and masks of VOC 2012, for training joined with those of SBD.

    Args:
        root: The folder that holds ``VOCdevkit``, or ``VOCdevkit``, or ``VOC2012``.
        split: ``"train"``: `train_aug` where `sbd_root` is given, else VOC 2012 train; ``"val"``: its val.
        sbd_root: The folder that holds ``benchmark_RELEASE``, or that one, or its ``dataset``; only
            ``"train"`` reads it.
        protocol: The class split; None takes `voc_protocol`'s default.
        hide_unseen: Turn unseen classes into 255 in the masks.
        transform: Augmentation, as in `SegmentationDataset`.
        check: Refuse faults of the lists and missing files, as in `ListedDataset`.

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
        check: bool = True,
    ) -> None:
        voc = _locate_voc(root)
        sbd = _locate_sbd(sbd_root) if sbd_root is not None and split == "train" else None
        problems: list[str] | None = None if check else []
        items = _index(voc, sbd, split, problems)
        super().__init__(items, protocol or voc_protocol(), hide_unseen, transform, problems or (), check)

    def read_mask(self, index: int) -> NDArray[Any]:
        """Read a mask alone, (H, W) of ids 0..20 and 255.

        Raises:
            UserError: The file cannot be decoded.
        """
        path = self.items[index].mask
        return read_mat(path, "GTcls", "Segmentation") if path.suffix == ".mat" else read_index_mask(path)


def download_voc(root: str | Path, sbd_root: str | Path | None = None) -> None:
    """Fetch what is missing of VOC 2012 (2 GB) and, where a root is given, of SBD (1.4 GB), by torchvision.

    Args:
        root: As in `VOCDataset`; ``VOCdevkit/VOC2012`` is made under it.
        sbd_root: As in `VOCDataset`; SBD's ``img``, ``cls``, ``train.txt`` and ``val.txt`` are put in it.

    Raises:
        UserError: The download failed.
    """
    from torchvision.datasets import SBDataset, VOCSegmentation

    if find_folder(root, _VOC_PLACES, _VOC_SIGN) is None:
        base = Path(root)
        if base.name == "VOC2012":
            base = base.parent
        if base.name == "VOCdevkit":
            base = base.parent
        log.info("downloading VOC 2012 to %s", base)
        try:
            VOCSegmentation(str(base), year="2012", image_set="train", download=True)
        except (OSError, RuntimeError) as error:
            raise UserError(f"root: the download to {base} failed ({line_of(error)}); {_voc_fetch(base)}") from error
    if sbd_root is not None and find_folder(sbd_root, _SBD_PLACES, _SBD_SIGN) is None:
        log.info("downloading SBD to %s", sbd_root)
        try:
            SBDataset(str(sbd_root), image_set="train", mode="segmentation", download=True)
        except (OSError, RuntimeError) as error:
            fetch = _SBD_FETCH.format(place=Path(sbd_root) / "benchmark_RELEASE" / "dataset")
            raise UserError(f"sbd_root: the download to {sbd_root} failed ({line_of(error)}); {fetch}") from error


_VOC_PLACES, _VOC_SIGN = ("VOCdevkit/VOC2012", "VOC2012", "."), "ImageSets"
_SBD_PLACES, _SBD_SIGN = ("benchmark_RELEASE/dataset", "dataset", "."), "cls"


def _voc_fetch(root: Path) -> str:
    return _VOC_FETCH.format(place=root / "VOCdevkit" / "VOC2012")


def _locate_voc(root: str | Path) -> Path:
    folder = find_folder(root, _VOC_PLACES, _VOC_SIGN)
    if folder is None:
        raise UserError(
            f"root: found no VOC2012/ImageSets at {root}, expected the folder that holds VOCdevkit; "
            + _voc_fetch(Path(root))
        )
    return folder


def _locate_sbd(root: str | Path) -> Path:
    folder = find_folder(root, _SBD_PLACES, _SBD_SIGN)
    if folder is None:
        place = Path(root) / "benchmark_RELEASE" / "dataset"
        raise UserError(
            f"sbd_root: found no dataset/cls at {root}, expected the folder that holds benchmark_RELEASE; "
            + _SBD_FETCH.format(place=place)
        )
    return folder


def _index(voc: Path, sbd: Path | None, split: Literal["train", "val"], problems: list[str] | None) -> list[Item]:
    lists = voc / "ImageSets" / "Segmentation"
    images, masks = voc / "JPEGImages", voc / "SegmentationClass"
    names = set(read_list(lists / f"{split}.txt", problems))
    if sbd is None:
        if split == "train":
            log.info("no sbd_root: training on VOC 2012 train alone, without SBD's images")
        return [Item(name, images / f"{name}.jpg", masks / f"{name}.png") for name in sorted(names)]

    in_voc = names_in(masks)
    extra = {name for part in ("train", "val") for name in read_list(sbd / f"{part}.txt", problems)}
    extra -= set(read_list(lists / "val.txt", problems))
    items = []
    for name in sorted(names | extra):
        if name in names or f"{name}.png" in in_voc:
            items.append(Item(name, images / f"{name}.jpg", masks / f"{name}.png"))
        else:
            items.append(Item(name, sbd / "img" / f"{name}.jpg", sbd / "cls" / f"{name}.mat"))
    return items
