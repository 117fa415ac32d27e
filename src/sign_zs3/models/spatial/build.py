"""From the name of a spatial module, as a config has it, to the module."""

from typing import Any

from sign_zs3.errors import check_choice
from sign_zs3.models.spatial.contextual import ContextualModule
from sign_zs3.models.spatial.features import PlainFeatures, SpatialModule
from sign_zs3.models.spatial.sim import SpatialInformationModule

MODULES: dict[str, Any] = {"sim": SpatialInformationModule, "contextual": ContextualModule, "plain": PlainFeatures}


def build_spatial(name: str, feature_dim: int, **options: Any) -> SpatialModule:
    """Make what stands between E and C, one of `MODULES` with its further options."""
    check_choice("spatial", name, *MODULES)
    made: SpatialModule = MODULES[name](feature_dim, **options)
    return made
