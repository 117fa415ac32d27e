"""Class vectors of whole names in sentences."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sign_zs3 import UserError
from sign_zs3.cli import main
from sign_zs3.embeddings import ClassTable, build_table
from sign_zs3.embeddings.sentences import read_sentences
from sign_zs3.embeddings.spelling import in_english

open_clip = pytest.importorskip("open_clip")
pytest.importorskip("timm")
from tests.clip import EMBED, tiny_clip  # noqa: E402

NAMES = ["pottedplant", "sky", "red square", "wall-brick"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("clip")
    return folder, tiny_clip(folder)


def test_vectors_are_those_of_open_clips_own_classifier(clip: tuple[Path, Any]) -> None:
    folder, model = clip
    found = read_sentences(f"clip:{folder}", NAMES)
    want = open_clip.build_zero_shot_classifier(
        model, open_clip.get_tokenizer("ViT-B-16"), [in_english(n) for n in NAMES], open_clip.OPENAI_IMAGENET_TEMPLATES
    )
    assert list(found.entries) == NAMES
    torch.testing.assert_close(torch.from_numpy(np.stack(list(found.entries.values()))), want.T, rtol=1e-4, atol=1e-5)


def test_a_single_template_and_a_file_of_templates(clip: tuple[Path, Any], tmp_path: Path) -> None:
    source = f"clip:{clip[0]}"
    (tmp_path / "t.txt").write_text("a photo of a {}.\n\n{} in a drawing\n", encoding="utf-8")
    first, second, both = (
        read_sentences(source, ["sky"], given).entries["sky"]
        for given in ("a photo of a {}.", "{} in a drawing", str(tmp_path / "t.txt"))
    )
    np.testing.assert_allclose(both, (first + second) / np.linalg.norm(first + second), rtol=1e-5, atol=1e-6)
    assert np.linalg.norm(both) == pytest.approx(1)


@pytest.mark.parametrize(
    ("source", "templates", "message"),
    [
        ("clip:{folder}", "{} and {}", "expected a sentence with {} once"),
        ("clip:{folder}", "a photo of a cat.", "found 'a photo of a cat.', expected a sentence with {} once"),
        ("clip:{folder}", "", "found '', expected a sentence with {} once"),
        ("clip:nothing/there", None, "expected a folder, or a MODEL/PRETRAINED that open_clip has"),
        ("clip:ViT-B-16/openai", None, "with its activation: try ViT-B-16-quickgelu/openai"),
        ("clip:{empty}", None, "expected open_clip_config.json and its weights"),
        ("sentence:somewhere", None, "sentence-transformers is not installed: pip install sentence-transformers"),
    ],
)
def test_bad_sources_and_templates_are_one_line(
    source: str, templates: str | None, message: str, clip: tuple[Path, Any], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    source = source.replace("{folder}", str(clip[0])).replace("{empty}", str(tmp_path))
    with pytest.raises(UserError) as caught:
        read_sentences(source, ["sky"], templates)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_weights_is_refused(clip: tuple[Path, Any], tmp_path: Path) -> None:
    name = "open_clip_config.json"
    (tmp_path / name).write_bytes((clip[0] / name).read_bytes())
    with pytest.raises(UserError, match="cannot be read"):
        read_sentences(f"clip:{tmp_path}", ["sky"])


def test_without_open_clip_its_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(UserError, match=r"open_clip is not installed, .*pip install .*open_clip_torch"):
        read_sentences("clip:somewhere", ["sky"])


def test_sentence_transformers_reads_names_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    class SentenceTransformer:
        def __init__(self, place: str, device: str) -> None:
            assert (place, device) == ("folder", "cpu")

        def encode(self, texts: list[str], **_: Any) -> torch.Tensor:
            assert texts == ["potted plant"]
            return torch.tensor([[3.0, 4.0]])

    module = types.SimpleNamespace(SentenceTransformer=SentenceTransformer)
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    found = read_sentences("sentence:folder", ["pottedplant"])
    assert found.kind == "sentence"
    np.testing.assert_allclose(found.entries["pottedplant"], [0.6, 0.8], rtol=1e-6)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_table_of_whole_names_makes_no_means_over_words(suffix: str, clip: tuple[Path, Any], tmp_path: Path) -> None:
    output = tmp_path / f"t{suffix}"
    command = ["embed", "--classes", "potted plant,dog,hot", "--source", f"clip:{clip[0]}", "--templates", "{}"]
    assert main([*command, "--output", str(output)]) == 0
    table = ClassTable.load(output)
    assert {source: matrix.shape for source, matrix in table.sources.items()} == {"whole:clip": (3, EMBED)}
    assert table.has("pottedplant")  # the same name, spelt otherwise
    assert torch.equal(table.vectors(["pottedplant"]), table.vectors(["potted plant"]))
    assert not table.has("hot dog")
    with pytest.raises(UserError, match="no vector for 1 of 1 class names: 'hot dog'"):
        table.vectors(["hot dog"])
    words = build_table(
        {"clip": {name: table.sources["whole:clip"][i] for i, name in enumerate(table.names)}}, table.names
    )
    assert words.has("hot dog")


def test_templates_without_a_text_encoder_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "glove.txt").write_text("sky 1 2\n")
    command = ["embed", "--classes", "sky,", "--source", str(tmp_path / "glove.txt"), "--templates", "a {}"]
    assert main([*command, "--output", str(tmp_path / "t.npz")]) == 1
    assert "--templates: found without a clip: or sentence: source" in capsys.readouterr().err


def test_a_list_of_names_may_be_longer_than_the_name_of_a_file(tmp_path: Path) -> None:
    names = [f"thing number {index}" for index in range(40)]
    (tmp_path / "glove.txt").write_text("thing 1 2\nnumber 3 4\n" + "".join(f"{i} {i + 1} 1\n" for i in range(40)))
    command = ["embed", "--classes", ",".join(names), "--source", str(tmp_path / "glove.txt")]
    assert main([*command, "--output", str(tmp_path / "t.npz")]) == 0
