"""What a perfect labeller of cells would score: each cell has the label of the pixel that it looks at.

    .venv/bin/python experiments/ceilings.py --data COCOStuffDataModule --data.root data/coco

The options are those of `fit`; the test masks are read, at their own size. Two columns: the cells' scores interpolated
at the pixels from where the cells look, as everywhere in this library, and as if the cells tiled the image (bilinear
with `align_corners=False`), which is off by up to half a stride.
"""

from __future__ import annotations

import sys

from torch import Tensor
from torch.nn import functional as F

from sign_zs3.commands.configured import ConfiguredCLI
from sign_zs3.functional import map_size, resize_scores, shrink_labels
from sign_zs3.functional.geometry import Axis, Cells
from sign_zs3.metrics import GZSLMeanIoU

STRIDES = (4, 8, 16, 32)


def labelled(mask: Tensor, stride: int, num_classes: int, tiled: bool) -> Tensor:
    """Return the label map (1, H, W) of a perfect labeller of the cells of a symmetrically padded network."""
    size, cells = map_size(mask), Cells(Axis(stride), Axis(stride))
    rows, columns = (-(-(side - (0 if tiled else 1)) // stride) + (0 if tiled else 1) for side in size)
    labels = shrink_labels(mask, (rows, columns), cells)
    # a cell without a label has no say
    scores = F.one_hot(labels.clamp(max=num_classes), num_classes + 1)[..., :num_classes].permute(0, 3, 1, 2).float()
    return resize_scores(scores, size, None if tiled else cells).argmax(dim=1)


def main(args: list[str]) -> None:
    """Print the table."""
    data = ConfiguredCLI(args, "Score a perfect labeller of cells.").datamodule
    data.setup("test")
    protocol = data.protocol
    print("| stride | at the cells' places, mIoU in % | cells that tile the image |")
    print("|---:|---:|---:|")
    for stride in STRIDES:
        found = []
        for tiled in (False, True):
            metric = GZSLMeanIoU(protocol.classes, protocol.seen, protocol.unseen)
            for index in range(len(data.test_set)):
                mask = data.test_set[index]["mask"][None]
                metric.update(labelled(mask, stride, protocol.num_classes, tiled), mask)
            found.append(f"{100 * metric.compute()['miou']:.1f}")
        print(f"| {stride} | {' | '.join(found)} |")


if __name__ == "__main__":
    main(sys.argv[1:])
