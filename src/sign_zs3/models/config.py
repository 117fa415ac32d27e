"""What a segmenter is but for its weights, in plain types."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sign_zs3.errors import UserError
from sign_zs3.files import MAX_NAME, is_name, not_plain

MAX_SCALE = 4.0
"""Of a scale at which a model says that images be read: attention costs its fourth power."""

MAX_SCALES = 16
"""Scales at which a model may say that images be read."""

SCALES = f"numbers above 0, at most {MAX_SCALE:g}, and no more than {MAX_SCALES} of them"

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class SegmenterConfig:
    """Classes, networks and preprocessing of a segmenter; JSON and back gives an equal one.

    Args:
        classes: C class names, seen ones first.
        num_seen: S, how many of them are seen.
        ids: The data set's own ids (0..254) of `classes`; none: 0..C-1.
        dataset: Name of the data set.
        split: Name of the class split.
        encoder: Arguments of `Encoder`, `weights` left out.
        spatial: Arguments of `build_spatial`, `feature_dim` left out.
        classifier: Arguments of `build_classifier`, `feature_dim` and `num_classes` left out.
        image_mean: Per RGB channel, of images in [0, 1].
        image_std: Per RGB channel, of images in [0, 1].
        seen_penalty: Calibrated stacking that predictions use unless told otherwise, see `Segmenter.forward`.
        flip: Predictions also read the mirror image unless told otherwise.
        scales: Image scales that predictions read unless told otherwise.

    Raises:
        UserError: Not as many ids as classes, no class is seen, or a value is of another type or out of range.
    """

    classes: Sequence[str]
    num_seen: int
    ids: Sequence[int] = ()
    dataset: str = ""
    split: str = ""
    encoder: Mapping[str, Any] = field(default_factory=dict)
    spatial: Mapping[str, Any] = field(default_factory=lambda: {"name": "sim"})
    classifier: Mapping[str, Any] = field(default_factory=lambda: {"name": "linear"})
    image_mean: Sequence[float] = IMAGENET_MEAN
    image_std: Sequence[float] = IMAGENET_STD
    seen_penalty: float = 0.0
    flip: bool = False
    scales: Sequence[float] = (1.0,)

    def __post_init__(self) -> None:
        ids = self.ids or range(len(self.classes))
        for name, values in {"classes": self.classes, "ids": ids, "image_mean": self.image_mean,
                             "image_std": self.image_std, "scales": self.scales}.items():  # fmt: skip
            # a text is no list of letters
            object.__setattr__(self, name, (values,) if isinstance(values, str) else tuple(values))
        for name in ("encoder", "spatial", "classifier"):
            options = {key: list(v) if isinstance(v, tuple) else v for key, v in getattr(self, name).items()}
            object.__setattr__(self, name, options)
        self._check()

    def _check(self) -> None:
        def numbers(values: Sequence[Any], above: float = -math.inf) -> bool:
            return all(_is_number(value) and above < value < math.inf for value in values)

        named = all(is_name(name) and name.strip() for name in self.classes)
        own = all(isinstance(i, int) and not isinstance(i, bool) and 0 <= i < 255 for i in self.ids)
        for name, fits, expected in (
            (
                "classes",
                named and len(set(self.classes)) == len(self.classes),
                f"names, each once, of at most {MAX_NAME} letters",
            ),
            ("ids", own and len(set(self.ids)) == len(self.ids), "whole numbers of 0 to 254, each once"),
            ("num_seen", type(self.num_seen) is int, "a whole number"),
            ("dataset", is_name(self.dataset), "a name"),
            ("split", is_name(self.split), "a name"),
            ("encoder", not_plain(self.encoder) is None, "options by name"),
            ("spatial", not_plain(self.spatial) is None, "options by name"),
            ("classifier", not_plain(self.classifier) is None, "options by name"),
            ("image_mean", len(self.image_mean) == 3 and numbers(self.image_mean), "three numbers"),
            ("image_std", len(self.image_std) == 3 and numbers(self.image_std, 0), "three numbers above 0"),
            ("seen_penalty", numbers([self.seen_penalty]), "a number"),
            ("flip", isinstance(self.flip, bool), "true or false"),
            ("scales", are_scales(self.scales), SCALES),
        ):
            if not fits:
                raise UserError(
                    f"config: {name}: found {getattr(self, name)!r:.100}, expected {expected}: export the model again"
                )
        if len(self.ids) != len(self.classes) or not 1 <= self.num_seen <= len(self.classes):
            raise UserError(
                f"config: found {len(self.classes)} classes, {len(self.ids)} ids and {self.num_seen} seen classes, "
                "expected an id per class and 1 to C seen classes: export the model again"
            )

    @property
    def unseen(self) -> tuple[str, ...]:
        """Names of the unseen classes."""
        return tuple(self.classes[self.num_seen :])

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}


def are_scales(values: Any) -> bool:
    """Say whether values are scales at which images can be read, see `SCALES`."""
    return (
        isinstance(values, (list, tuple))
        and 1 <= len(values) <= MAX_SCALES
        and all(_is_number(value) and 0 < value <= MAX_SCALE for value in values)
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
