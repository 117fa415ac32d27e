"""COCO-Stuff (164k): COCO 2017 images with pixel maps of things and stuff."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sign_zs3.data.datasets.base import Part
from sign_zs3.data.datasets.files import find_folder
from sign_zs3.data.datasets.listed import Item, ListedDataset
from sign_zs3.data.splits import published_protocol
from sign_zs3.errors import UserError
from sign_zs3.protocol import Protocol

_FETCH = (
    "unpack train2017.zip and val2017.zip (images.cocodataset.org) into {root}/images, and "
    "stuffthingmaps_trainval2017.zip (github.com/nightrome/cocostuff) into {root}/annotations"
)


class COCOStuffDataset(ListedDataset):
    """The images of a folder with their pixel maps; there are no lists, each image has a map.

    Args:
        root, val_size: As of `COCOStuffDataModule`.
        split: ``"train"``: train2017 without its last images; ``"val"``: these; ``"test"``: val2017.
        protocol: The class split; None takes the default one.
        **options: `hide_unseen`, `transform` and `check` of `ListedDataset`.

    Raises:
        UserError: A folder or a pixel map is missing, or `val_size` leaves no image to train on.
    """

    def __init__(
        self, root: str | Path, split: Part, val_size: int = 10_000, protocol: Protocol | None = None, **options: Any
    ) -> None:
        part = "val2017" if split == "test" else "train2017"
        images = _folder(root, ("images", "."), part, "JPEG images")
        # a folder of images in the root itself must not pass for that of the maps
        elsewhere = () if images.parent == Path(root) else (".",)
        masks = _folder(root, ("annotations", "stuffthingmaps", *elsewhere), part, "pixel maps")
        names = sorted(p.stem for p in images.iterdir() if p.suffix == ".jpg" and not p.name.startswith("."))
        if not names:
            raise UserError(f"{images}: found no .jpg, expected the images of {part}; {_FETCH.format(root=root)}")
        if split != "test":
            if not 0 <= val_size < len(names):
                raise UserError(
                    f"val_size: found {val_size}, expected 0 to {len(names) - 1}, since {images} has {len(names)} "
                    "images; lower it"
                )
            cut = len(names) - val_size
            names = names[:cut] if split == "train" else names[cut:]
        items = [Item(name, images / f"{name}.jpg", masks / f"{name}.png") for name in names]
        super().__init__(items, protocol or published_protocol("coco_stuff"), **options)


def _folder(root: str | Path, places: Sequence[str], part: str, what: str) -> Path:
    found = find_folder(root, places, part)
    if found is None:
        where = f"root: found no {places[0]}/{part} in {root}"
        raise UserError(f"{where}, expected the folder of its {what}; {_FETCH.format(root=root)}")
    return found / part
