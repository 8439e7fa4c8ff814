"""The parameters of FSDP1's units, which one flat parameter each stands in for, in their places again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from lightning_init.errors import Fault, InitError
from lightning_init.flat import FlatRange, FlatShard
from lightning_init.wrappers import every_module, is_fsdp, of_classes

__all__ = ["FLATTENED", "has_units", "held_flat", "unflattened"]

_FLAT = "_flat_param"

FLATTENED = "_fsdp_flattened"
"""An attribute that FSDP1 gives to its flat parameters and, if it keeps them, to those that these are made of."""


def has_units(module: nn.Module) -> bool:
    """A part of it is wrapped by FSDP1."""
    return bool(of_classes(every_module(module), is_fsdp))


def held_flat(module: nn.Module) -> list[str]:
    """The parameters of a module itself of which it has no more than a range of elements, as this rank holds it.

    A parameter of one dimension that lies alone is taken for such a range, even where FSDP has gathered it.
    """
    flat = {name: held for name, held in module._parameters.items() if getattr(held, FLATTENED, False)}
    is_whole = any(held is not None and held.dim() > 1 for held in flat.values())
    return [*([] if is_whole else flat), *_views(module)]


def _views(module: nn.Module) -> list[str]:
    """The same with ``use_orig_params=False``, where views of what was the flat parameter stand for parameters."""
    attributes = vars(module)
    if Tensor not in map(type, attributes.values()):
        return []
    return [name for name, held in attributes.items() if type(held) is Tensor and getattr(held._base, FLATTENED, False)]


@contextmanager
def unflattened(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Puts a `FlatShard` in the place of every parameter that FSDP1 has flattened, under its own name and shape.

    Args:
        modules: A module with its wrappers, which hold the flat parameters, and all below it, as `every_module` gives
            them. Nothing happens without any flat parameters.

    Raises:
        InitError: A flat parameter is out of reach, or gathered, or one of tensors that are spread themselves.
    """
    handles = [handle for unit in of_classes(modules, is_fsdp) if (handle := _handle(unit)) is not None]
    with ExitStack() as undo:
        for handle in handles:
            _unflatten(handle, undo)
        if _has_strays(modules):
            _refuse_strays(modules[0])
        yield


def _handle(unit: nn.Module) -> Any:
    """What torch keeps of a unit; None if it has no parameters."""
    return getattr(unit, "_handle", None)


def _unflatten(handle: Any, undo: ExitStack) -> None:
    flat = handle.flat_param
    if any(extension is not None for extension in flat._param_extensions):
        raise InitError(
            f"{flat._fqns[0]!r} is spread by FSDP1 and by tensor parallel at once, which lightning_init does not know; "
            f"use FSDP2 (fully_shard, ModelParallelStrategy)"
        )
    if handle._training_state.name != "IDLE":
        # What replaces a parameter would be lost when it is let go.
        raise InitError(f"{flat._fqns[0]!r} is gathered by FSDP; do this outside of summon_full_params, where it works")
    # After a forward pass a unit may still have its gathered weights, and would use them in the next one.
    if handle.uses_sharded_strategy and hasattr(flat, "_full_param_padded") and not handle.needs_unshard():
        handle.reshard(free_unsharded_flat_param=True)
    held = handle._fully_sharded_module._parameters
    if held.pop(_FLAT, None) is not None:
        undo.callback(held.__setitem__, _FLAT, flat)
    made: dict[tuple[nn.Module, str], FlatShard] = {}
    for i, (name, module, _) in enumerate(flat._param_infos):
        made[module, name] = _shard(handle, i)
        _put(module, name, made[module, name], undo)
    for name, module, _, first_name, first_module, _ in flat._shared_param_infos:
        _put(module, name, made[first_module, first_name], undo)


def _shard(handle: Any, index: int) -> FlatShard:
    flat = handle.flat_param
    original = flat if flat._params is None else flat._params[index]
    shape, info = tuple(flat._shapes[index]), flat._shard_param_infos[index]
    order = tuple(range(len(shape)))
    if not flat._contiguities[index]:
        # It was laid out as it stood in memory.
        order = tuple(sorted(order, key=flat._strides[index].__getitem__, reverse=True))
    start, length, offset = 0, 0, 0
    if info.in_shard:
        start, length, offset = info.intra_param_start_idx, info.numel_in_shard, info.offset_in_shard
    shard = FlatShard.of(
        flat.detach()[offset : offset + length],
        FlatRange(start, length, order),
        shape,
        handle.process_group if handle.uses_sharded_strategy else None,
        handle.device,
        requires_grad=original.requires_grad,
    )
    if original is not flat:
        shard.__dict__.update(original.__dict__)
    shard._is_param = True  # what `isinstance(shard, nn.Parameter)` asks for
    return shard


def _put(module: nn.Module, name: str, shard: FlatShard, undo: ExitStack) -> None:
    """Puts a parameter in its place, where a parameter is or, with ``use_orig_params=False``, a tensor."""
    attributes, held = module.__dict__, module._parameters
    if name in attributes:
        undo.callback(attributes.__setitem__, name, attributes.pop(name))
    if name in held:
        undo.callback(held.__setitem__, name, held[name])
    else:
        undo.callback(held.pop, name, None)
    held[name] = shard  # type: ignore[assignment]  # a parameter to whoever asks


def _refuse_strays(module: nn.Module) -> None:
    """A parameter does not know the unit that it is a part of."""
    told = (
        "is a part of a flat parameter of FSDP1 that is out of reach: give the FSDP module itself (a new module, where "
        "FSDPStrategy has wrapped this one in a run before), and tie parameters within one unit only"
    )
    strays = [name for name, parameter in module.named_parameters() if _is_stray(parameter)]
    strays += [f"{path}.{name}".lstrip(".") for path, part in module.named_modules() for name in _views(part)]
    raise InitError([Fault(name.replace("_fsdp_wrapped_module.", ""), told) for name in strays])


def _has_strays(modules: Iterable[nn.Module]) -> bool:
    # Without a generator or a call for each of them: nearly always the answer is no, of every module.
    for module in modules:
        for held in module._parameters.values():
            if getattr(held, FLATTENED, False) and _is_stray(held):
                return True
        if Tensor in map(type, vars(module).values()) and _views(module):
            return True
    return False


def _is_stray(parameter: object) -> bool:
    return getattr(parameter, FLATTENED, False) and not isinstance(parameter, FlatShard)
