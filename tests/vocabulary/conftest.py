from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sign_zs3 import SIGNModule, ZeroShotTask, save_model
from sign_zs3.data.datasets.shapes import NAMES
from sign_zs3.models.classifier import Classifier
from sign_zs3.tasks import METHODS, GenerativeTask
from tests.conftest import TINY, quiet_trainer, tiny_data

NEW = ["orange circle", "purple sea"]
CLASSES = tuple(NAMES.values())


def trained(folder: Path, method: str = "SIGN", **options: Any) -> ZeroShotTask:
    known = METHODS[method].defaults()
    chosen = {key: value for key, value in (TINY | {"center_vectors": True} | options).items() if key in known}
    model = METHODS[method](**chosen)
    quiet_trainer(folder).fit(model, tiny_data())
    return model.eval()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("trained")
    save_model(trained(folder), folder / "sign.ckpt")
    return str(folder / "sign.ckpt")


def generator(model: ZeroShotTask) -> torch.nn.Module:
    assert isinstance(model, GenerativeTask)
    return model.generator


def projection(model: ZeroShotTask) -> torch.nn.Conv2d:
    assert isinstance(model.segmenter.classifier, Classifier)
    return model.segmenter.classifier.projection


def trained_without(folder: Path, names: list[str]) -> ZeroShotTask:
    model = SIGNModule(**TINY)
    quiet_trainer(folder).fit(model, tiny_data(ignored_classes=names))
    return model.eval()
