from __future__ import annotations

from typing import Any, TypeGuard

import pytest

from lightning_init.checkpoint.base import Reading
from lightning_init.checkpoint.formats.containers import find
from lightning_init.errors import CheckpointError


def is_float(value: object) -> TypeGuard[float]:
    return isinstance(value, float)


def found(content: object, **reading: Any) -> dict[str, float]:
    return find(content, Reading(**reading), "w.ckpt", is_float)[0]


def notes(content: object, **reading: Any) -> tuple[str, ...]:
    return find(content, Reading(**reading), "w.ckpt", is_float)[1]


def refusal(content: object, where: str, **reading: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        found(content, **reading)
    (fault,) = caught.value.faults
    assert fault.where == where
    assert "'w.ckpt'" in fault.what
    return fault.what


# Any value of this type stands for a tensor.
ONE, TWO = {"a": 1.0, "n": 3}, {"a": 2.0, "n": 3}

LIGHTNING = {"state_dict": ONE, "current_model_state": TWO, "averaging_state": {"n_averaged": 5.0}}
MMENGINE = {"state_dict": ONE, "ema_state_dict": {"module.a": 2.0, "steps": 5.0}, "message_hub": {}}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (ONE, 1.0),
        ({"state_dict": ONE, "model": TWO}, 1.0),
        ({"model": ONE, "epoch": 3, "loss": 0.5}, 1.0),
        ({"ema": TWO, "module": ONE}, 1.0),
        ({"state_dict": {"n": 3}, "student": ONE}, 1.0),
        ({"state_dict": 3, "model": ONE}, 1.0),
        ({"model": {"state_dict": ONE, "ema": TWO, "a": 3.0}}, 1.0),
        ({"teacher": {"model": {"model": ONE}, "a": 2.0}}, 2.0),
        # names of a model's own parts
        ({"a": 1.0, "model.a": 2.0, "ema.a": 3.0}, 1.0),
        (LIGHTNING, 1.0),
        (MMENGINE, 1.0),
    ],
)
def test_the_usual_containers(content: object, expected: float) -> None:
    assert found(content)["a"] == expected


def test_of_a_container_tensors_under_names_are_taken() -> None:
    assert found({"model": {"b": 1.0, "a": 2.0, "n": 3, 4: 5.0, ("x",): 6.0, "deep": {"c": 7.0}}}) == {
        "b": 1.0,
        "a": 2.0,
    }


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (ONE, ()),
        ({"model": ONE, "optimizer": {"state": {0: {"m": 1.0}}}}, ()),
        (
            {"model": ONE, "ema": TWO},
            ("the weights are those of 'model'; there are others in 'ema', which container=... takes",),
        ),
        (
            {"student": {"model": ONE}, "ema": TWO, "model_ema": {"state_dict": TWO}},
            (
                (
                    "the weights are those of 'model_ema.state_dict'; there are others in 'ema', 'student.model', "
                    "which container=... takes"
                ),
            ),
        ),
        (
            LIGHTNING,
            ("'state_dict' holds averaged weights; container='current_model_state' takes those of the last step",),
        ),
        (MMENGINE, ("'state_dict' holds averaged weights; container='ema_state_dict' takes those of the last step",)),
    ],
)
def test_what_else_there_is_is_told(content: object, told: tuple[str, ...]) -> None:
    assert notes(content) == told


@pytest.mark.parametrize(
    ("content", "container", "expected"),
    [
        ({"net": ONE, "model": TWO}, "net", 1.0),
        ({"net": {"inner": {"last": ONE}}, "model": TWO}, "net.inner.last", 1.0),
        ({"net.inner": ONE, "net": {"inner": TWO}}, "net.inner", 1.0),
        ({"model": {"a": 1.0, "state_dict": TWO}}, "model", 1.0),
        ({"model": TWO, "model_ema": ONE}, "model_ema", 1.0),
        (LIGHTNING, "current_model_state", 2.0),
    ],
)
def test_a_container_by_name(content: object, container: str, expected: float) -> None:
    assert found(content, container=container)["a"] == expected
    assert notes(content, container=container) == ()


@pytest.mark.parametrize(
    ("content", "container", "told"),
    [
        ({"model_ema": ONE}, "model_em", "'w.ckpt' has no such part; did you mean 'model_ema'?"),
        ({"net": {"weights": ONE}}, "net.weihgts", "did you mean 'net.weights'?"),
        ({"net": {"weights": ONE}}, "zzz", "there are 'net.weights'"),
        ({"net": {"weights": ONE}}, "net", "has a dict there, and no tensors in it; there are"),
        ({"epoch": 3, "net": ONE}, "epoch", "has a int there, and no tensors in it"),
        ({"epoch": 3, "net": ONE}, "epoch.net", "has no such part"),
        (ONE, "model", "there are none"),
        (ONE, "", "there are none"),
    ],
)
def test_a_container_that_is_not_there(content: object, container: str, told: str) -> None:
    assert told in refusal(content, "container", container=container)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"model": TWO, "state_dict_ema": ONE}, 1.0),
        ({"model": TWO, "model_ema": {"state_dict": ONE}}, 1.0),
        ({"ema": ONE, "state_dict": TWO}, 1.0),
        ({"student": TWO, "teacher": ONE}, 1.0),
        ({"teacher": TWO, "ema": ONE}, 1.0),
        ({"ema": {"n": 3}, "teacher": ONE}, 1.0),
        # They were put where the others had been.
        (LIGHTNING, 1.0),
        (MMENGINE, 1.0),
    ],
)
def test_averaged_weights(content: object, expected: float) -> None:
    assert found(content, ema=True)["a"] == expected


def test_averaged_weights_in_several_places_are_told() -> None:
    assert notes(LIGHTNING, ema=True) == ()
    assert notes({"model": TWO, "ema": ONE}, ema=True) == ()
    (note,) = notes({"teacher": TWO, "ema": ONE}, ema=True)
    assert note == "the weights are those of 'ema'; there are others in 'teacher', which container=... takes"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (ONE, "it has no parts that hold tensors; leave ema out"),
        (
            {"model": ONE, "my_average": TWO},
            "there are 'model', 'my_average'; name the right one with container=..., or",
        ),
        ({"state_dict": ONE, "current_model_state": TWO}, "there are 'current_model_state', 'state_dict'"),
        # without MMEngine's counter of steps, or with other keys, nothing says which are which
        ({"state_dict": ONE, "ema_state_dict": {"module.a": 2.0}}, "there are 'ema_state_dict', 'state_dict'"),
        ({"state_dict": ONE, "ema_state_dict": {"a": 2.0, "steps": 1.0}}, "there are 'ema_state_dict', 'state_dict'"),
    ],
)
def test_no_averaged_weights(content: object, told: str) -> None:
    message = refusal(content, "ema", ema=True)
    assert told in message
    assert "no averaged weights under one of 'state_dict_ema', 'model_ema', 'ema', 'teacher'" in message


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ([1.0], "holds a list, not a mapping"),
        ({}, "it holds nothing; save module.state_dict()"),
        ({"epoch": 3, "x" * 100: 4}, f"it holds 'epoch', '{'x' * 59}..."),
        ({f"key{i}": i for i in range(10)}, "'key7' and 2 more; save"),
        ({"net": {"w": ONE, "v": TWO}, "best": ONE}, "in 'net.w' (1 of them), 'net.v' (1 of them), 'best' (1 of them)"),
        ({"\ud800": 3, "\x1b[m": 4}, r"it holds '\ud800', '\x1b[m'"),
    ],
)
@pytest.mark.parametrize("reading", [{}])
def test_nothing_to_be_found(content: object, told: str, reading: dict[str, Any]) -> None:
    assert told in refusal(content, "checkpoint", **reading)


def test_content_that_holds_itself() -> None:
    content: dict[str, Any] = {"n": 3}
    content["model"] = content
    assert "it holds 'n', 'model'" in refusal(content, "checkpoint")
    refusal(content, "ema", ema=True)
    refusal(content, "container", container="model.model.model.n")
