"""What stands between E and C: SIM (section 3.3), CaGNet's contextual module, or nothing."""

from sign_zs3.models.spatial.base import SpatialFeatures as SpatialFeatures
from sign_zs3.models.spatial.build import SpatialInformationModule as SpatialInformationModule
from sign_zs3.models.spatial.build import build_spatial as build_spatial
