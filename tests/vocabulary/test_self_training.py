from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sign_zs3 import UserError, load_task
from sign_zs3.vocabulary import extend, save_model, self_train
from tests.vocabulary.conftest import NEW, generator, projection


def test_self_training_on_images_without_masks(checkpoint: str, tmp_path: Path) -> None:
    for number in range(3):
        array = np.random.default_rng(number).integers(0, 256, (40, 30, 3), dtype=np.uint8)
        Image.fromarray(array).save(tmp_path / f"{number}.png")
    old = extend(checkpoint, NEW[:1])
    new = self_train(old, [tmp_path], iterations=2, batch_size=2, accelerator="cpu")
    assert new.protocol == old.protocol
    assert new.hparams == old.hparams
    assert not torch.equal(projection(new).weight, projection(old).weight)
    assert all(torch.equal(a, b) for a, b in zip(generator(new).parameters(), generator(old).parameters(), strict=True))
    save_model(new, tmp_path / "new.ckpt")
    assert load_task(tmp_path / "new.ckpt").protocol == old.protocol
    with pytest.raises(UserError, match=r"nothing is not there, or may not be read, expected an image"):
        self_train(old, [tmp_path / "nothing"])
    with pytest.raises(UserError, match="iterations: found 0"):
        self_train(old, [tmp_path], iterations=0)
