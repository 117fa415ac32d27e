"""A tiny CLIP, trained for minutes on drawn shapes and their names, and what its texts are worth beside GloVe's words.

    python experiments/clip_shapes.py [--output FOLDER] [--seeds 3] [--iterations 1500]

It runs the path of published CLIPs, whose weights cannot be had everywhere. An image is a part of a scene, its texts
the names of what it shows, each in a sentence; all names take part, as those of the web's images did. Masks, of unseen
classes too, choose the part and its names, but are no target: no patch is told what it shows. Then SIGN trains on masks
of the seen classes, on the maps of this encoder, frozen, once with vectors of its texts and once with GloVe's; both
differ in nothing else. There are two splits: in one, each word of an unseen name also occurs in seen names ("red
square"); in the other, "star" occurs in none. All seeds share one CLIP. `FOLDER/clip` is an open_clip folder,
`FOLDER/scores.json` has the scores; what is in FOLDER is not made again.
"""

import argparse
import itertools
import json
import math
import random
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from timm.layers.norm import LayerNorm
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional as F

from sign_zs3.cli import main as sign_zs3
from sign_zs3.data.datasets.shapes import NAMES, draw_scene

SIDE, PATCH, WIDTH, DEPTH, HEADS, EMBED = 32, 8, 96, 3, 4, 64
CONFIG: dict[str, Any] = {
    "embed_dim": EMBED,
    "vision_cfg": {
        "image_size": SIDE, "layers": DEPTH, "width": WIDTH, "head_width": WIDTH // HEADS, "patch_size": PATCH,
        "pool_type": "avg",
    },
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 2},
}  # fmt: skip
BACKBONE = "clip/vit_shapes_patch8_clip_32"
MEAN = STD = [0.5, 0.5, 0.5]
SENTENCES = ("a photo of a {}.", "a drawing of the {}.", "{}", "one {} in a scene.")
SCENES, BATCH, LEAST = 4_000, 192, 60
"""Scenes that are drawn, parts of them in a batch, and pixels from which on a thing is named."""
SHARPNESS = 10.0
SPLITS = {"known words": None, "a new word": [name for name in NAMES.values() if name.endswith("star")]}
"""Unseen classes of each split; None: those of the built-in data."""


@register_model
def vit_shapes_patch8_clip_32(**options: Any) -> VisionTransformer:
    """Return timm's network of the same structure."""
    given = {name: options[name] for name in ("num_classes", "dynamic_img_size") if name in options}
    own: dict[str, Any] = {
        "img_size": SIDE, "patch_size": PATCH, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS, "pre_norm": True,
        "num_classes": EMBED, "norm_layer": partial(LayerNorm, eps=1e-5), "global_pool": "avg", "fc_norm": False,
    }  # fmt: skip
    return VisionTransformer(**(own | given))


class Parts:
    """Parts of drawn scenes, each around a class or the background, with the names of what they show.

    Args:
        seed: Of the scenes and of the choice.
    """

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.scenes = [draw_scene(index, seed, "train") for index in range(SCENES)]

    def _part(self) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Return an image, (SIDE, SIDE, 3), and which of the names it shows, (names,) of 0 and 1."""
        while True:
            image, mask = self.scenes[self.rng.integers(SCENES)]
            rows, columns = np.nonzero(mask == self.rng.choice(np.unique(mask)))
            middle = np.array([np.median(rows), np.median(columns)]) + self.rng.integers(-5, 6, 2)
            top, left = np.clip(middle - SIDE // 2, 0, len(mask) - SIDE).astype(int)
            part = (slice(top, top + SIDE), slice(left, left + SIDE))
            shown = np.bincount(mask[part].ravel(), minlength=max(NAMES) + 1)[list(NAMES)] >= LEAST
            if shown.any():
                return image[part][:, :: self.rng.choice((-1, 1))], shown.astype(np.float32)

    def batch(self) -> tuple[Tensor, Tensor]:
        """Return images (BATCH, 3, SIDE, SIDE), normalised, and their names' shares of 1, (BATCH, names)."""
        images, shown = zip(*(self._part() for _ in range(BATCH)), strict=True)
        names = torch.from_numpy(np.stack(shown))
        return (torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5, names / names.sum(1, True)


def similarities(model: open_clip.CLIP, images: Tensor, texts: Tensor) -> Tensor:
    """Return (N, texts): the cosines of an image's patches and a text, as a mean in which the largest count most.

    So a patch learns to say what it shows itself, where published CLIPs train one vector of the whole image (after
    patch-aligned contrastive learning, Mukhoti et al., CVPR 2023, who weigh patches by a softmax of the cosines).
    """
    _, patches = model.visual(images)  # of which the latter, since `output_tokens` is set
    cosines = F.normalize(patches @ model.visual.proj, dim=2) @ texts.T
    return ((SHARPNESS * cosines).logsumexp(1) - math.log(cosines.shape[1])) / SHARPNESS


def train_clip(folder: Path, iterations: int, seed: int = 0) -> None:
    """Train a CLIP by the contrastive loss of images and all names, and write it as an open_clip folder."""
    torch.manual_seed(seed)
    random.seed(seed)
    model = open_clip.CLIP(**CONFIG)
    tokenizer = open_clip.get_tokenizer("ViT-B-16", context_length=16)
    parts = Parts(seed + 1)
    matrices = [p for name, p in model.named_parameters() if "resblocks" in name and p.ndim == 2]
    others = [p for p in model.parameters() if all(p is not matrix for matrix in matrices)]
    optimizers = [
        torch.optim.AdamW(others, lr=3e-3, weight_decay=0.01, fused=True),
        torch.optim.Muon(matrices, lr=3e-3, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
    ]
    schedules = [
        torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, iterations, pct_start=0.15, cycle_momentum=False)
        for optimizer in optimizers
    ]
    model.visual.output_tokens = True
    model.train()
    for step in range(iterations):
        images, shares = parts.batch()
        texts = tokenizer([random.choice(SENTENCES).format(name) for name in NAMES.values()])
        vectors = model.encode_text(texts, normalize=True)
        logits = model.logit_scale.exp() * similarities(model, images, vectors)
        loss = F.cross_entropy(logits, shares)
        model.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100))
        if step % 100 == 99:
            right = float((shares.gather(1, logits.argmax(1, keepdim=True)) > 0).float().mean())
            print(f"CLIP: iteration {step + 1}, loss {loss.item():.3f}, {100 * right:.0f} % right", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_cfg": CONFIG, "preprocess_cfg": {"mean": MEAN, "std": STD}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")


FROZEN = ("--model.backbone", BACKBONE, "--model.freeze_encoder", "true", "--model.dense", "last")
SIGN = (
    "--config", str(Path(__file__).with_name("quickstart.yaml")), *FROZEN, "--model.head", "fcn",
    "--model.train_iterations", "1000",
)  # fmt: skip
"""The options of the built-in data's row, on the maps of the frozen encoder; only the vectors differ between rows."""
UNIT = (
    "--config", str(Path(__file__).with_name("quickstart.yaml")), *FROZEN, "--model.head", "identity",
    "--model.unit_features", "true", "--model.feature_dim", str(EMBED), "--model.bandwidths", "median",
    "--model.center_vectors", "false", "--model.train_iterations", "1000", "--model.lr", "0.0005",
    "--model.lr_transfer", "0.0005", "--model.lr_self_training", "0.0002",
)  # fmt: skip
"""SIGN whose C starts at the texts and whose features are unit vectors."""


def rows(table: str) -> dict[str, tuple[str, ...]]:
    """Return the arguments of each row, by its name."""
    texts = ("--model.vectors", table)
    still = ("--method", "SPNet", "--data", "ShapesDataModule", *texts, *FROZEN, "--model.head", "identity")
    return {
        "MaskCLIP": ("test", *still, "--model.unit_features", "true", "--model.logit_scale", "100"),
        "SIGN + AST, GloVe": ("fit", *SIGN, "--model.vectors", "bundled"),
        "SIGN + AST, CLIP": ("fit", *SIGN, *texts),
        "SIGN + AST, CLIP, unit features": ("fit", *UNIT, *texts),
    }


def score(output: Path, seeds: int) -> dict[str, dict[str, list[dict[str, list[float]]]]]:
    """Run each row of each split with each seed; return seen, unseen and harmonic mIoU after each phase, in %."""
    weights = ("--model.weights", str(output / "clip" / "open_clip_model.safetensors"))
    cache = ("--model.feature_cache", str(output / "maps"), "--trainer.accelerator", "cpu")
    found: dict[str, dict[str, list[dict[str, list[float]]]]] = {}
    for (split, unseen), (name, arguments) in itertools.product(
        SPLITS.items(), rows(str(output / "texts.npz")).items()
    ):
        classes = () if unseen is None else ("--data.unseen", json.dumps(unseen))
        for seed in range(1 if name == "MaskCLIP" else seeds):
            folder = output / split.replace(" ", "_") / name.replace(" ", "_").replace(",", "") / f"seed{seed}"
            given = ("--trainer.default_root_dir", str(folder), "--seed_everything", str(seed))
            if not list(folder.rglob("results.json")) and sign_zs3([*arguments, *weights, *cache, *classes, *given]):
                raise SystemExit(f"{name}, seed {seed}: did not run to its end")
            (path,) = folder.rglob("results.json")
            phases = json.loads(path.read_text(encoding="utf-8"))["phases"]
            scores = {
                phase: [100 * float(of_phase[f"{part}_miou"] or 0) for part in ("seen", "unseen", "harmonic")]
                for phase, of_phase in phases.items()
            }
            found.setdefault(split, {}).setdefault(name, []).append(scores)
    return found


def main() -> None:
    """Train the CLIP where it is not there, embed the class names, and print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/clip_shapes"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=1500, help="of the CLIP")
    options = parser.parse_args()
    output = options.output
    if not (output / "clip" / "open_clip_model.safetensors").is_file():
        train_clip(output / "clip", options.iterations)
    if not (output / "texts.npz").is_file():
        source = ("--source", f"clip:{output / 'clip'}", "--output", str(output / "texts.npz"))
        if sign_zs3(["embed", "--classes", "shapes", *source]):
            raise SystemExit("embed: did not run to its end")
    found = score(output, options.seeds)
    (output / "scores.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    for split, of_rows in found.items():
        print(f"{split}: seen, unseen, harmonic mIoU in %, mean of the seeds")
        for name, runs in of_rows.items():
            for phase in runs[0]:
                means = map(statistics.fmean, zip(*(run[phase] for run in runs), strict=True))
                print(f"{name:34}{phase:16}" + "".join(f"{mean:8.1f}" for mean in means))


if __name__ == "__main__":
    main()
