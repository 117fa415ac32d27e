"""Backbones: networks that turn images into pyramids of feature maps."""

from sign_zs3.models.backbones.base import Backbone as Backbone
from sign_zs3.models.backbones.build import build_backbone as build_backbone
