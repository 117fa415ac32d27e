from __future__ import annotations

import asyncio
import base64
import gc
import io
import json
import os
import re
import shutil
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image
from tests.conftest import quiet_trainer, tiny_data, tiny_model

from sign_zs3 import UserError, ZeroShotTask
from sign_zs3.cli import main
from sign_zs3.commands.page import NO_IMAGE, Page, Visit
from sign_zs3.commands.page_layout import build_page
from sign_zs3.drawing.colours import protocol_colours
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


def pixels(source: str) -> Any:
    """Return the pixels of an image that an address holds."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))


def test_an_image_is_labelled_as_the_model_does(model: ZeroShotTask, picture: Path) -> None:
    page = Page(model)
    image = page.read(picture)
    assert set(page.preview(image)) == {"picture"}
    reported: list[tuple[int, int]] = []
    view, line = page.label(Visit(path=picture), image, lambda *pair: reported.append(pair))
    assert reported == [(1, 1)]
    expected = model.segmenter.segment(picture, confidence_map=True)
    labels, protocol = expected.labels.numpy(), model.protocol
    assert expected.confidence_map is not None
    assert line == f"scene.png: 96 x 96 pixels, {len(np.unique(labels))} classes found" and len(view["classes"]) > 1
    # the download has the data set's own ids, at the image's size
    assert np.array_equal(pixels(view["index"]), protocol.to_ids()[labels]) and view["file"] == "scene_classes.png"
    # what is shown is enlarged to 320 pixels; the middle of each pixel
    middle = (2 * np.arange(96) + 1) * 320 // (2 * 96)
    assert np.array_equal(pixels(view["labels"])[np.ix_(middle, middle)], labels)
    sure = pixels(view["confidence"])[np.ix_(middle, middle)]
    assert np.abs(sure - 100 * expected.confidence_map.numpy()).max() <= 0.51
    colours = protocol_colours(protocol) * 255
    for entry in view["classes"]:
        index = entry["index"]
        assert entry["name"] == protocol.classes[index] and entry["unseen"] == (index >= protocol.num_seen)
        assert entry["share"] == pytest.approx((labels == index).mean())
        assert entry["listed"] == ((labels == index).mean() >= 0.01)
        assert np.abs(colours[index] - entry["colour"]).max() <= 0.5
    shares = [entry["share"] for entry in view["classes"]]
    assert sum(shares) == pytest.approx(1) and shares == sorted(shares, reverse=True)
    # plain types, as JSON takes them
    json.dumps(view)


def test_windows_are_reported(model: ZeroShotTask, picture: Path) -> None:
    page, reported = Page(model, window=48, overlap=8), list[tuple[int, int]]()
    page.label(Visit(path=picture), page.read(picture), lambda *pair: reported.append(pair))
    assert len(reported) > 3 and reported == [(n, len(reported)) for n in range(1, len(reported) + 1)]


def test_images_are_read_as_the_checkpoint_says(
    model: ZeroShotTask, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading = {"flip": True, "scales": [0.5, 1.0], "seen_penalty": 0.5}
    for name, value in reading.items():
        monkeypatch.setitem(model.hparams, name, value)
    page = Page(model)
    ids = pixels(page.label(Visit(), page.read(picture))[0]["index"])
    assert np.array_equal(ids, model.protocol.to_ids()[model.segmenter.predict(picture, **reading).numpy()])
    assert not np.array_equal(ids, model.protocol.to_ids()[model.segmenter.predict(picture, seen_penalty=0.0).numpy()])


def test_unseen_classes_are_weighed_beside_the_models_own_penalty(
    model: ZeroShotTask, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(model.hparams, "seen_penalty", 0.5)
    page = Page(model)

    def unseen(bonus: float) -> float:
        view, _ = page.label(Visit(bonuses={"": bonus}), page.read(picture))
        return float(sum(entry["share"] for entry in view["classes"] if entry["unseen"]))

    expected = model.segmenter.predict(picture, seen_penalty=1.25).numpy()
    assert unseen(0.75) == pytest.approx((expected >= model.protocol.num_seen).mean())
    assert unseen(-50) == 0 and unseen(50) == pytest.approx(1)


def test_a_visitor_weighs_one_class(model: ZeroShotTask, picture: Path) -> None:
    page = Page(model)
    *_, last = model.protocol.classes
    listed = [name for _, name in page.weights(Visit())]
    assert listed[0] == "" and sorted(listed[1:]) == sorted(model.protocol.classes)
    before = page.label(Visit(), page.read(picture))[0]["index"]
    all_of_it = page.label(Visit(bonuses={last: 50.0}), page.read(picture))[0]["classes"]
    assert {entry["name"]: entry["share"] for entry in all_of_it} == {last: pytest.approx(1)}
    none = page.label(Visit(bonuses={last: -50.0}), page.read(picture))[0]["classes"]
    assert last not in {entry["name"] for entry in none}
    # the model is not changed by it
    assert page.label(Visit(bonuses={last: 0.0}), page.read(picture))[0]["index"] == before
    visit, _ = page.teach(Visit(bonuses={last: -50.0}), "zebra")
    assert ("zebra ★", "zebra") in page.weights(visit)
    more = replace(visit, bonuses={**visit.bonuses, "zebra": 50.0})
    assert [entry["name"] for entry in page.label(more, page.read(picture))[0]["classes"]] == ["zebra"]
    # a class that is forgotten by now, with the model that had it
    assert page.label(replace(more, model=None, bonuses={"zebra": 50.0}), page.read(picture))[0]["index"] == before


def test_classes_that_a_visitor_adds_are_theirs_alone(model: ZeroShotTask, picture: Path) -> None:
    page = Page(model)
    before = page.protocol(Visit()).classes
    visit, line = page.teach(Visit(path=picture, bonuses={"": 1.0}), "zebra, black  horse,")
    assert line == "Added zebra, black horse: 24 classes now."
    assert visit.model is not None and (visit.path, visit.bonuses) == (picture, {"": 1.0})
    assert page.protocol(visit).classes == (*before, "zebra", "black horse")
    ids = pixels(page.label(visit, page.read(picture))[0]["index"])
    labels = visit.model.segmenter.predict(picture, seen_penalty=-0.0 + model.hparams["seen_penalty"] + 1.0).numpy()
    assert np.array_equal(ids, visit.model.protocol.to_ids()[labels])
    assert page.protocol(Visit()).classes == before
    assert page.protocol(page.teach(visit, "giraffe")[0]).num_classes == len(before) + 3


OPTIONS = re.compile(r"--|max_pixels|vectors|classes:|expected")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (" , ", "Write the name of a class first, such as zebra."),
        ("SKY", "“SKY” is a class already: see the list of all classes."),
        ("zebra, Zebra", "“Zebra” is a class already: see the list of all classes."),
        ("qzxqzx", "The model has never read the word “qzxqzx”: try another word for it, or the singular."),
        ("zebrra", "The model has never read the word “zebrra”; did you mean 'zebra'"),
    ],
)
def test_names_that_cannot_be_added_are_explained_to_a_visitor(model: ZeroShotTask, names: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        Page(model).teach(Visit(), names)
    assert str(error.value).startswith(said) and not OPTIONS.search(str(error.value)) and "\n" not in str(error.value)


def test_bad_uploads_are_explained_to_a_visitor(model: ZeroShotTask, picture: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    page = Page(model, max_pixels=96 * 96 - 1)
    for path, said in (
        (broken, "broken.png cannot be read as an image: save it as JPEG or PNG and upload that."),
        (picture, "scene.png has 96 x 96 pixels, this page takes at most 9,215 pixels: make it smaller and upload it"),
        (tmp_path / "gone.png", NO_IMAGE),
        (None, NO_IMAGE),
    ):
        with pytest.raises(UserError) as error:
            page.read(path)
        assert str(error.value).startswith(said) and not OPTIONS.search(str(error.value))
        assert str(tmp_path) not in str(error.value)


def test_examples_are_scenes_or_what_is_given(model: ZeroShotTask, picture: Path) -> None:
    page = Page(model)
    assert [name for name, _ in page.thumbnails()] == ["scene 1", "scene 2", "scene 3", "scene 4"]
    given = Page(model, [picture])
    ((name, source),) = given.thumbnails(48)
    assert name == "scene" and pixels(source).shape == (48, 48, 3)
    folder = page.examples[0].parent
    assert folder.is_dir()
    del page
    gc.collect()
    assert not folder.exists()


def config_of(page: gr.Blocks, elem_id: str) -> dict[str, Any]:
    return next(part for block in page.blocks.values() if (part := block.get_config()).get("elem_id") == elem_id)


def test_a_model_that_cannot_learn_names_says_so(tmp_path: Path) -> None:
    untrained = tiny_model(phases=["train"], joint_generator=False)
    quiet_trainer(tmp_path).fit(untrained, tiny_data())
    page = build_page(untrained.eval())
    assert "cannot learn classes by name" in config_of(page, "new")["info"]
    assert not config_of(page, "new")["interactive"] and not config_of(page, "add")["interactive"]


def test_all_names_are_listed(model: ZeroShotTask) -> None:
    names = config_of(build_page(model), "names")["value"]
    assert all(f"<li>{name}" in names for name in model.protocol.classes) and names.count("★</li>") == 4


def test_without_gradio_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "sign_zs3.commands.page_layout")
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    assert main(["demo", "--ckpt_path", "x.ckpt"]) == 1
    error = capsys.readouterr().err
    assert "pip install 'gradio>=6.17'" in error and error.count("\n") == 1


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
    # its statistics of so many runs, which pandas 3 warns of
    monkeypatch.setenv("GRADIO_ANALYTICS_CACHE_FREQUENCY", "10000")
    page = build_page(model)
    try:
        yield page.launch(prevent_thread_lock=True, quiet=True, share=False, server_name="127.0.0.1")[1]
    finally:
        page.close(verbose=False)


class Browser:
    """A page in headless Chromium, of which errors in the console, failed answers and other hosts are noted."""

    def __init__(self, tab: Any, url: str) -> None:
        self.tab = tab
        self.problems: list[str] = []
        # the machine may be busy with other tests
        tab.set_default_timeout(PATIENCE)
        tab.on("console", lambda message: self.problems.extend([message.text] * (message.type == "error")))
        tab.on("pageerror", lambda error: self.problems.append(str(error)))
        tab.on("response", lambda answer: self.problems.extend([answer.url] * (answer.status >= 400)))
        tab.on("request", lambda request: self._check(request.url))
        tab.goto(url)

    def _check(self, url: str) -> None:
        if not url.startswith(("data:", "blob:", "http://127.0.0.1:")):
            self.problems.append(url)

    def wait_for_status(self, text: str) -> str:
        from playwright.sync_api import expect

        status = self.tab.locator("#status textarea")
        # unlike a function of our own, it waits for an element that is drawn anew
        expect(status).to_have_value(re.compile(re.escape(text)), timeout=PATIENCE)
        return str(status.input_value())

    def upload(self, path: Path) -> None:
        self.tab.locator("#upload input[type=file]").set_input_files(str(path))

    def canvas(self) -> Any:
        """Return the pixels of the viewer, as soon as it stands still."""
        self.tab.locator(".viewer .side").wait_for()
        source = self.tab.locator(".viewer canvas").evaluate("canvas => canvas.toDataURL()")
        return pixels(source)[..., :3]

    def add(self, names: str) -> None:
        self.tab.locator("#new input, #new textarea").first.fill(names)
        self.tab.locator("#add").click()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("chromium is not installed")
    api: Any = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM)
        yield browser
        browser.close()


def test_a_visit(url: str, chromium: Any, model: ZeroShotTask, picture: Path, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    page = Browser(chromium.new_page(viewport={"width": 1280, "height": 700}), url)
    tab, image = page.tab, np.asarray(Image.open(picture))
    page.upload(picture)
    page.wait_for_status("scene.png: 96 x 96 pixels")
    labels = model.segmenter.predict(picture).numpy().astype(np.uint8)
    everything, bare = blend(image, labels, model.protocol), blend(image, labels, model.protocol, ())

    def close(expected: Any) -> bool:
        # the picture travels as a JPEG
        return bool(np.abs(page.canvas() - expected.astype(float)).mean() < 6)

    assert close(everything) and not close(bare)
    # hiding a class with the keyboard gives its pixels the image's colours, and leaves the others
    box = tab.locator(".viewer .large input").first
    box.focus()
    tab.keyboard.press("Space")
    largest = int(np.bincount(labels.ravel()).argmax())
    assert close(blend(image, labels, model.protocol, set(range(22)) - {largest})) and not close(everything)
    tab.keyboard.press("Space")
    assert close(everything)
    # the strength of the colours, by keys too
    tab.locator(".viewer .opacity input").focus()
    tab.keyboard.press("Home")
    assert close(bare)
    tab.keyboard.press("End")
    assert np.abs(page.canvas() - bare.astype(float)).mean() > np.abs(everything - bare.astype(float)).mean()
    tab.get_by_label("Image alone").check()
    assert close(bare)
    tab.get_by_label("Confidence").check()
    assert not close(bare) and not close(everything) and tab.locator(".viewer .scale").is_visible()
    tab.get_by_label("Classes", exact=True).check()

    # the class at the pointer, and at a place that arrow keys lead to
    sure = model.segmenter.segment(picture, confidence_map=True).confidence_map
    assert sure is not None
    canvas, here = tab.locator(".viewer canvas"), tab.locator(".viewer .here")
    # the window is too low for a square as wide as its place
    side = canvas.bounding_box()["height"]
    assert side < canvas.bounding_box()["width"] - 100

    def text(x: int, y: int) -> str:
        index = labels[y, x]
        star = " ★" if index >= model.protocol.num_seen else ""
        return f"{model.protocol.classes[index]}{star}, {(100 * sure[y, x]).round():.0f} % sure"

    for x, y in ((10, 20), (80, 90)):
        canvas.hover(position={"x": (x + 0.5) * side / 96, "y": (y + 0.5) * side / 96})
        assert here.inner_text() == text(x, y)
    tab.mouse.move(1, 1)
    assert here.is_hidden()
    tab.locator("#examples button").last.focus()
    tab.keyboard.press("Tab")
    assert here.inner_text() == text(48, 48)
    for _ in range(6):
        tab.keyboard.press("ArrowLeft")
    # a step is a 64th of the 320 pixels that are shown
    assert here.inner_text() == text(int((160 - 6 * 5) * 96 / 320), 48)

    with tab.expect_download() as download:
        tab.locator(".viewer .save").click()
    assert download.value.suggested_filename == "scene_classes.png"
    saved = np.asarray(Image.open(download.value.path()))
    assert np.array_equal(saved, model.protocol.to_ids()[labels])

    # all pixels get an unseen class, or none
    number = tab.locator("#weight input[type=number]")
    for weight, unseen in (("5", 4), ("-5", 0)):
        number.fill(weight)
        number.press("Enter")
        count = len(np.unique(model.segmenter.predict(picture, seen_penalty=float(weight))))
        page.wait_for_status(f"{count} class")
        assert unseen or not tab.locator(".viewer .legend li", has_text="★").count()
    number.fill("0")
    number.press("Enter")
    page.wait_for_status(f"{len(np.unique(labels))} class")

    page.add("zebra")
    assert page.wait_for_status("Added").startswith("Added zebra: 23 classes now. scene.png")
    # more of that class alone
    tab.locator("#which input").click()
    tab.get_by_role("option", name="zebra ★").click()
    number.fill("5")
    number.press("Enter")
    page.wait_for_status("1 class found")
    tab.locator("#which input").click()
    tab.get_by_role("option", name="all unseen classes").click()
    expect(number).to_have_value("0")
    tab.locator("#names summary").click()
    assert tab.locator("#names li", has_text="zebra").is_visible()
    page.add("qzxqzx")
    assert not OPTIONS.search(page.wait_for_status("qzxqzx"))

    # another visitor has the classes of the checkpoint, and takes an example
    other = Browser(chromium.new_page(), url)
    other.tab.locator("#examples button").nth(1).click()
    other.wait_for_status("scene 2.png: 64 x 64 pixels")
    other.add("zebra")
    other.wait_for_status("23 classes now")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    other.upload(broken)
    other.wait_for_status("broken.png cannot be read as an image")
    assert other.tab.locator(".viewer").is_hidden()
    assert page.problems == [] and other.problems == []


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (768, "light"), (1280, "light"), (1280, "dark")])
def test_the_page_fits_and_is_accessible(url: str, chromium: Any, picture: Path, width: int, scheme: str) -> None:
    page = Browser(chromium.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme), url)
    page.upload(picture)
    page.wait_for_status("scene.png: 96 x 96 pixels")
    page.canvas()
    assert page.tab.evaluate("document.documentElement.scrollWidth") == width
    for part in ("#upload", "#examples img >> nth=3", ".viewer canvas", ".viewer .save", "#add", "#which", "#weight"):
        box = page.tab.locator(part).bounding_box()
        assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= width, part
    if os.environ.get("SCREENSHOTS"):
        page.tab.screenshot(path=f"{os.environ['SCREENSHOTS']}/page-{width}-{scheme}.png", full_page=True)
    assert page.problems == []
    # at the end: the rest is tested without it
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    found = axe.Axe().run(page.tab).response["violations"]
    serious = [
        (one["id"], node["html"]) for one in found if one["impact"] in ("serious", "critical") for node in one["nodes"]
    ]
    assert serious == []
