"""Vision transformers of timm as backbones: maps of their patches, and those of CLIP in the space of its texts."""

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import timm.optim
import torch
from torch import Tensor
from torch.nn import functional as F

from sign_zs3.errors import UserError, check_choice, close_names
from sign_zs3.files import line_of, read_json
from sign_zs3.functional.geometry import Axis, Places
from sign_zs3.models.backbones.base import Backbone
from sign_zs3.models.backbones.pyramids import check_modules
from sign_zs3.models.weights import load_weights

log = logging.getLogger(__name__)

_PATCHES = ("visual.conv1.weight", "patch_embed.proj.weight")


class TransformerBackbone(Backbone):
    """A vision transformer, with options and errors of `build_backbone`: maps of its patches, all of one stride.

    Cell i looks at the middle of its patch, pixel s * (i + 1/2) - 1/2 for patches of s pixels. Position embeddings are
    interpolated for other sizes than those of the pretraining, as timm does.

    CLIP has no maps of its own, since it is trained on the class token alone. Let x be the tokens that enter the last
    block. It becomes y = x + out(A v), then y + mlp(y), whose norm and projection per patch are the map; v are the
    values, and A says how tokens are mixed (layer norms left out here). `dense` is ``value``: A is the identity
    (MaskCLIP; Zhou et al., ECCV 2022); ``correlative``: A = softmax(q q^T / sqrt(d)) + softmax(k k^T / sqrt(d)) (SCLIP;
    Wang et al., ECCV 2024); or ``last``: A = softmax(q k^T / sqrt(d)), the block as it was trained.

    Args:
        name: Timm's name, ``clip/`` or ``timm/`` before it, such as ``clip/vit_base_patch16_clip_224``.
        levels: Names of blocks, such as ``blocks.5``; None: the last one. Not for CLIP.
        weights: A file in the layout of timm or, for CLIP, of OpenAI or open_clip; None: random weights.
        dense: How CLIP's tokens are mixed in the last block.
    """

    def __init__(self, name: str, levels: Sequence[str] | None, weights: Path | None, dense: str = "value") -> None:
        super().__init__()
        kind, _, bare = name.partition("/")
        check_choice("dense", dense, "value", "correlative", "last")
        self.dense = dense if kind == "clip" else None
        options: dict[str, Any] = {"num_classes": 0}
        if self.dense is not None:
            config = config_of(name)
            options = {} if config is None else {"num_classes": config.num_classes}
            if levels is not None:
                raise UserError(f"backbone_levels: found {list(levels)} for {name}, expected null: its map is one")
        network: Any = timm.create_model(bare, pretrained=False, dynamic_img_size=True, **options)
        network.attn_pool = None  # SigLIP's, which reads all patches as one vector
        self.network: Any = network
        blocks = [f"blocks.{index}" for index in range(len(network.blocks))]
        if levels is not None:
            check_modules(levels, blocks, name)
        self.indices = [blocks.index(level) for level in levels or blocks[-1:]]
        if self.indices != sorted(self.indices):
            raise UserError(f"backbone_levels: found {levels}, expected blocks of {name} from the first to the last")
        if weights is not None:
            load_weights(network, weights, name, lambda state: self._converted(state, weights, name))
        patch = int(network.patch_embed.patch_size[0])
        self.channels = (network.num_classes if self.dense else network.embed_dim,) * len(self.indices)
        self.strides = (patch,) * len(self.indices)
        self.places = Places((Axis(patch, (patch - 1) / 2),) * len(self.indices), patch, 0)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """See `Backbone`; sides are multiples of the patch's."""
        network, options = self.network, {"output_fmt": "NLC", "intermediates_only": True, "stop_early": True}
        if self.dense in ("value", "correlative"):
            before = {"indices": [len(network.blocks) - 2], "return_prefix_tokens": True}
            ((patches, prefix),) = network.forward_intermediates(images, **before, **options)
            tokens = self._last_block(torch.cat([prefix, patches], dim=1))[:, prefix.shape[1] :]
            levels = [network.norm(tokens)]
        else:
            levels = network.forward_intermediates(images, self.indices, norm=True, **options)
        read = (network.head(network.fc_norm(level)).transpose(1, 2) for level in levels)
        return tuple(level.unflatten(2, (images.shape[-2] // self.strides[0], -1)) for level in read)

    def _last_block(self, x: Tensor) -> Tensor:
        """Return what the last block makes of tokens (N, L, width) where patches are mixed as `dense` says."""
        block, attention = self.network.blocks[-1], self.network.blocks[-1].attn
        parts = attention.qkv(block.norm1(x)).unflatten(2, (3, attention.num_heads, -1))
        q, k, v = parts.permute(2, 0, 3, 1, 4)  # each (N, heads, L, width / heads)
        if self.dense == "correlative":
            v = F.scaled_dot_product_attention(q, q, v) + F.scaled_dot_product_attention(k, k, v)
        x = x + block.ls1(attention.proj(v.transpose(1, 2).flatten(2)))
        found: Tensor = x + block.ls2(block.mlp(block.norm2(x)))
        return found

    def parameter_groups(self, layer_decay: float) -> list[dict[str, Any]]:
        """See `Backbone`; a layer is a block, the patches' embedding the lowest."""
        optim: Any = timm.optim
        groups = optim.param_groups_layer_decay(self.network, weight_decay=1.0, layer_decay=layer_decay)
        return [{"params": group["params"], "multiplier": group["lr_scale"]} for group in groups]

    def _converted(self, state: dict[str, Tensor], path: Path, name: str) -> dict[str, Tensor]:
        """Rename a file's entries to those of the network, and resample its position embeddings."""
        patch = tuple(self.network.patch_embed.patch_size)
        for key, value in state.items():
            if key.endswith(_PATCHES) and value.ndim == 4 and tuple(value.shape[2:]) != patch:
                raise UserError(
                    f"weights: {path} has patches of {value.shape[2]} pixels, expected the {patch[0]} of {name}: give "
                    "the network that the file is of"
                )
        if "_clip_" in name:
            _check_gelu(path, state, name)
        module: Any = sys.modules[type(self.network).__module__]
        try:
            found: dict[str, Tensor] = module.checkpoint_filter_fn(state, self.network)
        except Exception as error:  # whatever the layout of another network makes of it
            raise UserError(
                f"weights: {path} does not fit the backbone {name} ({line_of(error)[:200]}): give a file of this "
                "network, in the layout of timm, open_clip or OpenAI"
            ) from error
        return found


def config_of(name: str) -> Any:
    """Return what timm says of a transformer's weights: colours, width of the projection; None where it says nothing.

    A name may stand for weights of several trainings, told apart by a tag, as in ``NAME.openai``.
    """
    kind, _, bare = name.partition("/")
    if kind != "clip":
        return timm.get_pretrained_cfg(bare)
    network, _, tag = bare.partition(".")
    published = timm.list_models("vit_*clip*.*", pretrained=True)
    tagged = [other for other in published if other.startswith(f"{network}.")]
    known = {other.partition(".")[0] for other in published if "_ft_" not in other}
    tagged = [bare] if tag else [other for other in tagged if "_ft_" not in other] if network in known else tagged
    if network not in timm.list_models("vit_*clip*") or "_ft_" in tag or (tagged and network not in known):
        near = ", ".join(f"clip/{other}" for other in close_names(network, known))
        raise UserError(
            f"backbone: found '{name}', expected a CLIP of timm with its projection, such as "
            f"{near or 'clip/vit_base_patch16_clip_224'}; other networks are timm/NAME"
        )
    found = [(other, timm.get_pretrained_cfg(other)) for other in tagged]
    if len({(config.num_classes, config.mean, config.std) for _, config in found if config is not None}) > 1:
        raise UserError(
            f"backbone: found '{name}', whose weights are published for different colours, expected one of "
            f"{', '.join(f'clip/{other}' for other, _ in found)}: give the name with its tag"
        )
    return found[0][1] if found else None


def _check_gelu(path: Path, state: Mapping[str, Tensor], name: str) -> None:
    """Refuse weights of the other activation, where they are marked; it has no weights, so that all others would fit.

    OpenAI's own files bring the number `input_resolution`; open_clip's have a configuration beside.
    """
    is_quick = "quickgelu" in name
    beside = path.parent / "open_clip_config.json"
    marked: bool | None = True if "input_resolution" in state else None
    if marked is None and beside.is_file():
        found = read_json(beside, "open_clip's configuration")
        model = found.get("model_cfg") if isinstance(found, dict) else None
        marked = bool(model.get("quick_gelu")) if isinstance(model, dict) else None
    if marked is None:
        log.warning(
            "weights: %s does not say whether it was trained with QuickGELU, as OpenAI's were, or GELU, as %s has it%s",
            path, name, " not" if is_quick else "",
        )  # fmt: skip
    elif marked != is_quick:
        other = name.replace("clip_quickgelu_", "clip_") if is_quick else name.replace("clip_", "clip_quickgelu_", 1)
        raise UserError(
            f"weights: {path} was trained with {'QuickGELU' if marked else 'GELU'}, which {name} does not have: give "
            + (f"backbone {other}" if timm.is_model(other.partition("/")[2]) else "weights of another training")
        )
