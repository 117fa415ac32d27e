"""The numbers of the SIGN paper (Cheng et al., ICCV 2021), to stand beside one's own."""

from collections.abc import Mapping

Published = tuple[float | None, float | None, float | None]
"""Seen, unseen and harmonic mIoU in %; None where the paper prints none."""

_TABLE_1 = {
    "SPNet": ((78.00, 15.63, 26.10), (35.14, 4.00, 7.18), (35.18, 8.73, 13.98)),
    "ZS3": ((77.30, 17.65, 28.74), (33.04, 7.68, 12.46), (34.66, 9.53, 14.95)),
    # seen on COCO-Stuff is printed as 33.49, a slip: its own harmonic mean fits 35.49
    "CaGNet": ((78.40, 26.59, 39.72), (36.10, 14.42, 20.61), (35.49, 12.23, 18.19)),
    "SIGN": ((75.40, 28.86, 41.74), (33.67, 14.93, 20.67), (32.31, 15.47, 20.93)),
    "ZS3 + ST": ((78.02, 21.15, 33.28), (33.98, 9.53, 14.88), (34.89, 10.55, 16.20)),
    "CaGNet + ST": ((78.59, 30.31, 43.66), (36.44, 16.30, 22.52), (35.55, 13.40, 19.46)),
    "SIGN + ST": ((78.62, 33.12, 46.61), (34.91, 16.71, 22.60), (36.39, 15.15, 21.39)),
    "SIGN + AST": ((83.49, 41.29, 55.26), (34.90, 17.86, 23.62), (31.94, 17.53, 22.64)),
}
TABLE_1: Mapping[str, Mapping[str, tuple[float, float, float]]] = {
    dataset: {row: numbers[place] for row, numbers in _TABLE_1.items()}
    for place, dataset in enumerate(("voc", "pascal_context_33", "coco_stuff"))
}
"""Data set -> row, in the table's order -> seen, unseen and harmonic mIoU in %."""

ROWS = tuple(_TABLE_1)
"""The rows in the table's order."""

OPTIONS: Mapping[str, str] = {
    "temperature": "2", "top_fraction": "0.75", "encoding": "multihead", "position": "relative",
}  # fmt: skip
"""What the ablations vary, as Table 1 has it."""

TABLES_2_AND_3: Mapping[tuple[str, str], Published] = {
    ("encoding", "conv"): (None, None, 39.13),
    ("encoding", "attention"): (None, None, 40.86),
    ("encoding", "self_attention"): (None, None, 40.51),
    ("position", "none"): (71.86, 26.07, 38.26),
    ("position", "absolute"): (70.44, 25.68, 37.64),
    ("position", "interpolated"): (71.17, 27.36, 39.53),
}
"""The one option in which SIGN differs from Table 1's, and its value -> numbers on VOC."""

TABLE_4: Mapping[str, float] = {
    "none": 76.59, "conv": 76.83, "attention": 76.97, "self_attention": 77.75, "multihead": 77.87,
}  # fmt: skip
"""SIM's structure -> seen mIoU before the transfer step on VOC, in %."""

CLIP_ERA: Mapping[str, Mapping[str, tuple[float, float, float]]] = {
    "voc": {"ZegCLIP": (91.9, 77.8, 84.3), "CLIP-RC": (92.8, 84.4, 88.4), "AlignCLIP": (93.1, 84.5, 88.6)},
    "coco_stuff": {"ZegCLIP": (40.2, 41.4, 40.8), "CLIP-RC": (40.9, 41.6, 41.2), "AlignCLIP": (41.5, 44.2, 42.8)},
}
"""Data set -> system on CLIP -> its numbers, inductive, on the paper's class split, which they share.

They subtract 0.1 from the scores of seen classes, after a sigmoid. On Pascal Context they have other splits, or none
that is published."""

TRAINING_FREE: Mapping[str, Mapping[str, float]] = {
    "voc": {"MaskCLIP": 74.9, "SCLIP": 80.4},
    "pascal_context_59": {"MaskCLIP": 26.4, "SCLIP": 34.2},
    "coco_stuff": {"MaskCLIP": 16.7, "SCLIP": 22.4},
}
"""Data set -> CLIP as it is, ViT-B/16 -> mIoU over all classes in %, by the SCLIP paper (Wang et al., ECCV 2024)."""

SPLITS = ("default", "spnet")
"""The names that the paper's class split goes by."""


def published(dataset: str, split: str, row: str, options: Mapping[str, str], phase: str | None) -> Published | None:
    """Look up a row of Tables 1 to 4, such as ``SIGN + AST``; None where the paper has none.

    `options` are those by which the row differs from others of its name, with their values as text; `phase` is the one
    after which scores were taken, None for the last.
    """
    if split not in SPLITS:
        return None
    others = {name: value for name, value in options.items() if OPTIONS.get(name) != value}
    if phase is None and not others:
        return TABLE_1.get(dataset, {}).get(row)
    if dataset != "voc" or row != "SIGN":
        return None
    if phase is None:
        return TABLES_2_AND_3.get(next(iter(others.items()))) if len(others) == 1 else None
    if phase == "train" and "encoding" in options and not set(others) - {"encoding", "feature_dim"}:
        # Without SIM, the features are widened to make up for its parameters.
        return (TABLE_4[options["encoding"]], None, None) if options["encoding"] in TABLE_4 else None
    return None
