"""What stands between E and C: SIM (section 3.3), CaGNet's contextual module, or nothing."""

from sign_zs3.models.spatial.sim import SpatialFeatures, SpatialInformationModule, build_spatial

__all__ = ["SpatialFeatures", "SpatialInformationModule", "build_spatial"]
