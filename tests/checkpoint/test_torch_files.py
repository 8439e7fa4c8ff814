"""Real files, as trainers write them, against what torch itself reads of them."""

from __future__ import annotations

import argparse
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, WeightAveraging
from omegaconf import OmegaConf
from torch import Tensor, nn

from lightning_init.checkpoint.base import Reading
from lightning_init.checkpoint.formats.recognise import open_checkpoint
from lightning_init.checkpoint.formats.torch_files import TorchCheckpoint
from lightning_init.errors import CheckpointError
from tests.checkpoint.files import Save, bits, save_legacy, save_zip
from tests.checkpoint.memory import needs_proc, read_one_by_one
from tests.checkpoint.pickled import Foreign, legacy, refusal, tensor, write_zip

EVERY_PICKLE = pytest.mark.parametrize("save", [save_zip, save_legacy])

CPU: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def same(path: Path, expected: Mapping[str, Tensor], **reading: Any) -> tuple[str, ...]:
    """Reads a file, sees that its tensors are these and are read lazily, and gives its notes."""
    with open_checkpoint(path, Reading(**reading)) as checkpoint:
        assert isinstance(checkpoint, TorchCheckpoint)
        assert list(checkpoint.entries) == list(expected)
        for key, tensor in expected.items():
            entry, read = checkpoint.entries[key], checkpoint.read(key)
            assert (entry.shape, entry.dtype) == (tensor.shape, tensor.dtype) == (read.shape, read.dtype)
            assert bits(read) == bits(tensor)
        return checkpoint.notes


def whole(path: Path) -> Any:
    return torch.load(path, weights_only=False, map_location="cpu")  # our own file


class Lit(lightning.LightningModule):
    def __init__(self, settings: object = None) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        loss: Tensor = (self.net(batch[0]) - 1).square().mean()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.1)


def train(folder: Path, model: lightning.LightningModule, *callbacks: Callback) -> Path:
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(8, 4)), batch_size=4)
    trainer = lightning.Trainer(max_epochs=2, default_root_dir=folder, callbacks=list(callbacks), **CPU)
    with warnings.catch_warnings():
        # about the number of workers, and the like
        warnings.simplefilter("ignore")
        trainer.fit(model, data)
    (path,) = folder.rglob("*.ckpt")
    return path


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (argparse.Namespace(lr=0.1), "argparse.Namespace"),
        (OmegaConf.create({"lr": 0.1, "layers": [{"dim": 3}]}), "omegaconf.dictconfig.DictConfig"),
        (nn.Sequential(nn.Linear(2, 2)), "torch.nn.modules.linear.Linear"),
    ],
)
def test_a_checkpoint_of_lightning_with_hyperparameters(tmp_path: Path, settings: object, named: str) -> None:
    with warnings.catch_warnings():
        # a module among the hyperparameters is warned of
        warnings.simplefilter("ignore")
        path = train(tmp_path, Lit(settings=settings))
    (note,) = same(path, whole(path)["state_dict"])
    assert note.startswith("other things than tensors were left unread: ")
    assert named in note
    assert "make a file run anything" not in note


@pytest.mark.parametrize("callback", [WeightAveraging, EMAWeightAveraging])
def test_averaged_weights_of_lightning(tmp_path: Path, callback: type[WeightAveraging]) -> None:
    model = Lit()
    path = train(tmp_path, model, callback())
    content = whole(path)
    averaged, last = content["state_dict"], content["current_model_state"]
    assert bits(averaged["net.0.weight"]) != bits(last["net.0.weight"])
    (note,) = same(path, averaged)
    assert note == "'state_dict' holds averaged weights; container='current_model_state' takes those of the last step"
    assert same(path, averaged, ema=True) == ()
    assert same(path, last, container="current_model_state") == ()


def run_mmengine(folder: Path, *hooks: dict[str, Any]) -> tuple[nn.Module, Path]:
    with warnings.catch_warnings():
        # of what mmengine itself imports and calls
        warnings.simplefilter("ignore")
        from mmengine.model import BaseModel  # noqa: PLC0415 - it warns when it is imported
        from mmengine.runner import Runner  # noqa: PLC0415 - the same

        class Net(BaseModel):  # type: ignore[misc] # it has no types
            def __init__(self) -> None:
                super().__init__()
                self.net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))

            def forward(self, x: Tensor, y: Tensor | None = None, mode: str = "loss") -> dict[str, Tensor]:
                return {"loss": (self.net(x) - 1).square().mean()}

        data = [(torch.randn(4), torch.tensor(0)) for _ in range(8)]
        runner = Runner(
            model=Net(),
            work_dir=str(folder),
            train_dataloader={
                "dataset": data,
                "batch_size": 4,
                "sampler": {"type": "DefaultSampler"},
                "collate_fn": {"type": "default_collate"},
            },
            train_cfg={"by_epoch": False, "max_iters": 2},
            optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.5}},
            default_hooks={"checkpoint": {"type": "CheckpointHook", "by_epoch": False, "interval": 2}},
            custom_hooks=list(hooks),
            log_level="ERROR",
            experiment_name=folder.name,
        )
        runner.train()
    return runner.model, folder / "iter_2.pth"


def test_a_checkpoint_of_mmengine(tmp_path: Path) -> None:
    model, path = run_mmengine(tmp_path)
    content = whole(path)
    assert "HistoryBuffer" in repr(content["message_hub"])
    (note,) = same(path, model.state_dict())
    assert "mmengine.logging.history_buffer.HistoryBuffer" in note
    same(path, content["state_dict"], container="state_dict")


def test_averaged_weights_of_mmengine(tmp_path: Path) -> None:
    model, path = run_mmengine(tmp_path, {"type": "EMAHook", "momentum": 0.25})
    content = whole(path)
    raw = content["ema_state_dict"]
    # The hook has swapped them: what was trained stands under the name of the averaged weights.
    assert bits(raw["module.net.0.weight"]) == bits(model.state_dict()["net.0.weight"])
    assert bits(raw["module.net.0.weight"]) != bits(content["state_dict"]["net.0.weight"])
    first, _ = same(path, content["state_dict"])
    assert first == "'state_dict' holds averaged weights; container='ema_state_dict' takes those of the last step"
    same(path, content["state_dict"], ema=True)
    same(path, raw, container="ema_state_dict")


@EVERY_PICKLE
def test_what_a_state_dict_may_hold(tmp_path: Path, save: Save) -> None:
    base = torch.arange(24.0).view(2, 3, 4)
    weight = nn.Parameter(torch.randn(3, 3))
    named = torch.ones(2)
    named.note = "kept by torch"  # type: ignore[attr-defined]
    expected: dict[str, Tensor] = {
        "module.tied.a": weight,
        "module.tied.b": weight,
        "module.frozen": nn.Parameter(torch.ones(2), requires_grad=False),
        "module.buffer": nn.Buffer(torch.zeros(3)),
        "module.transposed": base.transpose(0, 2),
        "module.row": base[1, 1],
        "module.column": base[:, :, 3],
        "module.expanded": torch.tensor([7.0]).expand(5, 4),
        "module.scalar": torch.tensor(3),
        "module.none": torch.empty(0),
        "module.none_of_many": torch.ones(4)[4:].view(0, 3),
        "module.named": named,
        "module.small": torch.tensor([1, 2], dtype=torch.uint16),
    }
    save(expected, tmp_path / "w.pth")
    assert same(tmp_path / "w.pth", expected) == ()
    with open_checkpoint(tmp_path / "w.pth") as checkpoint:
        read = checkpoint.read("module.tied.a")
        assert type(read) is Tensor
        assert not read.requires_grad


@EVERY_PICKLE
@pytest.mark.parametrize("metadata", [False, True])
def test_a_state_dict_of_another_class_of_dictionaries(tmp_path: Path, save: Save, metadata: bool) -> None:
    state: Any = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).state_dict()
    assert state._metadata
    content = {"state_dict": Settings(state) if metadata else state, "epoch": 3}
    save(content, tmp_path / "w.pth")
    notes = same(tmp_path / "w.pth", state)
    assert notes == ((f"other things than tensors were left unread: {__name__}.Settings",) if metadata else ())


class Settings(dict[str, Any]):
    """A dictionary of its own kind."""


class Marked(Tensor):
    """Values with a class around them."""


def test_a_class_of_tensors_is_as_good_as_its_values(tmp_path: Path) -> None:
    torch.save({"w": torch.randn(3).as_subclass(Marked)}, tmp_path / "w.pth")
    (note,) = same(tmp_path / "w.pth", {"w": whole(tmp_path / "w.pth")["w"].as_subclass(Tensor)})
    assert f"{__name__}.Marked" in note


def test_tensors_that_torch_alone_can_make_go_with_no_foreign_class(tmp_path: Path) -> None:
    content = {"w": torch.ones(2), "s": torch.eye(2).to_sparse(), "args": argparse.Namespace(lr=0.1)}
    torch.save(content, tmp_path / "w.pth")
    told = refusal(tmp_path / "w.pth")
    assert "holds more than tensors, and was not run: argparse.Namespace" in told
    assert "safe_globals=[Namespace]" in told
    with open_checkpoint(tmp_path / "w.pth", Reading(safe_globals=(argparse.Namespace,))) as checkpoint:
        assert bits(checkpoint.read("s")) == bits(torch.eye(2))
    # What is not wanted may be of any kind.
    torch.save({"model": {"w": torch.ones(2)}, "ema": {"s": content["s"]}, "x": Foreign()}, tmp_path / "w.pth")
    assert len(same(tmp_path / "w.pth", {"w": torch.ones(2)})) == 2


def test_a_conjugated_view(tmp_path: Path) -> None:
    value = torch.randn(3, dtype=torch.complex64).conj()
    assert value.is_conj()
    torch.save({"w": value}, tmp_path / "w.pth")
    with open_checkpoint(tmp_path / "w.pth") as checkpoint:
        assert bits(checkpoint.read("w")) == bits(value)


def test_numbers_of_a_big_machine(tmp_path: Path) -> None:
    (path := tmp_path / "w.pth").touch()
    data = b"\x80\x02}(X\x01\0\0\0w" + tensor() + b"u."
    values = torch.tensor([1.0, 2.0, 3.0, 4.0])
    swapped = values.numpy().astype(">f4").tobytes()
    write_zip(path, data, {"byteorder": b"big", "version": b"3\n", "data/0": swapped})
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.read("w").tolist() == [1, 2, 3, 4]
    write_zip(path, data, {"byteorder": b"little", "version": b"3\n", "data/0": values.numpy().tobytes()})
    same(path, {"w": values})


@pytest.mark.parametrize("gap", range(9))
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_values_at_any_byte(tmp_path: Path, gap: int, compression: int) -> None:
    # torch puts them at multiples of 64, other programs anywhere, and some compress them.
    data = b"\x80\x02}(X\x01\0\0\0w" + tensor(offset=1, shape=(2, 2), stride=(1, 1)) + b"u."
    values = torch.randn(4)
    records = {"x" * gap: b"", "data/0": values.numpy().tobytes()}
    write_zip(tmp_path / "w.pth", data, records, compression=compression)
    same(tmp_path / "w.pth", {"w": values[torch.tensor([[1, 2], [2, 3]])]})


def test_a_compressed_record_that_is_damaged(tmp_path: Path) -> None:
    data = b"\x80\x02}(X\x01\0\0\0w" + tensor("0", 4096, shape=(4096,)) + b"u."
    path = write_zip(tmp_path / "w.pth", data, {"data/0": bytes(16384)}, compression=zipfile.ZIP_DEFLATED)
    content = bytearray(path.read_bytes())
    start = content.index(b"net/data/0") + 14
    content[start : start + 8] = b"\xff" * 8
    path.write_bytes(content)
    with open_checkpoint(path) as checkpoint, pytest.raises(CheckpointError, match="cut off, damaged"):
        checkpoint.read("w")


def test_a_pickle_that_would_unpack_to_more_than_there_is_room_for(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("net/data.pkl", "w") as file,
    ):
        for _ in range(257):
            file.write(bytes(2**20))
    assert "data.pkl would unpack to 269484032 bytes" in refusal(path)


@EVERY_PICKLE
def test_a_file_that_is_cut_while_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: Save) -> None:
    save({"w": torch.ones(4096)}, tmp_path / "w.pth")
    mapped = torch.UntypedStorage.from_file

    def cut(name: str, **arguments: Any) -> object:
        return mapped(name, **{**arguments, "nbytes": 4096})

    monkeypatch.setattr(torch.UntypedStorage, "from_file", cut)
    with open_checkpoint(tmp_path / "w.pth") as checkpoint, pytest.raises(CheckpointError, match="cut off, damaged"):
        checkpoint.read("w")


@pytest.mark.parametrize(
    ("storages", "told"),
    [
        ({}, "the values of 'w' are not in it"),
        ({"0": (3, bytes(12))}, "the storage of 'w' should have 16 bytes, and has 12"),
        ({"0": (-1, b"")}, "should follow"),
        ({"0": (2**61, bytes(16))}, "should follow"),
        ({"0": (4, bytes(15))}, "16 bytes of a storage should follow, but 15 do"),
        ({"0": (4, bytes(16)), "1": (1, b"a")}, "a storage that nothing refers to"),
    ],
)
def test_storages_of_a_legacy_file(tmp_path: Path, storages: Mapping[str, tuple[int, bytes]], told: str) -> None:
    data = b"\x80\x02}(X\x01\0\0\0w" + tensor(legacy=True) + b"u."
    (tmp_path / "w.pth").write_bytes(legacy(data, storages))
    assert told in refusal(tmp_path / "w.pth")


def test_views_of_storages_in_an_old_legacy_file(tmp_path: Path) -> None:
    # torch < 1.0 named a part of a storage so: key, first element, number of elements.
    data = b"\x80\x02}(X\x01\0\0\0w" + tensor(numel=9, shape=(3,), legacy=True) + b"u."
    view = b"(X\x01\0\0\0vK\x04K\x03t"
    (tmp_path / "w.pth").write_bytes(
        legacy(data.replace(b"K\x09N", b"K\x09" + view), {"0": (9, torch.arange(9.0).numpy().tobytes())})
    )
    same(tmp_path / "w.pth", {"w": torch.tensor([4.0, 5.0, 6.0])})
    data = data.replace(b"K\x03\x85", b"K\x04\x85")
    wide = (
        b"\x80\x02}(X\x01\0\0\0w" + tensor(numel=9, shape=(4,), legacy=True).replace(b"K\x09N", b"K\x09" + view) + b"u."
    )
    (tmp_path / "w.pth").write_bytes(legacy(wide, {"0": (9, bytes(36))}))
    assert "ends at byte 32 of a storage of 28" in refusal(tmp_path / "w.pth")


@needs_proc
def test_no_more_memory_than_the_largest_tensor(tmp_path: Path) -> None:
    # 8 tensors of 16 MiB
    content = {f"w{i}": torch.full((2**22,), float(i)) for i in range(8)}
    paths = [tmp_path / name for name in ("small.pth", "zip.pth", "legacy.pth")]
    save_zip({"w": torch.ones(2)}, paths[0])
    save_zip(content, paths[1])
    save_legacy(content, paths[2])
    assert min(path.stat().st_size for path in paths[1:]) > 2**27
    # Values of a zip archive are seen where they lie; of a legacy file they are copied one by one.
    for (_, most, total), limit in zip(read_one_by_one(paths[0], paths[1:]), (4, 16 + 4), strict=True):
        assert total == sum(range(8)) * 2**22
        assert most < limit
