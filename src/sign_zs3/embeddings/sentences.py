"""Class vectors of whole names in sentences: by the text encoders of CLIP (open_clip) and of sentence-transformers."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from sign_zs3.embeddings.readers import WordVectors
from sign_zs3.embeddings.spelling import in_english
from sign_zs3.errors import UserError, close_names, pip_install
from sign_zs3.files import read_lines, refusing

CLIP, SENTENCE, IMAGENET, PLACE = "clip:", "sentence:", "imagenet", "{}"
Encode: TypeAlias = Callable[[list[str]], Any]  # n texts -> (n, W) tensor


def read_sentences(source: str, names: Sequence[str], templates: str | None = None) -> WordVectors:
    """Encode class names in sentences: a name's vector is the mean over templates of unit vectors, of length 1 itself.

    Args:
        source: ``clip:`` and a folder with ``open_clip_config.json`` and weights, or open_clip's MODEL/PRETRAINED, such
            as ``ViT-B-16-quickgelu/openai``; or ``sentence:`` and a folder or name of sentence-transformers.
        names: Class names; what data sets write as one word, or with `-` or `_`, is read as `in_english` has it.
        templates: A sentence with ``{}`` where the name goes; or a file, one such sentence a line; or ``imagenet``, the
            80 that CLIP was published with. None: these for CLIP, else the name alone.

    Raises:
        UserError: A package is missing, the encoder cannot be read, or a template has no place for the name.
    """
    import torch
    from torch.nn.functional import normalize
    from tqdm import tqdm

    of_clip, place = source.startswith(CLIP), source.partition(":")[2]
    sentences = _templates((IMAGENET if of_clip else PLACE) if templates is None else templates)
    encode = (_clip if of_clip else _sentence_transformer)(place)
    entries = {}
    with torch.inference_mode():
        for name in tqdm(names, desc=source, disable=None, leave=False, file=sys.stderr):
            vectors = encode([sentence.replace(PLACE, in_english(name)) for sentence in sentences])
            entries[name] = normalize(normalize(vectors.float(), dim=1).mean(dim=0), dim=0).numpy()
    return WordVectors(entries, origin=source, kind=source.partition(":")[0])


def _templates(given: str) -> list[str]:
    if given == IMAGENET:
        return [template(PLACE) for template in _open_clip().OPENAI_IMAGENET_TEMPLATES]
    lines = [given]
    if PLACE not in given and os.path.isfile(given):  # noqa: PTH113 (a sentence may be longer than the name of a file)
        lines = [line for _, line in read_lines(Path(given), "template", f"a sentence a line, with {PLACE}")]
    if odd := [line for line in lines if line.count(PLACE) != 1]:
        raise UserError(
            f"--templates: found {odd[0]!r:.100}, expected a sentence with {PLACE} once, where the name goes, or a "
            "file of such, one a line: correct it"
        )
    return lines


def _open_clip() -> Any:
    try:
        import open_clip
    except ImportError as error:
        raise UserError(f"open_clip is not installed, expected for the texts of CLIP: {pip_install('clip')}") from error
    return open_clip


def _clip(place: str) -> Encode:
    library = _open_clip()
    model, _, tag = (f"local-dir:{place}", "", None) if Path(place).is_dir() else place.rpartition("/")
    published = [f"{name}/{tag}" for name, tag in library.list_pretrained() if _is_quick(name, tag) == _is_quick(name)]
    if tag is not None and place not in published:
        # a name such as ViT-B-16 has GELU, whatever the weights were trained with
        quick, near = f"{model}-quickgelu/{tag}", ", ".join(close_names(place, published))
        raise UserError(
            f"--source: found {CLIP}{place}, expected a folder, or a MODEL/PRETRAINED that open_clip has, with its "
            f"activation: try {quick if quick in published else near or 'ViT-B-16-quickgelu/openai'}"
        )
    with refusing(
        f"--source: {CLIP}{place} cannot be read", ", expected open_clip_config.json and its weights; fetch them again"
    ):
        made = library.create_model(model, pretrained=tag, require_pretrained=True).eval()
        tokenizer = library.get_tokenizer(model)
    return lambda texts: made.encode_text(tokenizer(texts))


def _is_quick(model: str, tag: str | None = None) -> bool:
    found = _open_clip().get_model_config(model) if tag is None else _open_clip().get_pretrained_cfg(model, tag)
    return bool((found or {}).get("quick_gelu"))


def _sentence_transformer(place: str) -> Encode:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise UserError(
            f"--source: found {SENTENCE}{place}, but sentence-transformers is not installed: "
            "pip install sentence-transformers"
        ) from error
    with refusing(f"--source: {SENTENCE}{place} cannot be read", ", expected a folder or name of such a model"):
        made = SentenceTransformer(place, device="cpu")
    return lambda texts: made.encode(texts, convert_to_tensor=True, show_progress_bar=False)
