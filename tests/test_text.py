from __future__ import annotations

import pytest

from lightning_init.text import Legend, columns, markdown


def test_columns_are_as_wide_as_their_longest_cell() -> None:
    rows = [("a", "bb", "c"), ("aaa", "b", ""), ("", "", "ccc")]
    assert columns(rows).splitlines() == ["a    bb  c", "aaa  b", "         ccc"]


def test_columns_may_be_indented_and_empty() -> None:
    assert columns([("a", "b")], indent="  ") == "  a  b"
    assert columns([]) == ""


def test_rows_of_another_length_are_an_error() -> None:
    with pytest.raises(ValueError, match="zip"):
        columns([("a", "b"), ("a", "b", "c")])


def test_a_legend_numbers_every_text_once() -> None:
    legend = Legend()
    assert str(legend) == ""
    assert [legend.number("x", "1"), legend.number("y", "2"), legend.number("x", "1")] == ["[1]", "[2]", "[1]"]
    assert str(legend).splitlines() == ["[1]  x  1", "[2]  y  2"]


def test_a_markdown_table() -> None:
    table = markdown(["a", "b"], [["1", "x|y"], ["", "re:(p|q)"]])
    assert table.splitlines() == ["| a | b |", "| --- | --- |", r"| 1 | x\|y |", r"|  | re:(p\|q) |"]


def test_a_cell_of_several_lines_stays_one_cell() -> None:
    assert markdown(["a"], [["x\ny"]]).splitlines() == ["| a |", "| --- |", "| x y |"]
