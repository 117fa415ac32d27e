"""Data sets of images and masks."""

from __future__ import annotations

from sign_zs3.data.datasets.base import SegmentationDataset
from sign_zs3.data.datasets.shapes import ShapesDataset
from sign_zs3.data.datasets.voc import VOCDataset

__all__ = ["SegmentationDataset", "ShapesDataset", "VOCDataset"]
