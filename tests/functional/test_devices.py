"""How exactly matrices are multiplied, whichever way torch was told."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from sign_zs3.functional.devices import matmul_precision
from sign_zs3.functional.geometry import PIXELS, Axis, Cells, move_map

# torch refuses a mix of the older and the newer way to say it, so each in a process of its own
PROGRAM = """
import json, sys, warnings
import torch
warnings.simplefilter("ignore")
from sign_zs3.functional.devices import exact_products
settings = torch.backends.cuda.matmul
exec(sys.argv[1])
before = settings.fp32_precision
with exact_products(torch.device("cuda")):
    inside = settings.fp32_precision
    (torch.ones(2, 2) @ torch.ones(2, 2)).sum()
print(json.dumps([before, inside, settings.fp32_precision]))
"""


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("pass", ["none", "none", "none"]),
        ("torch.set_float32_matmul_precision('highest')", ["ieee", "ieee", "ieee"]),
        ("torch.set_float32_matmul_precision('high')", ["tf32", "ieee", "tf32"]),
        ("torch.set_float32_matmul_precision('medium')", ["tf32", "ieee", "tf32"]),
        ("settings.fp32_precision = 'tf32'", ["tf32", "ieee", "tf32"]),
    ],
)
def test_products_are_exact_inside_and_as_before_outside(told: str, expected: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, told], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == expected


def test_a_precision_holds_within_its_block() -> None:
    before = torch.get_float32_matmul_precision()
    with matmul_precision("high"):
        assert torch.get_float32_matmul_precision() == "high"
        with matmul_precision(None):
            assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.slow
def test_maps_are_moved_in_one_graph() -> None:
    cells = Cells(Axis(8), Axis(8))
    compiled = torch.compile(lambda maps: move_map(maps, cells, PIXELS, (17, 17)), fullgraph=True)
    maps = torch.rand(1, 2, 3, 3)
    torch.testing.assert_close(compiled(maps), move_map(maps, cells, PIXELS, (17, 17)))
