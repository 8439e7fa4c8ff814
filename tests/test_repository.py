"""What the pages of the repository say is so."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import pytest

import lightning_init

ROOT = Path(__file__).parent.parent
ONE_LINE = r"error: [^\n]+\n(make: [^\n]+\n)?"
"""One line of our own; make adds one of its own when a recipe fails."""


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def project() -> str:
    """The tables of pyproject.toml that describe the project."""
    return read("pyproject.toml").partition("[tool.")[0]


def normal(name: str) -> str:
    return name.lower().replace("_", "-")


def declared_version() -> str:
    (found,) = re.findall(r'^version = "(.+)"$', project(), re.MULTILINE)
    return str(found)


def make(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run make with an environment that has only what it needs, as on a bare machine."""
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=ROOT,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", **env},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def test_the_package_knows_its_version() -> None:
    assert lightning_init.__version__ == version("lightning-init") == declared_version()


def test_the_changelog_starts_with_this_version() -> None:
    first = re.findall(r"^## \[(.+?)\]", read("CHANGELOG.md"), re.MULTILINE)[0]
    assert first == ("Unreleased" if ".dev" in declared_version() else declared_version())


def test_the_package_carries_its_type_marker() -> None:
    assert files("lightning_init").joinpath("py.typed").is_file()


def test_the_commands_of_the_readme_exist() -> None:
    named = set(re.findall(r"(?:`|^)make ([a-z]+)", read("README.md"), re.MULTILINE))
    targets = set(re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE))
    assert {"demo", "test"} <= named
    assert named <= targets


def test_every_requirement_is_pinned() -> None:
    requirement_tables = project()[project().index("\ndependencies = ") :]
    tables = re.findall(r"^[a-z]+ = \[(.*?)\]$", requirement_tables, re.MULTILINE | re.DOTALL)
    named = {normal(name) for table in tables for name in re.findall(r'"([A-Za-z][\w.-]*)', table)}
    pinned = {normal(name) for name in re.findall(r"^([\w.-]+)==", read("tests/constraints.txt"), re.MULTILINE)}
    assert {"torch", "lightning", "pytest", "ruff", "rich", "transformers"} <= named
    assert named - pinned == {"lightning-init"}


def test_a_missing_venv_module_is_told_in_one_line(tmp_path: Path) -> None:
    """An `ensurepip` that cannot be imported, as in Debian's python3 without python3-venv."""
    (tmp_path / "ensurepip.py").write_text("raise ModuleNotFoundError('ensurepip')\n")
    venv = tmp_path / "venv"
    result = make("demo", f"PYTHON={sys.executable}", f"VENV={venv}", PYTHONPATH=str(tmp_path))
    assert result.returncode != 0
    assert result.stdout == ""
    assert re.fullmatch(ONE_LINE, result.stderr)
    assert "apt-get install python3-venv" in result.stderr
    assert not venv.exists()


def test_a_missing_interpreter_is_told_in_one_line(tmp_path: Path) -> None:
    result = make("test", f"PYTHON={tmp_path}/none", f"VENV={tmp_path}/venv")
    assert result.returncode != 0
    assert re.fullmatch(ONE_LINE, result.stderr)
    assert f"no interpreter '{tmp_path}/none'" in result.stderr


def test_an_old_interpreter_is_told_in_one_line(tmp_path: Path) -> None:
    old = tmp_path / "python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    result = make("test", f"PYTHON={old}", f"VENV={tmp_path}/venv")
    assert result.returncode != 0
    assert re.fullmatch(ONE_LINE, result.stderr)
    assert "older than Python 3.10" in result.stderr


def test_what_is_set_up_is_not_set_up_again() -> None:
    venv = os.path.relpath(sys.prefix, ROOT)
    if venv != ".venv" or not Path(sys.prefix, ".installed-test").exists():
        pytest.skip("these tests do not run in the environment that `make test` makes")
    unchanged = [f"--old-file={name}" for name in ("pyproject.toml", "tests/constraints.txt")]
    result = make("--dry-run", *unchanged, "test", f"VENV={venv}")
    assert result.returncode == 0
    assert "pytest" in result.stdout
    assert "pip" not in result.stdout
