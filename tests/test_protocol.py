from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from sign_zs3.data.splits import VOC_CLASSES, published_protocol
from sign_zs3.errors import UserError
from sign_zs3.protocol import Protocol

NAMES = {3: "cat", 5: "dog", 8: "cow", 9: "sheep", 250: "sky"}


@pytest.fixture
def protocol() -> Protocol:
    return Protocol.build("farm", "default", NAMES, ["sky", "dog"], (0, 255))


def test_seen_come_first_each_half_by_id(protocol: Protocol) -> None:
    assert protocol.classes == ("cat", "cow", "sheep", "dog", "sky")
    assert protocol.ids == (3, 8, 9, 5, 250)
    assert protocol.num_classes == 5


def test_seen_and_unseen_partition_the_classes(protocol: Protocol) -> None:
    assert (*protocol.seen, *protocol.unseen) == tuple(range(protocol.num_classes))
    assert {protocol.classes[i] for i in protocol.unseen} == {"dog", "sky"}


def test_lookup_is_the_inverse_of_to_ids(protocol: Protocol) -> None:
    table, back = protocol.lookup(), protocol.to_ids()
    assert table.dtype == np.int64 and back.dtype == np.uint8
    assert [int(table[back[i]]) for i in range(5)] == list(range(5))
    assert back[255] == 255


def test_lookup_knows_classes_ignored_ids_and_nothing_else(protocol: Protocol) -> None:
    table = protocol.lookup()
    assert set(np.flatnonzero(table == 255).tolist()) == {0, 255}
    assert set(np.flatnonzero(table == -1).tolist()) == set(range(256)) - set(NAMES) - {0, 255}


def test_hiding_changes_unseen_ids_only(protocol: Protocol) -> None:
    shown, hidden = protocol.lookup(), protocol.lookup(hide_unseen=True)
    assert np.flatnonzero(shown != hidden).tolist() == [5, 250]
    assert (hidden[[5, 250]] == 255).all()


def test_development_hides_the_true_unseen_classes(protocol: Protocol) -> None:
    for seed in range(5):
        development = protocol.development(1, seed)
        assert set(development.classes) == {"cat", "cow", "sheep"}
        assert development.num_seen == 2
        assert set(development.ignored_ids) == {0, 255, 5, 250}
        assert all(NAMES[i] == name for i, name in zip(development.ids, development.classes, strict=True))
    drawn = {protocol.development(1, seed).classes[-1] for seed in range(20)}
    assert drawn == {"cat", "cow", "sheep"}
    assert protocol.development(2, 3) == protocol.development(2, 3)


@pytest.mark.parametrize("count", [0, 3, -1])
def test_development_needs_a_seen_class_left(protocol: Protocol, count: int) -> None:
    with pytest.raises(UserError, match=f"development: found {count}, expected 1 to 2"):
        protocol.development(count)


def test_survives_plain_types(protocol: Protocol) -> None:
    assert Protocol(**json.loads(json.dumps(dataclasses.asdict(protocol)))) == protocol


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ("a", "b")}, "found 2 class names and 3 ids"),
        ({"classes": ("a", "b", "a")}, "the class 'a' twice"),
        ({"ids": (1, 2, 2)}, "the id 2 twice"),
        ({"ids": (1, 2, 255)}, "class id 255, expected 0 to 254"),
        ({"ids": (-1, 2, 3)}, "class id -1"),
        ({"ignored_ids": (0, 256)}, "ignored id 256"),
        ({"ignored_ids": (0, 2)}, "id 2 as a class and as ignored"),
        ({"num_seen": 0}, "found 0 seen of 3"),
        ({"num_seen": 4}, "found 4 seen of 3"),
    ],
)
def test_refuses_what_is_no_partition(change: dict[str, object], message: str) -> None:
    good = {"dataset": "d", "split": "s", "classes": ("a", "b", "c"), "ids": (1, 2, 3), "num_seen": 2}
    with pytest.raises(UserError, match=message):
        Protocol(**{**good, **change})  # type: ignore[arg-type]


def test_unknown_unseen_name_gets_a_proposal() -> None:
    with pytest.raises(UserError, match=r"unseen: found 'pottedplan', .*did you mean 'pottedplant'") as caught:
        published_protocol("voc", ["pottedplan"])
    assert "\n" not in str(caught.value)


def test_unseen_name_given_twice() -> None:
    with pytest.raises(UserError, match="'cow' twice"):
        published_protocol("voc", ["cow", "cow"])


def test_ignored_classes_are_no_classes() -> None:
    whole = published_protocol("voc", ["sheep", "sofa"])
    protocol = published_protocol("voc", ["sheep", "sofa"], ignored_classes=["train", "aeroplane"])
    assert protocol.classes == tuple(name for name in whole.classes if name not in ("train", "aeroplane"))
    assert protocol.ids == tuple(i for i in whole.ids if i not in (1, 19)) and protocol.num_seen == 16
    assert protocol.ignored_ids == (0, 1, 19, 255) and protocol.split == "custom"
    table = protocol.lookup()
    assert {int(table[i]) for i in protocol.ignored_ids} == {255}


@pytest.mark.parametrize(
    ("unseen", "ignored", "message"),
    [
        (["sheep"], ["trian"], r"ignored_classes: found 'trian', expected a class of voc \(.*\); did you mean 'train'"),
        (["sheep"], ["sheep"], "unseen: found 'sheep', which is in ignored_classes too"),
        # of the published split
        (None, ["train"], "unseen: found 'train', which is in ignored_classes too"),
    ],
)
def test_ignored_classes_that_do_not_fit(unseen: list[str] | None, ignored: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        published_protocol("voc", unseen, ignored_classes=ignored)


def test_all_unseen_is_refused() -> None:
    with pytest.raises(UserError, match="at least one seen"):
        published_protocol("voc", list(VOC_CLASSES))


def test_voc_default_is_the_published_split() -> None:
    protocol = published_protocol("voc")
    assert protocol.classes == VOC_CLASSES
    assert protocol.ids == tuple(range(1, 21))
    assert [protocol.classes[i] for i in protocol.unseen] == [
        "pottedplant",
        "sheep",
        "sofa",
        "train",
        "tvmonitor",
    ]


@pytest.mark.parametrize("palette", ["00ff", "zz" * 768, "AB" * 768])
def test_a_palette_that_is_none(palette: str) -> None:
    fields = published_protocol("voc").as_dict()
    assert "palette" not in fields
    with pytest.raises(UserError, match="expected 1536 hexadecimal digits or none"):
        Protocol.from_dict({**fields, "palette": palette})
