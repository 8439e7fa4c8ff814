"""``lightning-init plan``: the plan of a user's class, and everything that can be wrong with a command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.cli.conftest import Command


class TestPlan:
    def test_a_class_with_arguments(self, run: Command) -> None:
        status, out, err = run("plan", "nets.py:LitNet", "--args.hidden", "3", "--strict", "--require_all")
        assert (status, err) == (0, "")
        assert out == (
            "parameter      shape  written by  instead of\n"
            "body.0.weight  3x3    [1]\n"
            "body.0.bias    3      [2]\n"
            "head.weight    2x3    [3]         [1]\n"
            "head.bias      2      [4]         [2]\n"
            "[1]  LitNet.init_cfg[0]           "
            "Kaiming(a=0, mode='fan_out', nonlinearity='relu', distribution='normal')\n"
            "[2]  LitNet.init_cfg[0]           Kaiming(bias=0)\n"
            "[3]  LitNet.init_cfg[0].override  Normal(mean=0, std=0.01)\n"
            "[4]  LitNet.init_cfg[0].override  Normal(bias=-4.59512, bias_prob=0.01)\n"
        )

    @pytest.mark.parametrize("target", ["nets:LitNet", "./nets.py:LitNet"])
    def test_arguments_from_a_file_and_on_top_of_it(self, run: Command, folder: Path, target: str) -> None:
        (folder / "args.yaml").write_text("hidden: 3\ndepth: 2\n")
        status, out, _ = run("plan", "--args", "args.yaml", "--args.hidden=5", target)
        assert status == 0
        assert "body.1.weight  5x5" in out

    def test_a_class_within_the_arguments_is_built_on_meta_too(self, run: Command) -> None:
        inner = '{"class_path": "torch.nn.Linear", "init_args": {"in_features": 4, "out_features": 3}}'
        status, out, _ = run("plan", "nets.py:Wrapper", f"--args.inner={inner}")
        assert status == 0
        assert "inner.weight  3x4    [1]" in out

    def test_a_function_and_a_config_from_a_file(self, run: Command, folder: Path) -> None:
        (folder / "rules.yaml").write_text(
            "- {type: Normal, layer: Linear, std: 1e-3}\n"
            "- class_path: lightning_init.ConstantInit\n  init_args: {val: 2}\n  name: '0.bias'\n"
        )
        status, out, _ = run("plan", "nets.py:make", "--init_cfg", "rules.yaml", "--args.classes=2")
        assert status == 0
        assert "0.weight   2x4    [1]\n0.bias     2      [2]         [3]" in out
        assert "[1]  rules.yaml[0]  Normal(mean=0, std=0.001)" in out
        assert "[2]  rules.yaml[1]  Constant(val=2)" in out

    def test_no_rule_and_no_parameter(self, run: Command) -> None:
        assert run("plan", "nets.py:NoParameters")[:2] == (0, "parameter  shape  written by  instead of\n")

    def test_strict_and_require_all_guard_what_they_guard_in_training(self, run: Command, folder: Path) -> None:
        (folder / "rules.json").write_text('{"type": "Normal", "layer": "Linaer", "override": {"name": "0.bias"}}')
        arguments = ("plan", "nets.py:make", "--init_cfg", "rules.json")
        warned = "warning: rules.json.layer: Sequential has no 'Linaer'; did you mean 'Linear'?"
        for more, status, err in (
            ((), 0, ""),
            (("--strict",), 1, "lightning-init plan: 1 warning (--strict)\n"),
            (("--require_all",), 1, "lightning-init plan: 0.weight: nothing writes it (--require_all)\n"),
        ):
            found = run(*arguments, *more)
            assert (found[0], found[2]) == (status, err)
            assert warned in found[1]

    def test_a_key_that_nothing_takes(self, run: Command, folder: Path) -> None:
        torch.save({"0.weight": torch.ones(3, 4), "0.bias": torch.ones(3), "more": torch.ones(1)}, folder / "w.pth")
        (folder / "rules.yaml").write_text("{type: Pretrained, checkpoint: w.pth}")
        arguments = ("plan", "nets.py:make", "--init_cfg", "rules.yaml")
        assert run(*arguments, "--strict")[0] == 0
        status, _, err = run(*arguments, "--require_all")
        assert (status, err) == (1, "lightning-init plan: rules.yaml: more: nothing takes it (--require_all)\n")

    def test_what_can_be_found_before_anything_is_written(self, run: Command, folder: Path) -> None:
        status, out, err = run("plan", "nets.py:Frozen", "--strict")
        assert (status, err) == (1, "lightning-init plan: 1 warning (--strict)\n")
        told = [line for line in out.splitlines() if line.startswith("warning: ")]
        assert [line.partition(": it wants no gradient")[0] for line in told] == ["warning: random.weight"]
        torch.save({"head.bias": torch.ones(2)}, folder / "w.pth")
        (folder / "rules.yaml").write_text("{type: Pretrained, checkpoint: w.pth}")
        status, out, _ = run("plan", "nets.py:LitNet", "--args.hidden=3", "--init_cfg=rules.yaml", "--strict")
        assert status == 1
        assert "warning: rules.yaml: 'w.pth' filled 1 of the 4 parameters in its scope" in out


class TestLightningModules:
    def test_configure_model_is_run_and_setup_on_demand(self, run: Command) -> None:
        status, out, _ = run("plan", "nets.py:Late")
        assert status == 0
        assert "of_configure_model.weight  1x1    [1]" in out
        assert "of_setup" not in out
        assert "note: Late.setup is not run, and layers that it makes are not in the plan; --setup runs it" in out
        status, out, _ = run("plan", "nets.py:Late", "--setup")
        assert "of_setup.weight" in out
        assert "note" not in out

    def test_a_hook_that_needs_its_trainer(self, run: Command) -> None:
        status, out, _ = run("plan", "nets.py:Bound", "--setup")
        assert status == 0
        assert "of_setup.weight" in out
        assert "note: Bound.configure_model asks for its Trainer, which a plan does not have" in out


class TestFaults:
    @pytest.mark.parametrize(
        ("target", "told"),
        [
            ("nets.py:LitNt", "'nets.py' has no 'LitNt'; did you mean 'LitNet'?"),
            ("nets.py:Zzzzzzzz", "'nets.py' has no 'Zzzzzzzz'; of models, there are 'Bound', 'Frozen', 'Late', 'Lit"),
            ("nest.py:LitNet", "there is no file 'nest.py'; did you mean 'nets.py'?"),
            ("src/nets.py:LitNet", "there is no file 'src/nets.py'; there is no folder 'src'"),
            ("nest:LitNet", "there is no module 'nest'; did you mean 'nets'?"),
            ("nets.sub:LitNet", "there is no module 'nets.sub'"),
            ("torch.nm:Linear", "there is no module 'torch.nm'; did you mean"),
            ("no_such_package:Net", "there is no module 'no_such_package'; is its folder the working directory"),
            ("nets.LitNet", "got 'nets.LitNet'; did you mean nets:LitNet?"),
            ("nets.py", "a target is MODULE:CLASS, such as package.module:LitNet or train.py:LitNet; got 'nets.py'\n"),
            ("nets.py:Other", "is a class, but not one of modules (derived from torch.nn.Module)"),
            ("nets.py:net", "is neither a class of modules nor a function that returns one, but an object of class Li"),
            ("nets.py:LitNet", "LitNet cannot do without 'hidden'; give --args.hidden ..., or a file of them: --args"),
        ],
    )
    def test_a_target(self, run: Command, target: str, told: str) -> None:
        status, out, err = run("plan", target)
        assert (status, out) == (2, "")
        assert err.startswith("lightning-init: ")
        assert told in err
        assert "Traceback" not in err

    def test_no_target(self, run: Command) -> None:
        status, _, err = run("plan", "--strict")
        assert (status, err[:56]) == (2, "lightning-init: of which model? give MODULE:CLASS, such ")

    @pytest.mark.parametrize("target", [(), ("nets.py:LitNet",)])
    def test_help_needs_no_target_and_knows_its_arguments(self, run: Command, target: tuple[str, ...]) -> None:
        status, out, err = run("plan", *target, "--help")
        assert (status, err) == (0, "")
        assert "a YAML or JSON file with a rule or a list of rules" in " ".join(out.split())
        assert "exit status:\n  0  there is a plan\n" in out
        assert ("How wide it is. (required, type: int)" in out) == bool(target)

    @pytest.mark.parametrize(
        ("argument", "told"),
        [
            ("--args.hiden=3", "there is no option --args.hiden; did you mean '--args.hidden'"),
            ("--args.hidden=wide", "Expected a <class 'int'>. Got value: wide"),
            ("--args=args.yaml", "does not accept option 'hiden'"),
            ("--args=none.yaml", "none.yaml"),
            ("--strickt", "there is no option --strickt; did you mean '--strict'?"),
            ("--device=cuda", "invalid choice"),
        ],
    )
    def test_an_argument(self, run: Command, folder: Path, argument: str, told: str) -> None:
        (folder / "args.yaml").write_text("hiden: 3\n")
        given = () if argument.startswith("--args") else ("--args.hidden=3",)
        status, _, err = run("plan", "nets.py:LitNet", argument, *given)
        assert status == 2
        assert told in err
        assert "Traceback" not in err

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("- type: Normal\n  layer: [Linear\n", "rules.yaml:3:1: this is no YAML: "),
            ("a: b: c", "rules.yaml:1:5: this is no YAML: mapping values are not allowed"),
            ("", "rules.yaml is empty"),
            ("Normal", "rules.yaml: must be a rule (a mapping) or a list of rules, got 'Normal' (str)"),
            ("[Normal]", "rules.yaml[0]: must be a rule, a mapping such as"),
            ("{type: Normall}", "rules.yaml.type: unknown initializer 'Normall'; did you mean 'Normal'"),
            ("[{type: Normal, sdt: 1}, {type: Normal, std: -1}]", "2 faults in the init config"),
            (
                "{class_path: lightning_init.NormalInt}",
                "'lightning_init.NormalInt'; did you mean 'Normal'",
            ),
            ("{class_path: lightning_init.NormalInit, init_args: 3}", "rules.yaml.init_args: must be a mapping"),
            ("{type: Pretrained, checkpoint: none.pth}", "CheckpointError: rules.yaml.checkpoint"),
        ],
    )
    def test_a_config(self, run: Command, folder: Path, text: str, told: str) -> None:
        (folder / "rules.yaml").write_text(text)
        status, out, err = run("plan", "nets.py:make", "--init_cfg", "rules.yaml")
        assert (status, out) == (1, "")
        assert told in err
        assert "Traceback" not in err

    def test_a_config_that_is_no_text_or_not_there(self, run: Command, folder: Path) -> None:
        (folder / "rules.yaml").write_bytes(b"\xff\xfe\x00")
        for name, told in (
            ("rules.yaml", "'rules.yaml' cannot be read: it is no text in UTF-8"),
            ("rule.yaml", "there is no file 'rule.yaml'; did you mean 'rules.yaml'?"),
            (".", "'.' cannot be read: Is a directory"),
        ):
            status, _, err = run("plan", "nets.py:make", "--init_cfg", name)
            assert (status, err) == (2, f"lightning-init: {told}\n")


class TestTheUsersCode:
    def test_a_constructor_that_raises(self, run: Command) -> None:
        status, out, err = run("plan", "nets.py:Raises")
        assert (status, out) == (1, "")
        assert "lightning-init: Raises raised ZeroDivisionError: division by zero\n" in err
        assert "self.share = divide(1, size)\n" in err
        assert "return one / other\n" in err
        assert "lightning_init" not in err

    def test_a_constructor_that_cannot_run_on_meta(self, run: Command) -> None:
        status, _, err = run("plan", "nets.py:Numbers")
        assert status == 1
        assert "Numbers cannot be built on the meta device" in err
        assert "--device cpu" in err
        assert "rate.item()" in err
        status, out, _ = run("plan", "nets.py:Numbers", "--device", "cpu")
        assert status == 0
        assert "linear.weight" in out

    def test_a_function_that_returns_no_module(self, run: Command) -> None:
        assert run("plan", "nets.py:make_nothing")[::2] == (
            1,
            "lightning-init: make_nothing returned an object of class int, not a module\n",
        )

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("import torch\nimport no_such_package\n", "No module named 'no_such_package'"),
            ("def f(:\n", "SyntaxError"),
            ("\n1 / 0\n", 'broken.py", line 2'),
            ("raise SystemExit(3)", "ends the process (SystemExit: 3)"),
        ],
    )
    @pytest.mark.parametrize("origin", ["broken.py", "broken"])
    def test_a_module_that_cannot_be_imported(
        self, run: Command, folder: Path, text: str, told: str, origin: str
    ) -> None:
        (folder / "broken.py").write_text(text)
        status, _, err = run("plan", f"{origin}:Net")
        assert status == 1
        assert f"importing '{origin}'" in err
        assert told in err
        assert "importlib" not in err
