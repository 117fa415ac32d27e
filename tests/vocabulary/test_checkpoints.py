from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from sign_zs3 import SIGNModule, UserError, load_segmenter, load_task
from sign_zs3.vocabulary import extend, save_model
from tests.conftest import TINY, quiet_trainer, tiny_data
from tests.vocabulary.conftest import projection


def test_a_saved_model_is_the_model(checkpoint: str) -> None:
    model = load_task(checkpoint)
    assert not model.training
    with pytest.raises(RuntimeError):
        projection(model).weight.add_(1)  # a leaf that still wants a gradient, as after training
    again = load_task(checkpoint)
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    assert torch.equal(model.segmenter.predict(image), load_segmenter(checkpoint).predict(image))
    assert model.protocol == again.protocol
    assert not any(key.startswith("teacher.") for key in torch.load(checkpoint, weights_only=True)["state_dict"])


def test_a_training_in_another_order_is_not_taken_up(tmp_path: Path) -> None:
    unseen = ["red square", "green triangle", "blue star", "yellow circle"]
    model = SIGNModule(**TINY)
    trainer = quiet_trainer(tmp_path)
    trainer.fit(model, tiny_data(unseen=unseen))
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    checkpoint = torch.load(tmp_path / "run.ckpt", weights_only=True)
    protocol = checkpoint["sign_zs3"]["protocol"]
    protocol["classes"][:2], protocol["ids"][:2] = protocol["classes"][1::-1], protocol["ids"][1::-1]
    torch.save(checkpoint, tmp_path / "run.ckpt")
    with pytest.raises(UserError, match="classes"):
        quiet_trainer(tmp_path).fit(SIGNModule(**TINY), tiny_data(unseen=unseen), ckpt_path=str(tmp_path / "run.ckpt"))


class RunsCode:
    """Pickled, it makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_file_with_code_is_refused_and_its_code_not_run(tmp_path: Path) -> None:
    harm = tmp_path / "harm"
    pickled = {"sign_zs3": {"format": 1}, "state_dict": RunsCode(harm)}
    torch.save(pickled, tmp_path / "archive.ckpt")
    (tmp_path / "bare.ckpt").write_bytes(pickle.dumps(pickled))
    for name, message in (("archive", "code in files is never run"), ("bare", "no checkpoint")):
        with pytest.raises(UserError, match=message) as caught:
            load_task(tmp_path / f"{name}.ckpt")
        assert "weights_only" not in str(caught.value)
    assert not harm.exists()
    torch.load(tmp_path / "archive.ckpt", weights_only=False)
    assert harm.exists()


def test_a_checkpoint_of_another_version_is_told_apart(checkpoint: str, tmp_path: Path) -> None:
    whole = torch.load(checkpoint, weights_only=True)
    state = dict(whole["state_dict"])
    del state[next(key for key in state if key.startswith("generator."))]
    for change, message in (
        (
            {"state_dict": state},
            r"does not fit this model \(.* entries missing, the first .generator\..*\): use the options and version "
            r"of sign-zs3 \(.*\) that it was trained with",
        ),
        (
            {"sign_zs3": whole["sign_zs3"] | {"method": "GANModule"}},
            "^checkpoint: .*: found the method GAN, expected one of SPNet, ZS3, CaGNet, SIGN$",
        ),
        ({"sign_zs3": whole["sign_zs3"] | {"format": 99}}, "found format 99, this version reads"),
    ):
        torch.save(whole | change, tmp_path / "other.ckpt")
        with pytest.raises(UserError, match=message):
            load_task(tmp_path / "other.ckpt")


@pytest.mark.parametrize("part", ["hyper_parameters", "protocol", "method", "state_dict", "option", "byte"])
def test_a_damaged_checkpoint_is_one_line(checkpoint: str, tmp_path: Path, part: str) -> None:
    content = torch.load(checkpoint, weights_only=True)
    path = tmp_path / "damaged.ckpt"
    if part in ("protocol", "method"):
        del content["sign_zs3"][part]
    elif part == "option":
        content["hyper_parameters"]["feature_dim"] = "x"
    elif part == "state_dict":
        content["state_dict"] = [1]
    elif part == "hyper_parameters":
        del content["hyper_parameters"]
    torch.save(content, path)
    if part == "byte":
        spoilt = bytearray(path.read_bytes())
        spoilt[len(spoilt) // 2] ^= 1
        path.write_bytes(spoilt)
    with pytest.raises(
        UserError, match=r"is damaged|is not of sign-zs3|cannot be built|feature_dim: found 'x'"
    ) as caught:
        load_task(path)
    assert part == "option" or "give a .ckpt file that `fit` or `extend` wrote" in str(caught.value)


def test_a_folder_in_place_of_a_checkpoint_is_told_from_a_missing_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder"):
        extend(tmp_path, ["zebra"])


def test_a_place_that_cannot_be_written_is_one_line(checkpoint: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    model = load_task(checkpoint)
    with pytest.raises(UserError, match=r"cannot be written, since .*file is a file; name another place"):
        save_model(model, tmp_path / "file" / "new.ckpt")
    with pytest.raises(UserError, match="this folder cannot be made"):
        model.segmenter.save_pretrained(tmp_path / "file" / "new")
