from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lightning_init.checkpoint.folders import WEIGHTS, candidates, checkpoint_in
from lightning_init.checkpoint.formats.recognise import open_checkpoint
from lightning_init.errors import CheckpointError


def fill(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"x")
    return folder


def told(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        checkpoint_in(folder)
    (fault,) = caught.value.faults
    assert fault.where == "checkpoint"
    return fault.what.replace(repr(str(folder)), "FOLDER")


def test_the_known_names_in_their_order(tmp_path: Path) -> None:
    fill(tmp_path, *WEIGHTS, "config.json", "epoch=3.ckpt")
    for name in WEIGHTS:
        assert checkpoint_in(tmp_path) == tmp_path / name
        (tmp_path / name).unlink()
    assert checkpoint_in(tmp_path) == tmp_path / "epoch=3.ckpt"


def test_safetensors_come_first_then_the_index(tmp_path: Path) -> None:
    names = ["pytorch_model.bin.index.json", "pytorch_model.bin", "model.safetensors.index.json", "model.safetensors"]
    assert [candidates(names[: count + 1]) for count in range(4)] == [[name] for name in names]


@pytest.mark.parametrize("name", ["w.safetensors", "w.ckpt", "w.pth", "w.pt", "w.bin", "w.fp16.safetensors.index.json"])
def test_the_only_file_that_looks_like_one(tmp_path: Path, name: str) -> None:
    fill(tmp_path, name, "README.md", "optimizer.pt", "rng_state_0.pth", "training_args.bin", "w-00001-of-00002.bin")
    assert checkpoint_in(tmp_path) == tmp_path / name


def test_a_folder_of_torch_distributed_is_a_checkpoint_as_a_whole(tmp_path: Path) -> None:
    fill(tmp_path, ".metadata", "__0_0.distcp", "model.safetensors")
    assert checkpoint_in(tmp_path) == tmp_path


def test_a_folder_is_opened_as_the_file_in_it(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "best.ckpt")
    (tmp_path / "logs").mkdir()
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.source == str(tmp_path / "best.ckpt")
        assert checkpoint.read("a").tolist() == [1, 1]


def test_links_to_one_file_are_one(tmp_path: Path) -> None:
    fill(tmp_path, "epoch=3.ckpt")
    (tmp_path / "last.ckpt").symlink_to("epoch=3.ckpt")
    assert checkpoint_in(tmp_path).resolve() == tmp_path / "epoch=3.ckpt"


def test_several(tmp_path: Path) -> None:
    fill(tmp_path, "last.ckpt", "best.ckpt", "config.json")
    what = "the folder FOLDER holds several checkpoints; name one of them: 'best.ckpt', 'last.ckpt'"
    assert told(tmp_path) == what


def test_none(tmp_path: Path) -> None:
    assert told(tmp_path) == "the folder FOLDER holds no checkpoint; in it: nothing"
    fill(tmp_path, "config.json", "optimizer.pt")
    fill(tmp_path / "unet.pt", "model.safetensors")
    (tmp_path / "model.safetensors").symlink_to("gone")
    assert told(tmp_path) == (
        "the folder FOLDER holds no checkpoint; in it: 'config.json', 'model.safetensors', 'optimizer.pt', 'unet.pt'"
    )


def test_shards_without_their_index(tmp_path: Path) -> None:
    fill(tmp_path, "model-00002-of-00002.safetensors", "model-00001-of-00002.safetensors")
    assert told(tmp_path) == (
        "the folder FOLDER holds shards without their index (*.index.json): "
        "'model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors'"
    )


def test_a_link_out_of_the_folder(tmp_path: Path) -> None:
    fill(tmp_path, "outside")
    folder = fill(tmp_path / "inner")
    (folder / "model.safetensors").symlink_to("../outside")
    assert told(folder) == (
        f"'model.safetensors' in FOLDER is a link that leads out of the folder; name '{tmp_path / 'outside'}' itself"
    )
    # What the user names may be such a link.
    (tmp_path / "link").symlink_to(fill(tmp_path / "real", "model.safetensors"))
    assert checkpoint_in(tmp_path / "link") == tmp_path / "link" / "model.safetensors"


def test_a_folder_that_cannot_be_listed(tmp_path: Path) -> None:
    what = told(tmp_path / "gone")
    assert what.startswith("the folder FOLDER cannot be looked at: [Errno 2]")
