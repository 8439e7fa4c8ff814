"""Which targets and which keys are in question, and which belong together."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lightning_init.checkpoint.matching.keys import Keys
from lightning_init.checkpoint.matching.naming import splits
from lightning_init.checkpoint.matching.rules import KeyRules
from lightning_init.checkpoint.matching.target import Target
from lightning_init.errors import CheckpointError, Fault, did_you_mean
from lightning_init.scope import NamePattern
from lightning_init.text import quoted

__all__ = ["Place", "Places", "idle", "inside"]


@dataclass(frozen=True, eq=False)
class Place:
    """A target, or a part of a parametrized one, as names and keys see it.

    Attributes:
        target: What is filled.
        names: Its names, relative to ``into``.
        whole: The target itself, or the one that it is a part of.
        position: Where that one stands among the targets.
        whole_names: The names of that one, relative to ``into``.
    """

    target: Target
    names: tuple[str, ...]
    whole: Target
    position: int
    whole_names: tuple[str, ...]


def inside(targets: Sequence[Target], into: str) -> list[Place]:
    """The targets below a submodule.

    Raises:
        CheckpointError: There is no such submodule.
    """
    head = f"{into}." if into else ""
    found: list[Place] = []
    for target in targets:
        names = _below(target.names, head)
        if names:
            found.append(Place(target, names, target, len(found), names))
    if into and not found:
        modules = {path for target in targets for name in target.names for path, _ in splits(name)}
        told = f"the module has no submodule {into!r} that holds a parameter; {did_you_mean(into, modules)}"
        raise CheckpointError([Fault("into", told)])
    return found


def idle(where: str, patterns: Sequence[NamePattern], known: Collection[str], source: str) -> Iterator[Fault]:
    """Patterns that match none of the names.

    Args:
        where: The argument that they are given by.
        patterns: The patterns.
        known: The names.
        source: The checkpoint's name, for messages.
    """
    for i, pattern in enumerate(patterns):
        if not any(map(pattern.covers, known)):
            paths = {path for name in known for path in (name, *(head for head, _ in splits(name)))}
            told = f"{pattern.text!r} matches no name in {source!r}; {did_you_mean(pattern.text, paths)}"
            yield Fault(f"{where}[{i}]", told)


class Places:
    """The keys of all places.

    A key that stands for several names goes to the one that leaves most of it. What `KeyRules.include` and
    `KeyRules.exclude` leave out is in question no more, neither as a key nor as a target; nor is what is out of scope.

    Args:
        places: All that is below ``into``.
        keys: The keys.
        rules: What is left out.
        source: The checkpoint's name, for messages.

    Attributes:
        wanted: The places in question; where the checkpoint has the parts of a parametrized target alone, these.
        key_of: The keys of those in question that have one.
        unexpected: Keys that no place takes.
        excluded: Keys that are left out.
        faults: Keys that cannot be told apart, patterns that match nothing.
    """

    def __init__(self, places: Sequence[Place], keys: Keys, rules: KeyRules, source: str) -> None:
        self._keys, self._rules, self._source = keys, rules, source
        self.faults: list[Fault] = []
        chosen = [part for place in places for part in self._chosen(place, f"{rules.into}." if rules.into else "")]
        taken = self._taken(chosen)
        self.wanted: list[Place] = []
        self.key_of: dict[Place, str] = {}
        left_out: set[str] = set()
        for place in chosen:
            asked = place.names if place.whole.in_scope else ()
            admitted = {name for name in asked if rules.admits(name, *self._also(place))}
            left_out.update(taken[name] for name in place.names if name in taken and name not in admitted)
            if admitted:
                self.wanted.append(place)
                # The last one, as `load_state_dict` leaves it.
                found = [taken[name] for name in place.names if name in admitted and name in taken]
                if found:
                    self.key_of[place] = found[-1]
        used = set(taken.values())
        for key in keys.below:
            if key not in used and not rules.admits(keys.names[key], keys.relative(key)):
                left_out.add(key)
        self.excluded = tuple(key for key in keys.below if key in left_out)
        self.unexpected = tuple(key for key in keys.below if key not in used and key not in left_out)
        self.faults += self._idle_patterns(chosen, taken)

    @staticmethod
    def _also(place: Place) -> tuple[str, ...]:
        """Further names that decide whether a place is left out: a part goes with its whole."""
        return () if place.target is place.whole else place.whole_names

    def _chosen(self, place: Place, head: str) -> Iterable[Place]:
        """A place, or the parts of a parametrized one where the checkpoint has these alone."""
        if place.target.parts and not any(map(self._keys.candidates, place.names)):
            parts = [
                Place(part, _below(part.names, head), place.whole, place.position, place.names)
                for part in place.target.parts
            ]
            if any(self._keys.candidates(name) for part in parts for name in part.names):
                return parts
        return (place,)

    def _taken(self, places: Iterable[Place]) -> dict[str, str]:
        """The key of each name."""
        claims: list[tuple[int, str, str]] = []
        for place in places:
            for name in place.names:
                found = self._keys.candidates(name)
                if len(found) > 1:
                    told = f"the keys {quoted(found, 8)} of {self._source!r} all stand for {name!r}; keep one of them"
                    self.faults.append(Fault("checkpoint", told))
                claims += [(self._keys.removed(key, name), key, name) for key in found]
        owner: dict[str, str] = {}
        for _, key, name in sorted(claims):
            owner.setdefault(key, name)
        return {name: key for key, name in owner.items()}

    def _idle_patterns(self, places: Sequence[Place], taken: Mapping[str, str]) -> Iterable[Fault]:
        """Patterns that match no name: of the checkpoint, or, for ``exclude``, of the module."""
        names = self._keys.called
        module = {name for place in places for name in (*place.names, *place.whole_names)}
        # A parametrized tensor is named, and the keys are those of its parts.
        filled = {name for place in places if any(map(taken.__contains__, place.names)) for name in place.whole_names}
        for where, patterns, known in (
            ("include", self._rules.include, names | filled),
            ("exclude", self._rules.exclude, names | module),
        ):
            yield from idle(where, patterns, known, self._source)


def _below(names: Iterable[str], head: str) -> tuple[str, ...]:
    return tuple(name.removeprefix(head) for name in names if name.startswith(head))
