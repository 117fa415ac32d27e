"""Where the pixels of unseen classes go: the mean over runs of one row.

    .venv/bin/python experiments/confusions.py runs/msrc/sign_ast/seed*/version_0

For each unseen class its IoU, the labels that its pixels get, and the classes whose pixels get its label.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from sign_zs3.commands.configured import ConfiguredCLI
from sign_zs3.functional import confusion_matrix
from sign_zs3.tasks import load_task


@torch.no_grad()
def confusion(run: Path) -> tuple[torch.Tensor, tuple[str, ...], int]:
    """Return the matrix of the test images (rows: truth) after the last phase, the class names, and S."""
    data = ConfiguredCLI(["--config", str(run / "config.yaml")], "", lambda parser: None).datamodule
    data.setup("test")
    model = load_task(run / "checkpoints" / "last.ckpt")
    names = data.protocol.classes
    total = torch.zeros(len(names), len(names), dtype=torch.int64)
    for index in range(len(data.test_set)):
        sample = data.test_set[index]
        total += confusion_matrix(model.label_image(sample["image"]), sample["mask"], len(names))
    return total, names, data.protocol.num_seen


def largest(shares: torch.Tensor, names: tuple[str, ...], but: int) -> str:
    """Name the three largest shares."""
    order = [i for i in shares.argsort(descending=True).tolist() if i != but]
    return ", ".join(f"{names[i]} {100 * shares[i]:.0f}" for i in order[:3])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    found = [confusion(run) for run in parser.parse_args().runs]
    _, names, seen = found[0]
    print("| unseen class | IoU, % | its pixels are labelled, % | pixels labelled so are of, % |")
    print("|---|---|---|---|")
    for k in range(seen, len(names)):
        iou = torch.stack([m[k, k] / (m[k].sum() + m[:, k].sum() - m[k, k]) for m, _, _ in found]).mean()
        recall = torch.stack([m[k] / m[k].sum().clamp(min=1) for m, _, _ in found]).mean(0)
        precision = torch.stack([m[:, k] / m[:, k].sum().clamp(min=1) for m, _, _ in found]).mean(0)
        own = f"itself {100 * recall[k]:.0f}, {largest(recall, names, k)}"
        true = f"itself {100 * precision[k]:.0f}, {largest(precision, names, k)}"
        print(f"| {names[k]} | {100 * iou:.1f} | {own} | {true} |")


if __name__ == "__main__":
    main()
