"""``lightning-init inspect`` and ``diff``: the weights in files, whatever their format, and what is no checkpoint."""

from __future__ import annotations

import json
import math
import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lightning_init import InitReport
from lightning_init.moments import STATISTICS
from tests.checkpoint.folders_of_torch import save
from tests.cli.conftest import Command

WEIGHTS: dict[str, Tensor] = {
    "encoder.weight": torch.tensor([[0.0, 1.0, -2.0], [3.0, 0.5, 0.25]]),
    "encoder.bias": torch.tensor([0.5, 0.0], dtype=torch.bfloat16),
    "steps": torch.tensor(7),
    "empty": torch.zeros(0, 3),
}


@pytest.fixture
def files(folder: Path) -> Path:
    """The same weights in several formats."""
    torch.save(WEIGHTS, folder / "w.pth")
    torch.save({"state_dict": {f"module.{key}": value for key, value in WEIGHTS.items()}}, folder / "wrapped.ckpt")
    torch.save(WEIGHTS, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    save_file(WEIGHTS, folder / "w.safetensors")
    save(WEIGHTS, folder / "dcp")
    return folder


FORMATS = ("w.pth", "wrapped.ckpt", "legacy.pth", "w.safetensors", "dcp")


class TestInspect:
    @pytest.mark.parametrize("name", FORMATS)
    def test_the_statistics_are_those_of_numpy(self, run: Command, files: Path, name: str) -> None:
        status, out, err = run("inspect", name)
        assert (status, err) == (0, "")
        header, *rows = (line.split() for line in out.splitlines())
        told = {row[0]: row for row in rows}
        # "abs mean", "l2 norm" and "zero fraction" are two words each.
        assert header[:7] == ["name", "shape", "dtype", "mean", "std", "min", "max"]
        values = WEIGHTS["encoder.weight"].numpy()
        wanted = [values.mean(), values.std(ddof=1), -2, 3, np.abs(values).mean(), np.linalg.norm(values), 1 / 6, 0]
        assert told["encoder.weight"] == ["encoder.weight", "2x3", "float32", *(f"{number:.4g}" for number in wanted)]
        assert told["encoder.bias"][1:4] == ["2", "bfloat16", "0.25"]
        assert told["steps"][1:4] == ["scalar", "int64", "7"]
        assert told["empty"][1:3] == ["0x3", "float32"]
        assert out.splitlines()[-1] == "4 tensors of 9 elements"

    def test_a_part_of_it(self, run: Command, files: Path) -> None:
        assert run("inspect", "w.pth", "--prefix", "encoder.", "--exclude", "bias")[1].split()[14] == "weight"
        _, out, _ = run("inspect", "wrapped.ckpt", "--container", "state_dict", "--include=encoder.*")
        assert out.endswith("2 tensors of 8 elements\n")

    def test_json_is_a_report(self, run: Command, files: Path) -> None:
        status, out, _ = run("inspect", "w.safetensors", "--json")
        assert status == 0
        report = InitReport.from_json(out)
        assert {row.name for row in report} == set(WEIGHTS)
        statistics = report["encoder.weight"].statistics
        assert statistics is not None
        assert set(statistics) == set(STATISTICS)
        assert statistics["l2_norm"] == pytest.approx(float(WEIGHTS["encoder.weight"].double().norm()), rel=1e-15)
        assert {row["name"]: row["shape"] for row in json.loads(out)["rows"]}["encoder.weight"] == [2, 3]

    def test_what_is_found_decides_the_status_under_strict(self, run: Command, folder: Path) -> None:
        torch.save({"good": torch.ones(2), "weight": torch.tensor([1.0, math.nan])}, folder / "bad.pth")
        for more, wanted in (((), 0), (("--strict",), 1)):
            status, out, _ = run("inspect", "bad.pth", *more)
            assert status == wanted
            assert "error: weight: 1 of its 2 elements are NaN or infinite" in out
        assert run("inspect", "bad.pth", "--strict", "--include=good")[0] == 0

    def test_nothing_to_look_at_is_no_success_under_strict(self, run: Command, files: Path) -> None:
        argv = ["inspect", "w.pth", "--include", "no_such_name"]
        status, out, _ = run(*argv)
        assert status == 0
        assert "0 tensors of 0 elements\nnote: include[0]: 'no_such_name' matches no name" in out
        assert run(*argv, "--strict")[0] == 1

    def test_a_narrow_terminal_shows_what_matters_most(
        self, run: Command, files: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        monkeypatch.setenv("COLUMNS", "10")
        _, out, _ = run("inspect", "w.pth")
        plain = re.sub(r"\x1b\[[0-9;]*m", "", out)
        assert plain.splitlines()[0].split() == ["name", "shape", "mean", "std"]
        assert "left out, for want of room: nonfinite, l2 norm, abs mean, zero fraction, dtype, max, min\n" in out

    def test_plot(self, run: Command, files: Path) -> None:
        status, _, err = run("inspect", "w.pth", "--plot", "weights.png")
        assert (status, err) == (0, "")
        assert (files / "weights.png").read_bytes().startswith(b"\x89PNG")
        for path, told in (("weights.xyz", "cannot write 'weights.xyz'"), ("none/w.png", "No such file")):
            status, out, err = run("inspect", "w.pth", "--plot", path)
            assert (status, out) == (2, "")
            assert told in err


class TestDiff:
    @pytest.mark.parametrize("name", FORMATS)
    def test_one_set_of_weights_in_any_two_formats_is_the_same(self, run: Command, files: Path, name: str) -> None:
        assert run("diff", "w.safetensors", name) == (0, "", "")

    def test_what_differs(self, run: Command, files: Path) -> None:
        weight = WEIGHTS["encoder.weight"].clone()
        weight[1, 2] = -0.25
        other = {
            "encoder.weight": weight,
            "encoder.bias": WEIGHTS["encoder.bias"].float(),
            "steps": torch.tensor([7]),
            "added": torch.ones(2, 2),
        }
        torch.save(other, files / "other.pth")
        status, out, err = run("diff", "w.pth", "other.pth")
        assert (status, err) == (1, "")
        assert out == (
            "name            what               in A          in B         largest difference\n"
            "encoder.weight  with other values  2x3 float32   2x3 float32  0.5\n"
            "encoder.bias    of another type    2 bfloat16    2 float32    0\n"
            "steps           of another shape   scalar int64  1 int64\n"
            "empty           only in A          0x3 float32\n"
            "added           only in B                        2x2 float32\n"
            "1 with other values, 1 of another type, 1 of another shape, 1 only in A, 1 only in B\n"
        )

    def test_reports(self, run: Command, files: Path) -> None:
        (files / "w.json").write_text(run("inspect", "w.pth", "--json")[1])
        assert run("inspect", "w.json") == run("inspect", "w.pth")
        assert run("diff", "w.json", "w.json") == run("diff", "w.json", "dcp") == (0, "", "")
        torch.save({**WEIGHTS, "encoder.bias": torch.ones(2, dtype=torch.bfloat16)}, files / "other.pth")
        status, out, err = run("diff", "w.json", "other.pth")
        assert (status, err) == (1, "")
        assert ["encoder.bias", "mean", "0.25", "1"] in [line.split() for line in out.splitlines()]
        assert "encoder.weight" not in out
        (files / "no.json").write_text("{}")
        status, out, err = run("diff", "w.json", "no.json")
        assert (status, out) == (2, "")
        assert "'no.json' is no report" in err

    def test_nothing_to_compare_is_not_the_same(self, run: Command, files: Path) -> None:
        status, _, err = run("diff", "w.pth", "w.pth", "--include=decoder.*")
        assert (status, err) == (
            2,
            "lightning-init: CheckpointError: neither 'w.pth' nor 'w.pth' has what is asked for\n",
        )

    @pytest.mark.parametrize(("value", "largest"), [(math.nan, "nan"), (-0.0, "0"), (math.inf, "inf")])
    def test_special_numbers(self, run: Command, folder: Path, value: float, largest: str) -> None:
        torch.save({"w": torch.tensor([0.0, 1.0])}, folder / "a.pth")
        torch.save({"w": torch.tensor([value, 1.0])}, folder / "b.pth")
        assert run("diff", "b.pth", "b.pth") == (0, "", "")
        status, out, _ = run("diff", "a.pth", "b.pth")
        assert status == 1
        assert out.splitlines()[1].split()[-1] == largest


class TestFaults:
    @pytest.mark.parametrize(
        ("argv", "told"),
        [
            (("inspect", "none.pth"), "none.pth"),
            (("inspect", "nets.py"), "nets.py"),
            (("inspect", "empty.pth"), "is an empty file"),
            (("inspect", "w.pth", "--prefix=decoder."), "has no key below 'decoder.'; the prefixes at its top"),
            (("inspect", "w.pth", "--container=model"), "model"),
            (("inspect", "w.pth", "--sha256=00000000"), "sha256"),
            (("inspect", "w.pth", "--sha256=xyz"), "sha256: must be the hash in hexadecimal"),
            (("inspect", "w.pth", "--ema"), "ema"),
            (("inspect", "w.pth", "--prefx=a"), "there is no option --prefx; did you mean '--prefix'?"),
            (("inspect",), "checkpoint"),
            (("diff", "w.pth"), "b: required"),
            (("diff", "w.pth", "none.pth"), "none.pth"),
        ],
    )
    def test_trouble(self, run: Command, files: Path, argv: tuple[str, ...], told: str) -> None:
        (files / "empty.pth").touch()
        status, out, err = run(*argv)
        assert (status, out) == (2, "")
        assert told in err
        assert "Traceback" not in err

    @pytest.mark.parametrize("command", [("inspect",), ("diff", "w.pth")])
    def test_no_code_of_a_file_is_run(self, run: Command, files: Path, command: tuple[str, ...]) -> None:
        class Evil:
            def __reduce__(self) -> tuple[object, ...]:
                return Path.touch, (files / "run",)

        (files / "evil.pth").write_bytes(pickle.dumps({"weight": Evil()}))
        torch.save({"weight": torch.ones(1), "evil": Evil()}, files / "evil.ckpt")
        for name in ("evil.pth", "evil.ckpt"):
            run(*command, name)
            assert not (files / "run").exists()
