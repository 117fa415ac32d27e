from __future__ import annotations

import asyncio
import io
import os
import re
import shutil
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image
from tests.conftest import quiet_trainer, tiny_data, tiny_model

from sign_zs3 import ZeroShotTask
from sign_zs3.cli import main
from sign_zs3.commands.page import Page, Visit, build_page
from sign_zs3.drawing.overlay import blend
from sign_zs3.vocabulary import save_model

pytestmark = [
    # gradio's own use of what its web framework will drop
    # gradio 6 leaves a temporary file open for every upload
    pytest.mark.filterwarnings("ignore:.*unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:.*unclosed:pytest.PytestUnraisableExceptionWarning"),
]

PATIENCE = 120_000
# no word to anybody: where there is no network, each attempt takes its time
CHROMIUM = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync"]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def event_loops() -> Iterator[None]:
    """Close the event loops that gradio makes to build a page and leaves open."""
    made: list[asyncio.AbstractEventLoop] = []
    new = asyncio.new_event_loop

    def recorded() -> asyncio.AbstractEventLoop:
        made.append(new())
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "new_event_loop", recorded)
        yield
    asyncio.set_event_loop(None)
    for loop in made:
        if not loop.is_running():
            loop.close()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ZeroShotTask:
    model = tiny_model(train_iterations=60, transfer_iterations=20, lr=2e-3)
    quiet_trainer(tmp_path_factory.mktemp("trained")).fit(model, tiny_data())
    return model.eval()


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tiny_data(scene_size=96)
    data.setup("test")
    assert data.test_set is not None
    path = tmp_path_factory.mktemp("pictures") / "scene.png"
    Image.fromarray(data.test_set[0]["image"].permute(1, 2, 0).numpy()).save(path)
    return path


def test_an_upload_is_labelled_as_the_model_does(model: ZeroShotTask, picture: Path) -> None:
    page = Page(model)
    visit, line = page.open(Visit(), picture)
    assert visit.labels is not None and visit.picture is not None
    assert np.array_equal(visit.labels, model.segmenter.predict(picture).numpy())
    legend = page.legend(visit)
    assert {index for _, index in legend} == set(np.unique(visit.labels).tolist())
    assert line == f"scene.png: 96 x 96 pixels, {len(legend)} classes found"
    assert len(legend) > 1
    names, num_seen = page.protocol(visit).classes, page.protocol(visit).num_seen
    for text, index in legend:
        assert text.startswith(names[index]) and ("★" in text) == (index >= num_seen)
    everything, nothing = page.overlay(visit), page.overlay(visit, [])
    assert everything is not None and nothing is not None
    assert np.array_equal(everything, blend(visit.picture, visit.labels, page.protocol(visit)))
    assert np.array_equal(nothing, visit.picture)
    # hiding one class gives its pixels the image's colours, and leaves the others
    hidden = legend[0][1]
    without = page.overlay(visit, [index for _, index in legend[1:]])
    assert without is not None
    changed = (without != everything).any(-1)
    rows = (2 * np.arange(len(changed)) + 1) * 96 // (2 * len(changed))
    assert changed.any() and set(np.unique(visit.labels[rows][:, rows][changed]).tolist()) == {hidden}
    assert page.open(visit, None) == (Visit(), "")


def test_images_are_read_as_the_checkpoint_says(
    model: ZeroShotTask, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading = {"flip": True, "scales": [0.5, 1.0], "seen_penalty": 0.5}
    for name, value in reading.items():
        monkeypatch.setitem(model.hparams, name, value)
    visit, _ = Page(model).open(Visit(), picture)
    assert visit.labels is not None
    assert np.array_equal(visit.labels, model.segmenter.predict(picture, **reading).numpy())
    assert not np.array_equal(visit.labels, model.segmenter.predict(picture, seen_penalty=0.0).numpy())


def test_classes_that_a_visitor_adds_are_theirs_alone(model: ZeroShotTask, picture: Path) -> None:
    page = Page(model)
    before = page.protocol(Visit()).classes
    visit, line = page.teach(page.open(Visit(), picture)[0], "zebra, black horse")
    assert line.startswith("added: zebra, black horse (24 classes now); scene.png: 96 x 96 pixels")
    assert visit.model is not None and visit.labels is not None
    assert page.protocol(visit).classes == (*before, "zebra", "black horse")
    assert np.array_equal(visit.labels, visit.model.segmenter.predict(picture).numpy())
    assert page.protocol(Visit()).classes == before
    again, line = page.teach(visit, "zebra")
    already = "classes: found 'zebra', which the model has already, expected another class; leave it out"
    assert again is visit and line == already
    for name in ("Zebra", "black_horse", "Black  Horse", "SKY"):
        again, line = page.teach(visit, name)
        assert again is visit and "which the model has already as" in line
    assert page.protocol(page.teach(visit, "giraffe,")[0]).num_classes == len(before) + 3
    again, line = page.teach(visit, "qzxqzx")
    assert again is visit and "qzxqzx" in line and "\n" not in line
    assert page.teach(visit, " ")[1].startswith("classes: found an empty name")


def test_bad_uploads_are_one_line(model: ZeroShotTask, picture: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    page = Page(model, max_pixels=96 * 96 - 1)
    opened = Page(model).open(Visit(), picture)[0]
    for path, start in (
        (broken, "broken.png: cannot be decoded"),
        (picture, "scene.png: found 96 x 96 = 9216 pixels, expected at most 9215"),
        (tmp_path / "gone.png", "gone.png: not found"),
    ):
        visit, line = page.open(opened, path)
        assert line.startswith(start) and "\n" not in line and str(tmp_path) not in line
        assert visit == Visit() and page.overlay(visit) is None and page.legend(visit) == []


def test_a_model_that_cannot_learn_names_says_so(tmp_path: Path) -> None:
    untrained = tiny_model(phases=["train"], joint_generator=False)
    quiet_trainer(tmp_path).fit(untrained, tiny_data())
    parts = [block.get_config() for block in build_page(untrained.eval()).blocks.values()]
    box = next(part for part in parts if part.get("elem_id") == "new")
    assert "found a generator that was never trained" in box["info"] and not box["interactive"]
    assert not next(part for part in parts if part.get("elem_id") == "add")["interactive"]


def test_without_gradio_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "sign_zs3.commands.page")
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    assert main(["demo", "--ckpt_path", "x.ckpt"]) == 1
    error = capsys.readouterr().err
    assert "pip install 'sign-zs3[demo]'" in error and error.count("\n") == 1


def test_the_program_serves_until_it_is_interrupted(
    model: ZeroShotTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(model, tmp_path / "tiny.ckpt")
    command = ["demo", "--ckpt_path", str(tmp_path / "tiny.ckpt")]
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "True")
    wait = gr.Blocks.block_thread
    refused: list[str] = []

    def interrupted(page: gr.Blocks) -> None:
        url = capsys.readouterr().out.split()[1]
        assert url.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(url) as answer:
            assert b"gradio" in answer.read()
        assert main([*command, "--port", url.rstrip("/").rsplit(":", 1)[1]]) == 1
        refused.append(capsys.readouterr().err)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("gradio.blocks.time", SimpleNamespace(sleep=ctrl_c))
            wait(page)

    def ctrl_c(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(gr.Blocks, "block_thread", interrupted)
    assert main(command) == 0
    assert "taken or not of this machine" in refused[0] and refused[0].count("\n") == 1
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"


@pytest.fixture
def url(model: ZeroShotTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    page = build_page(model)
    try:
        yield page.launch(prevent_thread_lock=True, quiet=True, share=False, server_name="127.0.0.1")[1]
    finally:
        page.close(verbose=False)


def test_in_a_browser(url: str, picture: Path, tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    api: Any = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM)
        context = browser.new_context(viewport={"width": 1200, "height": 1000})
        # the machine may be busy with other tests
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.goto(url)

        def overlay() -> Any:
            source = page.locator("#overlay img").get_attribute("src")
            return np.asarray(Image.open(io.BytesIO(page.request.get(source).body())).convert("RGB"))

        def wait_for_status(text: str, page: Any = page) -> str:
            status = page.locator("#status textarea")
            # unlike a function of our own, it waits for an element that is drawn anew
            api.expect(status).to_have_value(re.compile(re.escape(text)), timeout=PATIENCE)
            return str(status.input_value())

        page.locator("#upload input[type=file]").set_input_files(str(picture))
        wait_for_status("scene.png: 96 x 96 pixels")
        page.locator("#overlay img").wait_for()
        before, source = overlay(), page.locator("#overlay img").get_attribute("src")
        page.locator("#legend label").first.click()
        api.expect(page.locator("#overlay img")).not_to_have_attribute("src", source, timeout=PATIENCE)
        after = overlay()
        assert before.shape == after.shape and (before != after).any()

        page.locator("#new input, #new textarea").first.fill("zebra")
        page.locator("#add").click()
        assert wait_for_status("added").startswith("added: zebra (23 classes now); scene.png")
        if os.environ.get("SCREENSHOT"):
            page.wait_for_timeout(1000)
            page.screenshot(path=os.environ["SCREENSHOT"], full_page=True)
        page.locator("#new input, #new textarea").first.fill("qzxqzx")
        page.locator("#add").click()
        assert "\n" not in wait_for_status("qzxqzx")

        # another visitor has the classes of the checkpoint
        other = browser.new_page()
        other.set_default_timeout(PATIENCE)
        other.goto(url)
        other.locator("#new input, #new textarea").first.fill("zebra")
        other.locator("#add").click()
        wait_for_status("23 classes now", other)

        broken = tmp_path / "broken.png"
        broken.write_bytes(b"no image")
        other.locator("#upload input[type=file]").set_input_files(str(broken))
        assert wait_for_status("cannot be decoded", other).startswith("broken.png: cannot be decoded")
        browser.close()
    assert requests and {request.split("/")[2].split(":")[0] for request in requests if "://" in request} == {
        "127.0.0.1"
    }
