"""The README's pictures of predict, extend and demo, all of built-in scenes.

After `make demo`, and `python experiments/teach.py shapes --seeds 0` for the model that two classes were left out of:

    python experiments/pictures.py --run runs/shapes/version_0 --left_out runs/teach/shapes/seed0/left_out/version_0

The page is shown by a Chromium (Debian's package `chromium`), if there is one. The picture of the pseudo-labels is one
that `PictureLogger` writes in self-training.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from teach import SETTINGS

from sign_zs3 import ShapesDataModule, ZeroShotTask, extend, load_task
from sign_zs3.cli import main as program
from sign_zs3.data.datasets.base import SegmentationDataset
from sign_zs3.data.examples import choose_examples
from sign_zs3.drawing.panels import comparison_panel

UNSEEN, TAUGHT = [*SETTINGS["shapes"].unseen], [*SETTINGS["shapes"].taught]


def scenes(unseen: list[str]) -> tuple[SegmentationDataset, list[int]]:
    """Return the test scenes, and those that hold a taught class where it is unseen, or else any unseen class."""
    data = ShapesDataModule(unseen=unseen)
    data.setup("test")
    assert data.test_set is not None
    wanted = [data.protocol.classes.index(name) for name in (TAUGHT if TAUGHT[0] in unseen else unseen)]
    held = [i for i in range(200) if np.isin(data.test_set[i]["mask"], wanted).any()]
    return data.test_set, held


def as_array(dataset: SegmentationDataset, index: int) -> NDArray[np.uint8]:
    """Return a scene, (H, W, 3)."""
    return np.asarray(dataset[index]["image"].permute(1, 2, 0), np.uint8)


def draw_predict(checkpoint: Path, output: Path) -> None:
    """Let the program label four scenes, and set what it writes side by side."""
    dataset, held = scenes(UNSEEN)
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder, "images")
        images.mkdir()
        for index in choose_examples(dataset, 4, held):
            Image.fromarray(as_array(dataset, index)).save(images / f"scene{index}.png")
        made = Path(folder, "made")
        if program(["predict", "--ckpt_path", str(checkpoint), "--images", str(images), "--output", str(made)]):
            raise SystemExit(1)
        overlays = [np.asarray(Image.open(path)) for path in sorted(made.glob("*_overlay.jpg"))]
    height = max(len(overlay) for overlay in overlays)
    padded = [np.pad(o, ((0, height - len(o)), (0, 12), (0, 0)), constant_values=255) for o in overlays]
    Image.fromarray(np.concatenate(padded, axis=1)).save(output / "predict.jpg", quality=85)


def draw_extend(checkpoint: Path, output: Path) -> None:
    """Label three scenes before and after two classes are taught by their names."""
    dataset, held = scenes(UNSEEN + TAUGHT)
    truth = dataset.protocol
    before = load_task(checkpoint)
    models = {"before": before, "extend, without images": extend(before, TAUGHT)}
    models["extend, with training images"] = extend(before, TAUGHT, data=ShapesDataModule(unseen=UNSEEN + TAUGHT))
    samples = [dataset[index] for index in choose_examples(dataset, 3, held)]

    def labelled(model: ZeroShotTask) -> list[torch.Tensor]:
        assert model.protocol is not None
        to_truth = torch.tensor([truth.classes.index(name) for name in model.protocol.classes])
        return [to_truth[model.label_image(sample["image"])] for sample in samples]

    figure = comparison_panel(
        [sample["image"] for sample in samples],
        [sample["mask"] for sample in samples],
        {name: labelled(model) for name, model in models.items()},
        truth,
        f"taught by name: {', '.join(TAUGHT)}",
    )
    figure.savefig(output / "extend.png")


def draw_demo(checkpoint: Path, output: Path) -> None:
    """Take a picture of the page, a scene uploaded and two classes taught."""
    from playwright.sync_api import sync_playwright

    from sign_zs3.commands.page_layout import build_page

    chromium = shutil.which("chromium")
    if chromium is None:
        print("demo.png: left out, chromium is not installed")
        return
    dataset, held = scenes(UNSEEN + TAUGHT)
    page: Any = build_page(load_task(checkpoint))
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        picture = Path(folder, "scene.png")
        Image.fromarray(as_array(dataset, choose_examples(dataset, 3, held)[1])).save(picture)
        url = page.launch(prevent_thread_lock=True, quiet=True, share=False, server_name="127.0.0.1")[1]
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1100, "height": 700})
        tab.goto(url)
        status = "text => document.querySelector('#status textarea').value.includes(text)"
        tab.locator("#upload input[type=file]").set_input_files(str(picture))
        tab.wait_for_function(status, arg="scene.png")
        tab.locator("#new input, #new textarea").first.fill(", ".join(TAUGHT))
        tab.locator("#add").click()
        tab.wait_for_function(status, arg="Added")
        tab.locator(".viewer .side").wait_for()
        tab.wait_for_timeout(1000)
        tab.screenshot(path=output / "demo.png", full_page=True)
        browser.close()
        page.close(verbose=False)


def main() -> None:
    """Draw them all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of a run of quickstart.yaml")
    parser.add_argument("--left_out", type=Path, required=True, help="folder of a run without the taught classes")
    parser.add_argument("--output", type=Path, default=Path("docs"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    draw_predict(options.run / "checkpoints" / "last.ckpt", options.output)
    draw_extend(options.left_out / "checkpoints" / "transfer.ckpt", options.output)
    draw_demo(options.left_out / "checkpoints" / "transfer.ckpt", options.output)


if __name__ == "__main__":
    main()
