"""A segmenter as a folder: options in `config.json`, weights in `model.safetensors`, a model card in `README.md`."""

import json
import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import huggingface_hub
import torch
from huggingface_hub import ModelCard, ModelHubMixin
from torch import Tensor

from sign_zs3._version import __version__
from sign_zs3.errors import UserError
from sign_zs3.files import line_of, make_folder, other_format, read_json, refusing, replacing
from sign_zs3.models.config import SegmenterConfig, card_text, plain_scores
from sign_zs3.models.weights import check_finite, difference, kinds_of, on_meta
from sign_zs3.protocol import Protocol

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "README.md"
FORMAT = 1  # raised when older versions would misread what is written
# where they are missing, defaults hold
LATER_OPTIONS = frozenset({"protocol", "ignored_ids", "palette", "flip", "scales"})

_EXPECTED = f"a folder with {CONFIG_FILE} and {WEIGHTS_FILE} that `sign-zs3 export` or save_pretrained wrote"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_Self = TypeVar("_Self", bound="PretrainedFolder")


class PretrainedFolder(
    ModelHubMixin,
    library_name="sign-zs3",
    license="other",
    pipeline_tag="image-segmentation",
    tags=["semantic-segmentation", "zero-shot"],
):
    """Gives `Segmenter` save_pretrained, from_pretrained and push_to_hub."""

    config: SegmenterConfig | None
    known: Tensor

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        scores: Mapping[str, Any] | None = None,
        model_card_kwargs: Mapping[str, Any] | None = None,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        **options: Any,
    ) -> str | None:
        """Write the segmenter into a folder, with no pickle.

        `config.json`, `model.safetensors` and `README.md` are replaced once all three are written; other files stay.

        Args:
            save_directory: The folder, made where it is missing.
            scores: For the model card: mIoU as in `GZSLMeanIoU.compute` or ``results.json``, fractions.
            model_card_kwargs: Further arguments of `card_text`: `method`, `phase`.
            push_to_hub: Also upload the folder; the address of the commit is returned.
            repo_id: Its name on the hub; None: that of the folder.
            **options: Of huggingface_hub's `push_to_hub`, such as `private` and `token`.

        Raises:
            UserError: There is no config, the scores are no fractions, or the folder is a file or cannot be written.
        """
        from safetensors.torch import save

        folder = Path(save_directory)
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder}: is a file, expected a folder, made where it is missing; name another")
        card = dict(model_card_kwargs or {}) | ({} if scores is None else {"scores": scores})
        assert isinstance(self, torch.nn.Module)
        # safetensors refuses tensors that share memory or are not contiguous
        state = {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in self.state_dict().items()}
        kept = card | {"scores": plain_scores(card.get("scores"))}
        config = {"format": FORMAT, "version": __version__, **self.require_config().as_dict(), "card": kept}
        contents = {
            WEIGHTS_FILE: save(state, metadata={"format": "pt"}),  # a file of save_file only its owner may read
            CONFIG_FILE: (json.dumps(config, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode(),
            CARD_FILE: (str(self.generate_model_card(**card)).rstrip() + "\n").encode(),
        }
        make_folder(folder)
        with ExitStack() as files:
            # the mixin's own method removes what is there before it writes
            for name, content in contents.items():
                files.enter_context(replacing(folder / name)).write_bytes(content)
        if not push_to_hub:
            return None
        address: str = self.push_to_hub(repo_id or folder.name, model_card_kwargs=card, **options)
        return address

    def require_config(self) -> SegmenterConfig:
        """Return the config; a segmenter that was made without one is a UserError."""
        if self.config is None:
            raise UserError("segmenter: found none of the options it was made with, expected one of Segmenter.build")
        return self.config

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """Return the model card; the arguments are those of `card_text` after the first two."""
        text = card_text(self.require_config(), self.known.tolist(), *args, **kwargs)
        return ModelCard(f"---\n{self._hub_mixin_info.model_card_data.to_yaml()}\n---\n\n{text}")

    @classmethod
    def from_pretrained(cls: type[_Self], pretrained_model_name_or_path: str | Path, **options: Any) -> _Self:
        """Load a segmenter from a folder, or from the hub.

        A folder is read without any network, and code is never run. Memory: at most three times the size of the
        weights' file, whatever the config claims. Only a string ``NAMESPACE/NAME`` whose namespace is no folder here is
        looked for on the hub, with the options of `hf_hub_download`, such as `revision`, `token`, `local_files_only`.
        The segmenter is on the CPU, in evaluation mode.

        Raises:
            UserError: Nothing is there, it is damaged, of another library or version, or a weight is not finite.
        """
        name, folder = pretrained_model_name_or_path, Path(pretrained_model_name_or_path)
        paths = [folder / CONFIG_FILE, folder / WEIGHTS_FILE]
        if isinstance(name, str) and _HUB_NAME.fullmatch(name) and not Path(name.partition("/")[0]).exists():
            what = f"{name}: is no folder here, and cannot be fetched from the hub"
            with refusing(what, "; correct the path, or see to the network"):
                paths = [Path(huggingface_hub.hf_hub_download(name, f, **options)) for f in (CONFIG_FILE, WEIGHTS_FILE)]
        elif not folder.exists():
            raise UserError(f"{folder}: is not there, expected {_EXPECTED}; correct the path")
        elif not folder.is_dir():
            raise UserError(f"{folder}: is a file, expected {_EXPECTED}; load_segmenter reads a checkpoint")
        segmenter: _Self = _load(cls, *paths)
        return segmenter


def _load(cls: Any, config_path: Path, weights_path: Path) -> Any:
    for path in (config_path, weights_path):
        if not path.is_file():
            raise UserError(
                f"{path.parent}: found no {path.name}, expected {_EXPECTED}; of a run, give a file of its checkpoints/"
            )
    config = _read_config(config_path)
    try:
        twin = on_meta(lambda: cls.build(config))
    except UserError as error:
        raise UserError(f"{config_path}: {line_of(error)}") from error
    except Exception as error:  # networks raise anything for options that they do not expect
        raise UserError(
            f"{config_path}: found options that this version cannot build ({line_of(error)[:200]}), expected those of "
            "its own networks; export the model again"
        ) from error
    with refusing(f"{weights_path}: does not hold the weights of {CONFIG_FILE}", "; export the model again"):
        state = _read_weights(weights_path, twin.state_dict())
        with torch.random.fork_rng(devices=[]):  # initial weights are drawn, which must not move the caller's numbers
            segmenter = cls.build(config)
        segmenter.load_state_dict(state)
        for name in ("image_mean", "image_std"):
            if not torch.allclose(getattr(segmenter, name).flatten(), torch.tensor(getattr(config, name))):
                raise ValueError(f"another {name}")
        return segmenter.eval()


def _read_weights(path: Path, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read weights once the file's header says that they are those of a network; a ValueError where they are not."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        found = {name: (tuple(part.get_shape()), "F" in part.get_dtype()) for name, part in parts.items()}
        if fault := difference(found, kinds_of(wanted)):
            raise ValueError(fault)
        state = {name: file.get_tensor(name) for name in parts}
    check_finite(state, str(path))
    return state


def read_card(folder: Path) -> dict[str, Any]:
    """Return what the model card of a folder was written from, beside its config, as arguments of `card_text`."""
    card = _read_json(folder / CONFIG_FILE).get("card")
    return dict(card) if isinstance(card, dict) else {}


def _read_json(path: Path) -> dict[str, Any]:
    content = read_json(path, "JSON")
    if not isinstance(content, dict) or "classes" not in content or "format" not in content:
        raise UserError(f"{path}: is not of sign-zs3, expected {_EXPECTED}")
    return content


def _read_config(path: Path) -> SegmenterConfig:
    content = {key: value for key, value in _read_json(path).items() if key != "card"}
    version = content.pop("version", None)
    if (found := content.pop("format")) != FORMAT:
        raise UserError(f"{path}: {other_format(found, FORMAT, 'export the model again', version)}")
    needed = {field.name for kind in (SegmenterConfig, Protocol) for field in fields(kind)}
    if missing := sorted(needed - LATER_OPTIONS - content.keys()):
        raise UserError(f"{path}: found no {', '.join(missing)}, expected all options; export the model again")
    try:
        return SegmenterConfig.from_dict(content)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: found options that this version does not know ({line_of(error)}), expected those of "
            f"SegmenterConfig; it was written by sign-zs3 {version or 'of another version'}"
        ) from error
