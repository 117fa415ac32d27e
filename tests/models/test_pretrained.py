"""A segmenter as a folder: bit for bit the same, without a network, and one line for whatever is wrong."""

from __future__ import annotations

import copy
import errno
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from sign_zs3 import Segmenter, UserError, load_segmenter
from sign_zs3.models import SegmenterConfig
from sign_zs3.protocol import Protocol

SMALL = {"backbone": "small", "feature_dim": 8, "dilations": [1, 2]}
LITE = {
    "backbone": "timm/tf_efficientnet_lite0", "feature_dim": 8, "output_stride": 32, "head": "fcn", "freeze": True,
    "freeze_batch_norm": True, "backbone_levels": ["blocks.1", "blocks.2"],
}  # fmt: skip
SCORES = {"seen_miou": 0.5, "unseen_miou": 0.25, "harmonic_miou": 1 / 3, "per_class": {"red disc": 0.75, "sky": None}}


def build(
    encoder: dict[str, Any] = SMALL, spatial: dict[str, Any] | None = None, classifier: str = "linear", **options: Any
) -> Segmenter:
    config = SegmenterConfig(
        Protocol("shapes", "default", ("sky", "red disc", "blue|disc"), (7, 1, 250), 2),
        encoder=encoder,
        spatial=spatial or {"name": "sim", "heads": 2},
        classifier={"name": classifier},
        **options,
    )
    torch.manual_seed(0)
    segmenter = Segmenter.build(config).eval()
    for parameter in segmenter.parameters():
        # convolutions that start at zero would hide lost weights
        nn.init.normal_(parameter, std=0.2)
    for name, buffer in segmenter.named_buffers():
        if name.endswith(("running_mean", "running_var", "vectors")):
            buffer.uniform_(0.5, 1.5)
    return segmenter


@pytest.mark.parametrize(
    "options",
    [
        {"seen_penalty": 0.5, "image_mean": [0.5, 0.5, 0.5]},
        {"spatial": {"name": "contextual"}},
        {"spatial": {"name": "plain", "sigmoid": False}, "classifier": "projection"},
        {"spatial": {"name": "sim", "encoding": "conv", "position": "interpolated", "train_size": [4, 4]}},
        {"encoder": LITE, "spatial": {"name": "plain"}},
    ],
    ids=["SIGN", "CaGNet", "SPNet", "interpolated", "frozen levels of timm"],
)
def test_a_folder_gives_back_the_same_model(tmp_path: Path, options: dict[str, Any]) -> None:
    segmenter = build(**options)
    segmenter.known.fill_(True)
    segmenter.save_pretrained(tmp_path / "new" / "model")
    loaded = Segmenter.from_pretrained(tmp_path / "new" / "model")
    assert sorted(path.name for path in (tmp_path / "new" / "model").iterdir()) == [
        "README.md", "config.json", "model.safetensors",
    ]  # fmt: skip
    assert loaded.config == segmenter.config and not loaded.training
    assert loaded.encoder.freeze == segmenter.encoder.freeze
    images = torch.randint(0, 256, (2, 3, 33, 47), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(loaded(images), segmenter(images))
    assert torch.equal(load_segmenter(str(tmp_path / "new" / "model")).predict(images[0]), segmenter.predict(images[0]))


def test_memory_that_weights_share_or_stride_over_is_no_matter(tmp_path: Path) -> None:
    segmenter = build()
    first, second = segmenter.encoder.head.children()
    assert isinstance(first, nn.Conv2d) and isinstance(second, nn.Conv2d)
    second.weight = first.weight
    first.bias = nn.Parameter(torch.randn(8, 2)[:, 0])
    segmenter.save_pretrained(tmp_path)
    loaded = Segmenter.from_pretrained(tmp_path).state_dict()
    assert loaded.keys() == segmenter.state_dict().keys()
    assert all(torch.equal(loaded[name], value) for name, value in segmenter.state_dict().items())


def test_loading_asks_no_network_and_draws_no_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("asked a network")

    build().save_pretrained(tmp_path / "model")
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.chdir(tmp_path)
    state = torch.get_rng_state()
    for path in ("model", "./model", str(tmp_path / "model"), tmp_path / "model"):
        Segmenter.from_pretrained(path)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_copy_that_a_teacher_is_keeps_its_config() -> None:
    segmenter = build()
    twin = copy.deepcopy(segmenter)
    assert twin.config == segmenter.config
    assert twin.state_dict().keys() == segmenter.state_dict().keys()
    with torch.no_grad():
        twin.classifier.projection.weight.zero_()  # type: ignore[union-attr, operator]
    assert segmenter.classifier.projection.weight.any()  # type: ignore[union-attr, operator]


def test_a_changed_config_is_what_is_saved(tmp_path: Path) -> None:
    segmenter = build()
    assert segmenter.config is not None
    renamed = segmenter.config.as_dict() | {"classes": ["heaven", "red disc", "blue disc"]}
    segmenter.config = SegmenterConfig.from_dict(renamed)
    segmenter.save_pretrained(tmp_path)
    loaded = Segmenter.from_pretrained(tmp_path)
    assert loaded.config is not None and loaded.config.protocol.classes[0] == "heaven"


# -- the model card ----------------------------------------------------------------------------------------------


def test_the_card_tells_classes_split_and_scores(tmp_path: Path) -> None:
    segmenter = build(seen_penalty=0.25)
    segmenter.save_pretrained(tmp_path, scores=SCORES, model_card_kwargs={"method": "SIGN", "phase": "transfer"})
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    for line in (
        "pipeline_tag: image-segmentation",
        "| method | SIGN |",
        "| data set | shapes |",
        "| class split | default |",
        "| 1 | 1 | red disc | seen |",
        r"| 2 | 250 | blue\|disc | **unseen** |",
        r"Not taught yet, so never predicted: blue\|disc.",
        "mIoU on the test images of shapes, after phase transfer, in %:",
        "| 50.0 | 25.0 | 33.3 |",
        r"IoU per class: sky -, red disc 75.0, blue\|disc -.",
        "0.25 is subtracted from the logits of seen classes.",
    ):
        assert line in text.splitlines() or line in text, line
    assert "inherit the conditions" in text and "{" not in text
    assert huggingface_hub.ModelCard.load(tmp_path / "README.md").data.library_name == "sign-zs3"


def test_a_card_is_replaced_with_the_model_and_other_files_stay(tmp_path: Path) -> None:
    build().save_pretrained(tmp_path, scores=SCORES)
    (tmp_path / "notes.txt").write_text("mine")
    segmenter = build()
    segmenter.known.fill_(True)
    segmenter.save_pretrained(tmp_path)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "None are stored with this model." in text and "Not taught" not in text
    assert (tmp_path / "notes.txt").read_text() == "mine"


# -- bad input ---------------------------------------------------------------------------------------------------


def _config_of(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / "config.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        change(content)
        path.write_text(json.dumps(content), encoding="utf-8")

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), r"model: found no config\.json, expected a folder with"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"model: found no model\.safetensors, expected"),
        (lambda folder: (folder / "config.json").write_text("{"), r"config\.json: cannot be read .*, expected JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), r"config\.json: is not of sign-zs3"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x"), r"safetensors: does not hold the weights"),
        (
            _config_of(lambda c: c.update(format=9, version="9.1")),
            r"found format 9, this version reads 1: install the newer sign-zs3 that wrote it \(9\.1\), or export",
        ),
        (
            _config_of(lambda c: c.update(format=0)),
            r"format 0, this version reads 1: install the older sign-zs3 that wrote it \(.*\), or export",
        ),
        (_config_of(lambda c: c.update(format="x")), r"found 'x' as format number, expected 1: export the model again"),
        (_config_of(lambda c: c.pop("format")), r"config\.json: is not of sign-zs3, expected a folder with"),
        (
            _config_of(lambda c: c.update(num_seen=9)),
            r"config\.json: config: class split .*: found 9 seen of 3 classes",
        ),
        (
            _config_of(lambda c: c.pop("ids")),
            r"config\.json: found no ids, expected all options; export the model again",
        ),
        (
            _config_of(lambda c: c.update(ids=[300, 1, 2])),
            r"config: class split .*: found the class id 300, expected 0 to 254",
        ),
        (_config_of(lambda c: c.update(ids=[1, 1, 2])), r"config: class split .*: found the id 1 twice"),
        (
            _config_of(lambda c: c.update(classes="abc")),
            r"config: protocol: classes: found .abc., expected a list of str",
        ),
        (
            _config_of(lambda c: c.update(classes=["a", "a", "b"])),
            r"config: class split .*: found the class .a. twice, expected it once",
        ),
        (_config_of(lambda c: c.update(num_seen=1.5)), r"config: protocol: num_seen: found 1\.5, expected one int"),
        (_config_of(lambda c: c.update(image_std=[0, 0, 0])), r"config: image_std: found .* three numbers above 0"),
        (
            _config_of(lambda c: c.update(image_mean=[0.1, 0.2, 0.3])),
            r"hold the weights of config\.json \(another image_",
        ),
        (_config_of(lambda c: c.update(seen_penalty="x")), r"config: seen_penalty: found 'x', expected a number"),
        (_config_of(lambda c: c.update(scales=[0])), r"config: scales: found \(0,\), expected numbers above 0"),
        (
            _config_of(lambda c: c["spatial"].update(heads=0)),
            r"spatial_heads \(heads\): found 0, expected a whole",
        ),
        (_config_of(lambda c: c["spatial"].update(width=-4)), r"found options that this version cannot build"),
        (_config_of(lambda c: c["encoder"].update(feature_dim=10**12)), r"config\.json"),
        (lambda folder: (folder / "config.json").write_text("[" * 10**5), r"config\.json: cannot be read"),
        (_config_of(lambda c: c.update(colour="red")), r"found options that this version does not know .*colour"),
        (_config_of(lambda c: c["encoder"].update(feature_dim=16)), r"does not hold the weights of config\.json"),
        (_config_of(lambda c: c["encoder"].update(colour="red")), r"found options that this version cannot build"),
        (_config_of(lambda c: c["encoder"].update(weights="w.pth")), r"found options that this version cannot build"),
        (_config_of(lambda c: c["encoder"].update(backbone="resnet")), r"backbone: found 'resnet', expected one of"),
    ],
)
def test_a_damaged_folder_is_told_in_one_line(tmp_path: Path, spoil: Callable[[Path], Any], message: str) -> None:
    build().save_pretrained(tmp_path / "model")
    spoil(tmp_path / "model")
    with pytest.raises(UserError, match=message) as caught:
        Segmenter.from_pretrained(tmp_path / "model")
    assert "\n" not in str(caught.value)


def test_a_folder_older_than_flip_and_scales_is_read_as_it_was(tmp_path: Path) -> None:
    segmenter = build(seen_penalty=0.25)
    segmenter.save_pretrained(tmp_path)
    _config_of(lambda c: [c.pop(name) for name in ("flip", "scales", "card")])(tmp_path)
    older = Segmenter.from_pretrained(tmp_path)
    assert older.config == segmenter.config
    image = torch.randint(0, 256, (3, 20, 31), dtype=torch.uint8)
    assert torch.equal(older.predict(image), segmenter.predict(image))


def test_only_a_name_that_is_no_path_is_asked_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def fetch(name: str, file: str, revision: str | None = None) -> str:
        asked.append((name, file))
        if name == "user/none":
            raise OSError("no such model\nand more")
        return str(tmp_path / "model" / file)

    build().save_pretrained(tmp_path / "model")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    monkeypatch.chdir(tmp_path)
    paths: list[str | Path] = ["mdoel", "model/none", "./user/model", "user/a/b", "/user/model", Path("user/model")]
    for path in paths:
        with pytest.raises(UserError, match=r"is not there, expected a folder with config\.json"):
            Segmenter.from_pretrained(path)
    assert not asked
    with pytest.raises(UserError, match=r"model/config\.json: is a file, expected a folder with"):
        Segmenter.from_pretrained("model/config.json")
    with pytest.raises(UserError, match=r"user/none: is no folder here, .* hub \(no such model and more\)"):
        Segmenter.from_pretrained("user/none")
    assert Segmenter.from_pretrained("user/model", revision="main").num_classes == 3
    assert asked[-2:] == [("user/model", "config.json"), ("user/model", "model.safetensors")]


def test_weights_of_another_kind_are_refused(tmp_path: Path) -> None:
    build().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file({name: value.int() for name, value in weights.items()}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="does not hold the weights"):
        Segmenter.from_pretrained(tmp_path)


def test_a_folder_stays_whole_where_another_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build().save_pretrained(tmp_path, scores=SCORES)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    other = build()
    nn.init.zeros_(other.classifier.projection.weight)  # type: ignore[union-attr, arg-type]
    write = Path.write_bytes

    def full(self: Path, content: bytes) -> int:
        if "README" in self.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(self, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match=r"README\.md: cannot be written \(No space left on device\)"):
        other.save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    monkeypatch.undo()
    for scores in ({"seen_miou": "x"}, [1], {"seen_miou": 50.0}, {"per_class": {"sky": True}}):
        with pytest.raises(UserError, match="scores: "):
            other.save_pretrained(tmp_path, scores=scores)  # type: ignore[arg-type]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_names_in_a_card_are_shown_as_they_are(tmp_path: Path) -> None:
    segmenter = build()
    assert segmenter.config is not None
    odd = {"classes": ["<b>sky</b>", "*red*", "[a](http://x)\nb"], "dataset": "da|ta\n`x`"}
    segmenter.config = SegmenterConfig.from_dict(segmenter.config.as_dict() | odd)
    segmenter.save_pretrained(tmp_path, scores=SCORES, model_card_kwargs={"method": "a|b"})
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    for line in ("| 0 | 7 | &lt;b&gt;sky&lt;/b&gt; | seen |", r"| 1 | 1 | \*red\* | seen |",
                 r"| 2 | 250 | \[a\](http://x) b | **unseen** |", r"| data set | da\|ta \`x\` |",
                 r"| method | a\|b |"):  # fmt: skip
        assert line in text.splitlines(), line


def test_what_cannot_be_saved_leaves_nothing(tmp_path: Path) -> None:
    segmenter = build()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file, expected a folder"):
        segmenter.save_pretrained(tmp_path / "file")
    segmenter.config = None
    with pytest.raises(UserError, match=r"expected one of Segmenter\.build"):
        segmenter.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()
