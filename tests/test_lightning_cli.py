"""`init_cfg` under LightningCLI: in YAML and on the command line, on the model and on the callback."""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.cli import LightningCLI

from lightning_init import (
    INITIALIZERS,
    ConstantInit,
    InitCfg,
    InitConfigError,
    InitWeightsCallback,
    NormalInit,
    init_weights,
)
from lightning_init.initializers.base import WeightInitializer
from tests.models import digests
from tests.trainers import Net, Snapshots

# Lightning 2.6 calls what jsonargparse 4.53 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

RULES = """
- {type: Kaiming, layer: Linear, override: {name: head, type: Normal, std: 1e-2, bias_prob: 0.1}}
- class_path: lightning_init.ConstantInit
  init_args: {val: 3, layer: [Embedding, LayerNorm]}
- class_path: lightning_init.NormalInit
  init_args: {std: 2}
  name: body
  params: bias
"""
NORMAL_HEAD = {"name": "head", "type": "Normal", "std": 0.01, "bias_prob": 0.1}
IN_PYTHON: list[Any] = [
    {
        "type": "Kaiming",
        "layer": "Linear",
        "override": {"name": "head", "type": "Normal", "std": 0.01, "bias_prob": 0.1},
    },
    ConstantInit(val=3, layer=["Embedding", "LayerNorm"]),
    {"type": NormalInit, "std": 2, "name": "body", "params": "bias"},
]
CALLBACK = "--trainer.callbacks=lightning_init.InitWeightsCallback"


class Model(Net):
    """A model of the test.

    Args:
        init_cfg: How it starts.
    """

    def __init__(self, init_cfg: InitCfg = None) -> None:
        super().__init__()
        self.init_cfg = init_cfg


def cli(*argv: str) -> LightningCLI:
    silent = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
        "max_steps": 1,
    }
    return LightningCLI(
        Model,
        run=False,
        args=list(argv),
        seed_everything_default=0,
        trainer_defaults=silent,
        save_config_callback=None,
    )


def callback_of(made: LightningCLI) -> InitWeightsCallback:
    (found,) = [it for it in made.trainer.callbacks if isinstance(it, InitWeightsCallback)]  # type: ignore[attr-defined]
    return found


def started(made: LightningCLI) -> dict[str, str]:
    """The weights at the start of a training."""
    net = made.model
    made.trainer.fit(net)
    return digests(net)


def expected(init_cfg: Any) -> dict[str, str]:
    net = Model(init_cfg)
    with pytest.warns(match="no 'Embedding'"):
        init_weights(net, seed=0)
    return digests(net)


def told(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """What a command line prints before it ends the process."""
    with pytest.raises(SystemExit) as end:
        cli(*argv)
    captured = capsys.readouterr()
    assert end.value.code == 0, captured.err
    return captured.out


@pytest.fixture(autouse=True)
def _without_the_arguments_of_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    """LightningCLI warns of arguments besides its own."""
    monkeypatch.setattr("sys.argv", ["train.py"])


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rules on the model, in the file itself, and on the callback, in a file of their own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rules.yaml").write_text(RULES)
    rules = "".join(f"    {line}\n" for line in RULES.splitlines() if line)
    path = tmp_path / "config.yaml"
    path.write_text(
        f"model:\n  init_cfg:\n{rules}"
        "trainer:\n  callbacks:\n"
        "  - class_path: lightning_init.InitWeightsCallback\n"
        "    init_args: {init_cfg: rules.yaml, seed: 0, log: []}\n"
    )
    return path


class TestConfigs:
    @pytest.mark.filterwarnings("ignore::lightning_init.InitWarning")
    @pytest.mark.parametrize("of_callback", [True, False])
    def test_the_weights_are_those_of_the_same_rules_in_python(self, config: Path, of_callback: bool) -> None:
        other = "--model.init_cfg=null" if of_callback else "--trainer.callbacks.init_cfg=null"
        assert started(cli("--config", str(config), other)) == expected(IN_PYTHON)

    @pytest.mark.parametrize(
        "argv",
        [
            ('--model.init_cfg={"type": "Constant", "val": 2, "layer": "Linear"}',),
            ("--model.init_cfg.type=Constant", "--model.init_cfg.val=2", "--model.init_cfg.layer=Linear"),
            ("--model.init_cfg=ConstantInit", "--model.init_cfg.val=2", "--model.init_cfg.layer=Linear"),
            (CALLBACK, '--trainer.callbacks.init_cfg=[{"type": "Constant", "val": 2, "layer": "Linear"}]'),
        ],
    )
    def test_rules_on_the_command_line(self, argv: tuple[str, ...]) -> None:
        more = () if CALLBACK in argv else (CALLBACK,)
        made = cli(*argv, *more, "--trainer.callbacks.log=[]")
        made.trainer.fit(made.model)
        assert made.model.head.weight.eq(2).all()

    def test_what_print_config_prints_is_read_back_the_same(
        self, config: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        text = told(capsys, "--config", str(config), "--print_config")
        again = config.with_name("again.yaml")
        again.write_text(text)
        one, other = cli("--config", str(config)), cli("--config", str(again))
        assert other.model.init_cfg == one.model.init_cfg
        assert one.model.init_cfg[1] == IN_PYTHON[1]
        assert callback_of(other).init_cfg == callback_of(one).init_cfg == one.model.init_cfg
        assert callback_of(other).settings == callback_of(one).settings
        assert told(capsys, "--config", str(again), "--print_config") == text

    def test_defaults_are_printed_and_read_back(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "again.yaml").write_text(told(capsys, CALLBACK, "--print_config"))
        found, plain = callback_of(cli("--config", str(tmp_path / "again.yaml"))), InitWeightsCallback()
        assert (found.settings, found.contents, found.init_cfg) == (plain.settings, plain.contents, None)

    def test_the_command_line_beats_the_file(self, config: Path) -> None:
        made = cli("--config", str(config), "--trainer.callbacks.strict=true", "--trainer.callbacks.seed=7")
        settings = callback_of(made).settings
        assert (settings.strict, settings.seed) == (True, 7)
        assert callback_of(made).init_cfg == made.model.init_cfg

    def test_every_argument_of_the_callback(self, tmp_path: Path) -> None:
        given = {
            "init_cfg": {"type": "Normal", "layer": "Linear"},
            "seed": 3,
            "rng_device": "cpu",
            "strict": True,
            "require_all": True,
            "sync": "broadcast",
            "log": ["table"],
            "probe": "example_input_array",
            "threads": 2,
        }
        chosen = {name: given[name] for name in inspect.signature(InitWeightsCallback).parameters}
        (tmp_path / "config.yaml").write_text(
            f"trainer: {{callbacks: [{{class_path: lightning_init.InitWeightsCallback, init_args: {chosen}}}]}}"
        )
        found, wanted = callback_of(cli("--config", str(tmp_path / "config.yaml"))), InitWeightsCallback(**chosen)  # type: ignore[arg-type]
        assert {name: value for name, value in vars(found).items() if value != getattr(wanted, name)} == {}


class TestHelp:
    def test_of_the_callback(self, capsys: pytest.CaptureFixture[str]) -> None:
        text = " ".join(told(capsys, "--trainer.callbacks.help=lightning_init.InitWeightsCallback").split())
        for name in inspect.signature(InitWeightsCallback).parameters:
            assert f"--trainer.callbacks.init_args.{name}" in text or f"--trainer.callbacks.{name}" in text
        assert "A rule without a match, and whatever else would be a warning, is an error." in text
        assert "known subclasses: lightning_init." in text

    @pytest.mark.parametrize("name", [name for name, cls in INITIALIZERS.items() if "tests" not in cls.__module__])
    def test_of_an_initializer(self, capsys: pytest.CaptureFixture[str], name: str) -> None:
        cls = INITIALIZERS[name]
        text = " ".join(told(capsys, f"--model.init_cfg.help={cls.__module__}.{cls.__name__}").split())
        names = [field.name for field in fields(cls)]  # type: ignore[arg-type]  # they are dataclasses
        assert [name for name in names if f"--model.init_cfg.{name}" not in text] == []
        if issubclass(cls, WeightInitializer):
            assert "The constant that biases get." in text

    def test_of_the_model_names_what_there_is(self, capsys: pytest.CaptureFixture[str]) -> None:
        text = " ".join(told(capsys, "--help").split())
        assert "How it starts." in text
        assert "lightning_init.KaimingInit" in text


class TestFaults:
    @pytest.mark.parametrize(
        ("rule", "message"),
        [
            ('{"type": "Normall"}', "init_cfg[0].type: unknown initializer 'Normall'; did you mean 'Normal'"),
            ('{"type": "Normal", "sdt": 1}', "init_cfg[0].sdt: unknown argument of Normal; did you mean 'std'?"),
            ('{"type": "Normal", "std": -1}', "init_cfg[0].std: must be >= 0, got -1"),
            (
                '{"class_path": "lightning_init.NormalInt"}',
                "init_cfg[0].type: unknown initializer 'lightning_init.NormalInt'; did you mean 'Normal'",
            ),
            (
                '{"class_path": "lightning_init.NormalInit", "init_args": {"sdt": 1}}',
                "init_cfg[0].sdt: unknown argument of Normal; did you mean 'std'?",
            ),
        ],
    )
    def test_a_rule_is_told_with_its_place_before_training(self, rule: str, message: str) -> None:
        with pytest.raises(ValueError, match="Does not validate") as info:
            cli(CALLBACK, f"--trainer.callbacks.init_cfg=[{rule}]")
        assert f"InitWeightsCallback.{message}" in str(info.value)
        seen = Snapshots()
        made = cli(f"--model.init_cfg=[{rule}]", CALLBACK)
        made.trainer.callbacks.append(seen)  # type: ignore[attr-defined]
        with pytest.raises(InitConfigError) as raised:
            made.trainer.fit(made.model)
        assert f"Model.{message}" in str(raised.value)
        assert seen.steps == 0

    def test_a_value_that_an_initializer_refuses(self) -> None:
        rule = '{"class_path": "lightning_init.NormalInit", "init_args": {"std": -1}}'
        for argv in ((f"--model.init_cfg={rule}",), (CALLBACK, f"--trainer.callbacks.init_cfg={rule}")):
            with pytest.raises((ValueError, TypeError)) as info:
                cli(*argv)
            assert "std: must be >= 0, got -1" in str(info.value)

    @pytest.mark.parametrize(
        ("argument", "message"),
        [
            ("log=[tabel]", "InitWeightsCallback.log: cannot hold 'tabel'; did you mean 'table'?"),
            ("seed=-x", "Problem with given class_path"),
            ("strict=maybe", "Problem with given class_path"),
            ("sync=all", "Problem with given class_path"),
        ],
    )
    def test_an_argument_of_the_callback(self, capsys: pytest.CaptureFixture[str], argument: str, message: str) -> None:
        with pytest.raises((ValueError, SystemExit)) as info:
            cli(CALLBACK, f"--trainer.callbacks.{argument}")
        assert message in f"{info.value}{capsys.readouterr().err}"
