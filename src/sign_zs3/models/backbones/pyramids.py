"""Convolutional networks of timm as pyramids."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
from torch import Tensor

from sign_zs3.errors import UserError, close_names
from sign_zs3.models.backbones.base import Backbone, measure_levels
from sign_zs3.models.weights import load_weights


class TimmBackbone(Backbone):
    """A convolutional network of timm with options and errors of `build_backbone`; `weights` are a local file."""

    def __init__(self, name: str, output_stride: int, levels: Sequence[str] | None, weights: Path | None) -> None:
        super().__init__()
        called = f"timm/{name}"
        # Many networks know no such option; 32 is what they have without it.
        options: dict[str, Any] = {} if output_stride == 32 else {"output_stride": output_stride}
        try:
            options |= {"features_only": True} if levels is None else {"num_classes": 0}
            self.network = timm.create_model(name, pretrained=False, **options)
            if levels is None:
                info: Any = self.network.feature_info
                self.read: tuple[Any, ...] = tuple(i for i, stride in enumerate(info.reduction()) if stride >= 4)
            else:
                names = [module for module, _ in self.network.named_modules() if module]
                check_modules(levels, names, called)
            if weights is not None:
                load_weights(self.network, weights, called)
            if levels is not None:
                self.network = timm.models.create_feature_extractor(self.network, list(levels))
                self.read = tuple(levels)
            # Transformers may give (N, h, w, channels), or take one size alone.
            found = measure_levels(self)
            self.channels, self.strides = tuple(c for c, _ in found), tuple(stride for _, stride in found)
            wanted = [(info.channels()[i], info.reduction()[i]) for i in self.read] if levels is None else found
            if found != wanted or list(self.strides) != sorted(self.strides):
                raise ValueError(f"gives channels and strides {found}, expected {wanted}, fine to coarse")
        except UserError:
            raise
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"backbone: '{called}' gives no convolutional pyramid at output_stride {output_stride} ({reason}): "
                "try output_stride 32, other backbone_levels, or another network"
            ) from error

    def __deepcopy__(self, memo: dict[int, Any]) -> "TimmBackbone":
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


def check_modules(levels: Sequence[str], modules: Sequence[str], name: str) -> None:
    """Refuse levels that are none of a network's modules, or the same one twice."""
    unknown = [level for level in levels if level not in modules]
    if not levels or unknown or len(set(levels)) < len(levels):
        near = close_names(unknown[0], modules) if unknown else modules[:3]
        raise UserError(
            f"backbone_levels: found {list(levels)}, expected different modules of {name}, fine to coarse: try "
            + (", ".join(near) or f"names such as {modules[-1]}")
        )
