"""The names and parameters that callers may rely on."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Callable
from typing import Any

import pytest

import sign_zs3
from sign_zs3 import functional

FUNCTIONS = {
    "relative_positional_encoding": "height, width, dim=600, scale=512.0, origin=(0, 0), full_size=None",
    "absolute_positional_encoding": "height, width, dim=600, origin=(0, 0), full_size=None",
    "interpolated_positional_encoding": "height, width, train_size, dim=600, origin=(0, 0), full_size=None",
    "gaussian_kl": "mu, logvar, mask=None",
    "mmd": "real, fake, bandwidths=(2, 5, 10, 20, 40, 60), sqrt=True",
    "class_mmd": (
        "real, fake, labels_real, labels_fake=None, bandwidths=(2, 5, 10, 20, 40, 60), sqrt=True, ignore_index=255"
    ),
    "annealed_weights": "confidence, pseudo, temperature",
    "confident_fraction": "confidence, pseudo, fraction",
    "confusion_matrix": "prediction, target, num_classes, ignore_index=255",
    "gzsl_scores": "confusion, seen, unseen, absent='skip'",
}
"""Functions of `sign_zs3.functional` with the parameters that callers may rely on; others may follow them."""


def _parameters(function: Callable[..., Any]) -> str:
    parameters = inspect.signature(function).parameters.values()
    return ", ".join(str(parameter.replace(annotation=inspect.Parameter.empty)) for parameter in parameters)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_have_their_parameters(name: str) -> None:
    assert f"{_parameters(getattr(functional, name))}, ".startswith(f"{FUNCTIONS[name]}, ")
    assert name in functional.__all__


def test_the_metric_has_its_parameters() -> None:
    parameters = _parameters(sign_zs3.GZSLMeanIoU)
    assert parameters.startswith("classes, seen, unseen, ignore_index=255, absent='skip'")


def test_public_names() -> None:
    assert set(sign_zs3.__all__) >= {
        "COCOStuffDataModule", "CaGNetModule", "ClassTable", "FolderDataModule", "GZSLMeanIoU",
        "PascalContextDataModule", "Protocol", "SIGNModule", "SPNetModule", "ScheduleProgressBar", "Segmenter",
        "ShapesDataModule", "UserError", "VOCDataModule", "ZS3Module", "ZeroShotDataModule", "ZeroShotTask",
        "__version__", "extend", "load_recipe", "load_segmenter", "load_task", "remove", "rename", "save_model",
        "self_train", "weigh",
    }  # fmt: skip
    for name in sign_zs3.__all__:
        assert getattr(sign_zs3, name) is not None, name
    assert dir(sign_zs3) == sign_zs3.__all__


def test_type_checkers_see_the_same_public_names() -> None:
    tree = ast.parse(inspect.getsource(sign_zs3))
    imported = {
        alias.name: str(node.module)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("sign_zs3.")
        for alias in node.names
    }
    assert sorted(imported) == sign_zs3.__all__
    for name, module in imported.items():
        assert getattr(importlib.import_module(module), name) is getattr(sign_zs3, name)


@pytest.mark.parametrize("package", ["callbacks", "data.datamodules", "data.datasets", "embeddings", "functional",
                                     "models", "tasks", "vocabulary"])  # fmt: skip
def test_packages_have_what_they_list(package: str) -> None:
    module = importlib.import_module(f"sign_zs3.{package}")
    assert list(module.__all__) == sorted(set(module.__all__), key=lambda name: (not name.isupper(), name))
    for name in module.__all__:
        assert getattr(module, name) is not None, name
