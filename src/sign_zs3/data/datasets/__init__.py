"""Data sets of images and masks."""

from sign_zs3.data.datasets.base import SegmentationDataset as SegmentationDataset
from sign_zs3.data.datasets.coco_stuff import COCOStuffDataset as COCOStuffDataset
from sign_zs3.data.datasets.folder import FolderDataset as FolderDataset
from sign_zs3.data.datasets.listed import ListedDataset as ListedDataset
from sign_zs3.data.datasets.pascal_context import PascalContextDataset as PascalContextDataset
from sign_zs3.data.datasets.shapes import ShapesDataset as ShapesDataset
from sign_zs3.data.datasets.voc import VOCDataset as VOCDataset
