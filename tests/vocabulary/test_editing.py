from __future__ import annotations

import pytest
import torch

from sign_zs3 import UserError, load_task
from sign_zs3.vocabulary import extend, remove, rename
from tests.vocabulary.conftest import NEW


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
