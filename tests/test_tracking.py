"""Writes are seen as they happen, and only those; what they are put down to is tested with the methods."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils import dlpack

from lightning_init.tracking import Tracker


def tracked(*tensors: Tensor) -> Tracker:
    return Tracker(lambda: {str(i): [tensor] for i, tensor in enumerate(tensors)})


@pytest.mark.parametrize(
    "write",
    [
        lambda w: w.fill_(1),
        lambda w: w.zero_(),
        lambda w: w.add_(0),
        lambda w: w.__setitem__(0, 5.0),
        lambda w: w.__setitem__((slice(None), 1), torch.zeros(2)),
        lambda w: w.masked_fill_(w > 10, 0),
        lambda w: w.index_copy_(0, torch.tensor([1]), torch.zeros(1, 3)),
        lambda w: w.data.normal_(),
        lambda w: w.detach().T[0].uniform_(),
        lambda w: w.view(-1)[5:].zero_(),
        lambda w: w.unbind()[1].fill_(2),
        lambda w: w.as_strided((1,), (1,), 5).fill_(1),
        lambda w: torch._foreach_mul_([torch.ones(1), w], 2),
        lambda w: torch._foreach_copy_([w], [torch.zeros(2, 3)]),
        lambda w: torch.mul(w, 2, out=w),
        lambda w: torch.sort(torch.zeros(2, 3), out=(w, torch.empty(2, 3, dtype=torch.int64))),
        nn.init.orthogonal_,
        nn.init.trunc_normal_,
        nn.init.eye_,
        lambda w: nn.init.sparse_(w, 0.5),
        lambda w: w.untyped_storage().fill_(1),
        lambda w: w.numpy().fill(3),
        lambda w: np.asarray(w).__setitem__((0, 0), 9.0),
        lambda w: memoryview(w.numpy()).cast("B").__setitem__(3, 77),
        lambda w: torch.from_numpy(w.numpy()).fill_(4),
        lambda w: dlpack.from_dlpack(w).fill_(4),
    ],
)
def test_writes(write: Callable[[Tensor], object]) -> None:
    weight, other = torch.rand(2, 3), torch.rand(2, 3)
    with torch.no_grad(), tracked(weight, other) as tracker:
        write(weight)
        assert tracker.take() == ["0"]
        assert tracker.take() == [], "what is told is forgotten"


@pytest.mark.parametrize(
    "read",
    [
        lambda w: w.sum(),
        lambda w: w.clone().fill_(1),
        lambda w: w.add(1),
        lambda w: torch.add(w, 1, out=torch.empty(2, 3)),
        lambda w: torch.zeros(2, 3).copy_(w),
        lambda w: torch._foreach_add_([torch.zeros(2, 3)], [w]),
        lambda w: w.numpy().sum(),
        lambda w: w.numpy().copy().fill(3),
        lambda w: w.tolist(),
        lambda w: w.data_ptr(),
        repr,
        lambda w: w.to(torch.float64).fill_(3),
        lambda w: w.requires_grad_().sum().backward(),
        lambda w: torch.save(w, "/dev/null"),
    ],
)
def test_reads(read: Callable[[Tensor], object]) -> None:
    weight = torch.rand(2, 3)
    with tracked(weight) as tracker:
        read(weight)
        assert tracker.take() == []


def test_numpy_that_writes_other_bits_of_the_same_value() -> None:
    weight = torch.zeros(2)
    with tracked(weight) as tracker:
        weight.numpy()[0] = -0.0
        assert tracker.take() == ["0"]


def test_numpy_that_leaves_a_nan_as_it_is() -> None:
    weight = torch.full((2,), float("nan"))
    with tracked(weight) as tracker:
        weight.numpy()
        assert tracker.take() == []


def test_only_memory_that_leaves_is_copied() -> None:
    weight, other = torch.zeros(2), torch.zeros(2)
    with tracked(weight, other) as tracker:
        weight.fill_(1).add_(other.data.sum())
        weight.data = torch.ones(2)
        assert tracker._copies == {}
        tracker.take()
        assert tracker._copies == {}
        other.numpy()
        assert list(tracker._copies) == ["1"]


def test_memory_that_was_handed_out_stays_watched() -> None:
    weight = torch.zeros(2)
    with tracked(weight) as tracker:
        array = weight.numpy()
        assert tracker.take() == []
        array[0] = 1
        assert tracker.take() == ["0"]
        assert tracker.take() == []
        array[0] = 2
        assert tracker.take() == ["0"]


def test_neighbours_in_one_storage_are_told_apart() -> None:
    storage = torch.zeros(12)
    first, second, columns = storage[:4], storage[4:8], storage[8:].view(2, 2)[:, 1]
    with tracked(first, second, columns) as tracker:
        second[0] = 1
        assert tracker.take() == ["1"]
        storage[3:5] = 1
        assert tracker.take() == ["0", "1"]
        storage[9] = 1
        assert tracker.take() == ["2"]


def test_names_come_in_the_order_of_the_first_write() -> None:
    tensors = [torch.zeros(1) for _ in range(3)]
    with tracked(*tensors) as tracker:
        for i in (2, 0, 2, 1):
            tensors[i].fill_(i)
        assert tracker.take() == ["2", "0", "1"]


def test_replaced_and_new_tensors() -> None:
    module = nn.Linear(2, 2)
    with Tracker(lambda: {name: [parameter] for name, parameter in module.named_parameters()}) as tracker:
        module.weight = nn.Parameter(module.weight.detach().clone())
        module.scale = nn.Parameter(torch.ones(1))
        assert tracker.take() == ["weight", "scale"]
        module.bias.data = module.bias.data.clone()
        assert tracker.take() == ["bias"]
        assert tracker.take() == []
        module.weight.data.fill_(1)
        module.scale.data.fill_(1)
        assert tracker.take() == ["weight", "scale"], "the new ones are watched"


def test_an_address_that_is_used_again_is_no_write() -> None:
    module = nn.ParameterList([torch.ones(1000)])
    with Tracker(lambda: {"0": [module[0]]}) as tracker:
        module[0] = nn.Parameter(torch.ones(1000))
        tracker.take()
        for _ in range(20):
            torch.ones(1000).fill_(3)
        assert tracker.take() == []


def test_a_name_may_stand_for_several_tensors() -> None:
    parts = [torch.zeros(1), torch.zeros(1)]
    with Tracker(lambda: {"weight": parts}) as tracker:
        parts[1].fill_(1)
        assert tracker.take() == ["weight"]


def test_an_inactive_tracker_does_not_look() -> None:
    weight = torch.zeros(2)
    with tracked(weight) as tracker:
        tracker.active = False
        weight.fill_(1)
        tracker.active = True
        assert tracker.take() == []


def test_outside_nothing_is_seen() -> None:
    weight = torch.zeros(2)
    with tracked(weight) as tracker:
        pass
    weight.fill_(1)
    assert tracker.take() == []


def test_an_exception_leaves_no_mode_behind() -> None:
    weight = torch.zeros(2)
    tracker = tracked(weight)
    with pytest.raises(ZeroDivisionError), tracker:
        _ = 1 / 0
    weight.fill_(1)
    assert tracker.take() == []


def test_trackers_nest() -> None:
    weight, inner_weight = torch.zeros(2), torch.zeros(2)
    with tracked(weight) as outer:
        with tracked(inner_weight) as inner:
            weight.fill_(1)
            inner_weight.fill_(1)
            assert inner.take() == ["0"]
        assert outer.take() == ["0"]


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1, 1)])
def test_every_shape_and_device(shape: tuple[int, ...], device: str) -> None:
    weight = torch.zeros(shape, device=device)
    with tracked(weight) as tracker:
        weight.fill_(1)
        assert tracker.take() == (["0"] if weight.numel() else [])


def test_lazy_and_sparse_parameters_do_no_harm() -> None:
    lazy: Any = nn.LazyLinear(2)
    sparse = nn.Parameter(torch.eye(2).to_sparse())
    linear = nn.Linear(2, 2)
    tensors = {"lazy": [lazy.weight], "sparse": [sparse], "linear": [linear.weight]}
    with Tracker(lambda: tensors) as tracker:
        linear.weight.data.fill_(1)
        assert tracker.take() == ["linear"]
        lazy(torch.ones(1, 3))
        assert "lazy" in tracker.take()
