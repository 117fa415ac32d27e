from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sign_zs3.commands.configured import ConfiguredCLI
from sign_zs3.data.datamodules import COCOStuffDataModule, PascalContextDataModule, VOCDataModule
from sign_zs3.data.splits import PUBLISHED, published_protocol
from sign_zs3.errors import UserError
from sign_zs3.protocol import Protocol

MAKERS: dict[str, Callable[..., Protocol]] = {name: partial(published_protocol, name) for name in PUBLISHED}
voc_protocol, coco_stuff_protocol = MAKERS["voc"], MAKERS["coco_stuff"]
SIZES = {"voc": 20, "pascal_context_33": 33, "pascal_context_59": 59, "coco_stuff": 171}
EVERY = [(dataset, split) for dataset, published in PUBLISHED.items() for split in published.splits]
# names as ZS3Net's paper gives them, in the order of its splits
ZS3 = {
    "voc": [
        *({"cow", "motorbike"}, {"aeroplane", "sofa"}, {"cat", "tvmonitor"}, {"train", "bottle"}),
        {"chair", "pottedplant"},
    ],
    "pascal_context_59": [
        *({"cow", "motorbike"}, {"sofa", "cat"}, {"boat", "fence"}, {"bird", "tvmonitor"}),
        {"keyboard", "aeroplane"},
    ],
}


def unseen_of(protocol: Protocol) -> set[str]:
    return {protocol.classes[i] for i in protocol.unseen}


@pytest.mark.parametrize(("dataset", "split"), EVERY)
def test_every_published_split_is_a_partition(dataset: str, split: str) -> None:
    protocol = MAKERS[dataset](split=split)
    assert (protocol.dataset, protocol.split) == (dataset, split)
    assert set(protocol.seen) | set(protocol.unseen) == set(range(protocol.num_classes))
    assert not set(protocol.seen) & set(protocol.unseen)
    background = "background" in protocol.classes
    assert protocol.num_classes == SIZES[dataset] + background
    assert unseen_of(protocol) == set(PUBLISHED[dataset].splits[split].unseen)
    # seen classes first, each half in the order of the data set's own ids
    for half in (protocol.seen, protocol.unseen):
        own = [protocol.ids[i] for i in half]
        assert own == sorted(own)
    # an id is a class, or ignored, or neither, and each class keeps its id under every split
    assert not set(protocol.ids) & set(protocol.ignored_ids)
    default = MAKERS[dataset]()
    named = dict(zip(default.ids, default.classes, strict=True)) | ({0: "background"} if background else {})
    assert dict(zip(protocol.ids, protocol.classes, strict=True)) == named
    assert np.array_equal(protocol.to_ids()[protocol.lookup()[list(protocol.ids)]], protocol.ids)


@pytest.mark.parametrize("dataset", ZS3)
def test_zs3_splits_are_nested_with_background_seen(dataset: str) -> None:
    expected: set[str] = set()
    for number, added in zip((2, 4, 6, 8, 10), ZS3[dataset], strict=True):
        expected |= added
        protocol = MAKERS[dataset](split=f"zs3-{number}")
        assert unseen_of(protocol) == expected and len(expected) == number
        assert protocol.classes[0] == "background" and protocol.ids[0] == 0
        assert protocol.ignored_ids == (255,)
        assert protocol.num_seen == SIZES[dataset] + 1 - number


def test_the_papers_splits() -> None:
    assert unseen_of(voc_protocol()) == {"pottedplant", "sheep", "sofa", "train", "tvmonitor"}
    assert [voc_protocol().ids[i] for i in voc_protocol().unseen] == [16, 17, 18, 19, 20]
    for num_classes in (33, 59):
        assert unseen_of(MAKERS[f"pascal_context_{num_classes}"]()) == {"cow", "motorbike", "sofa", "cat"}
    assert len(unseen_of(coco_stuff_protocol())) == 15


@pytest.mark.parametrize("dataset", ["voc", "coco_stuff"])
def test_spnet_is_the_default(dataset: str) -> None:
    default, spnet = MAKERS[dataset](), MAKERS[dataset](split="spnet")
    for field in ("classes", "ids", "num_seen", "ignored_ids"):
        assert getattr(default, field) == getattr(spnet, field)


@pytest.mark.parametrize(
    ("dataset", "split", "hint"),
    [
        ("voc", "zs3_4", "did you mean 'zs3-"),
        ("voc", "zs3-3", "did you mean 'zs3-"),
        ("coco_stuff", "SPNet", "expected one of coco_stuff's: default, spnet; "),
        ("coco_stuff", "spnets", "did you mean 'spnet'"),
        ("pascal_context_33", "zs3-2", "expected one of pascal_context_33's: default; or name the classes in unseen"),
        ("pascal_context_59", "defualt", "did you mean 'default'"),
        ("voc", "", "or name the classes in unseen"),
    ],
)
def test_a_wrong_split_proposes_a_close_one(dataset: str, split: str, hint: str) -> None:
    with pytest.raises(UserError) as caught:
        MAKERS[dataset](split=split)
    message = str(caught.value)
    assert message.startswith(f"split: found {split!r}, expected one of {dataset}'s: default")
    assert hint in message and "\n" not in message


@pytest.mark.parametrize("dataset", MAKERS)
def test_any_list_of_names_takes_the_place_of_the_split(dataset: str) -> None:
    protocol = MAKERS[dataset](["bicycle", "bird"])
    assert unseen_of(protocol) == {"bicycle", "bird"} and protocol.split == "custom"
    assert protocol.num_classes == SIZES[dataset]
    assert MAKERS[dataset]([]).num_seen == SIZES[dataset]
    with pytest.raises(UserError, match=r"unseen: found 'bycicle', .* did you mean 'bicycle"):
        MAKERS[dataset](["bycicle"])


def test_names_replace_the_unseen_classes_of_zs3_and_keep_its_background() -> None:
    protocol = voc_protocol(["bird"], "zs3-4")
    assert unseen_of(protocol) == {"bird"} and protocol.classes[0] == "background" and protocol.num_classes == 21
    # background may be unseen, too
    assert unseen_of(voc_protocol(["background"], "zs3-4")) == {"background"}
    with pytest.raises(UserError, match="unseen: found 'background'"):
        voc_protocol(["background"])


def test_data_modules_hand_both_options_on() -> None:
    assert VOCDataModule("", split="zs3-6").protocol == voc_protocol(split="zs3-6")
    assert VOCDataModule("", unseen=["cow"]).protocol == voc_protocol(["cow"])
    assert COCOStuffDataModule("", split="spnet").protocol == coco_stuff_protocol(split="spnet")
    assert PascalContextDataModule("").protocol == MAKERS["pascal_context_33"]()
    many = PascalContextDataModule("", num_classes=59, split="zs3-8")
    assert many.protocol == MAKERS["pascal_context_59"](split="zs3-8")
    assert PascalContextDataModule("", num_classes=59, unseen=["wood"]).protocol == MAKERS["pascal_context_59"](
        ["wood"]
    )


def protocol_of(*options: str) -> Any:
    return ConfiguredCLI(list(options), "A test.", lambda parser: None).datamodule.protocol


def test_splits_by_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # as the program sets it: Lightning 2.6 calls jsonargparse by old names
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    voc = ("--data", "VOCDataModule", "--data.root", "nowhere")
    assert protocol_of(*voc) == voc_protocol()
    assert protocol_of(*voc, "--data.unseen", "[cow,motorbike]") == voc_protocol(["cow", "motorbike"])
    assert protocol_of(*voc, "--data.unseen=[cow, motorbike]") == voc_protocol(["cow", "motorbike"])
    assert protocol_of(*voc, "--data.split", "zs3-4") == voc_protocol(split="zs3-4")
    config = tmp_path / "data.yaml"
    options = {"root": "nowhere", "num_classes": 59, "split": "zs3-2"}
    config.write_text(json.dumps({"data": {"class_path": "PascalContextDataModule", "init_args": options}}))
    assert protocol_of("--config", str(config)) == MAKERS["pascal_context_59"](split="zs3-2")
    assert protocol_of("--config", str(config), "--data.split", "default") == MAKERS["pascal_context_59"]()
