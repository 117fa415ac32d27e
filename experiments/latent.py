"""What the latent z of SIM says of a cell, and what that is worth, over weights of the KL loss (eq. 2 to 4).

    .venv/bin/python experiments/latent.py --data data/msrc
    .venv/bin/python experiments/latent.py --data data/msrc --model.feature_dim 600   # any option of `fit`

Each run is the SIGN row on MSRC-21 with another `alpha`. On its test images, over all cells:

- rate: the KL of N(mu, exp(logvar)) to N(0, 1), summed over channels. No estimate of the mutual information between z
  and the cell can exceed its mean. In nats; 12 tell 160,000 cells apart.
- place and class: how much of the variance of (row, column), and of the one-hot class, ridge regression reads from z,
  fitted on one half of the images and scored on the other; the same from F for comparison.
- MMD: of G's features to real ones (eq. 5 and 6, per image), with the z of the cell, and with N(0, 1) in its place.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path

import torch
from jobs import Job, fit
from torch import Tensor
from torch.nn import functional as F

from sign_zs3 import SIGNModule
from sign_zs3.commands.configured import ConfiguredCLI
from sign_zs3.functional import class_mmd
from sign_zs3.functional.geometry import map_size, shrink_labels
from sign_zs3.protocol import IGNORE_INDEX

RIDGE = 1e-3
CELLS = 100


def explained(inputs: Tensor, targets: Tensor, train: Tensor) -> float:
    """Return R^2 of ridge regression of targets (P, k) on inputs (P, D), fitted where `train` (P,), scored elsewhere.

    That of all targets together: 1 - squared error / variance about the training mean.
    """
    center, spread, mean = inputs[train].mean(0), inputs[train].std() + 1e-12, targets[train].mean(0)
    x, y = (inputs - center) / spread, targets - mean
    gram = x[train].T @ x[train] + RIDGE * int(train.sum()) * torch.eye(x.shape[1], dtype=x.dtype)
    predicted = x[~train] @ torch.linalg.solve(gram, x[train].T @ y[train])
    return 1 - float((predicted - y[~train]).square().sum() / y[~train].square().sum())


@torch.no_grad()
def measure(run: Path) -> dict[str, float]:
    """Return the figures of one run, over cells drawn from each test image."""
    data = ConfiguredCLI(["--config", str(run / "config.yaml")], "", lambda parser: None).datamodule
    data.setup("test")
    model = SIGNModule.load_from_checkpoint(run / "checkpoints" / "transfer.ckpt")
    draw = torch.Generator().manual_seed(0)
    torch.manual_seed(0)  # of z
    rows: dict[str, list[Tensor]] = defaultdict(list)
    means: dict[str, list[float]] = defaultdict(list)
    for index in range(len(data.test_set)):
        sample = data.test_set[index]
        image, mask = sample["image"][None], sample["mask"][None]
        spatial = model.segmenter.features(image, sample=True)
        size = map_size(spatial.features)
        labels = shrink_labels(mask, size, model.segmenter.encoder.cells(map_size(mask)))[0]
        rate = (torch.expm1(spatial.logvar) - spatial.logvar + spatial.mu.square()).sum(1) / 2
        means["rate"].append(float(rate.mean()))
        means["mu_squared"].append(float(spatial.mu.square().mean()))
        grid = torch.stack(torch.meshgrid(*(torch.linspace(-1, 1, side) for side in size), indexing="ij"), -1)
        cells = (labels != IGNORE_INDEX).nonzero()
        row, column = cells[torch.randperm(len(cells), generator=draw)[:CELLS]].T
        own = labels[row, column]
        rows["z"].append(spatial.latent[0, :, row, column].T)
        rows["F"].append(spatial.features[0, :, row, column].T)
        rows["place"].append(grid[row, column])
        rows["class"].append(F.one_hot(own, model.protocol.num_classes).float())
        rows["train"].append(torch.full((len(own),), index % 2 == 0))
        vectors = model.class_vectors[own].T[None, :, :, None]
        for name, latent in (("mmd_z", rows["z"][-1]), ("mmd_noise", torch.randn(rows["z"][-1].shape))):
            fake = model.generator(vectors, latent.T[None, :, :, None])[0, :, :, 0].T
            means[name].append(float(class_mmd(rows["F"][-1], fake, own)))
    found = {name: statistics.mean(values) for name, values in means.items()}
    all_rows = {name: torch.cat(parts) for name, parts in rows.items()}
    for source in ("z", "F"):
        for target in ("place", "class"):
            x, y = all_rows[source].double(), all_rows[target].double()
            found[f"{target}_{source}"] = explained(x, y, all_rows["train"])
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))["test"]
    return found | {name: 100 * results[f"{name}_miou"] for name in ("seen", "unseen", "harmonic")}


def main() -> int:
    """Fit what is not there, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/msrc"), help="the folder of MSRC v2")
    parser.add_argument("--runs", type=Path, default=Path("runs/latent"))
    parser.add_argument("--alphas", nargs="+", default=["100", "1", "0.1", "0.01", "0.001", "0"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options, extra = parser.parse_known_args()
    names = ["rate", "mu_squared", "place_z", "place_F", "class_z", "class_F", "mmd_z", "mmd_noise"]
    names += ["seen", "unseen", "harmonic"]
    lines = [f"| alpha | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for alpha in options.alphas:
        job = Job(f"alpha_{alpha}", "table1/msrc_sign.yaml", None, ("--model.alpha", alpha))
        found = []
        for seed in options.seeds:
            if error := fit(job, seed, options.runs, ["--data.root", str(options.data), *extra]):
                print(error, file=sys.stderr)
                return 1
            found.append(measure(options.runs / job.name / f"seed{seed}" / "version_0"))
            print(alpha, seed, {name: f"{value:.4g}" for name, value in found[-1].items()}, flush=True)
        cells = [f"{statistics.mean([run[name] for run in found]):.4g}" for name in names]
        lines.append(f"| {alpha} | {' | '.join(cells)} |")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
