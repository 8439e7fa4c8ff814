"""The direction of imports, and what an `__init__` may hold: read from the sources, nothing is run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "lightning_init"
ROOT = Path(__file__).parent.parent / PACKAGE

ORDER = [
    "errors",
    "registry",
    "text",
    "lazily",
    "console",
    "settings",
    "rng",
    "gradients",
    "once",
    "workers",
    "garbage",
    "presence",
    "outcomes",
    "exchange",
    "distributed",
    "flat",
    "sharding",
    "empty_init",
    "wrappers",
    "gathering",
    "digests",
    "parametrized",
    "units",
    "slot",
    "tree",
    "elsewhere",
    "values",
    "scope",
    "initializers.laws",
    "initializers.dispatch",
    "initializers.truncated",
    "initializers.fill",
    "initializers.checks",
    "initializers.formulas",
    "initializers.write",
    "initializers.base",
    "initializers.constant",
    "initializers.normal",
    "initializers.uniform",
    "initializers.variance",
    "initializers.scaling",
    "initializers.residual",
    "initializers.orthogonal",
    "initializers.dirac",
    "initializers.keep",
    "initializers",
    "functional",
    "checkpoint.base",
    "checkpoint.samples",
    "checkpoint.confined",
    "checkpoint.index",
    "checkpoint.folders",
    "checkpoint.sources.addresses",
    "checkpoint.sources.cache",
    "checkpoint.sources.registry",
    "checkpoint.sources.shards",
    "checkpoint.sources.background",
    "checkpoint.sources.progress",
    "checkpoint.sources.halves",
    "checkpoint.sources.http_answers",
    "checkpoint.sources.download",
    "checkpoint.sources.http",
    "checkpoint.sources.remote",
    "checkpoint.sources.torchvision_weights",
    "checkpoint.sources.hub_address",
    "checkpoint.sources.hub_errors",
    "checkpoint.sources.hub",
    "checkpoint.sources.locate",
    "checkpoint.sources",
    "checkpoint.formats.stand_ins",
    "checkpoint.formats.constructors",
    "checkpoint.formats.unpickling",
    "checkpoint.formats.layouts",
    "checkpoint.formats.mapped",
    "checkpoint.formats.containers",
    "checkpoint.formats.pickles",
    "checkpoint.formats.torch_files",
    "checkpoint.formats.safetensors_files",
    "checkpoint.formats.dcp_unpickling",
    "checkpoint.formats.dcp_metadata",
    "checkpoint.formats.dcp_chunks",
    "checkpoint.formats.dcp",
    "checkpoint.formats.sharded",
    "checkpoint.formats.recognise",
    "checkpoint.formats",
    "checkpoint.matching.rules",
    "checkpoint.matching.naming",
    "checkpoint.matching.revise",
    "checkpoint.matching.keys",
    "checkpoint.matching.target",
    "checkpoint.matching.adapters.base",
    "checkpoint.matching.adapters.input_conv",
    "checkpoint.matching.adapters.classifier",
    "checkpoint.matching.adapters.pos_embed",
    "checkpoint.matching.adapters.registry",
    "checkpoint.matching.adapters",
    "checkpoint.matching.conversion",
    "checkpoint.matching.matched",
    "checkpoint.matching.adapt",
    "checkpoint.matching.places",
    "checkpoint.matching.complaints",
    "checkpoint.matching.match",
    "checkpoint.matching",
    "checkpoint.broadcast",
    "checkpoint.arguments",
    "checkpoint.slots",
    "checkpoint.pretrained",
    "checkpoint.inspection",
    "checkpoint.comparison",
    "checkpoint",
    "carried",
    "rules",
    "config",
    "recipe",
    "steps",
    "settling",
    "finite",
    "methods",
    "plan",
    "outline",
    "selection",
    "planner",
    "planning",
    "tracking",
    "chunks",
    "sums",
    "moments",
    "report.histograms",
    "report.findings",
    "report.signal",
    "report.roles",
    "report.rows",
    "report.columns",
    "report.files",
    "report.significance",
    "report.law_findings",
    "report.value_findings",
    "report.source_findings",
    "report.signal_findings",
    "report.examine",
    "report.measuring",
    "report.tables",
    "report.diff",
    "report.json_format",
    "report.plots.style",
    "report.plots.names",
    "report.plots.scale",
    "report.plots.spread",
    "report.plots.signals",
    "report.plots.remarks",
    "report.plots.page",
    "report.plots.histograms",
    "report.plots.statistics",
    "report.plots",
    "report.report",
    "report.checkpoints",
    "report",
    "metrics",
    "lending",
    "taps",
    "probe",
    "batches",
    "materialize",
    "admission",
    "extents",
    "ledger",
    "foresight",
    "skipping",
    "storage",
    "writer",
    "forest",
    "calls",
    "run",
    "engine",
    "modules",
    "loggers.page",
    "loggers.material",
    "loggers.console",
    "loggers.tensorboard",
    "loggers.wandb",
    "loggers.mlflow",
    "loggers.csv_files",
    "loggers.other",
    "loggers.dispatch",
    "loggers",
    "hooks",
    "fsdp",
    "strategies",
    "probing",
    "arguments",
    "callback",
    "",
    "cli.troubles",
    "cli.files",
    "cli.targets",
    "cli.models",
    "cli.parsers",
    "cli.checkpoints",
    "cli.plan",
    "cli.inspect",
    "cli.diff",
    "cli.main",
    "cli",
    "__main__",
]
"""The modules from the bottom to the top; the empty name is the package itself."""

HEAVY = {
    "lightning": {
        *(name for name in ORDER if name.startswith("loggers.")),
        "empty_init",
        "hooks",
        "fsdp",
        "strategies",
        "probing",
        "callback",
    },
    "mlflow": set(),
    "tensorboard": {"loggers.tensorboard"},
    "torchmetrics": {"metrics"},
    "wandb": {"loggers.wandb"},
}
"""Third-party packages that only some modules may import."""


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def imported(tree: ast.AST, module: str, *, is_package: bool) -> Iterator[str]:
    """The full dotted names that a module imports, at any depth of its code; `from a import b` gives `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                here = [PACKAGE, *filter(None, module.split("."))]
                base = here[: len(here) - node.level + is_package]
                origin = ".".join([*base, *filter(None, [origin])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def own_modules(names: Iterator[str]) -> set[str]:
    """The modules of this package among full dotted names, without the package's own name."""
    found = set()
    for name in names:
        if name == PACKAGE or name.startswith(f"{PACKAGE}."):
            inner = name.removeprefix(PACKAGE).removeprefix(".")
            while inner not in ORDER:
                inner = inner.rpartition(".")[0]
            found.add(inner)
    return found


def parse(module: str) -> ast.Module:
    return ast.parse(FILES[module].read_text(encoding="utf-8"))


def names_of(module: str) -> Iterator[str]:
    return imported(parse(module), module, is_package=FILES[module].name == "__init__.py")


def exported(tree: ast.Module) -> list[str] | None:
    """The names in `__all__`; `None` if there is no such list."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]:
            names = ast.literal_eval(node.value)
            assert isinstance(names, list)
            return names
    return None


def rank_of_name(name: str) -> tuple[int, str]:
    """Where a name stands in a sorted `__all__`: constants, classes, the rest (the order that ruff keeps)."""
    kind = 0 if name.isupper() else 1 if name[:1].isupper() else 2
    return kind, name


@pytest.mark.parametrize(
    ("source", "module", "is_package", "expected"),
    [
        ("import lightning_init.plan", "engine", False, {"plan"}),
        ("from lightning_init.plan import InitPlan", "engine", False, {"plan"}),
        ("from lightning_init import plan", "engine", False, {"plan"}),
        ("from lightning_init import InitPlan", "engine", False, {""}),
        ("import lightning_init", "engine", False, {""}),
        ("from lightning_init.initializers.laws import Law", "engine", False, {"initializers.laws"}),
        ("from lightning_init.initializers import KaimingInit", "engine", False, {"initializers"}),
        ("from . import plan", "engine", False, {"plan"}),
        ("from .plan import InitPlan", "engine", False, {"plan"}),
        ("from .laws import Law", "initializers", True, {"initializers.laws"}),
        ("from ..errors import Fault", "initializers.laws", False, {"errors"}),
        ("def f():\n    from lightning_init.callback import x", "engine", False, {"callback"}),
        ("if TYPE_CHECKING:\n    import lightning_init.callback", "engine", False, {"callback"}),
        ("import lightning_initial, torch.nn", "engine", False, set()),
    ],
)
def test_the_reader_of_imports_sees_every_form(source: str, module: str, is_package: bool, expected: set[str]) -> None:
    assert own_modules(imported(ast.parse(source), module, is_package=is_package)) == expected


def test_every_module_stands_in_the_order() -> None:
    assert set(FILES) - set(ORDER) == set()
    assert len(ORDER) == len(set(ORDER))


@pytest.mark.parametrize("module", FILES)
def test_imports_point_down(module: str) -> None:
    below = ORDER[: ORDER.index(module)]
    assert own_modules(names_of(module)) - set(below) == set()


@pytest.mark.parametrize("module", FILES)
def test_only_the_outer_modules_import_heavy_packages(module: str) -> None:
    origins = {name.partition(".")[0] for name in names_of(module)}
    assert "pytorch_lightning" not in origins
    assert {heavy for heavy in HEAVY if heavy in origins and module not in HEAVY[heavy]} == set()


@pytest.mark.parametrize("module", [name for name, path in FILES.items() if path.name == "__init__.py"])
def test_an_init_file_defines_nothing(module: str) -> None:
    docstring, *body = parse(module).body
    assert isinstance(docstring, ast.Expr)
    assigned = [ast.unparse(node.targets[0]) for node in body if isinstance(node, ast.Assign)]
    assert set(assigned) <= ({"__all__", "__dir__", "__getattr__", "__version__"} if module == "" else {"__all__"})
    others = [node for node in body if not isinstance(node, (ast.Assign, ast.Import, ast.ImportFrom))]
    # Of what `__getattr__` finds, a type checker is told.
    told = [node for node in others if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    assert all(isinstance(node, ast.ImportFrom) for block in told for node in block.body)
    others = [node for node in others if module or node not in told]
    assert [ast.unparse(node) for node in others] == []


@pytest.mark.parametrize("module", FILES)
def test_every_module_has_a_sorted_all(module: str) -> None:
    tree = parse(module)
    names = exported(tree)
    if len(tree.body) == 1:  # a docstring alone
        return
    assert names is not None
    assert names == sorted(set(names), key=rank_of_name)
