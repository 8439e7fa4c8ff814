"""Sharded checkpoints that real jobs wrote, read by one process: every bit of the whole weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_init.checkpoint.base import Reading
from tests.distributed.harness import run_ranks
from tests.distributed.writers import (
    opened,
    save_with_fsdp,
    save_with_fully_shard,
    save_with_model_parallel,
)


def test_torch_with_fsdp2(tmp_path: Path) -> None:
    (weights, _), (_, seen) = run_ranks(2, save_with_fully_shard, tmp_path / "saved")
    assert len(list((tmp_path / "saved").glob("*.distcp"))) == 2
    assert opened(tmp_path / "saved") == weights
    assert opened(tmp_path / "saved", Reading(container="model")) == weights
    assert seen == weights


@pytest.mark.parametrize("distributed", [True, False])
def test_lightning_with_model_parallel(tmp_path: Path, distributed: bool) -> None:
    weights, other = run_ranks(2, save_with_model_parallel, tmp_path / "saved.ckpt", distributed, process_group=False)
    assert weights == other
    assert (tmp_path / "saved.ckpt").is_dir() == distributed
    assert opened(tmp_path / "saved.ckpt") == weights


@pytest.mark.parametrize("kind", ["sharded", "full"])
def test_lightning_with_fsdp(tmp_path: Path, kind: str) -> None:
    weights, other = run_ranks(2, save_with_fsdp, tmp_path / "saved.ckpt", kind, process_group=False)
    assert weights == other
    assert (tmp_path / "saved.ckpt").is_dir() == (kind == "sharded")
    assert opened(tmp_path / "saved.ckpt") == weights
