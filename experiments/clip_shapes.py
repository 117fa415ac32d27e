"""A tiny CLIP, trained for a minute on drawn shapes and their names, and what its texts are worth beside GloVe's words.

    python experiments/clip_shapes.py [--output FOLDER] [--seeds 3] [--iterations 600]

It stands in for the published CLIPs wherever their weights cannot be had. An image is a crop of a scene around one
thing, its text the thing's name in a sentence; all names take part, as those of the web's images did, but no mask does.
Then SIGN trains on masks of the seen classes, on the maps of this encoder, frozen, once with vectors of its texts and
once with GloVe's; both differ in nothing else. `FOLDER/clip` is an open_clip folder, `FOLDER/scores.json` the scores.
"""

import argparse
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
from safetensors.torch import save_file
from timm.layers.norm import LayerNorm
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional as F

from sign_zs3.cli import main as sign_zs3
from sign_zs3.data.datasets.shapes import NAMES, draw_scene

SIDE, PATCH, WIDTH, DEPTH, HEADS, EMBED = 32, 4, 64, 3, 4, 64
CONFIG: dict[str, Any] = {
    "embed_dim": EMBED,
    "vision_cfg": {
        "image_size": SIDE, "layers": DEPTH, "width": WIDTH, "head_width": WIDTH // HEADS, "patch_size": PATCH,
        "pool_type": "avg",
    },
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 2},
}  # fmt: skip
BACKBONE = "clip/vit_shapes_patch4_clip_32"
MEAN = STD = [0.5, 0.5, 0.5]
SENTENCES = ("a photo of a {}.", "a drawing of the {}.", "{}", "one {} in a scene.")


@register_model
def vit_shapes_patch4_clip_32(**options: Any) -> VisionTransformer:
    """Return timm's network of the same structure."""
    given = {name: options[name] for name in ("num_classes", "dynamic_img_size") if name in options}
    own: dict[str, Any] = {
        "img_size": SIDE, "patch_size": PATCH, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS, "pre_norm": True,
        "num_classes": EMBED, "norm_layer": partial(LayerNorm, eps=1e-5), "global_pool": "avg", "fc_norm": False,
    }  # fmt: skip
    return VisionTransformer(**(own | given))


def crops(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return images (count, 3, SIDE, SIDE), normalised, each around a pixel of one class, and these classes' ids."""
    rng = np.random.Generator(np.random.PCG64(seed))
    images, ids, index = [], list[int](), -1
    while len(ids) < count:
        index += 1
        image, mask = draw_scene(index, seed, "train")
        for own in np.unique(mask[mask > 0]):
            at = (
                int(np.clip(np.median(where) + rng.integers(-4, 5) - SIDE // 2, 0, 64 - SIDE))
                for where in np.nonzero(mask == own)
            )
            top, left = at
            part = mask[top : top + SIDE, left : left + SIDE]
            # one that is not hidden, with hardly anything beside it
            if np.sum(part == own) >= max(120, 0.9 * np.sum(part > 0)):
                images.append(image[top : top + SIDE, left : left + SIDE])
                ids.append(int(own))
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    return (stacked - 0.5) / 0.5, torch.tensor(ids)


def train_clip(folder: Path, iterations: int, seed: int = 0) -> None:
    """Train a CLIP by the contrastive loss of images and the names in a batch, and write it as an open_clip folder."""
    torch.manual_seed(seed)
    random.seed(seed)
    model = open_clip.CLIP(**CONFIG)
    tokenizer = open_clip.get_tokenizer("ViT-B-16", context_length=16)
    images, ids = crops(6_000, seed + 1)
    names = list(NAMES)
    rows = torch.tensor([names.index(int(i)) for i in ids])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01, fused=True)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, iterations)
    model.train()
    for step in range(iterations):
        chosen = torch.randint(len(images), (64,))
        x, wanted = images[chosen], rows[chosen]
        texts = tokenizer([random.choice(SENTENCES).format(NAMES[i]) for i in names])
        logits = (
            model.logit_scale.exp() * model.encode_image(x, normalize=True) @ model.encode_text(texts, normalize=True).T
        )
        loss = F.cross_entropy(logits, wanted)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100))
        if step % 100 == 99:
            right = float((logits.argmax(1) == wanted).float().mean())
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


def score(output: Path, seeds: int) -> dict[str, list[dict[str, float | None]]]:
    """Run each row with each seed; return seen, unseen and harmonic mIoU after its last phase."""
    weights = ("--model.weights", str(output / "clip" / "open_clip_model.safetensors"))
    cache = ("--model.feature_cache", str(output / "maps"), "--trainer.accelerator", "cpu")
    found: dict[str, list[dict[str, float | None]]] = {}
    for name, arguments in rows(str(output / "texts.npz")).items():
        for seed in range(1 if name == "MaskCLIP" else seeds):
            folder = output / name.replace(" ", "_").replace(",", "") / f"seed{seed}"
            if not list(folder.rglob("results.json")):
                given = [
                    *arguments,
                    *weights,
                    *cache,
                    "--trainer.default_root_dir",
                    str(folder),
                    "--seed_everything",
                    str(seed),
                ]
                if sign_zs3(given):
                    raise SystemExit(f"{name}, seed {seed}: did not run to its end")
            (path,) = folder.rglob("results.json")
            scores = json.loads(path.read_text(encoding="utf-8"))["test"]
            found.setdefault(name, []).append({part: scores[f"{part}_miou"] for part in ("seen", "unseen", "harmonic")})
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
    for name, scores in found.items():
        means = [statistics.fmean(100 * (one[part] or 0) for one in scores) for part in ("seen", "unseen", "harmonic")]
        print(f"{name:34}" + "".join(f"{mean:8.1f}" for mean in means))


if __name__ == "__main__":
    main()
