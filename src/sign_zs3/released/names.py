"""What the entries of released files are called here, kind by kind.

Sources: names and shapes of the files of github.com/cplusx/SIGN, bcmi/CaGNet-Zero-Shot-Semantic-Segmentation,
subhc/SPNet and valeoai/ZS3.
"""

import re
from collections.abc import Callable, Mapping
from typing import TypeAlias

from torch import Tensor

from sign_zs3.errors import UserError
from sign_zs3.models.weights import from_caffe

Rules: TypeAlias = Mapping[str, str | None]
"""Pattern of an entry without ``.weight`` or ``.bias`` -> the names that it gets, by a space; None: it is left out."""

_RESNET = {
    r"conv1": r"segmenter.encoder.backbone.0",
    r"bn1": r"segmenter.encoder.backbone.1",
    # layer1 of torchvision is the fifth module here
    **{rf"layer{n}\.(.+)": rf"segmenter.encoder.backbone.{n + 3}.\1" for n in (1, 2, 3, 4)},
}
_DEEPLAB = {**_RESNET, r"(?:\w+\.)+aspp\.stages\.c(\d)": r"segmenter.encoder.head.\1"}
_SCALE = r"back\.scale\."
_CONTEXT = {
    **{rf"{_SCALE}contextual{n}\.conv": f"segmenter.spatial.context.scales.{n - 1}" for n in (1, 2, 3)},
    rf"{_SCALE}fc_1\.conv": "segmenter.spatial.context.gate",
    rf"{_SCALE}contextualpool\.conv": "segmenter.spatial.context.last",
    rf"{_SCALE}contextuallocalmu\.conv": "segmenter.spatial.mu",
    rf"{_SCALE}contextuallocalsigma\.conv": "segmenter.spatial.logvar",
}
_ENCODING = "segmenter.spatial.encoding"
_POSITIONS = {
    **{rf"{_SCALE}positional{n}\.conv": f"{_ENCODING}.scales.{n - 1}" for n in (1, 2, 3)},
    rf"{_SCALE}fc_2\.conv": f"{_ENCODING}.gate",
    rf"{_SCALE}positionalpool\.conv": f"{_ENCODING}.last",
    rf"{_SCALE}positionallocalmu\.conv": f"{_ENCODING}_mu",
    rf"{_SCALE}positionallocalsigma\.conv": f"{_ENCODING}_logvar",
    rf"{_SCALE}positional_conv1\.conv": "segmenter.spatial.reduce",
    # 1x1 convolutions and attentions take turns
    **{rf"{_SCALE}positional_feedforward{n}\.conv": f"{_ENCODING}.{2 * n}" for n in (0, 1, 2)},
    **{rf"{_SCALE}positional_self_att{n}\.([fgh]|out_conv)": rf"{_ENCODING}.{2 * n - 1}.\1" for n in (1, 2)},
    **{rf"{_SCALE}positional_self_att{n}\.(in|out)_proj": rf"{_ENCODING}.{2 * n - 1}.project_\1" for n in (1, 2)},
}
_GENERATIVE = {
    # activations and dropout stand between the layers
    **{rf"gen\.mlp\.{n}(?:\.conv)?": f"generator.layers.{3 * n}" for n in range(6)},
    # one layer for C and D in the release, a copy for each here
    r"dis\.fc\.conv": "segmenter.classifier.hidden.0 discriminator.layers.0",
    r"dis\.pred(?:\.conv)?": "discriminator.layers.2",
    r"dis\.cls(?:\.conv)?": "segmenter.classifier.projection",
    r"Em_all": "class_vectors",
    r"Em_vis": None,  # the seen rows of Em_all
}
_HEAD = "segmenter.encoder.head."
_ZS3 = {
    **{rf"backbone\.{pattern}": name for pattern, name in _RESNET.items()},
    **{rf"aspp\.aspp{n}\.atrous_conv": f"{_HEAD}branches.{n - 1}.0" for n in (1, 2, 3, 4)},
    **{rf"aspp\.aspp{n}\.bn": f"{_HEAD}branches.{n - 1}.1" for n in (1, 2, 3, 4)},
    r"aspp\.global_avg_pool\.(\d)": rf"{_HEAD}mean.\1",
    r"aspp\.conv1": f"{_HEAD}joint.0",
    r"aspp\.bn1": f"{_HEAD}joint.1",
    r"decoder\.conv1": f"{_HEAD}fine.0",
    r"decoder\.bn1": f"{_HEAD}fine.1",
    r"decoder\.last_conv\.(\d)": rf"{_HEAD}last.\1",
    r"decoder\.pred_conv": "segmenter.classifier.projection",
}
RULES: Mapping[str, Rules] = {
    "sign": {**_DEEPLAB, **_CONTEXT, **_POSITIONS, **_GENERATIVE},
    "cagnet": {**_DEEPLAB, **_CONTEXT, **_GENERATIVE},
    "spnet": _DEEPLAB,
    "zs3": _ZS3,
}
_MARKS: Mapping[str, Callable[[set[str]], bool]] = {
    "zs3": lambda keys: "aspp.global_avg_pool.1.weight" in keys,
    "sign": lambda keys: any(key.startswith("back.scale.positional") for key in keys),
    "cagnet": lambda keys: any(key.startswith("back.scale.contextual") for key in keys),
    "spnet": lambda keys: any(key.startswith("module.scale.") for key in keys),
    "deeplab": lambda keys: any(re.search(r"layer1\.conv1\.conv\.weight$", key) for key in keys),
}
KINDS = tuple(_MARKS)


def kind_of(state: Mapping[str, Tensor], what: str) -> str:
    """Return the kind of a file's entries, one of `KINDS`; a `UserError` where it is none, `what` names the file."""
    for kind, has in _MARKS.items():
        if has(set(state)):
            return kind
    raise UserError(
        f"{what}: found entries such as {', '.join(list(state)[:3]):.200}, expected those of a released file of "
        f"{', '.join(KINDS)}: give the file of the networks"
    )


def renamed(state: Mapping[str, Tensor], kind: str) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """Return the entries as they are called here, the names of those left out, and of those without a place here."""
    found: dict[str, Tensor] = {}
    left_out: list[str] = []
    odd: list[str] = []
    for key, value in (state if kind == "zs3" else from_caffe(state)).items():
        module, _, rest = re.sub(r"\.in_proj_(weight|bias)$", r".in_proj.\1", key).rpartition(".")
        matches = ((re.fullmatch(pattern, module), names) for pattern, names in RULES[kind].items())
        match, names = next(((match, names) for match, names in matches if match), (None, None))
        if match is None or names is None:
            (left_out if match else odd).append(key)
            continue
        for name in match.expand(names).split():
            found["class_vectors" if f"{name}.{rest}" == "class_vectors.weight" else f"{name}.{rest}"] = value
    return found, left_out, odd


def network_types(state: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Return the ``network_type`` of SIGN that a file's entries may have, see `ReleasedModule`."""
    scale = "back.scale.positional"
    if any(key.startswith((f"{scale}1", f"{scale}2", f"{scale}pool")) for key in state):
        first, second = (state.get(f"{scale}{name}.conv.weight") for name in ("pool", "localmu"))
        if second is None:
            return ("1",)
        return ("2",) if first is not None and first.shape[:1] < second.shape[:1] else ("2.1",)
    reduced = f"{scale}_conv1.conv.weight" in state
    if f"{scale}_self_att1.in_proj_weight" in state:
        return ("6",) if reduced else ("4",)
    return ("5", "7", "8") if reduced else ("3",)
