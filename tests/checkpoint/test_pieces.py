"""What a rank reads of a checkpoint: what lies in its share, in pieces, whatever the format."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lightning_init.checkpoint.base import Checkpoint
from lightning_init.checkpoint.formats import mapped
from lightning_init.checkpoint.formats.recognise import open_checkpoint
from lightning_init.sharding import Share, Span
from tests.checkpoint.files import bits, save_legacy, save_safetensors, save_zip, tensors
from tests.checkpoint.folders_of_torch import DATA, in_chunks, save
from tests.test_sharding import a_share


def save_compressed(content: object, path: Path) -> None:
    save_zip(content, path.with_suffix(".zip"))
    with zipfile.ZipFile(path.with_suffix(".zip")) as archive, zipfile.ZipFile(path, "w") as new:
        for info in archive.infolist():
            new.writestr(info.filename, archive.read(info), zipfile.ZIP_DEFLATED)


def expected(share: Share, whole: Tensor) -> Tensor:
    for dim, spans in enumerate(share.spans):
        indices = [index for span in spans for index in range(span.start, span.start + span.length)]
        whole = whole.view(torch.uint8) if whole.dtype is torch.float8_e4m3fn else whole
        whole = whole.index_select(dim, torch.tensor(indices, dtype=torch.int64))
    return whole


def put_together(checkpoint: Checkpoint, key: str, share: Share, like: Tensor) -> Tensor:
    found = torch.zeros(like.shape, dtype=checkpoint.entries[key].dtype)
    for here, values in checkpoint.pieces(key, share):
        found[here] = values
    return found


@pytest.fixture(params=[1, 24, 2**20])
def _most_copied(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How much is copied at once where values lie crookedly in their file: less than a row, two rows, all."""
    monkeypatch.setattr(mapped, "_MOST_COPIED", request.param)


@pytest.mark.usefixtures("_most_copied")
@pytest.mark.parametrize("saver", [save_zip, save_legacy, save_safetensors, save_compressed, save])
def test_a_share_of_every_format(tmp_path: Path, saver: Callable[..., object]) -> None:
    content = tensors()
    if saver is not save_safetensors:
        content["turned"] = torch.arange(35.0).view(5, 7).T
    saver(content, tmp_path / "w")
    with open_checkpoint(tmp_path / "w") as checkpoint:
        for key, whole in content.items():
            for seed in range(5):
                share, _, _ = a_share(tuple(whole.shape), seed)
                wanted = expected(share, whole)
                assert bits(put_together(checkpoint, key, share, wanted)) == bits(wanted), (key, seed)


def chunks(whole: Tensor) -> Iterator[tuple[tuple[int, ...], Tensor]]:
    for start, stop in ((0, 1), (1, 6), (6, 9)):
        yield (start, 0), whole[start:stop, :5].contiguous()
        yield (start, 5), whole[start:stop, 5:].contiguous()


@pytest.mark.usefixtures("_most_copied")
def test_a_share_of_many_chunks(tmp_path: Path) -> None:
    whole = torch.arange(63.0).view(9, 7)
    in_chunks(tmp_path / "saved", *chunks(whole), shape=(9, 7))
    with open_checkpoint(tmp_path / "saved") as checkpoint:
        for seed in range(20):
            share, _, _ = a_share((9, 7), seed)
            wanted = expected(share, whole)
            assert put_together(checkpoint, "w", share, wanted).equal(wanted)


def test_chunks_that_a_share_does_not_touch_are_not_looked_at(tmp_path: Path) -> None:
    whole = torch.arange(8.0).view(4, 2)
    folder = in_chunks(tmp_path / "saved", ((0, 0), whole[:2].clone()), ((2, 0), whole[2:].clone()), shape=(4, 2))
    with open_checkpoint(folder) as checkpoint:
        content = bytearray((folder / DATA).read_bytes())
        # The first one is no archive any more.
        content[: len(content) // 2] = bytes(len(content) // 2)
        (folder / DATA).write_bytes(content)
        ends = Share((4, 2), ((Span(2, 0, 2),), (Span(0, 0, 2),)))
        ((here, values),) = checkpoint.pieces("w", ends)
        assert here == (slice(0, 2), slice(0, 2))
        assert values.tolist() == [[4, 5], [6, 7]]
