"""What a segmenter is built from, in plain types, and the model card that tells it; the card's text is `card.md`."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib import resources
from typing import Any

from sign_zs3._version import __version__
from sign_zs3.errors import UserError
from sign_zs3.files import not_plain
from sign_zs3.limits import MAX_SCALE, MAX_SCALES
from sign_zs3.protocol import Protocol

SCALES = f"numbers above 0, at most {MAX_SCALE:g}, and no more than {MAX_SCALES} of them"

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Per RGB channel, of images in [0, 1]."""

_SCORES = {"seen": "seen_miou", "unseen": "unseen_miou", "harmonic": "harmonic_miou"}
_SPATIAL = {
    "sim": "the spatial information module of SIGN (Cheng et al., ICCV 2021)",
    "contextual": "the contextual module of CaGNet (Gu et al., ACM MM 2020)",
    "released": "the spatial part as it was released (github.com/cplusx/SIGN, bcmi/CaGNet)",
    "plain": "no module for position or context",
}
_CLASSIFIER = {
    "linear": "one 1x1 convolution",
    "projection": "the inner product with fixed class vectors (SPNet; Xian et al., CVPR 2019)",
}


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
            ("image_mean", len(self.image_mean) == 3 and are_numbers(self.image_mean), "three numbers"),
            ("image_std", len(self.image_std) == 3 and are_numbers(self.image_std, 0), "three numbers above 0"),
            ("seen_penalty", are_numbers([self.seen_penalty]), "a number"),
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
    return isinstance(values, (list, tuple)) and 1 <= len(values) <= MAX_SCALES and are_numbers(values, 0, MAX_SCALE)


def are_numbers(values: Sequence[Any], above: float = -math.inf, most: float = math.inf) -> bool:
    """Return whether values are plain, finite numbers above one limit and not above the other."""
    plain = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    return plain and all(above < value <= most and value < math.inf for value in values)


def card_text(
    config: SegmenterConfig,
    known: Sequence[bool],
    scores: Mapping[str, Any] | None = None,
    method: str | None = None,
    phase: str | None = None,
) -> str:
    """Return the card of a segmenter as Markdown, without its head of metadata.

    `known` (C,) says which classes the classifier was taught. `scores` are as in ``results.json``: `seen_miou`,
    `unseen_miou`, `harmonic_miou`, and `per_class` if there is one; what is no fraction is a UserError. `method` is
    such as ``SIGN``, and `phase` that after which the scores were measured.
    """
    protocol, encoder, penalty = config.protocol, config.encoder, config.seen_penalty
    names = [_cell(name) for name in protocol.classes]
    kinds = ["seen"] * protocol.num_seen + ["**unseen**"] * len(protocol.unseen)
    rows = [f"| {index} | {protocol.ids[index]} | {name} | {kinds[index]} |" for index, name in enumerate(names)]
    unknown = ", ".join(name for name, is_known in zip(names, known, strict=True) if not is_known)
    template = (resources.files("sign_zs3.models") / "card.md").read_text("utf-8")
    return template.format(
        count=len(names),
        num_seen=protocol.num_seen,
        num_unseen=len(protocol.unseen),
        version=__version__,
        method=_cell(method or "not stored"),
        dataset=_cell(protocol.dataset) or "not stored",
        split=_cell(protocol.split) or "not stored",
        encoder=f"{encoder.get('backbone', 'resnet101')}, head {encoder.get('head', 'deeplab')}",
        spatial=_SPATIAL.get(config.spatial["name"], config.spatial["name"]),
        classifier=_CLASSIFIER.get(config.classifier["name"], config.classifier["name"])
        + (f" behind a hidden layer of {width}" if (width := config.classifier.get("width")) else ""),
        classes="\n".join(rows),
        unknown=f"\nNot taught yet, so never predicted: {unknown}.\n" if unknown else "",
        scores=_scores(protocol, scores, phase),
        mean=", ".join(f"{value:g}" for value in config.image_mean),
        std=", ".join(f"{value:g}" for value in config.image_std),
        penalty=f" {penalty:g} is subtracted from the logits of seen classes." if penalty else "",
        views=_views(config),
    )


def _scores(protocol: Protocol, scores: Mapping[str, Any] | None, phase: str | None) -> str:
    scores = plain_scores(scores)
    if scores is None:
        return "None are stored with this model."
    # a development split keeps the truly unseen classes, and with them the test images, out of sight
    images = "validation" if "development" in protocol.split else "test"
    after = f", after phase {_cell(phase)}" if phase else ""
    lines = [
        f"mIoU on the {images} images of {_cell(protocol.dataset) or 'the data set'}{after}, in %:",
        "",
        f"| {' | '.join(_SCORES)} |",
        "|---:|---:|---:|",
        f"| {' | '.join(_percent(scores.get(key)) for key in _SCORES.values())} |",
    ]
    if per_class := scores.get("per_class"):
        found = ", ".join(f"{_cell(name)} {_percent(per_class.get(name))}" for name in protocol.classes)
        lines += ["", f"IoU per class: {found}."]
    return "\n".join(lines)


def plain_scores(scores: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the scores that a card shows, as plain types; NaN becomes None, and what is no fraction a UserError."""
    if scores is None:
        return None

    def plain(name: str, value: Any) -> float | None:
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise UserError(f"scores: {name}: found {value!r:.100}, expected a fraction from 0 to 1, or none")
        return float(value)

    if not isinstance(scores, Mapping) or not isinstance(scores.get("per_class") or {}, Mapping):
        raise UserError(f"scores: found {scores!r:.100}, expected those of a run's results.json, by name")
    found: dict[str, Any] = {name: plain(name, scores.get(name)) for name in _SCORES.values()}
    per_class = {str(name): plain(str(name), value) for name, value in (scores.get("per_class") or {}).items()}
    return found | {"per_class": per_class}


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _views(config: SegmenterConfig) -> str:
    scales = ", ".join(f"{scale:g}" for scale in config.scales)
    views = [*(["the mirror image"] if config.flip else []), *([f"the scales {scales}"] if scales != "1" else [])]
    if not views:
        return ""
    return f" Predictions are the mean over {' and '.join(views)}, which ONNX and torch.export files leave out."


def _cell(text: str) -> str:
    """Return a string so that Markdown shows it as it is."""
    return re.sub(r"([\\`*\[\]|~])", r"\\\1", html.escape(" ".join(text.split()), quote=False))
