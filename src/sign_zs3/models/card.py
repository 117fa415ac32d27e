"""The model card of a segmenter: what it knows, how well, and what its users should mind."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from sign_zs3._version import __version__
from sign_zs3.errors import UserError
from sign_zs3.models.config import SegmenterConfig
from sign_zs3.protocol import Protocol

_SCORES = {"seen": "seen_miou", "unseen": "unseen_miou", "harmonic": "harmonic_miou"}
_SPATIAL = {
    "sim": "the spatial information module of SIGN (Cheng et al., ICCV 2021)",
    "contextual": "the contextual module of CaGNet (Gu et al., ACM MM 2020)",
    "plain": "no module for position or context",
}
_CLASSIFIER = {
    "linear": "one 1x1 convolution",
    "projection": "the inner product with fixed class vectors (SPNet; Xian et al., CVPR 2019)",
}

_TEMPLATE = """\
# Segmentation of {count} classes, {num_unseen} of them without a mask in training

A generalised zero-shot segmenter, written by sign-zs3 {version}: it was trained on masks of {num_seen} seen classes and
on class names, and labels pixels of the unseen ones too.

| | |
|---|---|
| method | {method} |
| data set | {dataset} |
| class split | {split} |
| encoder | {encoder} |
| between encoder and classifier | {spatial} |
| classifier | {classifier} |

## Classes

Indices count the seen classes first; the id is the data set's own.

| index | id | class | |
|---:|---:|---|---|
{classes}
{unknown}
## Scores

{scores}

## Use

```bash
pip install sign-zs3
sign-zs3 predict --ckpt_path FOLDER --data.images photo.jpg
```

```python
from sign_zs3 import Segmenter

segmenter = Segmenter.from_pretrained("FOLDER")
labels = segmenter.predict("photo.jpg")  # (H, W) class indices, at the image's own size
segmenter.config.protocol.classes  # their names
```

`FOLDER` is the one that holds this file. It is read without any network, and holds no pickle.

## Preprocessing

It is part of the model: give RGB in [0, 255]. It divides by 255, subtracts the mean {mean} and divides by the deviation
{std}, per channel. Images keep their size.{penalty}{views}

## Limits

- Unseen classes are known by name alone. They are confused with seen ones that look alike, and where a class vector
  says little about looks, a class may not be found at all.
- Each pixel gets one of the classes above, also where none of them is in the image.
- It was trained for the data set above. On other kinds of images it may do worse: measure before you rely on it, and
  do not use it where a wrong label could harm someone.

## Licence

The code of sign-zs3 is under Apache-2.0. The weights are not covered by that: they inherit the conditions of the
training data, of the pretrained backbone and of the word vectors. Whoever shares them should name these here.
"""


def card_text(
    config: SegmenterConfig,
    known: Sequence[bool],
    scores: Mapping[str, Any] | None = None,
    method: str | None = None,
    phase: str | None = None,
) -> str:
    """Write the card of a segmenter, without its head of metadata.

    Args:
        config: Of the segmenter.
        known: (C,) whether the classifier was taught the class.
        scores: Fractions as in ``results.json``: `seen_miou`, `unseen_miou`, `harmonic_miou`, and `per_class` where
            there is one; None: not known.
        method: Such as ``SIGN``; None: not known.
        phase: After which the scores were taken.

    Returns:
        Markdown.

    Raises:
        UserError: The scores are no fractions.
    """
    protocol, encoder, penalty = config.protocol, config.encoder, config.seen_penalty
    kinds = ["seen" if index < protocol.num_seen else "**unseen**" for index in range(len(protocol.classes))]
    rows = zip(range(len(kinds)), protocol.ids, map(_cell, protocol.classes), kinds, strict=True)
    taught_not = [_cell(name) for name, is_known in zip(protocol.classes, known, strict=True) if not is_known]
    return _TEMPLATE.format(
        count=len(protocol.classes),
        num_seen=protocol.num_seen,
        num_unseen=len(protocol.unseen),
        version=__version__,
        method=_cell(method or "not stored"),
        dataset=_cell(protocol.dataset) or "not stored",
        split=_cell(protocol.split) or "not stored",
        encoder=f"{encoder.get('backbone', 'resnet101')}, head {encoder.get('head', 'deeplab')}",
        spatial=_SPATIAL.get(config.spatial["name"], config.spatial["name"]),
        classifier=_CLASSIFIER.get(config.classifier["name"], config.classifier["name"]),
        classes="\n".join(f"| {index} | {own} | {name} | {kind} |" for index, own, name, kind in rows),
        unknown=f"\nNot taught yet, so never predicted: {', '.join(taught_not)}.\n" if taught_not else "",
        scores=_scores(protocol, scores, phase),
        mean=", ".join(f"{value:g}" for value in config.image_mean),
        std=", ".join(f"{value:g}" for value in config.image_std),
        views=_views(config),
        penalty=f" {penalty:g} is subtracted from the logits of seen classes." if penalty else "",
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
    """Return what a card tells of scores, in plain types; a score that is NaN is None.

    Args:
        scores: See `card_text`.

    Raises:
        UserError: They are no fractions.
    """
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
    scales = [f"{scale:g}" for scale in config.scales]
    views = (["the mirror image"] if config.flip else []) + (
        [f"the scales {', '.join(scales)}"] if scales != ["1"] else []
    )
    return (
        f" Predictions are the mean over {' and '.join(views)}, which ONNX and torch.export files leave out."
        if views
        else ""
    )


def _cell(text: str) -> str:
    """Return a text so that Markdown shows it as it is."""
    return re.sub(r"([\\`*\[\]|~])", r"\\\1", html.escape(" ".join(text.split()), quote=False))
