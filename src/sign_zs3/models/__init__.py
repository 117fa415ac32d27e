"""The networks of SIGN: plain modules of PyTorch, with no training code in them."""

from sign_zs3.models.backbones import Backbone, build_backbone
from sign_zs3.models.classifier import Classifier, build_classifier
from sign_zs3.models.config import SegmenterConfig
from sign_zs3.models.discriminator import Discriminator
from sign_zs3.models.encoder import Encoder
from sign_zs3.models.generator import Generator
from sign_zs3.models.inference import Labels, Scores, Segmentation, label_scores
from sign_zs3.models.segmenter import Segmenter
from sign_zs3.models.spatial import SpatialFeatures, SpatialInformationModule, build_spatial
from sign_zs3.models.spatial.released import ReleasedModule

__all__ = [
    "Backbone",
    "Classifier",
    "Discriminator",
    "Encoder",
    "Generator",
    "Labels",
    "ReleasedModule",
    "Scores",
    "Segmentation",
    "Segmenter",
    "SegmenterConfig",
    "SpatialFeatures",
    "SpatialInformationModule",
    "build_backbone",
    "build_classifier",
    "build_spatial",
    "label_scores",
]
