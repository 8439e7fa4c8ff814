"""What a healthy start looks like, and a sick one: the pictures of the README.

``python examples/gallery.py`` prints the table and the findings of both, and writes ``healthy.png`` and ``sick.png``
into ``pictures`` beside it, or into the folder that is given.
"""

# ruff: noqa: C408 - rules are written as dict(type=...), as in the configs of OpenMMLab

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from lightning_init import InitReport, init_weights
from lightning_init.probe import probe

DEPTH, WIDTH = 14, 256

STARTS: dict[str, list[dict[str, Any]]] = {
    "healthy": [dict(type="Kaiming", layer="Linear", mode="fan_in"), dict(type="Normal", name="head", std=0.01)],
    "sick": [dict(type="Normal", layer="Linear", std=0.01)],
}


class DeepNet(nn.Module):
    """A deep MLP without anything that would save it from a bad start."""

    def __init__(self, init_cfg: list[dict[str, Any]]) -> None:
        super().__init__()
        self.init_cfg = init_cfg
        self.body = nn.Sequential()
        for _ in range(DEPTH):
            self.body.append(nn.Linear(WIDTH, WIDTH)).append(nn.ReLU())
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """The answer for a batch."""
        answer: torch.Tensor = self.head(self.body(batch))
        return answer


def start(init_cfg: list[dict[str, Any]]) -> InitReport:
    """What a network starts from, with the signal of a random batch."""
    model = DeepNet(init_cfg)
    report = init_weights(model, seed=0).measure()
    report.signal = probe(model, torch.randn(64, WIDTH, generator=torch.Generator().manual_seed(0)))
    return report


def main(folder: Path) -> None:
    """Shows both starts."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, init_cfg in STARTS.items():
        report = start(init_cfg)
        print(f"=== {name}\n{report}\n")
        picture = io.BytesIO()
        report.plot().savefig(picture)
        # These few colours do, and make a small file.
        Image.open(picture).convert("RGB").quantize(128).save(folder / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "pictures")
