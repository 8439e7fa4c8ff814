"""``lightning-init plan``: which rule writes which parameter, before anything is written."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from lightning_init.cli.files import read_yaml
from lightning_init.cli.models import build
from lightning_init.cli.parsers import first_positional, make_parser, parse
from lightning_init.cli.targets import FORM, load_target
from lightning_init.cli.troubles import FAULT, CommandError
from lightning_init.console import print_table
from lightning_init.errors import InitError
from lightning_init.foresight import foreseen
from lightning_init.plan import InitPlan
from lightning_init.planning import build_plan
from lightning_init.report.tables import finding_lines
from lightning_init.tree import Tree

__all__ = ["plan"]

_FLAGS = {"--strict", "--require_all", "--setup", "-h", "--help"}

_DESCRIPTION = """\
Prints which rule writes which parameter of a model, and what it writes it instead of.

The model is built on the meta device: no memory is taken, no number is made. Its code is imported and run for that,
as training would run it. A checkpoint that the config names is opened, and fetched if it is not in the cache."""

_EPILOG = """\
The arguments of the class, below, are taken from its signature; `lightning-init plan MODULE:CLASS --help` lists them.

exit status:
  0  there is a plan
  1  the config, a checkpoint or the model's own code is at fault; or --strict or --require_all found something
  2  the command line is at fault

examples:
  lightning-init plan train.py:LitNet
  lightning-init plan package.models:LitNet --init_cfg init.yaml --args.hidden 128 --strict
  lightning-init plan train.py:make_model --args arguments.yaml"""


_TARGET = (
    "a class derived from torch.nn.Module, or a function that returns a module; MODULE is a dotted name or the path "
    "of a .py file"
)
_INIT_CFG = "a YAML or JSON file with a rule or a list of rules, in place of the model's own init_cfg"
_STRICT = "exit with 1 on any warning: what `strict=True` refuses in training, and what else is found"
_REQUIRE_ALL = "exit with 1 if nothing writes a parameter, or takes a checkpoint's key: what `require_all=True` refuses"
_SETUP = 'also run `LightningModule.setup("fit")`, for the layers that it makes'
_DEVICE = "where the model is built; cpu for code that needs the numbers in its tensors"


def plan(argv: Sequence[str]) -> int:
    """Runs the command.

    Args:
        argv: The command line behind ``plan``.

    Returns:
        The exit status.

    Raises:
        CommandError: There is no plan.
    """
    parser = make_parser("plan", _DESCRIPTION, _EPILOG)
    parser.add_argument("target", metavar="MODULE:CLASS", help=_TARGET, type=str)
    parser.add_argument("--init_cfg", metavar="FILE", help=_INIT_CFG, type=str)
    parser.add_argument("--strict", action="store_true", help=_STRICT)
    parser.add_argument("--require_all", action="store_true", help=_REQUIRE_ALL)
    parser.add_argument("--setup", action="store_true", help=_SETUP)
    parser.add_argument("--device", choices=["meta", "cpu"], default="meta", help=_DEVICE)
    text = first_positional(argv, _FLAGS)
    if text is None:
        if not {"-h", "--help"} & set(argv):
            raise CommandError(f"of which model? give {FORM}")
        parse(parser, argv)
        return 0
    target = load_target(text)
    _add_arguments_of(target, parser)
    given = parse(parser, argv, getattr(target, "__name__", ""))
    init_cfg = None if given.init_cfg is None else read_yaml(given.init_cfg)
    module, notes = build(target, lambda: _arguments(parser, given), device=given.device, setup=given.setup)
    try:
        made = build_plan(module, init_cfg, label=Path(given.init_cfg or "init_cfg").name)
    except InitError as error:
        raise CommandError(f"{type(error).__name__}: {error}", FAULT) from None
    rows, legend = made.overview()
    # The plan tells of the others itself.
    found = finding_lines(it for it in foreseen(made, Tree(module)) if it.severity != "info")
    print_table(rows, [*filter(None, [str(legend)]), *found, *made.told(), *(f"note: {note}" for note in notes)])
    return _judged(made, given, len(found) + len(made.warnings))


def _add_arguments_of(target: Callable[..., Any], parser: ArgumentParser) -> None:
    try:
        if isinstance(target, type):
            parser.add_class_arguments(target, "args", fail_untyped=False, instantiate=False)
        else:
            parser.add_function_arguments(target, "args", fail_untyped=False)
    except Exception as error:
        name = getattr(target, "__name__", repr(target))
        raise CommandError(
            f"the signature of {name} cannot be read: {error}; a function without arguments that returns the "
            f"model will do",
            FAULT,
        ) from error


def _arguments(parser: ArgumentParser, given: Namespace) -> Mapping[str, Any]:
    made = parser.instantiate(given)
    return dict(vars(made.args)) if "args" in made else {}


def _judged(made: InitPlan, given: Namespace, warnings: int) -> int:
    told = []
    if given.strict and warnings:
        told.append(f"{warnings} {'warning' if warnings == 1 else 'warnings'} (--strict)")
    if given.require_all:
        told += [f"{name}: nothing writes it (--require_all)" for name in made.untouched()]
        told += [f"{key}: nothing takes it (--require_all)" for key in made.unexpected()]
    if told:
        sys.stdout.flush()
        sys.stderr.writelines(f"lightning-init plan: {line}\n" for line in told)
    return FAULT if told else 0
