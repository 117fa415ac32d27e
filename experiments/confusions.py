"""Where the pixels of unseen classes go, and whether G's features reach them: the mean over runs of one row.

    .venv/bin/python experiments/confusions.py runs/msrc/sign_ast/seed*/version_0
    .venv/bin/python experiments/confusions.py runs/msrc/sign/seed*/version_0 --checkpoint transfer

For each unseen class, on the test images: its IoU, the labels that its pixels get, and the classes whose pixels get its
label. And of its cells: the share that G's features of the class cover (Naeem et al., ICML 2020: one of them lies
nearer than the fifth nearest real feature of the class), and the classes of which the nearest feature of G is.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor

from sign_zs3.commands.configured import ConfiguredCLI
from sign_zs3.functional.geometry import map_size, shrink_labels
from sign_zs3.tasks import GenerativeTask, ZeroShotTask, load_task, steps

CELLS = 400
NEIGHBOURS = 5


class Cells(Callback):
    """Keeps F at cells of each class, at most `CELLS` of each, an image at a time."""

    def __init__(self, model: ZeroShotTask) -> None:
        self.found: dict[int, list[Tensor]] = {}
        self.latest = torch.empty(0)
        model.segmenter.classifier.register_forward_pre_hook(self.keep)

    def keep(self, module: torch.nn.Module, inputs: tuple[Tensor]) -> None:
        """Keep F (N, D, h, w) of the batch."""
        self.latest = inputs[0].detach()

    def on_test_batch_end(self, *given: Any, **named: Any) -> None:
        """Take 20 cells of each class of an image at random."""
        module, mask = given[1], given[3]["mask"]
        cells = module.segmenter.encoder.cells(map_size(mask))
        for image, labels in zip(self.latest, shrink_labels(mask, map_size(self.latest), cells), strict=True):
            features, flat = image.flatten(1).t(), labels.flatten()
            order = torch.randperm(len(flat), generator=torch.Generator().manual_seed(0))
            for c in flat.unique().tolist():
                self.found.setdefault(c, []).append(features[order[flat[order] == c][:20]])


def cover(model: GenerativeTask, real: dict[int, Tensor]) -> dict[int, tuple[float, Tensor]]:
    """Return for each class the share of its features that is covered, and the shares of the nearest ones' classes."""
    torch.manual_seed(0)
    labels = torch.arange(model.protocol.num_classes).repeat_interleave(CELLS)
    made = steps.synthetic_features(model.generator, model.class_vectors, labels.view(1, -1, 1))[0, :, :, 0].t()
    found = {}
    for c, rows in real.items():
        radius = torch.cdist(rows, rows).kthvalue(NEIGHBOURS + 1, dim=1).values
        distances = torch.cdist(rows, made)
        # as many as there are real ones
        covered = distances[:, labels == c][:, : len(rows)].amin(1) <= radius
        nearest = torch.bincount(labels[distances.argmin(1)], minlength=model.protocol.num_classes)
        found[c] = (float(covered.float().mean()), nearest / len(rows))
    return found


def measure(run: Path, checkpoint: str) -> tuple[Tensor, dict[int, tuple[float, Tensor]], ZeroShotTask]:
    """Return the confusion matrix of the test images (rows: truth), what G covers, and the model."""
    data = ConfiguredCLI(["--config", str(run / "config.yaml")], "").datamodule
    model = load_task(run / "checkpoints" / f"{checkpoint}.ckpt")
    model.hparams.update(flip=False, scales=[1.0])  # one view, whose cells are known
    cells = Cells(model)
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, callbacks=[cells]
    )
    trainer.test(model, data, verbose=False)
    assert model.confusion is not None
    unseen, draw = range(model.protocol.num_seen, model.protocol.num_classes), torch.Generator().manual_seed(0)
    rows = {c: torch.cat(cells.found[c]) for c in unseen if c in cells.found}
    rows = {c: found[torch.randperm(len(found), generator=draw)[:CELLS]] for c, found in rows.items()}
    rows = {c: found for c, found in rows.items() if len(found) > NEIGHBOURS}
    return model.confusion.float(), cover(model, rows) if isinstance(model, GenerativeTask) else {}, model


def largest(shares: Tensor, names: tuple[str, ...], own: int) -> str:
    """Name the class itself and the three largest other shares."""
    order = [i for i in shares.argsort(descending=True).tolist() if i != own and shares[i] >= 0.005]
    return ", ".join(f"{'itself' if i == own else names[i]} {100 * shares[i]:.0f}" for i in [own, *order[:3]])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--checkpoint", default="last", help="of the phase whose end is looked at (default: last)")
    options = parser.parse_args()
    found = [measure(run, options.checkpoint) for run in options.runs]
    protocol = found[0][2].protocol
    print(
        "| unseen class | IoU, % | its pixels are labelled, % | pixels labelled so are of, % | covered by G, % "
        "| nearest to features of G for, % |"
    )
    print("|---|---|---|---|---|---|")
    for k in protocol.unseen:
        iou = torch.stack([m[k, k] / (m[k].sum() + m[:, k].sum() - m[k, k]) for m, _, _ in found]).mean()
        recall = torch.stack([m[k] / m[k].sum().clamp(min=1) for m, _, _ in found]).mean(0)
        precision = torch.stack([m[:, k] / m[:, k].sum().clamp(min=1) for m, _, _ in found]).mean(0)
        cells = [f"{100 * iou:.1f}", *(largest(shares, protocol.classes, k) for shares in (recall, precision))]
        if all(k in covered for _, covered, _ in found):
            cells.append(f"{100 * sum(covered[k][0] for _, covered, _ in found) / len(found):.0f}")
            nearest = torch.stack([covered[k][1] for _, covered, _ in found]).mean(0)
            cells.append(largest(nearest, protocol.classes, k))
        else:
            cells += ["", ""]
        print(f"| {protocol.classes[k]} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
