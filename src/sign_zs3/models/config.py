"""What a segmenter is built from, in plain types: classes, networks and preprocessing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from sign_zs3.errors import UserError
from sign_zs3.files import not_plain
from sign_zs3.limits import MAX_SCALE, MAX_SCALES
from sign_zs3.protocol import Protocol

SCALES = f"numbers above 0, at most {MAX_SCALE:g}, and no more than {MAX_SCALES} of them"

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Per RGB channel, of images in [0, 1]."""


@dataclass(frozen=True)
class SegmenterConfig:
    """Classes, networks and preprocessing of a segmenter; written to JSON and read back, it is the same.

    Args:
        protocol: The classes.
        encoder: Arguments of `Encoder`, `weights` left out.
        spatial: Arguments of `build_spatial`, `feature_dim` left out.
        classifier: Arguments of `build_classifier`, `feature_dim` and `num_classes` left out.
        image_mean, image_std: Per RGB channel, of images in [0, 1].
        seen_penalty, flip, scales: Defaults of predictions, see `Segmenter.scores`.

    Raises:
        UserError: A value is of another type or out of range.
    """

    protocol: Protocol
    encoder: Mapping[str, Any] = field(default_factory=dict)
    spatial: Mapping[str, Any] = field(default_factory=lambda: {"name": "sim"})
    classifier: Mapping[str, Any] = field(default_factory=lambda: {"name": "linear"})
    image_mean: Sequence[float] = IMAGENET_MEAN
    image_std: Sequence[float] = IMAGENET_STD
    seen_penalty: float = 0.0
    flip: bool = False
    scales: Sequence[float] = (1.0,)

    def __post_init__(self) -> None:
        networks = ("encoder", "spatial", "classifier")
        for name in ("image_mean", "image_std", "scales"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in networks:
            options = {key: list(v) if isinstance(v, tuple) else v for key, v in getattr(self, name).items()}
            object.__setattr__(self, name, options)
        for name, fits, expected in (
            *((name, not_plain(getattr(self, name)) is None, "options by name") for name in networks),
            ("image_mean", len(self.image_mean) == 3 and _are_numbers(self.image_mean), "three numbers"),
            ("image_std", len(self.image_std) == 3 and _are_numbers(self.image_std, 0), "three numbers above 0"),
            ("seen_penalty", _are_numbers([self.seen_penalty]), "a number"),
            ("flip", isinstance(self.flip, bool), "true or false"),
            ("scales", are_scales(self.scales), SCALES),
        ):
            if not fits:
                raise UserError(
                    f"config: {name}: found {getattr(self, name)!r:.100}, expected {expected}: export the model again"
                )

    def as_dict(self) -> dict[str, Any]:
        """Return plain types for JSON; the protocol's fields stand beside the others, as in folders of any version."""
        own = {key: list(v) if isinstance(v, tuple) else v for key, v in vars(self).items() if key != "protocol"}
        return {**self.protocol.as_dict(), **own}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> SegmenterConfig:
        """Return the config that `as_dict` wrote; a bad value is a UserError, an unknown option a TypeError."""
        names = {field.name for field in fields(Protocol)}
        try:
            made = Protocol.from_dict({key: value for key, value in content.items() if key in names})
        except UserError as error:
            raise UserError(f"config: {error}: export the model again") from error
        return cls(made, **{key: value for key, value in content.items() if key not in names})


def are_scales(values: Any) -> bool:
    """Say whether values are scales at which images can be read, see `SCALES`."""
    return isinstance(values, (list, tuple)) and 1 <= len(values) <= MAX_SCALES and _are_numbers(values, 0, MAX_SCALE)


def _are_numbers(values: Sequence[Any], above: float = -math.inf, most: float = math.inf) -> bool:
    plain = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    return plain and all(above < value <= most and value < math.inf for value in values)
