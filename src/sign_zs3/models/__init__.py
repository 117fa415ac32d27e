"""Plain `nn.Module`s: the networks of SIGN with no training code in them."""

from sign_zs3.models.backbones import Backbone, build_backbone
from sign_zs3.models.classifier import Classifier
from sign_zs3.models.discriminator import Discriminator
from sign_zs3.models.encoder import Encoder
from sign_zs3.models.generator import Generator
from sign_zs3.models.segmenter import Segmenter
from sign_zs3.models.spatial import SpatialFeatures, SpatialInformationModule

__all__ = [
    "Backbone",
    "Classifier",
    "Discriminator",
    "Encoder",
    "Generator",
    "Segmenter",
    "SpatialFeatures",
    "SpatialInformationModule",
    "build_backbone",
]
