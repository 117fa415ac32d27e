"""Predictions as files: an index map and an overlay per image, and one report; both forms of `predict` write them."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sign_zs3.drawing.colours import palette_bytes, protocol_colours
from sign_zs3.drawing.overlay import draw_overlay
from sign_zs3.files import replacing, write_json
from sign_zs3.images import REPORT
from sign_zs3.models.inference import Segmentation
from sign_zs3.protocol import Protocol
from sign_zs3.reports.run import or_none

REPORT_FORMAT = 1
OVERLAY_SUFFIX = "_overlay.jpg"


def paths_of(name: str) -> tuple[str, str]:
    """Return the paths of an image's index map and overlay in the folder of the predictions, which they never leave."""
    inside = "/".join(part for part in PurePosixPath(name).parts if part not in ("/", "//", ".."))
    return f"{inside}.png", f"{inside}{OVERLAY_SUFFIX}"


def index_map(labels: NDArray[np.uint8], protocol: Protocol) -> Image.Image:
    """Return (H, W) class indices as a palette image of the data set's own ids, coloured as `protocol_colours` says."""
    image = Image.fromarray(protocol.to_ids()[labels])
    image.putpalette(palette_bytes(protocol.ids, protocol_colours(protocol)[: protocol.num_classes]))
    return image


def write_prediction(
    folder: Path, name: str, file: str, image: NDArray[np.uint8], found: Segmentation, protocol: Protocol,
) -> dict[str, Any]:  # fmt: skip
    """Write the index map and the overlay of an (h, w, 3) RGB image, and return its entry in the report.

    `name` says where in `folder` they go, as `paths_of` does; the report calls the image `file`. A UserError means that
    one cannot be written.
    """
    labels = found.labels.numpy()
    index, overlay = paths_of(name)
    picture = Image.fromarray(draw_overlay(image, labels, protocol))
    with replacing(folder / index) as beside:
        index_map(labels, protocol).save(beside, format="PNG")
    content = io.BytesIO()
    # without the usual subsampling of colour, which would smear outlines and characters
    picture.save(content, format="JPEG", quality=90, subsampling=0)
    with replacing(folder / overlay) as beside:
        # Pillow's own writing of a JPEG does not see when the disk is full
        beside.write_bytes(content.getvalue())
    classes = zip(protocol.classes, found.pixels.tolist(), found.confidence.tolist(), strict=True)
    held = [(name, count, confidence) for name, count, confidence in classes if count]
    return {
        "file": file,
        "index": index,
        "overlay": overlay,
        "width": labels.shape[1],
        "height": labels.shape[0],
        "pixels": {name: count for name, count, _ in held},
        "confidence": or_none(math.fsum(count * confidence for _, count, confidence in held) / labels.size),
        "class_confidence": {name: or_none(confidence) for name, _, confidence in held},
    }


def write_report(
    folder: Path,
    protocol: Protocol,
    images: Sequence[Mapping[str, Any]],
    failed: Sequence[Mapping[str, str]] = (),
    complete: bool = True,
    **facts: Any,
) -> None:
    """Write ``predictions.json``.

    `images` are what `write_prediction` returned, `failed` ``file`` and ``error`` of those that could not be labelled;
    `complete` is False where the run was stopped before its end, and `facts` are what else the report says.
    """
    report = {
        "format": REPORT_FORMAT,
        **facts,
        "dataset": protocol.dataset,
        "split": protocol.split,
        "classes": [
            {"name": name, "id": own_id, "seen": index < protocol.num_seen}
            for index, (name, own_id) in enumerate(zip(protocol.classes, protocol.ids, strict=True))
        ],
        "complete": complete,
        "images": list(images),
        "failed": list(failed),
    }
    write_json(folder / REPORT, report)


def closing_line(folder: Path, count: int) -> str:
    """Return what the program says at the end, where `count` images were labelled."""
    what = "image" if count == 1 else "images"
    return f"predictions: {folder} ({count} {what}: NAME.png, NAME{OVERLAY_SUFFIX}; {REPORT})"
