"""What a model is built from: options, a checkpoint that a run starts from, or one that is the model."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sign_zs3.embeddings.table import class_vectors
from sign_zs3.errors import UserError
from sign_zs3.models.config import SegmenterConfig
from sign_zs3.models.weights import difference, kinds_of
from sign_zs3.protocol import Protocol
from sign_zs3.tasks.checkpoint import CHECKPOINT_KEY, read_checkpoint, reorder, stored_options, stored_protocol


def segmenter_config(
    hparams: Mapping[str, Any], protocol: Protocol, feature_dim: int, spatial: dict[str, Any],
    classifier: dict[str, Any],
) -> SegmenterConfig:  # fmt: skip
    """Return what a segmenter is built from.

    Args:
        hparams: Of a task.
        protocol: Its classes.
        feature_dim: D, the channels of E(x).
        spatial: See `ZeroShotTask.spatial_options`.
        classifier: See `ZeroShotTask.classifier_options`.
    """
    encoder = {name: hparams[name] for name in ("backbone", "output_stride", "dilations", "input_scales", "head")}
    return SegmenterConfig(
        protocol=protocol,
        encoder={
            **encoder,
            "feature_dim": feature_dim,
            # where a checkpoint brings the weights, batch norm is as frozen as it was when that was trained
            "freeze_batch_norm": hparams["weights"] is not None,
            "freeze": hparams["freeze_encoder"],
            "backbone_levels": hparams["backbone_levels"],
        },
        spatial=spatial,
        classifier=classifier,
        **{name: hparams[name] for name in ("image_mean", "image_std", "seen_penalty", "flip", "scales")},
    )


def check_classes(mine: Protocol, other: Protocol, where: str) -> None:
    """Refuse data or a checkpoint of other classes than a model's; `where` names them.

    Raises:
        UserError: Names, their order or their split differ.
    """
    if (mine.classes, mine.num_seen) == (other.classes, other.num_seen):
        return
    odd = sorted({*mine.classes} ^ {*other.classes})
    difference = f"classes in one alone: {', '.join(odd[:5])}" if odd else "the same names, split or ordered otherwise"
    raise UserError(
        f"classes: {where} has {other.num_seen} seen and {len(other.unseen)} unseen, the model {mine.num_seen} and "
        f"{len(mine.unseen)} ({difference}): use the data and split that the checkpoint was trained with"
    )


class WarmStart(NamedTuple):
    """The checkpoint that a run of later phases starts from.

    Attributes:
        path: Its file.
        checkpoint: With its classes in the order of the model's.
        class_vectors: (C, W) float32.
    """

    path: str
    checkpoint: dict[str, Any]
    class_vectors: Tensor

    @classmethod
    def read(
        cls, hparams: Mapping[str, Any], protocol: Protocol, method: str, defaults: Mapping[str, Any],
        architecture: Collection[str],
    ) -> WarmStart:  # fmt: skip
        """Read the checkpoint that `init_from` names, and compare what its weights cannot tell.

        Args:
            hparams: Of the model that starts from it.
            protocol: Its classes.
            method: Name of its class.
            defaults: Of the class's options.
            architecture: Options that weights cannot do without although they fit into other ones too.

        Raises:
            UserError: It is of other classes, class vectors or networks.
        """
        path = str(hparams["init_from"])
        checkpoint = read_checkpoint(Path(path))
        reorder(checkpoint, protocol)
        check_classes(protocol, stored_protocol(checkpoint), f"the checkpoint {path}")
        vectors: Tensor = checkpoint["state_dict"]["class_vectors"].clone()
        own, classes = checkpoint[CHECKPOINT_KEY], list(protocol.classes)
        # where classes were added or renamed, the vectors are those that the checkpoint holds
        if list(own.get("looked_up", classes)) == list(own.get("centered_on", classes)) == classes:
            table = class_vectors(hparams["vectors"], protocol.classes, hparams["center_vectors"])
            if table.shape != vectors.shape or not torch.allclose(table, vectors, atol=1e-6):
                raise UserError(
                    f"vectors: those of {path} are others than {hparams['vectors']!r} gives (center_vectors: "
                    f"{hparams['center_vectors']}): use the file and the option that it was trained with"
                )
            vectors = table
        options = stored_options(checkpoint)
        if own["method"] == method:
            # A checkpoint older than an option was trained as the option's default says.
            options = {**defaults, **options}
        for name in architecture:
            if name in options and options[name] != hparams[name]:
                raise UserError(
                    f"{name}: found {hparams[name]}, but {path} was trained with {options[name]}: give the same"
                )
        return cls(path, checkpoint, vectors)

    def state_for(self, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the checkpoint's state but for parts that the model does not have, such as a generator.

        Args:
            wanted: State of the model.

        Raises:
            UserError: It does not fit the model, or holds a part of E, the spatial module or C without a place.
        """
        stored = self.checkpoint["state_dict"]
        state = {key: value for key, value in stored.items() if key in wanted}
        if fault := difference(kinds_of(state), kinds_of(wanted)):
            raise UserError(
                f"init_from: {self.path} does not fit this model ({fault}): use the vectors, backbone, widths and "
                "version of sign-zs3 that it was trained with"
            )
        if left := [key for key in stored if key.startswith("segmenter.") and key not in wanted]:
            raise UserError(
                f"init_from: {self.path} holds {left[0]}, for which this model has no place: use the method and the "
                "options that it was trained with"
            )
        return state
