"""Pascal VOC 2012 with SBD's extra training masks, read in their native folders.

`train_aug` is built by rule from the lists that lie there: SBD (train and val) minus every VOC 2012 val image, joined
with VOC 2012 train. With the complete data sets that gives 10,582 images; the test list is VOC 2012 val, 1,449 images.

Many have these masks as PNGs instead, in ``SegmentationClassAug`` beside ``SegmentationClass``, with ``train_aug.txt``:
they are read where no folder of SBD is given.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from numpy.typing import NDArray

from sign_zs3.data.datasets.files import find_folder, names_in, read_index_mask, read_list, read_mat
from sign_zs3.data.datasets.listed import Item, ListedDataset
from sign_zs3.data.splits import published_protocol
from sign_zs3.errors import UserError
from sign_zs3.files import refusing
from sign_zs3.protocol import Protocol

log = logging.getLogger(__name__)

_AUG = "SegmentationClassAug"
_AUG_LISTS = ("train_aug.txt", "trainaug.txt")


@dataclass(frozen=True)
class _Source:
    """Where a root may hold a folder, what lies in that, and which archive it comes from."""

    option: str
    places: tuple[str, ...]
    mark: str
    archive: str

    def find(self, root: str | Path) -> Path | None:
        return find_folder(root, self.places, self.mark)

    def require(self, root: str | Path) -> Path:
        if (folder := self.find(root)) is None:
            raise UserError(
                f"{self.option}: found no {self.places[1]}/{self.mark} at {root}, expected the folder that holds "
                f"{self.places[0].split('/')[0]}; {self.fetch(root)}"
            )
        return folder

    def fetch(self, root: str | Path) -> str:
        return f"unpack {self.archive} so that {Path(root) / self.places[0]} exists, or set download to true"

    def download(self, root: str | Path, fetch: Callable[..., Any], **options: Any) -> None:
        log.info("downloading %s to %s", self.archive, root)
        with refusing(f"{self.option}: the download to {root} failed", f"; {self.fetch(root)}"):
            fetch(str(root), image_set="train", download=True, **options)


_VOC = _Source(
    "root",
    ("VOCdevkit/VOC2012", "VOC2012", "."),
    "ImageSets",
    "VOCtrainval_11-May-2012.tar (host.robots.ox.ac.uk/pascal/VOC/voc2012)",
)
_SBD = _Source(
    "sbd_root",
    ("benchmark_RELEASE/dataset", "dataset", "."),
    "cls",
    "benchmark.tgz (www2.eecs.berkeley.edu, Semantic Boundaries Dataset)",
)


class VOCDataset(ListedDataset):
    """Images and masks of VOC 2012, for training joined with those of SBD.

    Args:
        root: As of `VOCDataModule`.
        split: ``"train"``: `train_aug` where `sbd_root` is given or ``SegmentationClassAug`` is there, else VOC 2012
            train; ``"val"``: its val.
        sbd_root: As of `VOCDataModule`; only ``"train"`` reads it.
        protocol: The class split; None takes the default one.
        **options: `hide_unseen`, `transform` and `check` of `ListedDataset`.

    Raises:
        UserError: A root, a list, or an image or mask of a list is missing.
    """

    def __init__(
        self,
        root: str | Path,
        split: Literal["train", "val"],
        sbd_root: str | Path | None = None,
        protocol: Protocol | None = None,
        **options: Any,
    ) -> None:
        voc, sbd = _VOC.require(root), None
        if split == "train" and sbd_root is not None:
            sbd = _SBD.require(sbd_root)
        elif split == "train" and (voc / _AUG).is_dir():
            log.info("no sbd_root: training on the masks in %s", voc / _AUG)
        elif split == "train":
            log.info("no sbd_root, no %s: training on VOC 2012 train alone, without SBD's images", _AUG)
        problems: list[str] = []
        items = _items(voc, sbd, split, problems)
        super().__init__(items, protocol or published_protocol("voc"), problems, **options)

    def read_mask(self, index: int) -> NDArray[Any]:
        """Read a mask alone, (H, W) of ids 0..20 and 255; a `UserError` where it cannot be decoded."""
        path = self.items[index].mask
        return read_mat(path, "GTcls", "Segmentation") if path.suffix == ".mat" else read_index_mask(path)


def download_voc(root: str | Path, sbd_root: str | Path | None = None) -> None:
    """Fetch what is missing of VOC 2012 (2 GB) and, where a root is given, of SBD (1.4 GB), by torchvision.

    The roots are those of `VOCDataset`: ``VOCdevkit/VOC2012`` is made under `root`, and SBD's ``img``, ``cls``,
    ``train.txt`` and ``val.txt`` in `sbd_root`. A download that fails is a `UserError`.
    """
    from torchvision.datasets import SBDataset, VOCSegmentation

    if _VOC.find(root) is None:
        base = Path(root)
        for name in ("VOC2012", "VOCdevkit"):
            base = base.parent if base.name == name else base
        _VOC.download(base, VOCSegmentation, year="2012")
    if sbd_root is not None and _SBD.find(sbd_root) is None:
        _SBD.download(sbd_root, SBDataset, mode="segmentation")


def _bare(line: str) -> str:
    """Return the id in a line of a list, which may be a pair of paths: ``/JPEGImages/ID.jpg /FOLDER/ID.png``."""
    parts = line.split()
    return PurePosixPath(parts[0]).stem if len(parts) == 2 and parts[1].endswith(".png") else line


def _items(voc: Path, sbd: Path | None, split: str, problems: list[str]) -> list[Item]:
    lists = voc / "ImageSets" / "Segmentation"
    with_aug = sbd is None and (voc / _AUG).is_dir()
    listed = lists / f"{split}.txt"
    if with_aug and split == "train":
        listed = next((path for name in _AUG_LISTS if (path := lists / name).is_file()), lists / _AUG_LISTS[0])
    names = set(read_list(listed, problems, _bare))
    extra: set[str] = set()
    if sbd is not None:
        extra = {name for part in ("train", "val") for name in read_list(sbd / f"{part}.txt", problems)}
        extra -= set(read_list(lists / "val.txt", problems))
    own = names_in(voc / "SegmentationClass")

    def item(name: str) -> Item:
        if sbd is not None and name not in names and f"{name}.png" not in own:
            return Item(name, sbd / "img" / f"{name}.jpg", sbd / "cls" / f"{name}.mat")
        folder = _AUG if with_aug and (split == "train" or f"{name}.png" not in own) else "SegmentationClass"
        return Item(name, voc / "JPEGImages" / f"{name}.jpg", voc / folder / f"{name}.png")

    return [item(name) for name in sorted(names | extra)]
