"""What a segmenter is but for its weights, in plain types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sign_zs3.errors import UserError

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

    Raises:
        UserError: Not as many ids as classes, or no class is seen.
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

    def __post_init__(self) -> None:
        ids = self.ids or range(len(self.classes))
        for name, values in {"classes": self.classes, "ids": ids, "image_mean": self.image_mean,
                             "image_std": self.image_std}.items():  # fmt: skip
            object.__setattr__(self, name, tuple(values))
        for name in ("encoder", "spatial", "classifier"):
            options = {key: list(v) if isinstance(v, tuple) else v for key, v in getattr(self, name).items()}
            object.__setattr__(self, name, options)
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
