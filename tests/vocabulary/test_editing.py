from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from sign_zs3 import UserError, load_task
from sign_zs3.vocabulary import extend, remove, rename, weigh
from tests.vocabulary.conftest import NEW, trained


def test_rename_and_remove_touch_what_they_name_alone(checkpoint: str) -> None:
    old = load_task(checkpoint)
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    renamed = rename(old, {"sky": "heaven", "red square": "crimson box"})
    assert set(renamed.protocol.classes) - set(old.protocol.classes) == {"heaven", "crimson box"}
    assert renamed.protocol.ids == old.protocol.ids
    assert torch.equal(renamed.segmenter.predict(image), old.segmenter.predict(image))
    assert torch.equal(renamed.class_vectors, old.class_vectors)
    # a renamed class keeps the vector of its old name, so that it can still be told whether a table is the right one
    longer = extend(renamed, NEW[:1])
    torch.testing.assert_close(longer.class_vectors, extend(old, NEW[:1]).class_vectors)

    fewer = remove(old, ["sky", "blue star"])
    kept = [old.protocol.classes.index(name) for name in fewer.protocol.classes]
    assert (fewer.protocol.num_seen, fewer.protocol.num_classes) == (17, 20)
    assert {21, 12} <= set(fewer.protocol.ignored_ids)
    batch = image[None]
    with torch.no_grad():
        torch.testing.assert_close(fewer.segmenter(batch), old.segmenter(batch)[:, kept], rtol=0, atol=0)
    with pytest.raises(UserError, match="remove: found all 18 seen classes"):
        remove(old, old.protocol.classes[:18])
    with pytest.raises(UserError, match=r"found 'sy', expected one of .*did you mean 'sky'"):
        rename(old, {"sy": "heaven"})
    with pytest.raises(UserError, match="found 'sea', which the model has already"):
        rename(old, {"sky": "sea"})
    with pytest.raises(UserError, match="found 'Sea', which the model has already as 'sea'"):
        rename(old, {"sky": " Sea"})
    swapped = rename(old, {"sky": "sea", "sea": "sky"}).protocol
    assert swapped is not None and swapped.classes.index("sky") == old.protocol.classes.index("sea")
    spaced = rename(old, {"sky": " dark\n sky "}).protocol
    assert spaced is not None and "dark sky" in spaced.classes


def test_a_weight_multiplies_the_odds_of_a_class_against_any_other(checkpoint: str) -> None:
    old = load_task(checkpoint)
    names = old.protocol.classes
    image = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)

    def odds(model: torch.nn.Module) -> torch.Tensor:
        with torch.no_grad():
            p: torch.Tensor = model(image)[0].double().softmax(0)
        return p[:, None] / p  # (C, C, h, w)

    before = odds(old.segmenter)
    weighed = weigh(old, {names[3]: 4, names[-1]: 0.5})
    factors = torch.ones(len(names)).double()
    factors[3], factors[-1] = 4, 0.5
    expected = before * (factors[:, None] / factors)[..., None, None]
    torch.testing.assert_close(odds(weighed.segmenter), expected, rtol=1e-4, atol=0)
    # several multiply, and the model that was given stays
    back = weigh(weighed, {names[3]: 0.25, names[-1]: 2})
    torch.testing.assert_close(odds(back.segmenter), before, rtol=1e-4, atol=0)
    torch.testing.assert_close(odds(old.segmenter), before, rtol=0, atol=0)
    assert weigh(old, {}).protocol == old.protocol

    for weight in (0, -1, math.inf, math.nan, None):
        with pytest.raises(UserError, match=f"weight: found {weight} for 'sky', expected a number above 0"):
            weigh(old, {"sky": weight})  # type: ignore[dict-item]
    with pytest.raises(UserError, match="found 'sy', expected one of"):
        weigh(old, {"sy": 2})


def test_a_classifier_of_class_vectors_has_no_weights(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="weight: found SPNet's classifier, which has no biases"):
        weigh(trained(tmp_path, "SPNet"), {"sky": 2})
