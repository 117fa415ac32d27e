"""The examples in docstrings are true."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest
import torch

import sign_zs3
from sign_zs3 import functional

SOURCE = Path(sign_zs3.__file__).parent
MODULES = sorted(
    ".".join(file.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")
    for file in SOURCE.rglob("*.py")
    if ">>> " in file.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    module, given = importlib.import_module(name), {"torch": torch}
    result = doctest.testmod(module, extraglobs=given, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted
    assert not result.failed


def test_whoever_looks_up_an_equation_finds_an_example() -> None:
    without = [name for name in functional.__all__ if ">>> " not in str(getattr(functional, name).__doc__)]
    assert not without
    assert {"sign_zs3.metrics", "sign_zs3.embeddings.table"} <= set(MODULES)
