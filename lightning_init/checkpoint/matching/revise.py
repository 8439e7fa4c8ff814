"""What ``revise_keys`` makes of keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lightning_init.checkpoint.matching.naming import without_wrappers
from lightning_init.checkpoint.matching.rules import KeyRules, Revision
from lightning_init.errors import CheckpointError, Fault
from lightning_init.text import quoted

__all__ = ["Revised", "revise"]


@dataclass(frozen=True)
class Revised:
    """Keys after revision.

    Attributes:
        names: What each key is called.
        warnings: Pairs that change no key.
    """

    names: Mapping[str, str]
    warnings: tuple[Fault, ...]


def revise(names: Mapping[str, str], rules: KeyRules, source: str) -> Revised:
    """Applies the pairs of ``revise_keys`` in their order.

    A pair that finds nothing in a name is tried on the name without wrapper parts, so that ``^backbone`` finds
    ``module.backbone`` too.

    Args:
        names: What each key is called without the prefix.
        rules: Names that these leave out may fall together.
        source: The checkpoint's name, for messages.

    Raises:
        CheckpointError: Keys of different names have the same name afterwards.
    """
    if not rules.revise:
        return Revised(names, ())
    now = dict(names)
    changed_by: dict[str, list[int]] = {key: [] for key in names}
    warnings = []
    for i, revision in enumerate(rules.revise):
        before = now
        now = {key: _revised(name, revision) for key, name in before.items()}
        changed = [key for key in now if now[key] != before[key]]
        for key in changed:
            changed_by[key].append(i)
        if not changed:
            told = f"{revision} changes no key of {source!r}; some of them: {quoted(before.values(), 5)}"
            warnings.append(Fault(f"revise_keys[{i}]", told))
    together: dict[str, list[str]] = {}
    for key, name in now.items():
        together.setdefault(name, []).append(key)
    clashes = {
        name: keys
        for name, keys in together.items()
        if len(keys) > 1 and any(changed_by[key] for key in keys) and rules.admits(name, without_wrappers(name))
    }
    if clashes:
        raise CheckpointError([_clash(clashes, changed_by, rules, source)])
    return Revised(now, tuple(warnings))


def _revised(name: str, revision: Revision) -> str:
    revised, count = revision.pattern.subn(revision.replacement, name)
    if count:
        return revised
    stripped = without_wrappers(name)
    revised, count = revision.pattern.subn(revision.replacement, stripped)
    # Where nothing is found, or nothing is changed, wrapper parts stay for whoever compares names.
    return name if revised == stripped else revised


def _clash(
    clashes: Mapping[str, list[str]], changed_by: Mapping[str, list[int]], rules: KeyRules, source: str
) -> Fault:
    lines = []
    at_fault: set[int] = set()
    for name, keys in clashes.items():
        pairs = sorted({i for key in keys for i in changed_by[key]})
        at_fault.update(pairs)
        by = " and ".join(f"revise_keys[{i}] {rules.revise[i]}" for i in pairs)
        lines.append(f"\n      {name!r} from {quoted(keys, 8)} by {by}")
    where = f"revise_keys[{at_fault.pop()}]" if len(at_fault) == 1 else "revise_keys"
    more = f"\n      and {len(lines) - 8} more names" if len(lines) > 8 else ""
    told = f"several keys of {source!r} have one name after revision; each must have a name of its own"
    return Fault(where, f"{told}{''.join(lines[:8])}{more}")
