"""Backbones: networks that turn images into pyramids of feature maps."""

from sign_zs3.models.backbones.build import build_backbone
from sign_zs3.models.backbones.pyramid import Backbone

__all__ = ["Backbone", "build_backbone"]
