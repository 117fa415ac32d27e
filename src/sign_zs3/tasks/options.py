"""The options that all methods share, with their defaults and checks."""

import copy
import inspect
import math
import numbers
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from sign_zs3.errors import UserError, check_at_least, check_choice, check_positive, check_range
from sign_zs3.models.backbones.build import colours_of
from sign_zs3.models.config import SCALES, are_numbers, are_scales


@dataclass(frozen=True)
class TaskOptions:
    """The options that all methods share.

    Args:
        vectors: Class vectors: ``bundled``, or a ``.npz`` or ``.safetensors`` table, or ``checkpoint``: those of
            `init_from`.
        center_vectors: Subtract the mean over the classes, per source, before normalising.
        backbone: See `build_backbone`.
        weights: Backbone weights, see `build_backbone`; with some, its batch norm is frozen, as in DeepLab-v2.
        backbone_levels: Modules of a ``timm/`` backbone that are its levels, see `build_backbone`.
        output_stride: Of the backbone, see `build_backbone`.
        freeze_encoder: Keep the whole backbone as it is; its head still trains.
        feature_cache: Folder for the maps of a frozen backbone, which are then computed once per image; null keeps
            none. Crops are cut out of the maps of whole images. With flip, scales or feature resolution images are read
            all the same.
        dense: How a ``clip/`` backbone mixes its patches last: ``value``, ``correlative`` or ``last``, see
            `TransformerBackbone`.
        head: ``deeplab``, ``fcn``, ``fcn16``, ``unet``, ``deeplabv3plus`` or ``identity``, see `build_head`.
        dilations: Of the ``deeplab`` head.
        input_scales: Scales at which the encoder reads an image; the published code trains with 1, 0.75, 0.5.
        unit_features: Let F, and what G makes, be unit vectors, as those of CLIP; a linear C starts at the class
            vectors then, with a scale of 100 that is learnt.
        image_mean: RGB mean of images in [0, 1]; null takes that which a transformer's weights expect by timm, and
            ImageNet's for all others.
        image_std: RGB standard deviation of images in [0, 1], likewise.
        phases: Kinds of phase to run; null runs all that have iterations.
        init_from: Checkpoint whose weights to start from, for runs of later phases alone.
        train_iterations: Length of the training step.
        self_training_iterations: Length of a round of self-training.
        rounds: Rounds of self-training, the teacher renewed before each.
        accumulate: Batches per iteration.
        lr: SGD rate of the encoder's backbone in the training step (spatial module 5x, heads 10x, biases 20x).
        lr_self_training: The same in self-training.
        backbone_rate: What the backbone's rate is multiplied with, in both.
        layer_decay: What the rate of each layer of a transformer is, as a multiple of that of the one above it.
        class_balance: From 0, where every labelled pixel counts alike, to 1, where every class of a batch does, however
            few its pixels; see `balanced_weights`. Pseudo-labels count as their class.
        clip_norm: Gradient norm at which each optimiser's gradients are clipped; 0 clips nothing.
        max_nonfinite: Steps that may be left out, over the whole run, because their loss or gradient was NaN or
            infinite; the next one stops the run.
        self_training: How pseudo-labels weigh: ``annealed`` (eq. 17), ``probability`` (`probability_weights`; with
            `pseudo_classes` all, their confidence), ``top_fraction`` (the most confident weigh 1) or ``none``.
        temperature: T of eq. 17.
        top_fraction: Fraction of pseudo-labels kept by ``top_fraction``, per image.
        pseudo_classes: ``unseen`` gives an ignored pixel its best unseen class; ``all`` its best class.
        pseudo_top_p: A pseudo-label counts only where it ranks within the top p of all logits (CaGNet's rule); 0
            counts all.
        seen_penalty: Calibrated stacking: subtracted from seen logits in evaluation.
        resolution: Score at the ``label``'s own size, or at ``feature`` size after a warp to 513 x 513.
        flip: Test-time augmentation: average with the mirror image.
        scales: Test-time augmentation: image scales that are averaged.
        seed: Random seed of initial weights, noise and dropout.
        channels_last: Keep the encoder's weights and maps as (N, H, W, C) in memory, which suits tensor cores.
        compile: Train with `torch.compile` of the encoder and the spatial module; the first iterations take minutes.
            ``cudagraphs`` also records and replays their work on a CUDA GPU: less work for the host, more memory.
        matmul_precision: Of float32 products in training: ``highest``, ``high`` (TF32) or ``medium`` (bfloat16), see
            `torch.set_float32_matmul_precision`; null leaves it. Convolutions use TF32 by torch's default.

    Raises:
        UserError: An option is out of range; it is named.
    """

    # classes and their vectors
    vectors: str = "bundled"
    center_vectors: bool = False
    # encoder
    backbone: str = "resnet101"
    weights: str | None = None
    backbone_levels: list[str] | None = None
    output_stride: int = 8
    freeze_encoder: bool = False
    feature_cache: str | None = None
    dense: Literal["value", "correlative", "last"] = "value"
    head: Literal["deeplab", "fcn", "fcn16", "unet", "deeplabv3plus", "identity"] = "deeplab"
    dilations: list[int] = field(default_factory=lambda: [6, 12, 18, 24])
    input_scales: list[float] = field(default_factory=lambda: [1.0])
    unit_features: bool = False
    image_mean: list[float] | None = None
    image_std: list[float] | None = None
    # schedule
    phases: list[str] | None = None
    init_from: str | None = None
    train_iterations: int = 20_000
    self_training_iterations: int = 6_000
    rounds: int = 1
    accumulate: int = 1
    # rates and steps
    lr: float = 2.5e-4
    lr_self_training: float = 2.5e-4
    backbone_rate: float = 1.0
    layer_decay: float = 1.0
    class_balance: float = 0.0
    clip_norm: float = 0.0
    max_nonfinite: int = 0
    # self-training
    self_training: Literal["annealed", "probability", "top_fraction", "none"] = "annealed"
    temperature: float = 2.0
    top_fraction: float = 0.75
    pseudo_classes: Literal["unseen", "all"] = "unseen"
    pseudo_top_p: int = 0
    # evaluation
    seen_penalty: float = 0.0
    resolution: Literal["label", "feature"] = "label"
    flip: bool = False
    scales: list[float] = field(default_factory=lambda: [1.0])
    # machine
    seed: int = 0
    channels_last: bool = False
    compile: bool | Literal["cudagraphs"] = False
    matmul_precision: Literal["highest", "high", "medium"] | None = None

    def __post_init__(self) -> None:
        check_choice("self_training", self.self_training, "annealed", "probability", "top_fraction", "none")
        check_choice("pseudo_classes", self.pseudo_classes, "unseen", "all")
        check_choice("resolution", self.resolution, "label", "feature")
        if self.matmul_precision is not None:
            check_choice("matmul_precision", self.matmul_precision, "highest", "high", "medium")
        if self.compile not in (True, False, "cudagraphs"):
            raise UserError(f"compile: found {self.compile!r:.100}, expected true, false or cudagraphs")
        if self.compile == "cudagraphs" and self.accumulate > 1:
            raise UserError(
                f"accumulate: found {self.accumulate} beside compile cudagraphs, which overwrites the gradient of the "
                "batch before, expected 1: raise the batch size in its place, or set compile to true"
            )
        check_positive(dilations=self.dilations, input_scales=self.input_scales)
        check_at_least(0, backbone_rate=self.backbone_rate)
        check_range("layer_decay", self.layer_decay, above=0, most=1)
        if self.image_mean is None or self.image_std is None:
            mean, std = colours_of(self.backbone)
            for name, value in (("image_mean", mean), ("image_std", std)):
                if getattr(self, name) is None:
                    object.__setattr__(self, name, value)
        for name, above in (("image_mean", -math.inf), ("image_std", 0.0)):
            if len(values := getattr(self, name)) != 3 or not are_numbers(values, above):
                least = "" if name == "image_mean" else " above 0"
                raise UserError(f"{name}: found {values!r:.100}, expected three numbers{least}, of red, green and blue")
        check_range("temperature", self.temperature, above=0)
        check_range("top_fraction", self.top_fraction, above=0, most=1)
        if not 0 <= self.class_balance <= 1:
            raise UserError(f"class_balance: found {self.class_balance}, expected 0 to 1")
        check_at_least(0, clip_norm=self.clip_norm, max_nonfinite=self.max_nonfinite, pseudo_top_p=self.pseudo_top_p)
        check_range("seen_penalty", self.seen_penalty, above=-math.inf)
        if not are_scales(self.scales):
            raise UserError(f"scales: found {self.scales!r:.100}, expected {SCALES}")
        if self.feature_cache is not None and not self.freeze_encoder:
            raise UserError(
                f"feature_cache: found {self.feature_cache!r} with freeze_encoder off, where the maps change with each "
                "step: set freeze_encoder to true, or feature_cache to null"
            )
        if self.feature_cache is not None and list(self.input_scales) != [1.0]:
            raise UserError(
                f"feature_cache: found input_scales {self.input_scales}, expected [1.0], that of the maps that are "
                "kept: set input_scales to [1.0], or feature_cache to null"
            )


def check_numbers(options: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Refuse numbers that are not finite, or not whole where the default is, or too small for what they count."""
    for name, default in defaults.items():
        if type(default) not in (int, float):
            continue
        value: Any = options[name]
        whole = type(default) is int
        kind = numbers.Integral if whole else numbers.Real
        if not isinstance(value, kind) or value is True or value is False or not math.isfinite(value):
            raise UserError(f"{name}: found {value!r:.100}, expected a {'whole' if whole else 'finite'} number")
        if name.startswith("lr") or name.endswith("_iterations"):
            check_at_least(0, **{name: options[name]})
        if name in ("output_stride", "feature_dim", "discriminator_hidden", "spatial_heads"):
            check_at_least(1, **{name: options[name]})


def defaults_of(task: type, base: type) -> dict[str, Any]:
    """Return every option of a class: of its constructor, of its parents' down to `base`, and of `TaskOptions`."""
    own = {
        parameter.name: copy.deepcopy(parameter.default)
        for ancestor in reversed(task.__mro__)
        if issubclass(ancestor, base) and "__init__" in vars(ancestor)
        for parameter in inspect.signature(vars(ancestor)["__init__"]).parameters.values()
        if parameter.default is not inspect.Parameter.empty
    }
    return asdict(TaskOptions()) | own
