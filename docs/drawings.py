"""The four drawings of the documentation, each for light and for dark pages.

``python -m docs.drawings FILE`` writes the one of the networks alone, light, on a white ground: `docs/method.png`.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import torch
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from sign_zs3.files import read_yaml
from sign_zs3.functional import annealed_weights
from sign_zs3.functional.geometry import Axis
from sign_zs3.tasks import SIGNModule

ROOT = Path(__file__).parents[1]
TEMPERATURES = (8.0, 2.0, 1.0, 0.3, 0.1)
SIDES = (30, 22)
"""Width and height in pixels of the image on which cells are drawn."""
STRIDE = 8


class Theme(NamedTuple):
    """Colours of a drawing: of text, of what is less important, of boxes that train and that stay as they are."""

    ink: str
    faint: str
    trained: str
    trained_edge: str
    fixed: str
    fixed_edge: str
    lines: tuple[str, ...]


LIGHT = Theme("#1b1f24", "#59636e", "#cfe4ff", "#0b57b0", "#eceef1", "#7a838d",
              ("#0b57b0", "#a15c00", "#1a7f37", "#b3261e", "#7b3fb5"))  # fmt: skip
DARK = Theme("#e6e9ed", "#a5adb8", "#123d6e", "#74b2ff", "#2c3138", "#858e99",
             ("#74b2ff", "#f0a94b", "#5fd07a", "#ff8a80", "#c79bff"))  # fmt: skip
THEMES = {"light": LIGHT, "dark": DARK}


def networks(theme: Theme) -> Figure:
    """Draw E, SIM and C with G and D, a row per step; boxes that the step trains are filled."""
    figure = Figure(figsize=(9.6, 8.3))
    axes = _blank(figure, (0, 9.6), (-0.55, 7.75))
    _training(_Row(axes, theme, 5.3))
    _transfer(_Row(axes, theme, 2.65))
    _self_training(_Row(axes, theme, 0))
    for x, trained, text in ((2.6, True, "trained in this step"), (5.2, False, "kept as it is")):
        _box(axes, theme, (x, -0.35), (0.4, 0.26), trained)
        axes.text(x + 0.35, -0.35, text, size=10, color=theme.faint, va="center")
    return figure


def _box(axes: Any, theme: Theme, centre: tuple[float, float], size: tuple[float, float], trained: bool) -> None:
    """Draw what is trained filled, what stays as it is with a dashed edge."""
    face, edge = (theme.trained, theme.trained_edge) if trained else (theme.fixed, theme.fixed_edge)
    corner = centre[0] - size[0] / 2, centre[1] - size[1] / 2
    style: dict[str, Any] = {"fc": face, "ec": edge, "linewidth": 1.5, "linestyle": "-" if trained else (0, (4, 2))}
    axes.add_patch(FancyBboxPatch(corner, *size, "round,pad=0,rounding_size=0.08", **style))


class _Row:
    """Boxes and arrows of one step; its lower line lies at y + 0.4, its upper one at y + 1.5."""

    columns: Mapping[str, float] = {"in": 0.85, "E": 2.35, "SIM": 3.75, "F": 5.0, "C": 6.25, "out": 8.25}

    def __init__(self, axes: Any, theme: Theme, y: float) -> None:
        self.axes, self.theme = axes, theme
        self.low, self.high = y + 0.4, y + 1.5

    def title(self, name: str, about: str) -> None:
        """Write the step's name and what it is for above the row."""
        y = self.high + 0.67
        self.axes.text(0.1, y, name, size=13, weight="bold", color=self.theme.ink, va="center")
        self.axes.text(2.05, y, about, size=10.5, color=self.theme.faint, va="center")

    def box(self, name: str, column: str, y: float, trained: bool) -> None:
        """Draw a network."""
        x = self.columns[column]
        _box(self.axes, self.theme, (x, y), (0.8, 0.52), trained)
        self.axes.text(x, y, name, size=13, weight="bold", color=self.theme.ink, ha="center", va="center")

    def word(self, text: str, column: str, y: float) -> None:
        """Write what goes in, between or out."""
        self.axes.text(self.columns[column], y, text, size=10.5, color=self.theme.ink, ha="center", va="center")

    def arrow(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Draw an arrow."""
        style = {"arrowstyle": "-|>", "color": self.theme.faint, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}
        self.axes.annotate("", end, start, arrowprops=style)

    def chain(self, y: float, *stops: tuple[str, float]) -> None:
        """Draw arrows between the columns of a line, each stop as wide on either side as it says."""
        for (left, before), (right, after) in itertools.pairwise(stops):
            self.arrow((self.columns[left] + before + 0.05, y), (self.columns[right] - after - 0.05, y))

    def upper(self, source: str, result: str, trained: Iterable[str]) -> None:
        """Draw E, SIM, F and C with what goes in and what comes out."""
        for name in ("E", "SIM", "C"):
            self.box(name, name, self.high, name in trained)
        self.word(source, "in", self.high)
        self.word("F", "F", self.high)
        self.word(result, "out", self.high)
        self.chain(self.high, ("in", 0.65), ("E", 0.4), ("SIM", 0.4), ("F", 0.12), ("C", 0.4), ("out", 1.05))

    def lower(self, latent: str, trained: bool, with_d: bool = True) -> None:
        """Draw G with what goes in, the features that it makes, and D."""
        self.box("G", "SIM", self.low, trained)
        self.word("class\nvectors", "E", self.low)
        self.word(r"$\tilde{F}$", "F", self.low)
        self.chain(self.low, ("E", 0.4), ("SIM", 0.4), ("F", 0.12), *([("C", 0.4)] if with_d else []))
        x = self.columns["SIM"]
        if latent == "z":  # from SIM
            self.arrow((x, self.high - 0.31), (x, self.low + 0.31))
            self.axes.text(x + 0.1, (self.low + self.high) / 2, "z", size=10.5, color=self.theme.ink, va="center")
        else:
            self.axes.text(x, self.low + 0.63, latent, size=10.5, color=self.theme.ink, ha="center", va="center")
            self.arrow((x, self.low + 0.5), (x, self.low + 0.31))
        if with_d:
            self.box("D", "C", self.low, trained)
            self.chain(self.low, ("C", 0.4), ("out", 1.05))
            self.arrow((self.columns["F"] + 0.1, self.high - 0.2), (self.columns["C"] - 0.45, self.low + 0.2))


def _training(row: _Row) -> None:
    row.title("Training", "masks of seen classes; G learns to generate their features from class vectors and z")
    row.upper("images", "labels of seen classes", {"E", "SIM", "C"})
    row.lower("z", trained=True)
    row.word("real, or generated?", "out", row.low)


def _transfer(row: _Row) -> None:
    row.title("Transfer", "C alone learns all classes: real features of seen ones, generated features of all")
    row.upper("images", "labels of all classes", {"C"})
    row.lower("noise", trained=False, with_d=False)
    x = row.columns["C"]
    row.axes.plot([row.columns["F"] + 0.17, x], [row.low, row.low], color=row.theme.faint, linewidth=1.2)
    row.arrow((x, row.low), (x, row.high - 0.31))


def _self_training(row: _Row) -> None:
    row.title("Self-training", "the teacher, a copy made before, labels unlabelled pixels; G and D go on as above")
    row.upper("images", "labels of all classes", {"E", "SIM", "C"})
    for name in ("E", "SIM", "C"):
        row.box(name, name, row.low, trained=False)
    row.word("the same\nimages", "in", row.low)
    row.word("F", "F", row.low)
    row.word("pseudo-labels, weighted", "out", row.low)
    row.chain(row.low, ("in", 0.65), ("E", 0.4), ("SIM", 0.4), ("F", 0.12), ("C", 0.4), ("out", 1.05))
    x = row.columns["out"]
    row.arrow((x, row.low + 0.2), (x, row.high - 0.2))


def phases(theme: Theme) -> Figure:
    """Draw the phases of the demo's schedule one after the other, and the parts that each trains, from its YAML."""
    options = read_yaml(ROOT / "experiments" / "quickstart.yaml", "a configuration")["model"]
    plan = SIGNModule(**options).phase_plan()
    parts = {"encoder": "E", "spatial": "SIM", "classifier": "C", "generator": "G", "discriminator": "D"}
    figure = Figure(figsize=(9.6, 3.6))
    axes = _blank(figure, (-0.75, 8.85), (-0.55, 3.05))
    width, height = 2.1, 0.42
    for row, name in enumerate(parts.values()):
        axes.text(-0.35, _line(row), name, size=11, weight="bold", color=theme.ink, ha="center", va="center")
    for place, (kind, trained) in enumerate(plan.items()):
        x = place * (width + 0.1)
        axes.text(x + width / 2, 2.8, kind, size=11, weight="bold", color=theme.ink, ha="center", va="center")
        length = f"{options[f'{kind}_iterations']:,} iterations"
        axes.text(x + width / 2, -0.38, length, size=9.5, color=theme.faint, ha="center", va="center")
        for row, part in enumerate(parts):
            learns = part in trained
            _box(axes, theme, (x + width / 2, _line(row)), (width, height), learns)
            word, colour = ("trained", theme.ink) if learns else ("fixed", theme.faint)
            axes.text(x + width / 2, _line(row), word, size=9.5, color=colour, ha="center", va="center")
    axes.annotate("", (8.8, -0.12), (0, -0.12), arrowprops={"arrowstyle": "-|>", "color": theme.faint})
    return figure


def _line(row: int) -> float:
    return 2.35 - 0.52 * row


def weights(theme: Theme) -> Figure:
    """Draw the weight of a pseudo-label over its confidence, for several temperatures, by `annealed_weights`."""
    confidence = torch.linspace(0.2, 0.95, 151).view(1, 1, -1)
    figure = Figure(figsize=(7.2, 3.8), layout="constrained")
    axes = figure.add_subplot()
    for temperature, colour in zip(TEMPERATURES, theme.lines, strict=True):
        weight = annealed_weights(confidence, torch.ones_like(confidence, dtype=torch.bool), temperature)
        axes.plot(confidence.flatten(), weight.flatten(), color=colour, linewidth=2, label=f"T = {temperature:g}")
    axes.set_xlabel("confidence p of the pseudo-label; the highest of the image is 0.95")
    axes.set_ylabel("weight exp((p - max p) / T)")
    axes.set_xlim(0.2, 0.96)
    axes.set_ylim(0, 1.04)
    axes.grid(color=theme.faint, alpha=0.25)
    axes.tick_params(colors=theme.ink)
    axes.xaxis.label.set_color(theme.ink)
    axes.yaxis.label.set_color(theme.ink)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.faint)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, labelcolor=theme.ink)
    return figure


def cells(theme: Theme) -> Figure:
    """Draw where cells of stride 8 look in a small image: of a symmetrically padded network, and of patches."""
    figure = Figure(figsize=(9.6, 4.1))
    kinds = (
        (Axis(STRIDE), 1, "Symmetric padding (ResNet): cell i at pixel 8 i"),
        (Axis(STRIDE, (STRIDE - 1) / 2), 0, "Patches (ConvNeXt): cell i at pixel 8 i + 3.5"),
    )
    for place, (axis, more, title) in enumerate(kinds):
        axes = figure.add_axes((0.02 + 0.5 * place, 0.14, 0.46, 0.76))
        axes.set_axis_off()
        axes.set_aspect("equal")
        axes.set_title(title, size=10.5, color=theme.ink)
        counts = [-(-(side - more) // STRIDE) + more for side in SIDES]
        padded = [STRIDE * (count - more) + more for count in counts]
        _pixels(axes, theme, padded)
        columns, rows = (axis.looks_at(count, torch.device("cpu")).tolist() for count in counts)
        for x in columns:
            axes.plot([x] * len(rows), rows, "o", color=theme.lines[0], markersize=7, zorder=3)
            axes.text(x, -2.0, f"{x:g}", size=9, color=theme.ink, ha="center", va="center")
        for y in rows:
            axes.text(-2.2, y, f"{y:g}", size=9, color=theme.ink, ha="center", va="center")
        if not more:  # the patches
            edges: dict[str, Any] = {"fc": "none", "ec": theme.lines[0], "linewidth": 1.2}
            corners = [(x, y) for x in range(0, padded[0], STRIDE) for y in range(0, padded[1], STRIDE)]
            for x, y in corners:
                axes.add_patch(Rectangle((x - 0.5, y - 0.5), STRIDE, STRIDE, **edges))
        axes.set_xlim(-3.5, 33.5)
        axes.set_ylim(25.5, -3.2)
    text = (
        f"An image of {SIDES[0]} x {SIDES[1]} pixels (squares). Dashed: what is padded on the right and at the bottom."
    )
    figure.text(0.5, 0.05, text, size=9.5, color=theme.faint, ha="center", va="center")
    return figure


def _pixels(axes: Any, theme: Theme, padded: list[int]) -> None:
    width, height = SIDES
    axes.add_patch(Rectangle((-0.5, -0.5), width, height, fc=theme.trained, alpha=0.45))
    grid = {"colors": theme.fixed_edge, "linewidth": 0.25, "alpha": 0.6}
    axes.vlines([x - 0.5 for x in range(width + 1)], -0.5, height - 0.5, **grid)
    axes.hlines([y - 0.5 for y in range(height + 1)], -0.5, width - 0.5, **grid)
    border: dict[str, Any] = {"fc": "none", "ec": theme.faint, "linewidth": 1.2, "linestyle": (0, (4, 2))}
    axes.add_patch(Rectangle((-0.5, -0.5), *padded, **border))


def _blank(figure: Figure, x: tuple[float, float], y: tuple[float, float]) -> Any:
    """Return axes without lines that fill a figure."""
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(x)
    axes.set_ylim(y)
    return axes


DRAWINGS: Mapping[str, Callable[[Theme], Figure]] = {
    "networks": networks, "phases": phases, "weights": weights, "cells": cells,
}  # fmt: skip


def write_all(folder: Path) -> None:
    """Write each drawing as ``NAME-light.svg`` and ``NAME-dark.svg``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in DRAWINGS.items():
        for theme, colours in THEMES.items():
            # the same file from the same code
            with matplotlib.rc_context({"svg.hashsalt": name}):
                draw(colours).savefig(folder / f"{name}-{theme}.svg", transparent=True, metadata={"Date": None})


if __name__ == "__main__":
    networks(LIGHT).savefig(sys.argv[1], dpi=110, facecolor="white", metadata={"Software": None})
