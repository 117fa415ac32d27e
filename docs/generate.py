"""What the pages of the documentation take from the code: ``python -m docs.generate`` writes it before each build.

Into ``docs/_generated``: the reference of commands and keys, tables of results, drawings, small pictures. Into
``docs/notebooks``: the notebooks, which the build runs. Nothing of it is committed. A file that would not change is
left alone, so that Sphinx reads its page once.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

from PIL import Image

from docs import drawings, options, tables

HERE = Path(__file__).parent
OUTPUT = HERE / "_generated"
WIDTH = 900
"""Of the small copies of pictures, in pixels."""
CAPTIONS = {
    "networks": "The networks, and what each step trains: E, the encoder; SIM, the spatial information module; C, the "
    "classifier; G, the generator; D, the discriminator; F, the feature map; z, the latent.",
    "phases": "The phases of the built-in demo in their order, not to scale, and the parts that each of them trains.",
    "weights": "Annealed self-training: the weight of a pseudo-label by its confidence, for several temperatures T.",
    "cells": "Where the cells of a feature map of stride 8 look in an image.",
}


def main() -> None:
    """Write everything."""
    write("verbs.md", options.verbs_page())
    write("options.md", options.options_page())
    for name, text in tables.experiments_tables().items():
        write(f"experiments-{name}.md", text)
    write("benchmarks.md", tables.figures_table(HERE.parent / "benchmarks" / "baseline.json"))
    write("agreement.md", tables.figures_table(HERE.parent / "benchmarks" / "gpu_agreement.json"))
    write("devices.md", tables.devices_table(HERE.parent / "benchmarks"))
    for path in sorted((HERE / "results").rglob("table*.csv")):
        write(f"{path.relative_to(HERE).with_suffix('.md')}", tables.scores_table(path))
    with tempfile.TemporaryDirectory() as folder:
        drawings.write_all(Path(folder))
        for drawn in sorted(Path(folder).iterdir()):
            write(f"drawings/{drawn.name}", drawn.read_bytes())
    for name, caption in CAPTIONS.items():
        write(f"drawings/{name}.md", "\n".join(_figure(name, theme, caption) for theme in drawings.THEMES))
    for picture in sorted([*HERE.glob("*.png"), *HERE.glob("*.jpg")]):
        small = OUTPUT / "pictures" / f"{picture.stem}.webp"
        if not small.exists() or small.stat().st_mtime < picture.stat().st_mtime:
            _shrink(picture, small)
    for notebook in sorted((HERE.parent / "notebooks").glob("*.ipynb")):
        write(f"../notebooks/{notebook.name}", notebook.read_bytes())


def _figure(name: str, theme: str, caption: str) -> str:
    """Return a drawing in MyST, shown by pages in the light or in the dark alone."""
    options = f":alt: {caption}\n:figclass: only-{theme}\n:width: 100%"
    return f"```{{figure}} /_generated/drawings/{name}-{theme}.svg\n{options}\n\n{caption}\n```\n"


def _shrink(picture: Path, small: Path) -> None:
    small.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(picture) as image:
        size = (WIDTH, round(image.height * WIDTH / image.width))
        (image.convert("RGB").resize(size, Image.Resampling.LANCZOS) if image.width > WIDTH else image).save(
            small, quality=80, method=6
        )


def write(name: str, content: str | bytes) -> None:
    """Write a file below the output folder unless it holds this already."""
    data = content.encode() if isinstance(content, str) else content
    path = OUTPUT / name
    if not path.exists() or path.read_bytes() != data:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


if __name__ == "__main__":
    logging.disable(logging.INFO)
    main()
