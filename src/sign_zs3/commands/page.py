"""What the page of a model does, apart from how it looks: images read and labelled, classes taught, what is shown.

Messages are for visitors of the page, who know no option of the command line. How it looks is in `page_layout`.
"""

import base64
import functools
import io
import itertools
import re
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sign_zs3.commands.checkpoints import listed
from sign_zs3.data.datasets.shapes import NAMES, UNSEEN, draw_scene
from sign_zs3.drawing.colours import is_clear, protocol_colours
from sign_zs3.drawing.overlay import OPACITY, at_shown_size, shares
from sign_zs3.embeddings import ClassTable
from sign_zs3.errors import UserError, did_you_mean
from sign_zs3.images import read_image
from sign_zs3.limits import MAX_PIXELS
from sign_zs3.models.classifier import Classifier
from sign_zs3.protocol import Protocol
from sign_zs3.reports.predictions import index_map
from sign_zs3.tasks.base import ZeroShotTask
from sign_zs3.vocabulary.editing import check_new, with_bonuses
from sign_zs3.vocabulary.extension import check_teachable, extend

KEPT = 3600
"""Seconds for which uploads, and what a visitor added, are kept."""
LISTED = 0.01
"""Share of the pixels from which on the legend lists a class; the others are folded."""
NO_IMAGE = f"There is no image: upload one, or take an example. Images are kept for {KEPT // 60} minutes."
NOT_TEACHABLE = "This model cannot learn classes by name."


@dataclass(frozen=True)
class Visit:
    """What one visitor has: a model with their own classes (None: the page's), an image, and `bonuses` of classes.

    These are added to the scores of the class of that name; that of "" to those of all unseen classes.
    """

    model: ZeroShotTask | None = None
    path: Path | None = None
    bonuses: Mapping[str, float] = field(default_factory=dict)


class Page:
    """What the page of a model, which is not changed, does.

    Args:
        model: A trained model.
        examples: Image files to choose from; without any, a model of the built-in data has drawn scenes.
        max_pixels: An image of more pixels is refused.
        options: Those of `Segmenter.segment`, by default the model's.
    """

    def __init__(
        self, model: ZeroShotTask, examples: Sequence[Path] = (), max_pixels: int = MAX_PIXELS, **options: Any
    ) -> None:
        self.model = model
        self.max_pixels = max_pixels
        self.examples = [*examples]
        if not examples and model.protocol.dataset == "shapes":
            folder = Path(tempfile.mkdtemp(prefix="sign_zs3_page_"))
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            self.examples = _write_scenes(folder)
        self.options = model.evaluation_options | options

    def protocol(self, visit: Visit) -> Protocol:
        """Return the classes of a visitor."""
        return (visit.model or self.model).protocol

    @property
    def teachable(self) -> bool:
        """Whether the model can learn classes by their names."""
        try:
            check_teachable(self.model)
        except UserError:
            return False
        return True

    def weights(self, visit: Visit) -> list[tuple[str, str]]:
        """Return what a visitor may weigh, as shown and as a name: unseen classes as "", then, but for SPNet, each."""
        protocol, each = self.protocol(visit), isinstance(self.model.segmenter.classifier, Classifier)
        seen, unseen = protocol.classes[: protocol.num_seen], protocol.unseen_classes
        single = [*((f"{name} ★", name) for name in unseen), *((name, name) for name in seen)]
        return [("all unseen classes (★)", "")] * bool(unseen) + single * each

    @functools.cached_property
    def table(self) -> ClassTable | None:
        """The table of class vectors of the training, None where it is not there."""
        vectors = self.model.hparams["vectors"]
        try:
            return ClassTable.bundled() if vectors == "bundled" else ClassTable.load(vectors)
        except (UserError, OSError):
            return None

    def thumbnails(self, side: int = 192) -> list[tuple[str, str]]:
        """Return the name and a small picture, as an address, of each example."""
        found = []
        for path in self.examples:
            small = Image.fromarray(self.read(path))
            small.thumbnail((side, side))
            found.append((path.stem, _source(small, "JPEG")))
        return found

    def read(self, path: str | Path | None) -> NDArray[np.uint8]:
        """Read an image, (H, W, 3) RGB; a UserError says to a visitor why it cannot be."""
        if path is None or not Path(path).exists():
            raise UserError(NO_IMAGE)
        name = Path(path).name
        try:
            return read_image(Path(path), max_pixels=self.max_pixels)[0]
        except UserError as error:
            if size := re.search(r"found (\d+ x \d+) = \d+ pixels", str(error)):
                most = f"this page takes at most {self.max_pixels:,} pixels"
                raise UserError(f"{name} has {size[1]} pixels, {most}: make it smaller and upload it again.") from error
            raise UserError(f"{name} cannot be read as an image: save it as JPEG or PNG and upload that.") from error

    def preview(self, image: NDArray[np.uint8]) -> dict[str, Any]:
        """Return what the viewer shows before the image is labelled: itself."""
        return {"picture": _source(at_shown_size(image, image[:, :, 0])[0], "JPEG")}

    def label(
        self, visit: Visit, image: NDArray[np.uint8], report: Callable[[int, int], object] | None = None
    ) -> tuple[dict[str, Any], str]:
        """Label a visitor's image; return what the viewer shows, and a line on it.

        `report` is called with the number of windows that are read, and of all.
        """
        protocol, segmenter = self.protocol(visit), (visit.model or self.model).segmenter
        # a class that a visitor added is forgotten after a while, and the page may still name it
        rows = {row: visit.bonuses[name] for row, name in enumerate(protocol.classes) if name in visit.bonuses}
        options = self.options | {"seen_penalty": self.options["seen_penalty"] + visit.bonuses.get("", 0)}
        options |= {"max_pixels": self.max_pixels, "confidence_map": True, "report": report}
        found = with_bonuses(segmenter, rows).segment(image, **options)
        assert found.confidence_map is not None
        labels, (height, width) = found.labels.numpy(), found.labels.shape
        sure = (100 * found.confidence_map).round().byte().numpy()
        _, small, sure = at_shown_size(image, labels, sure)
        held, name = shares(labels), visit.path.name if visit.path else "image"
        colours = (protocol_colours(protocol) * 255).round().astype(int).tolist()
        view = self.preview(image) | {
            "labels": _source(small),
            "confidence": _source(sure),
            "index": _source(index_map(labels, protocol)),
            "file": f"{Path(name).stem}_classes.png",
            "alternative": f"{name}, each pixel in the colour of its class",
            "opacity": OPACITY,
            "classes": [
                {
                    "index": index,
                    "name": protocol.classes[index],
                    "unseen": index >= protocol.num_seen,
                    "colour": colours[index],
                    "share": share,
                    "listed": share >= LISTED or len(held) == 1,
                    "clear": is_clear(protocol.classes[index]),
                }
                for index, share in held
            ],
        }
        return view, f"{name}: {width} x {height} pixels, {len(held)} {'class' if len(held) == 1 else 'classes'} found"

    def teach(self, visit: Visit, names: str) -> tuple[Visit, str]:
        """Add classes for a visitor by their names, split at commas; a UserError says to a visitor why it cannot be."""
        new = [" ".join(name.split()) for name in listed(names) if name.strip()]
        if not new:
            raise UserError("Write the name of a class first, such as zebra.")
        known = [*self.protocol(visit).classes]
        for name in new:
            try:
                check_new(name, known)
            except UserError as error:
                raise UserError(f"“{name}” is a class already: see the list of all classes.") from error
            known.append(name)
            if self.table is not None and not self.table.has(name):
                hint = did_you_mean(name, self.table.names, 2, ": try another word for it, or the singular.")
                raise UserError(f"The model has never read the word “{name}”{hint}")
        try:
            visit = replace(visit, model=extend(visit.model or self.model, new))
        except UserError as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{', '.join(new)} cannot be added on this page ({reason})") from error
        return visit, f"Added {', '.join(new)}: {self.protocol(visit).num_classes} classes now."


def _write_scenes(folder: Path) -> list[Path]:
    """Write the first four test scenes of the built-in data that hold an unseen class; return their paths."""
    unseen = [own_id for own_id, name in NAMES.items() if name in UNSEEN]
    scenes = (draw_scene(index, 0, "test") for index in itertools.count())
    # something else beside it
    chosen = (image for image, mask in scenes if np.isin(mask, unseen).any() and len(np.unique(mask)) > 3)
    made = [folder / f"scene {number}.png" for number in (1, 2, 3, 4)]
    for path, image in zip(made, chosen, strict=False):
        Image.fromarray(image).save(path)
    return made


def _source(pixels: NDArray[np.uint8] | Image.Image, kind: str = "PNG") -> str:
    """Return an image as an address that holds it."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    content = io.BytesIO()
    image.save(content, format=kind, **({"quality": 92} if kind == "JPEG" else {}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(content.getvalue()).decode()}"
