"""A page to try a model in the browser: upload, overlay, legend, classes by name. Needs gradio, the extra ``demo``."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from numpy.typing import NDArray

from sign_zs3.commands.checkpoints import listed
from sign_zs3.drawing.colours import protocol_colours
from sign_zs3.drawing.overlay import NOTE, blend, shares, short_name
from sign_zs3.errors import UserError
from sign_zs3.images import read_image
from sign_zs3.limits import MAX_PIXELS
from sign_zs3.protocol import Protocol
from sign_zs3.tasks.base import ZeroShotTask
from sign_zs3.vocabulary.extension import check_teachable, extend

KEPT = 3600
"""Seconds for which uploads, and what a visitor added, are kept."""
FORGOTTEN = f"This page keeps an image for {KEPT // 60} minutes: upload it again"
_CSS = """
#upload {min-height: 9em}
#legend label {border-left: 1.4em solid var(--colour, transparent); min-width: 11em}
#status textarea {font-size: 1.05em}
"""


@dataclass(frozen=True)
class Visit:
    """What one visitor has before them: a model with their own classes (None: the page's), and an image.

    The `picture` is (h, w, 3) uint8 RGB, as it is shown; the `labels` (H, W) uint8 class indices, at its own size.
    """

    model: ZeroShotTask | None = None
    path: Path | None = None
    picture: NDArray[np.uint8] | None = None
    labels: NDArray[np.uint8] | None = None


class Page:
    """What the page of a model, which is not changed, does, apart from how it looks.

    An image of more than `max_pixels` is refused; the options are those of `Segmenter.segment`, by default the model's.
    """

    def __init__(self, model: ZeroShotTask, max_pixels: int = MAX_PIXELS, **options: Any) -> None:
        self.model = model
        self.max_pixels = max_pixels
        self.options = model.evaluation_options | options

    def protocol(self, visit: Visit) -> Protocol:
        """Return the classes of a visitor."""
        return (visit.model or self.model).protocol

    def open(self, visit: Visit, path: str | Path | None) -> tuple[Visit, str]:
        """Label an image; return what the visitor has then, and the line on it."""
        visit = replace(visit, path=None, picture=None, labels=None)
        if path is None:
            return visit, ""
        path = Path(path)
        try:
            image = read_image(path, max_pixels=self.max_pixels)[0]
            segmenter = (visit.model or self.model).segmenter
            found = segmenter.segment(image, max_pixels=self.max_pixels, **self.options).labels.numpy()
        except UserError as error:
            # where the server keeps an upload is of no use to a visitor
            return visit, _line(error).replace(str(path), path.name)
        picture = blend(image, found, self.protocol(visit), shown=())
        height, width = found.shape
        number = len(np.unique(found))
        line = f"{path.name}: {width} x {height} pixels, {number} {'class' if number == 1 else 'classes'} found"
        return replace(visit, path=path, picture=picture, labels=found), line

    def teach(self, visit: Visit, names: str) -> tuple[Visit, str]:
        """Add classes for a visitor by their names, split at commas, and label the image again."""
        try:
            new = [name for name in listed(names) if name] or [""]
            visit = replace(visit, model=extend(visit.model or self.model, new))
        except UserError as error:
            return visit, _line(error)
        line = f"added: {', '.join(new)} ({self.protocol(visit).num_classes} classes now)"
        if visit.path is None:
            return visit, line
        visit, found = self.open(visit, visit.path)
        return visit, f"{line}; {found}"

    def overlay(self, visit: Visit, shown: Collection[int] | None = None) -> NDArray[np.uint8] | None:
        """Return the image with the colours of the classes `shown`, (h, w, 3) RGB; None: without an image."""
        if visit.picture is None or visit.labels is None:
            return None
        return blend(visit.picture, visit.labels, self.protocol(visit), shown)

    def legend(self, visit: Visit) -> list[tuple[str, int]]:
        """Return the classes of the image, the largest first: their text, with a star where unseen, and their index."""
        if visit.labels is None:
            return []
        protocol = self.protocol(visit)
        return [(f"{short_name(protocol, i)}  {100 * share:.1f} %", i) for i, share in shares(visit.labels)]


def build_page(model: ZeroShotTask, **options: Any) -> gr.Blocks:
    """Return the page of a model, to be launched, with the options of `Page`; a visitor's classes are theirs alone."""
    page = Page(model, **options)
    protocol = page.protocol(Visit())
    try:
        check_teachable(model)
        refusal = None
    except UserError as error:
        refusal = _line(error)
    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}
    # one at a time: two at once would share the cores
    heavy = private | {"concurrency_id": "model", "concurrency_limit": 1}

    with gr.Blocks(title="sign-zs3", analytics_enabled=False, delete_cache=(KEPT // 6, KEPT)) as blocks:
        gr.HTML(
            f"<style>{_CSS}</style><h1>{type(model).__name__.removesuffix('Module')}: segmentation by class names</h1>"
            f"{protocol.num_classes} classes: {protocol.num_seen} seen in training, {len(protocol.unseen)} unseen (★)"
        )
        visit = gr.State(Visit(), time_to_live=KEPT)
        with gr.Row():
            # not an Image, whose own reader would fail before ours can say why
            upload = gr.File(label="Image", elem_id="upload", height=150)
            with gr.Column():
                new = gr.Textbox(
                    label="Add classes by name",
                    placeholder="zebra, black horse",
                    info=refusal or "Several by commas; no training images are needed. It takes some seconds.",
                    interactive=refusal is None,
                    elem_id="new",
                )
                add = gr.Button("Add", variant="primary", interactive=refusal is None, elem_id="add")
        status = gr.Textbox(label="Status", interactive=False, lines=1, elem_id="status")
        with gr.Row():
            shared: dict[str, Any] = {"interactive": False, "format": "png", "buttons": ["download", "fullscreen"]}
            original = gr.Image(label="Image", elem_id="original", **shared)
            overlay = gr.Image(label="Classes", elem_id="overlay", **shared)
        legend = gr.CheckboxGroup([], label="Legend", info=f"Untick a class to hide it. {NOTE}", elem_id="legend")
        colours = gr.HTML()
        outputs = [visit, original, overlay, legend, colours, status]

        def everything(now: Visit, line: str) -> tuple[Any, ...]:
            entries = page.legend(now)
            indices = [index for _, index in entries]
            update = gr.CheckboxGroup(choices=entries, value=indices)
            return now, now.picture, page.overlay(now), update, _colours(indices, page.protocol(now)), line

        def on_upload(now: Visit, path: str | None) -> tuple[Any, ...]:
            return everything(*page.open(now, path))

        def on_add(now: Visit, text: str) -> tuple[Any, ...]:
            after, line = page.teach(now, text)
            if after is now:
                # refused: what the visitor sees stays, hidden classes included
                return (*(gr.skip() for _ in outputs[:-1]), line)
            return everything(after, line)

        def on_toggle(now: Visit, shown: list[int]) -> tuple[Any, ...]:
            if now.labels is None:
                return now, gr.skip(), FORGOTTEN
            return now, page.overlay(now, shown), gr.skip()

        upload.change(on_upload, [visit, upload], outputs, **heavy)
        add.click(on_add, [visit, new], outputs, **heavy)
        new.submit(on_add, [visit, new], outputs, **heavy)
        # returning the visit renews the time for which it is kept
        legend.input(on_toggle, [visit, legend], [visit, overlay, status], **private)
    assert isinstance(blocks, gr.Blocks)
    return blocks


def _colours(indices: list[int], protocol: Protocol) -> str:
    """Return the style that gives each entry of the legend its class's colour."""
    colours = (protocol_colours(protocol) * 255).round().astype(int)[indices].tolist()
    rules = (f"#legend label:nth-of-type({n}) {{--colour: rgb{tuple(c)}}}" for n, c in enumerate(colours, 1))
    return f"<style>{' '.join(rules)}</style>"


def _line(error: UserError) -> str:
    return " ".join(str(error).split())
