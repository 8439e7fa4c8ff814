"""The constructors that a pickle of torch may call, all of them our own; of everything else nothing is called."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import torch

from lightning_init.checkpoint.formats.stand_ins import Inert, Storage, Stored, Unusual, as_key, kind

__all__ = ["called", "is_foreign", "named", "storage_of"]

_MOST = 2**63 - 1
_MOST_DIMENSIONS = 64

# So torch names what makes its tensors.
_REBUILDERS = "torch._utils._rebuild_"


def named(name: str) -> object:
    """What a pickle gets that names a class, a function or a constant; see `called`."""
    return _DTYPES.get(name) or Inert(name)


def called(function: object, arguments: Sequence[object]) -> object:
    """What a pickle gets that calls something: one of the constructors below by its name, or an inert object.

    Raises:
        UnpicklingError: The arguments are not those of the constructor.
    """
    if not isinstance(function, Inert):
        raise pickle.UnpicklingError(f"it calls a {kind(function)}")
    maker = _MAKERS.get(function.name)
    if maker is None:
        return Unusual(function.name) if function.name.startswith(_REBUILDERS) else Inert(function.name)
    try:
        return maker(*arguments)
    except (TypeError, ValueError) as error:
        raise pickle.UnpicklingError(f"it calls {function.name} with other arguments") from error


def is_foreign(name: str) -> bool:
    """A file that names this holds more than tensors and plain values."""
    known = name in _MAKERS or name in _PLAIN or name in _DTYPES or name.startswith(_REBUILDERS)
    return not known and _storage_dtype(name) is None


def storage_of(identity: object) -> Storage | Inert:
    """What stands for an object that is not in the pickle itself.

    Args:
        identity: What the pickle calls it.

    Raises:
        UnpicklingError: torch does not call anything like this.
    """
    # Legacy files name the classes of modules, with their source; later files have no view.
    match identity:
        case ("module", Inert() as module, *_):
            return module
        case ("storage", Inert() as klass, str() as key, str(), int() as numel, *views):
            dtype = _storage_dtype(klass.name)
            view = views[0] if views else None
            if dtype is not None and view is None:
                return Storage(key, dtype, _count(numel))
            if dtype is not None and isinstance(view, tuple) and len(view) == 3:
                return Storage(key, dtype, _count(view[2]), _count(view[1]))
    raise pickle.UnpicklingError("it refers to something that is no storage of torch")


def _storage_dtype(name: str) -> torch.dtype | None:
    module, _, short = name.rpartition(".")
    return _STORAGES.get(short) if module.partition(".")[0] == "torch" else None


def _count(value: object) -> int:
    if not isinstance(value, int) or not 0 <= value <= _MOST:
        raise pickle.UnpicklingError("a size or an offset of a tensor is no count")
    return value


def _counts(values: object) -> tuple[int, ...]:
    if not isinstance(values, tuple | list) or len(values) > _MOST_DIMENSIONS:
        raise pickle.UnpicklingError("the shape of a tensor is no tuple of counts")
    return tuple(map(_count, values))


_Maker: TypeAlias = Callable[..., object]


def _mapping(*arguments: object) -> object:
    if not arguments:
        return {}
    (given,) = arguments
    if isinstance(given, Mapping):
        return given
    if not isinstance(given, list):
        raise TypeError
    pairs = {as_key(key): value for key, value in given}
    # A list that is used once more would let a small file fill the memory.
    given.clear()
    return pairs


def _defaultdict(_factory: object = None, *arguments: object) -> object:
    return _mapping(*arguments)


def _sequence(*arguments: object) -> object:
    if not arguments:
        return []
    (given,) = arguments
    return given


def _instance(klass: object, *_arguments: object) -> object:
    if not isinstance(klass, Inert):
        raise TypeError
    return called(klass, ()) if klass.name in _CONTAINERS else Inert(klass.name)


def _reconstructed(klass: object, _base: object, state: object) -> object:
    # How protocols 0 and 1 make an object of a class derived from a built-in one.
    if not isinstance(klass, Inert):
        raise TypeError
    made = Inert(klass.name)
    if isinstance(state, dict):
        for key in list(state):
            made.put(key, state.pop(key))
    return made


def _tensor(storage: object, offset: object, shape: object, stride: object, *_unused: object) -> object:
    if not isinstance(storage, Storage):
        raise TypeError
    return _stored(storage, storage.dtype, offset, shape, stride)


def _tensor_v2(*arguments: object) -> object:
    # storage, offset, shape, stride, requires_grad, hooks, and since torch 1.11 what it is besides
    return Unusual("torch._utils._rebuild_tensor_v2") if any(arguments[6:7]) else _tensor(*arguments)


def _tensor_v3(*arguments: object) -> object:
    storage, offset, shape, stride, _, _, dtype, *rest = arguments
    if not isinstance(storage, Storage) or not isinstance(dtype, torch.dtype):
        raise TypeError
    return Unusual("torch._utils._rebuild_tensor_v3") if any(rest) else _stored(storage, dtype, offset, shape, stride)


def _stored(storage: Storage, dtype: torch.dtype, offset: object, shape: object, stride: object) -> Stored:
    stored = Stored(storage, dtype, _count(offset), _counts(shape), _counts(stride))
    if len(stored.shape) != len(stored.stride) or math.prod(stored.shape) > _MOST:
        raise ValueError
    return stored


def _parameter(data: object, *_unused: object) -> object:
    return data


def _from_type(function: object, _type: object, arguments: object, _state: object) -> object:
    # Values that a class of tensors merely dresses up are as good as plain ones.
    if not isinstance(function, Inert) or not isinstance(arguments, tuple):
        raise TypeError
    return called(function, arguments)


_DTYPES = {f"torch.{name}": value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}

_STORAGES = {
    f"{prefix}Storage": dtype
    for prefix, dtype in {
        "BFloat16": torch.bfloat16,
        "Bool": torch.bool,
        "Byte": torch.uint8,
        "Char": torch.int8,
        "ComplexDouble": torch.complex128,
        "ComplexFloat": torch.complex64,
        "Double": torch.float64,
        "Float": torch.float32,
        "Half": torch.float16,
        "Int": torch.int32,
        "Long": torch.int64,
        "QInt32": torch.qint32,
        "QInt8": torch.qint8,
        "QUInt2x4": torch.quint2x4,
        "QUInt4x2": torch.quint4x2,
        "QUInt8": torch.quint8,
        "Short": torch.int16,
        "Untyped": torch.uint8,
    }.items()
}

_CONTAINERS: dict[str, _Maker] = {
    "builtins.dict": _mapping,
    "builtins.frozenset": _sequence,
    "builtins.list": _sequence,
    "builtins.set": _sequence,
    "builtins.tuple": _sequence,
    "collections.Counter": _mapping,
    "collections.OrderedDict": _mapping,
    "collections.defaultdict": _defaultdict,
    "torch.Size": _sequence,
}

_MAKERS: dict[str, _Maker] = {
    **_CONTAINERS,
    "copyreg.__newobj__": _instance,
    "copyreg._reconstructor": _reconstructed,
    "torch._tensor._rebuild_from_type": _from_type,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch.tensor._rebuild_from_type_v2": _from_type,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
}

_BUILT_INS = ("bool", "bytearray", "bytes", "complex", "float", "int", "object", "range", "slice", "str")

# Not worth telling when they are left unread: they hold no more than what stands beside them.
_PLAIN = frozenset(
    {
        *(f"builtins.{name}" for name in _BUILT_INS),
        "_codecs.encode",
        "torch.Tensor",
        "torch._tensor.Tensor",
        "torch.device",
        "torch.nn.parameter.Buffer",
        "torch.nn.parameter.Parameter",
        "torch.serialization._get_layout",
    }
)
