"""Backbones of the library timm."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sign_zs3.errors import UserError, close_names
from sign_zs3.models.backbones.base import Backbone
from sign_zs3.models.weights import load_weights

TIMM = "timm/"  # stands before timm's name of a network


class TimmBackbone(Backbone):
    """A convolutional network of timm with options and errors of `build_backbone`; `weights` are a local file."""

    def __init__(self, name: str, output_stride: int, levels: Sequence[str] | None, weights: Path | None) -> None:
        super().__init__()
        called = f"{TIMM}{name}"
        try:
            import timm
        except ImportError as error:
            raise UserError(
                f"backbone: found '{called}' but timm is not installed: pip install 'sign-zs3[timm]'"
            ) from error
        # Names such as hf-hub:... that timm would download are none of its own.
        if not timm.is_model(name):
            near = close_names(name, timm.list_models())
            hint = ", ".join(f"'{TIMM}{candidate}'" for candidate in near) or "a name that timm.list_models() gives"
            raise UserError(f"backbone: found '{called}', which timm {timm.__version__} does not have: try {hint}")
        # Many networks know no such option; 32 is what they have without it.
        options: dict[str, Any] = {} if output_stride == 32 else {"output_stride": output_stride}
        try:
            if levels is None:
                self.network = timm.create_model(name, pretrained=False, features_only=True, **options)
                info: Any = self.network.feature_info
                self.read: tuple[Any, ...] = tuple(i for i, stride in enumerate(info.reduction()) if stride >= 4)
            else:
                self.network = timm.create_model(name, pretrained=False, num_classes=0, **options)
                _check_modules(levels, self.network, called)
            if weights is not None:
                load_weights(self.network, weights, called)
            if levels is not None:
                self.network = timm.models.create_feature_extractor(self.network, list(levels))
                self.read = tuple(levels)
            # Transformers may give (N, h, w, channels), or take one size alone.
            self.network.eval()
            with torch.no_grad():
                found = [tuple(level.shape) for level in self(torch.zeros(1, 3, 64, 64))]
            self.network.train()
            self.channels = tuple(shape[1] for shape in found)
            self.strides = tuple(64 // shape[-1] for shape in found)
            wanted = [(1, c, 64 // s, 64 // s) for c, s in zip(self.channels, self.strides, strict=True)]
            if levels is None:
                wanted = [(1, info.channels()[i], *[64 // info.reduction()[i]] * 2) for i in self.read]
            if found != wanted or not wanted or list(self.strides) != sorted(self.strides):
                raise ValueError(f"64 x 64 pixels give {found}, expected (1, channels, h, h), fine to coarse")
        except UserError:
            raise
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"backbone: '{called}' gives no convolutional pyramid at output_stride {output_stride} ({reason}): "
                "try output_stride 32, other backbone_levels, or another network"
            ) from error

    def __deepcopy__(self, memo: dict[int, Any]) -> TimmBackbone:
        """Copy as any module; a traced network's own copy forgets which of its modules are in evaluation."""
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__dict__.update(copy.deepcopy(self.__dict__, memo))
        for name, module in self.named_modules():
            twin.get_submodule(name).training = module.training
        return twin

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """See `Backbone`."""
        maps = self.network(images)  # a list, or a dict by the names of modules
        return tuple(maps[level] for level in self.read)


def _check_modules(levels: Sequence[str], network: nn.Module, name: str) -> None:
    modules = [module for module, _ in network.named_modules() if module]
    unknown = [level for level in levels if level not in modules]
    if not levels or unknown or len(set(levels)) < len(levels):
        near = close_names(unknown[0], modules) if unknown else modules[:3]
        raise UserError(
            f"backbone_levels: found {list(levels)}, expected different modules of {name}, fine to coarse: try "
            + (", ".join(near) or f"names such as {modules[-1]}")
        )
