"""From the name of a spatial module, as a config has it, to the module."""

from __future__ import annotations

from typing import Any

from torch import nn

from sign_zs3.errors import UserError
from sign_zs3.models.spatial.contextual import ContextualModule
from sign_zs3.models.spatial.features import PlainFeatures
from sign_zs3.models.spatial.sim import SpatialInformationModule


def build_spatial(name: str, feature_dim: int, **options: Any) -> nn.Module:
    """Make what stands between E and C: (E(x), sample, origin, full_size) -> `SpatialFeatures`.

    Args:
        name: ``sim``, ``contextual`` or ``plain``.
        feature_dim: D.
        **options: Further arguments of `SpatialInformationModule`, `ContextualModule` or `PlainFeatures`.

    Raises:
        UserError: An unknown name.
    """
    makers: dict[str, type[nn.Module]] = {
        "sim": SpatialInformationModule, "contextual": ContextualModule, "plain": PlainFeatures,
    }  # fmt: skip
    if name not in makers:
        raise UserError(f"spatial: found {name!r}, expected one of {', '.join(makers)}")
    return makers[name](feature_dim, **options)
