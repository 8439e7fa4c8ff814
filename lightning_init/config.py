"""From an ``init_cfg``, as the user wrote it, to rules: frozen objects that hold nothing unchecked."""

from __future__ import annotations

import copy
import importlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from lightning_init.errors import Fault, InitConfigError, did_you_mean
from lightning_init.initializers.base import INITIALIZERS, Initializer, WeightInitializer
from lightning_init.initializers.constant import ConstantInit
from lightning_init.rules import Rule
from lightning_init.scope import NamePattern, Scope, layer_names, strings

__all__ = ["InitCfg", "parse", "plain", "read"]

InitCfg: TypeAlias = Initializer | Mapping[str, Any] | Sequence[Initializer | Mapping[str, Any]] | None
"""A config as a user writes it. LightningCLI understands an argument of this type, in YAML and on the command line."""

_SCOPE = ("layer", "name", "params")

# Where a rule is faulty, so that what else is wrong can be looked for around it; it never comes to be executed.
_STAND_IN = ConstantInit(0)


def plain(init_cfg: Any) -> Any:
    """A copy of a config in dicts and lists, whatever containers it came in; other values are deep-copied.

    What cannot be copied stays what it is: `parse` tells at its place whether it can be meant.
    """
    if isinstance(init_cfg, Mapping):
        return {key: plain(value) for key, value in init_cfg.items()}
    if isinstance(init_cfg, Sequence) and not isinstance(init_cfg, str | bytes):
        return [plain(item) for item in init_cfg]
    try:
        return copy.deepcopy(init_cfg)
    except Exception:  # noqa: BLE001  # a class decides itself what its copying raises
        return init_cfg


def parse(init_cfg: Any, where: str = "init_cfg") -> tuple[Rule, ...]:
    """Reads a config.

    Args:
        init_cfg: A rule or a sequence of rules, None for none. A rule is a mapping, or an initializer object.
        where: The name of the config in messages.

    Returns:
        The rules in their order.

    Raises:
        InitConfigError: With every fault of the config and its path.

    >>> parse(dict(type="Normal", layer="Linear", std=0.01))[0].initializer.std
    0.01
    """
    rules, faults = read(init_cfg, where)
    if faults:
        raise InitConfigError(faults)
    return rules


def read(init_cfg: Any, where: str = "init_cfg") -> tuple[tuple[Rule, ...], list[Fault]]:
    """Reads a config as `parse` does, and tells its faults instead of raising them.

    Returns:
        The rules, with a stand-in for the initializer of a faulty one, and the faults.
    """
    faults: list[Fault] = []
    return _Parser(faults).rules(init_cfg, where), faults


class _Parser:
    """Collects faults instead of stopping at the first."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = faults

    def rules(self, init_cfg: Any, where: str, around: Mapping[str, Any] | None = None) -> tuple[Rule, ...]:
        if init_cfg is None:
            return ()
        if isinstance(init_cfg, Mapping | Initializer):
            return (self.rule(init_cfg, where, around),)
        if not isinstance(init_cfg, Sequence) or isinstance(init_cfg, str | bytes):
            self.fault(where, f"must be a rule (a mapping) or a list of rules, got {_shown(init_cfg)}")
            return ()
        rules = [self.item(item, f"{where}[{i}]", around) for i, item in enumerate(init_cfg)]
        return tuple(rule for rule in rules if rule)

    def item(self, item: Any, where: str, around: Mapping[str, Any] | None) -> Rule | None:
        if isinstance(item, Mapping | Initializer):
            return self.rule(item, where, around)
        self.fault(where, f"must be a rule, a mapping such as dict(type='Normal', layer='Linear'), got {_shown(item)}")
        return None

    def rule(self, given: Mapping[str, Any] | Initializer, where: str, around: Mapping[str, Any] | None) -> Rule:
        before = len(self.faults)
        if isinstance(given, Initializer):
            given = {"type": given}
        config = self.from_class_path(plain(given), where)
        override = config.pop("override", None)
        if around is not None:
            config = self.override(config, where, around)
        scope = self.scope(config, where, is_override=around is not None)
        kind = config.pop("type", None)
        arguments = {key: value for key, value in config.items() if key not in _SCOPE}
        initializer = self.initializer(kind, arguments, where)
        if len(self.faults) > before:
            # The fault is told here, and not again where an override takes the arguments of this rule.
            initializer, kind, arguments = _STAND_IN, _STAND_IN, {}
        if not scope.layer and around is None:
            scope = Scope(tuple(getattr(initializer, "layer", ())), scope.name, scope.params)
        inherited = {"type": kind, **arguments, **({"params": config["params"]} if "params" in config else {})}
        return Rule(
            where,
            initializer,
            scope,
            self.rules(override, f"{where}.override", inherited),
            is_override=around is not None,
            bias_by_initializer=scope.only_bias and not _gives_bias(kind, arguments),
        )

    def from_class_path(self, config: dict[str, Any], where: str) -> dict[str, Any]:
        """A rule in the spelling of jsonargparse, as LightningCLI hands it over, in our own."""
        if "class_path" not in config or "type" in config:
            return config
        init_args = config.pop("init_args", None) or {}
        if not isinstance(init_args, Mapping):
            self.fault(f"{where}.init_args", f"must be a mapping of arguments, got {_shown(init_args)}")
            init_args = {}
        return {"type": config.pop("class_path"), **init_args, **config}

    def override(self, config: dict[str, Any], where: str, around: Mapping[str, Any]) -> dict[str, Any]:
        """An override completed by the rule around it."""
        if config.get("name") is None:
            self.fault(where, "an override must have a `name` (an attribute, a dotted path or a pattern)")
        arguments = sorted(set(config) - {"name"}, key=str)
        if not arguments:
            return {**around, **config}
        if "type" not in config:
            self.fault(
                where,
                f"has {', '.join(map(repr, arguments))} but no `type`; give its `type`, or its `name` "
                f"alone to take the arguments of the rule around it",
            )
            return {"type": _STAND_IN, "name": config.get("name")}
        return config

    def scope(self, config: Mapping[str, Any], where: str, *, is_override: bool) -> Scope:
        layer: tuple[str | type, ...] = ()
        name: NamePattern | None = None
        params: tuple[str, ...] = ()
        try:
            layer = layer_names(config.get("layer"))
        except InitConfigError as error:
            self.below(where, error)
        try:
            name = NamePattern(config["name"]) if config.get("name") is not None else None
        except InitConfigError as error:
            self.below(where, error)
        try:
            params = strings(config["params"], "params") if config.get("params") is not None else ()
        except InitConfigError as error:
            self.below(where, error)
        # MMEngine takes a `layer` in an override and does not look at it.
        return Scope(() if is_override else layer, name, params)

    def initializer(self, kind: Any, arguments: dict[str, Any], where: str) -> Initializer:
        if isinstance(kind, Initializer):
            for key in arguments:
                self.fault(
                    f"{where}.{key}",
                    f"stands beside an initializer that is built already, {kind.describe()}; "
                    f"give it to that, or the class as `type`",
                )
            return kind
        cls = self.initializer_class(kind, where)
        if cls is None:
            return _STAND_IN
        signature = inspect.signature(cls).parameters
        accepted = [name for name in signature if name != "layer"]
        open_ended = any(known.kind is known.VAR_KEYWORD for known in signature.values())
        unknown = [] if open_ended else [key for key in arguments if key not in accepted]
        for key in unknown:
            self.fault(
                f"{where}.{key}",
                f"unknown argument of {INITIALIZERS.name_of(cls)}; "
                f"{did_you_mean(str(key), [*accepted, *_SCOPE, 'override'])}",
            )
        missing = [key for key in accepted if key not in arguments and _is_required(signature[key])]
        for key in missing:
            self.fault(f"{where}.{key}", f"{INITIALIZERS.name_of(cls)} cannot do without it")
        if missing:
            return _STAND_IN
        usable = {key: value for key, value in arguments.items() if key not in unknown}
        try:
            return cls(**usable)
        except InitConfigError as error:
            self.below(where, error)
        except (TypeError, ValueError) as error:
            self.fault(where, str(error))
        return _STAND_IN

    def initializer_class(self, kind: Any, where: str) -> type[Initializer] | None:
        if kind is None:
            self.fault(where, f"a rule must have a `type`; {did_you_mean('', INITIALIZERS)}")
            return None
        cls: Any = kind
        if isinstance(kind, str):
            try:
                cls = INITIALIZERS.get(kind) or _imported(kind)
            except Exception as error:  # noqa: BLE001  # the code of a module may raise anything
                told = str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
                self.fault(f"{where}.type", f"{kind!r} cannot be imported: {told}")
                return None
            if cls is None:
                self.fault(f"{where}.type", INITIALIZERS.unknown(kind))
                return None
        if not (isinstance(cls, type) and issubclass(cls, Initializer)) or inspect.isabstract(cls):
            self.fault(
                f"{where}.type",
                f"must name an initializer (its registered name, its class or the dotted path "
                f"to it), got {_shown(kind)}",
            )
            return None
        return cls

    def fault(self, where: str, what: str) -> None:
        self.faults.append(Fault(where, what))

    def below(self, where: str, error: InitConfigError) -> None:
        self.faults.extend(fault.below(where) for fault in error.faults)


def _gives_bias(kind: Any, arguments: Mapping[str, Any]) -> bool:
    """Whether a rule says what biases get; in an initializer that is built already, 0 is taken for not given."""
    if isinstance(kind, WeightInitializer):
        return kind.bias != 0 or kind.bias_prob is not None
    return bool({"bias", "bias_prob"} & set(arguments))


def _is_required(parameter: inspect.Parameter) -> bool:
    variadic = parameter.kind in {parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL}
    return parameter.default is parameter.empty and not variadic


def _imported(path: str) -> Any:
    """What a dotted path names; None if it does not lead anywhere.

    Raises:
        Exception: It leads to a module that exists and raises this when it is imported.
    """
    module, _, attribute = path.rpartition(".")
    if not all(module.split(".")):
        return None
    try:
        return getattr(importlib.import_module(module), attribute, None)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            return None
        raise


def _shown(value: Any) -> str:
    return f"{value!r} ({type(value).__name__})"
