from __future__ import annotations

import pickle
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from lightning_init.checkpoint.base import Entry, Reading
from lightning_init.checkpoint.formats.recognise import open_checkpoint
from lightning_init.errors import CheckpointError
from tests.checkpoint.files import Save, bits, save_legacy, save_safetensors, save_zip, tensors
from tests.checkpoint.pickled import refusal

EVERY_FORMAT = pytest.mark.parametrize("save", [save_zip, save_legacy, save_safetensors])
EVERY_PICKLE = pytest.mark.parametrize("save", [save_zip, save_legacy])


@EVERY_FORMAT
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors", "w.txt", "w"])
def test_the_content_tells_the_format_and_every_bit_comes_back(tmp_path: Path, save: Save, name: str) -> None:
    saved = tensors()
    save(saved, tmp_path / name)
    with open_checkpoint(tmp_path / name) as checkpoint:
        assert checkpoint.source == str(tmp_path / name)
        assert dict(checkpoint.entries) == {key: Entry(tuple(t.shape), t.dtype) for key, t in saved.items()}
        for key, tensor in saved.items():
            read = checkpoint.read(key)
            assert (read.shape, read.dtype, read.device.type) == (tensor.shape, tensor.dtype, "cpu")
            assert bits(read) == bits(tensor)
        with pytest.raises(KeyError):
            checkpoint.read("absent")


@EVERY_FORMAT
def test_contexts_of_the_caller_do_not_count(tmp_path: Path, save: Save) -> None:
    save({"w": torch.ones(3)}, tmp_path / "w")
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("meta"), open_checkpoint(tmp_path / "w") as checkpoint:
        read = checkpoint.read("w")
    assert (read.device.type, read.dtype) == ("cpu", torch.float32)
    assert read.tolist() == [1, 1, 1]


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux alone tells anonymous memory")
def test_a_zip_file_is_memory_mapped(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(2**24)}, tmp_path / "w.pth")
    before = anonymous_kib()
    with open_checkpoint(tmp_path / "w.pth") as checkpoint:
        assert checkpoint.read("w").sum() == 0
        assert anonymous_kib() - before < 2**14  # the tensor has 2**16 KiB


def anonymous_kib() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))


@EVERY_PICKLE
def test_other_values_are_left_out(tmp_path: Path, save: Save) -> None:
    parameter = nn.Parameter(torch.ones(2))
    content = OrderedDict(
        [("w", parameter), ("_extra_state", {"t": torch.ones(1)}), ("x", 1.5), ("n", 3), ("none", None), ("s", "text")]
    )
    save(content, tmp_path / "w.pth")
    with open_checkpoint(tmp_path / "w.pth") as checkpoint:
        assert list(checkpoint.entries) == ["w"]
        read = checkpoint.read("w")
        assert type(read) is Tensor
        assert not read.requires_grad


@EVERY_PICKLE
@pytest.mark.parametrize(
    "name", ["state_dict", "model", "module", "state_dict_ema", "model_ema", "ema", "teacher", "student"]
)
def test_containers(tmp_path: Path, save: Save, name: str) -> None:
    inner = {"w": torch.ones(2)}
    other = {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]}
    save({"epoch": 3, "loss": torch.tensor(0.5), "optimizer": other, name: inner}, tmp_path / "w.pth")
    assert list(open_checkpoint(tmp_path / "w.pth").entries) == ["w"]
    save({name: {"state_dict": inner, "step": 3}, "empty": {}}, tmp_path / "nested.pth")
    assert list(open_checkpoint(tmp_path / "nested.pth").entries) == ["w"]


def test_the_first_container_with_tensors_is_taken(tmp_path: Path) -> None:
    save_zip({"ema": {"e": torch.ones(1)}, "model": {"m": torch.ones(1)}, "state_dict": {"n": 3}}, tmp_path / "w.pth")
    assert list(open_checkpoint(tmp_path / "w.pth").entries) == ["m"]


def test_a_module_called_model_is_no_container(tmp_path: Path) -> None:
    net = nn.ModuleDict({"model": nn.Linear(2, 2), "ema": nn.Linear(2, 2)})
    save_zip(net.state_dict(), tmp_path / "w.pth")
    assert list(open_checkpoint(tmp_path / "w.pth").entries) == list(net.state_dict())


def test_an_unknown_container_is_named(tmp_path: Path) -> None:
    save_zip({"epoch": 3, "net": {"w": torch.ones(2), "b": torch.ones(2)}}, tmp_path / "w.pth")
    told = refusal(tmp_path / "w.pth")
    assert "there are some in 'net' (2 of them): name the right one with container=..." in told
    assert "'state_dict', 'model'" in told


class Lit(lightning.LightningModule):
    def __init__(self, width: int, optimizer: str = "sgd") -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width))

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        loss: Tensor = self.net(batch[0]).square().mean()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters())


def test_a_checkpoint_of_a_trainer(tmp_path: Path) -> None:
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(8, 4)), batch_size=4)
    model = Lit(3)
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    with warnings.catch_warnings():
        # about the number of workers, and the like
        warnings.simplefilter("ignore")
        trainer.fit(model, data)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    whole = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert whole["hyper_parameters"] == {"width": 3, "optimizer": "sgd"}
    assert whole["loops"]
    with open_checkpoint(tmp_path / "last.ckpt") as checkpoint:
        state = model.state_dict()
        assert list(checkpoint.entries) == list(state)
        for key, tensor in state.items():
            assert bits(checkpoint.read(key)) == bits(tensor)


def test_tensors_that_are_stored_in_another_way_are_read_as_plain_ones(tmp_path: Path) -> None:
    dense = torch.tensor([[0.0, 2.0], [0.5, 0.0]])
    with warnings.catch_warnings():
        # torch is about to move its quantization elsewhere
        warnings.simplefilter("ignore")
        quantized = torch.quantize_per_tensor(dense, 0.5, 0, torch.qint8)
        save_zip({"s": dense.to_sparse(), "q": quantized, "t": dense.t(), "v": dense[0]}, tmp_path / "w.pth")
        with open_checkpoint(tmp_path / "w.pth") as checkpoint:
            for key in ("s", "q"):
                assert checkpoint.entries[key] == Entry((2, 2), torch.float32)
                assert bits(checkpoint.read(key)) == bits(dense)
            assert bits(checkpoint.read("t")) == bits(dense.t())
            assert bits(checkpoint.read("v")) == bits(dense[0])


@EVERY_PICKLE
@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({}, "it holds nothing"),
        ({"epoch": 3, "lr": 0.1}, "it holds 'epoch', 'lr'"),
        ([torch.ones(2)], "holds a list, not a mapping"),
        (torch.ones(2), "holds a Tensor, not a mapping"),
        (3, "holds a int, not a mapping"),
        ({0: torch.ones(2)}, "it holds 0"),
    ],
)
def test_a_file_without_named_tensors(tmp_path: Path, save: Save, content: object, told: str) -> None:
    save(content, tmp_path / "w.pth")
    message = refusal(tmp_path / "w.pth")
    assert told in message
    assert "save module.state_dict()" in message


def test_a_safetensors_file_without_tensors(tmp_path: Path) -> None:
    save_file({}, tmp_path / "w.safetensors", metadata={"format": "pt"})
    assert "no tensors in it" in refusal(tmp_path / "w.safetensors")


@pytest.mark.parametrize(("where", "reading"), [("container", {"container": "model"}), ("ema", {"ema": True})])
def test_a_safetensors_file_has_no_containers(tmp_path: Path, where: str, reading: dict[str, Any]) -> None:
    save_file({"model.w": torch.ones(2)}, tmp_path / "w.safetensors")
    told = refusal(tmp_path / "w.safetensors", where=where, **reading)
    assert "whose tensors are in no container; choose among its keys with prefix=..." in told


def test_tensors_without_values(tmp_path: Path) -> None:
    save_zip({"a": torch.ones(2), "w": torch.ones(2, device="meta")}, tmp_path / "w.pth")
    assert "tensors without values of their own, such as 'w'" in refusal(tmp_path / "w.pth")


def test_a_lazy_parameter_is_no_tensor_yet(tmp_path: Path) -> None:
    save_zip({"a": torch.ones(2), "w": nn.LazyLinear(3).weight}, tmp_path / "w.pth")
    with open_checkpoint(tmp_path / "w.pth") as checkpoint:
        assert list(checkpoint.entries) == ["a"]
        assert checkpoint.notes == (
            "other things than tensors were left unread: torch.nn.parameter.UninitializedParameter",
        )
    assert list(open_checkpoint(tmp_path / "w.pth", Reading(safe_globals=(UninitializedParameter,))).entries) == ["a"]


@EVERY_FORMAT
def test_a_file_cut_off_at_any_place(tmp_path: Path, save: Save) -> None:
    save({"w": torch.arange(8.0)}, tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    for length in sorted({*range(1, 33), *range(33, len(whole), 37), len(whole) - 1}):
        (tmp_path / "cut").write_bytes(whole[:length])
        told = refusal(tmp_path / "cut")
        assert length < 10 or "cut off" in told, (length, told)


@pytest.mark.parametrize("save", [save_legacy, save_safetensors])
def test_damaged_bytes_are_an_error_of_ours_or_other_values(tmp_path: Path, save: Save) -> None:
    save({"w": torch.arange(8.0)}, tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    for place in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[place] ^= 0x55
        (tmp_path / "damaged").write_bytes(damaged)
        try:
            open_checkpoint(tmp_path / "damaged").close()
        except CheckpointError as error:
            assert str(tmp_path / "damaged") in str(error)  # noqa: PT017 - damage within the values raises nothing


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"<!DOCTYPE html>\n<html><body>Not found</body></html>", "a web page (HTML)"),
        (b"\n  <HTML><body>Not found</body></html>", "a web page (HTML)"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "git lfs pull"),
        (b"lorem ipsum dolor sit amet\n" * 50, "text, not a checkpoint: it starts with 'lorem ipsum"),
        ("größer\n".encode() * 200, "text, not a checkpoint"),
        (b"(dp0\nS'w'\np1\nI3\ns.", "text, not a checkpoint"),
        (b"\x1f\x8b\x08\x00" + b"\0" * 30, "compressed with gzip"),
        (b"w\0" * 128 + b"\0ustar\x0000" + b"\0" * 300, "a tar archive"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 30, "an HDF5 file"),
        (b"GGUF\3\0\0\0", "a GGUF file"),
        (b"\0\1\2\3", "it starts with the bytes 00 01 02 03"),
        (b"caf\xe9 au lait", "it starts with the bytes 63 61 66 e9"),
        (b"\0", "it starts with the bytes 00"),
    ],
)
def test_something_else_instead_of_a_checkpoint(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    message = refusal(tmp_path / "w.pth")
    assert told in message
    assert "known formats are torch.save, legacy torch.save, safetensors" in message or "JSON" in told


def test_a_config_instead_of_an_index(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b'{"hidden_size": 3}')
    assert "JSON without a 'weight_map'" in refusal(tmp_path / "config.json")


def test_another_zip_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("folder/weights.bin", b"0")
    assert "torch.save did not write it" in refusal(tmp_path / "w.pth")
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("net/data.pkl", b"\x80\x02}.")
        archive.writestr("net/constants.pkl", b"\x80\x02).")
    assert "a TorchScript archive" in refusal(tmp_path / "w.pth")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_that_torch_did_not_write(tmp_path: Path, protocol: int) -> None:
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"w": [1.0]}, protocol=protocol))
    assert "torch.save" in refusal(tmp_path / "w.pkl")


def test_a_file_that_may_not_be_opened(tmp_path: Path) -> None:
    assert "cannot be opened: No such file" in refusal(tmp_path / "w.pth")
