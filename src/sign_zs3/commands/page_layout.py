"""How the page of a model looks and answers. Needs gradio, the extra ``demo``; the viewer is in ``viewer.js``."""

import html
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from numpy.typing import NDArray

from sign_zs3.commands.page import KEPT, NO_IMAGE, NOT_TEACHABLE, Page, Visit
from sign_zs3.drawing.overlay import NOTE
from sign_zs3.errors import UserError
from sign_zs3.protocol import Protocol
from sign_zs3.tasks.base import ZeroShotTask

MOST_BONUS = 5.0
# gradio gives each run one of its own where this is the default
_PROGRESS = gr.Progress()
_HERE = Path(__file__).parent
_PICK = """element.addEventListener('click', event => {
  const button = event.target.closest('button');
  if (button) trigger('click', {index: Number(button.dataset.index)});
})"""


def build_page(model: ZeroShotTask, examples: Sequence[Path] = (), **options: Any) -> gr.Blocks:
    """Return the page of a model, to be launched, see `Page`. A visitor's classes are theirs alone."""
    page = Page(model, examples, **options)
    protocol, teachable, pictures = page.protocol(Visit()), page.teachable, page.thumbnails()
    private: dict[str, Any] = {"api_visibility": "private"}
    # one at a time: two at once would share the cores
    heavy = private | {"concurrency_id": "model", "concurrency_limit": 1}

    with gr.Blocks(title="sign-zs3", analytics_enabled=False, delete_cache=(KEPT // 6, KEPT)) as blocks:
        gr.HTML(
            f"<style>{_text('viewer.css')}</style>"
            f"<h1>{type(model).__name__.removesuffix('Module')}: segmentation by class names</h1>"
            "<p>Each pixel of your image gets the class that fits best. Classes with a star (★) have no example in the "
            "training images: the model knows their names alone.</p>"
        )
        visit = gr.State(Visit(), time_to_live=KEPT)
        with gr.Row():
            # not an Image, whose own reader would fail before ours can say why
            with gr.Column(min_width=260):
                upload = gr.File(label="Your image", elem_id="upload", height=150)
            if pictures:
                with gr.Column(min_width=260):
                    chosen = gr.HTML(_buttons(pictures), js_on_load=_PICK, elem_id="examples")
        status = gr.Textbox(label="What happened", interactive=False, lines=1, elem_id="status")
        viewer = gr.HTML({}, html_template=_text("viewer.html"), js_on_load=_text("viewer.js"), elem_id="viewer")
        with gr.Row():
            with gr.Column(min_width=260):
                new = gr.Textbox(
                    label="Add classes by name",
                    placeholder="zebra, black horse",
                    info="Put commas between several names. It takes some seconds." if teachable else NOT_TEACHABLE,
                    interactive=teachable,
                    elem_id="new",
                )
                add = gr.Button("Add", interactive=teachable, elem_id="add")
            with gr.Column(min_width=260):
                choices = page.weights(Visit())
                which = gr.Dropdown(choices, label="More or less of", elem_id="which", visible=bool(choices))
                weight = gr.Slider(
                    -MOST_BONUS, MOST_BONUS, 0, step=0.25, label="Weight", elem_id="weight", visible=bool(choices),
                    info="To the right, more pixels get it. 0 is the model's own setting.",
                )  # fmt: skip
        names = gr.HTML(_names(protocol), elem_id="names")
        outputs = [visit, viewer, status]

        def labelled(now: Visit, image: NDArray[np.uint8], before: str, progress: gr.Progress) -> tuple[Any, ...]:
            height, width = image.shape[:2]
            what = f"Labelling {width} x {height} pixels"
            progress(0, desc=what)
            view, line = page.label(now, image, lambda done, of: progress((done, of), desc=what, unit="parts"))
            return now, view, f"{before}{line}"

        def opened(now: Visit, path: str | Path | None, progress: gr.Progress) -> Iterator[tuple[Any, ...]]:
            now = replace(now, path=None)
            if path is None:
                yield now, {}, ""
                return
            try:
                image = page.read(path)
            except UserError as error:
                yield now, {}, str(error)
                return
            now = replace(now, path=Path(path))
            yield now, page.preview(image), f"Labelling {Path(path).name} ..."
            yield labelled(now, image, "", progress)

        def on_upload(now: Visit, path: str | None, progress: gr.Progress = _PROGRESS) -> Iterator[tuple[Any, ...]]:
            yield from opened(now, path, progress)

        def on_example(now: Visit, event: gr.EventData, progress: gr.Progress = _PROGRESS) -> Iterator[tuple[Any, ...]]:
            yield from opened(now, page.examples[int(event.index)], progress)

        def again(now: Visit, before: str, progress: gr.Progress) -> tuple[Any, ...]:
            """Label the visitor's image again, where there is one."""
            try:
                return labelled(now, page.read(now.path), before, progress)
            except UserError as error:
                return now, gr.skip(), before or str(error)

        def on_which(now: Visit, name: str) -> float:
            return now.bonuses.get(name, 0.0)

        def on_weight(now: Visit, name: str, bonus: float, progress: gr.Progress = _PROGRESS) -> tuple[Any, ...]:
            now = replace(now, bonuses={**now.bonuses, name: float(bonus)})
            return again(now, "", progress) if now.path else (now, gr.skip(), NO_IMAGE)

        def on_add(now: Visit, text: str, progress: gr.Progress = _PROGRESS) -> tuple[Any, ...]:
            try:
                progress(0, desc="Learning")
                now, line = page.teach(now, text)
            except UserError as error:
                # what the visitor sees stays, hidden classes included
                return gr.skip(), gr.skip(), str(error), gr.skip(), gr.skip(), gr.skip()
            shown = again(now, f"{line} ", progress)
            choices = gr.Dropdown(page.weights(now), value="", visible=True)
            return *shown, _names(page.protocol(now)), choices, gr.Slider(value=on_which(now, ""), visible=True)

        shared = heavy | {"show_progress_on": [status], "show_progress": "full"}
        upload.change(on_upload, [visit, upload], outputs, **shared)
        if pictures:
            chosen.click(on_example, [visit], outputs, **shared)
        add.click(on_add, [visit, new], [*outputs, names, which, weight], **shared)
        new.submit(on_add, [visit, new], [*outputs, names, which, weight], **shared)
        # after what the slider has asked for
        which.input(on_which, [visit, which], [weight], **heavy)
        # of what the slider passes while the model is busy, the last counts
        weight.input(on_weight, [visit, which, weight], outputs, trigger_mode="always_last", **shared)
    assert isinstance(blocks, gr.Blocks)
    return blocks


def _text(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8").replace("NOTE", NOTE)


def _buttons(pictures: Sequence[tuple[str, str]]) -> str:
    """Return the examples, a button each."""
    made = [
        f'<button type="button" data-index="{index}"><img src="{source}" alt="{html.escape(name)}"></button>'
        for index, (name, source) in enumerate(pictures)
    ]
    return f"<p>Or take an example:</p><div>{''.join(made)}</div>"


def _names(protocol: Protocol) -> str:
    """Return the list of all classes, folded."""
    items = [
        f"<li>{html.escape(name)}{' ★' if index >= protocol.num_seen else ''}</li>"
        for index, name in sorted(enumerate(protocol.classes), key=lambda item: item[1].casefold())
    ]
    summary = f"All {protocol.num_classes} classes, {len(protocol.unseen)} of them unseen in training (★)"
    return f"<details><summary>{summary}</summary><ul>{''.join(items)}</ul></details>"
