"""The images of a data set that are shown."""

from __future__ import annotations

from sign_zs3 import ShapesDataModule
from sign_zs3.data.examples import choose_examples


def test_examples_show_seen_classes_where_unseen_ones_are_hidden() -> None:
    data = ShapesDataModule(train_size=12, val_size=30, test_size=4, scene_size=32)
    data.setup("fit")
    assert data.val_set is not None
    chosen = choose_examples(data.val_set, 3, range(10, 30))
    assert len(set(chosen)) == 3 and min(chosen) >= 10

    def shown(indices: list[int]) -> int:
        assert data.val_set is not None
        return len({int(label) for index in indices for label in data.val_set[index]["mask"].unique()} - {255})

    assert shown(chosen) > shown([10, 11, 12])
