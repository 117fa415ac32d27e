"""A tiny CLIP for tests: as open_clip's folder, and registered with timm under names that `clip/` takes."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

open_clip = pytest.importorskip("open_clip")
pytest.importorskip("timm")
from timm.layers import QuickGELU  # noqa: E402
from timm.layers.norm import LayerNorm  # noqa: E402
from timm.models import register_model  # noqa: E402
from timm.models.vision_transformer import VisionTransformer  # noqa: E402

FILE = "open_clip_model.safetensors"
SIDE, PATCH, WIDTH, DEPTH, HEADS, EMBED = 32, 8, 32, 3, 2, 16
NAME, QUICK_NAME = "clip/vit_test_patch8_clip_32", "clip/vit_test_patch8_clip_quickgelu_32"


def _network(act_layer: Any = None, **options: Any) -> VisionTransformer:
    given = {name: options[name] for name in ("num_classes", "dynamic_img_size") if name in options}
    own: dict[str, Any] = {
        "img_size": SIDE, "patch_size": PATCH, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS,
        "num_classes": EMBED, "pre_norm": True, "norm_layer": partial(LayerNorm, eps=1e-5),
    }  # fmt: skip
    return VisionTransformer(act_layer=act_layer, **(own | given))


@register_model
def vit_test_patch8_clip_32(**options: Any) -> VisionTransformer:
    return _network(**options)


@register_model
def vit_test_patch8_clip_quickgelu_32(**options: Any) -> VisionTransformer:
    return _network(QuickGELU, **options)


def tiny_clip(folder: Path, quick: bool = False, **vision: Any) -> Any:
    """Write the folder; return open_clip's model in evaluation mode."""
    config: dict[str, Any] = {
        "embed_dim": EMBED,
        "vision_cfg": {"image_size": SIDE, "layers": DEPTH, "width": WIDTH, "head_width": WIDTH // HEADS,
                       "patch_size": PATCH} | vision,
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
        "quick_gelu": quick,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = open_clip.CLIP(**config).eval()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    save_file(model.state_dict(), folder / FILE)
    return model
