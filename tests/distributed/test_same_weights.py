"""One seed, one table of hashes: the ways of one and of two processes here, all of them in the README."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lightning_init import init_weights
from tests.distributed.ways import FIRST, HALF, ROUNDED, Rows, in_one_process, of_ranks
from tests.everything import PARTS, Everything, hashes, write_checkpoint
from tests.same_weights import differing, table

README = Path(__file__).parents[2] / "README.md"

# torch.compile imports what torch itself deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("same")
    write_checkpoint(made)
    return made


@pytest.fixture(scope="module")
def rows(folder: Path) -> Rows:
    return {**in_one_process(folder), **of_ranks(2, folder)}


def of_readme() -> Rows:
    lines = README.read_text(encoding="utf-8").splitlines()
    head = lines.index(f"| seed 0 | {' | '.join(PARTS)} |")
    found = {}
    for line in lines[head + 2 :]:
        if not line.startswith("|"):
            break
        way, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        found[way] = dict(zip(PARTS, cells, strict=True))
    return found


def test_every_way_starts_from_the_same_weights(rows: Rows) -> None:
    assert differing(rows) == []
    assert all(rows[ROUNDED][part] != rows[FIRST][part] for part in PARTS)


def test_the_table_of_the_readme_has_these_ways_and_no_difference(rows: Rows) -> None:
    # Not its hashes: they are those of one version of torch on one kind of processor.
    told = of_readme()
    assert set(rows) < set(told)
    assert differing(told) == []
    assert all(len(value) == 12 for hashed in told.values() for value in hashed.values())
    assert table(told) in README.read_text(encoding="utf-8")


def test_a_difference_is_seen(folder: Path) -> None:
    """Of the seed, in any part that has random numbers; of the bits, in any part."""
    first, other = Everything(folder), Everything(folder)
    init_weights(first, seed=0)
    init_weights(other, seed=1)
    found, different = hashes(first), hashes(other)
    assert [part for part in PARTS if found[part] == different[part]] == ["pretrained"]
    for part in PARTS:
        for parameter in first.get_submodule(part).parameters():
            parameter.data.view(-1)[-1].nextafter_(torch.tensor(torch.inf))
            break
        assert hashes(first)[part] != found[part]
    rows = {FIRST: found, ROUNDED: found, HALF: found, "another": different}
    assert differing(rows) == ["another"]
