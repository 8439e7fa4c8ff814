"""What is said about a checkpoint that does not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lightning_init.checkpoint.matching.keys import Keys
from lightning_init.checkpoint.matching.matched import Match, Mismatch
from lightning_init.checkpoint.matching.places import Place
from lightning_init.text import quoted

__all__ = ["nothing", "other_shapes", "refused", "too_few", "unlike"]


def nothing(found: Match, keys: Keys, places: Sequence[Place], wanted: Sequence[Place]) -> str:
    """No target is filled.

    Args:
        found: What was found.
        keys: The keys.
        places: All targets below ``into``.
        wanted: Those in question.
    """
    if not places:
        return f"there is no parameter or persistent buffer that {found.source!r} could fill"
    revised = [keys.names[key] for key in keys.below if key in found.names and not key.endswith(keys.names[key])]
    after = f" (after revision {quoted(revised, 5)})" if revised else ""
    module = repr(found.into) if found.into else "the module"
    told = f"no key of {found.source!r} fits; it has {quoted(keys.below, 5)}{after}, {module} has "
    if not wanted:
        return f"{told}{quoted(_names(places), 5)}, of which scope, include and exclude leave none"
    told += quoted(_names(wanted), 5)
    dropped = [adapted.mismatch for adapted in found.dropped.values()]
    if found.mismatched or dropped:
        return f"{told}; by name they match, but not in shape{_lines([*found.mismatched, *dropped])}"
    hint = keys.hint([name for place in wanted for name in place.names], found.into)
    return f"{told}; {hint}" if hint else told


def other_shapes(found: Match, *, strict: bool) -> str:
    """Shapes differ, and that is an error."""
    remedy = "" if strict else "; on_mismatch='skip' leaves them to the other rules, on_mismatch='adapt' makes some fit"
    count = len(found.mismatched)
    return f"keys of {found.source!r} with another shape than the module's: {count}{remedy}{_lines(found.mismatched)}"


def refused(found: Match, pairs: Sequence[tuple[Mismatch, Mapping[str, str]]]) -> str:
    """Shapes differ, and no adapter takes them."""
    lines = ""
    for mismatch, reasons in pairs:
        lines += _lines([mismatch])
        lines += "".join(f"\n        {name}: {reason}" for name, reason in reasons.items())
    return (
        f"keys of {found.source!r} with another shape than the module's that no adapter takes: {len(pairs)}; leave "
        f"them out with exclude, or register an adapter{lines}"
    )


def too_few(found: Match, keys: Keys, wanted: Sequence[Place], min_match: float) -> str:
    """Which parameters are not filled, where that are more than ``min_match`` allows; empty if it is fulfilled."""
    filled: dict[str, bool] = {}
    for place in wanted:
        if not place.target.is_buffer:
            before = filled.get(place.whole.name, True)
            filled[place.whole.name] = before and place.target.name in found.loaded
    count = sum(filled.values())
    if not filled or count / len(filled) >= min_match:
        return ""
    lacking = [place for place in wanted if not filled.get(place.whole.name, True)]
    hint = keys.hint([name for place in lacking for name in place.names], found.into)
    return (
        f"{found.source!r} fills {count} of {len(filled)} parameters, which is less than {min_match:g} of them; not "
        f"filled are {quoted(dict.fromkeys(place.whole.name for place in lacking), 8)}{f'; {hint}' if hint else ''}"
    )


def unlike(found: Match, lacking: Sequence[str]) -> str:
    """Keys and parameters do not agree one to one; empty if they do."""
    told = []
    if lacking:
        told.append(f"parameters without a key: {quoted(lacking, 20)}")
    if found.dropped:
        told.append(f"parameters that an adapter drops: {quoted(found.dropped, 20)}")
    if found.unexpected:
        told.append(f"keys without a parameter: {quoted(found.unexpected, 20)}")
    return f"{found.source!r} and the module must agree one to one; {'; '.join(told)}" if told else ""


def _names(places: Sequence[Place]) -> list[str]:
    return [place.target.name for place in places]


def _lines(mismatches: Sequence[Mismatch]) -> str:
    return "".join(
        f"\n      {m.name!r}: {m.found} in the checkpoint (key {m.key!r}), {m.wanted} in the module" for m in mismatches
    )
