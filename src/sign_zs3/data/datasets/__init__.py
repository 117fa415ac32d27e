"""Data sets of images and masks."""

from sign_zs3.data.datasets.base import SegmentationDataset
from sign_zs3.data.datasets.coco_stuff import COCOStuffDataset
from sign_zs3.data.datasets.folder import FolderDataset
from sign_zs3.data.datasets.listed import ListedDataset
from sign_zs3.data.datasets.pascal_context import PascalContextDataset
from sign_zs3.data.datasets.shapes import ShapesDataset
from sign_zs3.data.datasets.voc import VOCDataset

__all__ = [
    "COCOStuffDataset",
    "FolderDataset",
    "ListedDataset",
    "PascalContextDataset",
    "SegmentationDataset",
    "ShapesDataset",
    "VOCDataset",
]
