"""Weights of a backbone as trainings save them: within wrappers, and as a part of a larger network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sign_zs3.errors import UserError
from sign_zs3.models.backbones import build_backbone

State = dict[str, Tensor]


def prefixed(prefix: str) -> Callable[[State], Any]:
    return lambda state: {f"{prefix}{key}": value for key, value in state.items()}


FORMS: dict[str, Callable[[State], Any]] = {
    **{f"prefix {name}": prefixed(name) for name in ("module.", "backbone.", "module.encoder_q.", "a.b.c.")},
    "in state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "in model": lambda state: {"model": state, "epoch": 3},
    "in two": lambda state: {"model": {"state_dict": state}, "optimizer": {"lr": 0.1}},
    "in one, with a prefix": lambda state: {"state_dict": prefixed("module.backbone.")(state), "best": 0.5},
    "beside a head": lambda state: {
        **prefixed("backbone.")(state), "decode_head.conv.weight": torch.zeros(3, 2), "norm.weight": torch.ones(4),
    },
    "beside a second network": lambda state: {
        **prefixed("student.")(state), **{f"discriminator.{i}.weight": torch.zeros(1) for i in range(500)},
    },
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["small", "resnet18"])
def test_a_network_is_found(name: str, form: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    source = build_backbone(name)
    state = source.state_dict()
    if name == "resnet18":
        from torchvision.models import resnet18

        network = resnet18(num_classes=5)
        state = network.state_dict()
    torch.save(FORMS[form](state), tmp_path / "weights.pth")
    loaded = build_backbone(name, weights=str(tmp_path / "weights.pth")).state_dict()
    values = [value for key, value in state.items() if not key.startswith("fc.")]
    assert len(values) == len(loaded)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(loaded.values(), values, strict=True))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"features.conv.weight": torch.zeros(2), "x": torch.zeros(1)},
            r"found the entries features\.conv\.weight, x, expected such as 0\.weight",
        ),
        ({"state_dict": {"a": "b"}}, "found something else than names and tensors under a"),
        ({"epoch": 3}, "found something else than names and tensors under epoch"),
        ({}, "found something else than names and tensors"),
        ([torch.zeros(2)], "found something else than names and tensors"),
    ],
)  # fmt: skip
def test_other_files_say_what_was_found(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(UserError, match=message) as caught:
        build_backbone("small", weights=str(tmp_path / "weights.pth"))
    assert "\n" not in str(caught.value)


def test_a_part_that_does_not_fit_is_named_by_its_own_entries(tmp_path: Path) -> None:
    state = build_backbone("small").state_dict()
    del state["3.body.0.weight"]
    torch.save({"model": prefixed("module.")(state)}, tmp_path / "weights.pth")
    with pytest.raises(UserError, match=r"1 entries missing, the first '3\.body\.0\.weight'"):
        build_backbone("small", weights=str(tmp_path / "weights.pth"))


def test_a_misspelt_network_is_blamed_before_its_weights() -> None:
    pytest.importorskip("timm")
    with pytest.raises(UserError, match=r"^backbone: found 'timm/convnext_tinny', .*: try 'timm/convnext_tiny'"):
        build_backbone("timm/convnext_tinny", weights="lite")


def test_a_download_that_fails_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    with pytest.raises(UserError, match=r"IMAGENET1K_V1 of resnet18 cannot be downloaded \(Name .*; fetch the file"):
        build_backbone("resnet18", weights="IMAGENET1K_V1")
