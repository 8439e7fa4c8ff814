"""What an initialisation is made of: claims on slots, in steps, in the order of writing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

from lightning_init.checkpoint.base import Checkpoint
from lightning_init.checkpoint.matching.matched import Match
from lightning_init.checkpoint.pretrained import PretrainedInit
from lightning_init.errors import CheckpointError
from lightning_init.recipe import Recipe
from lightning_init.slot import Slot
from lightning_init.tree import Node

__all__ = ["Call", "Claim", "Done", "Fill", "FillStep", "Load", "LoadStep", "Step", "claims_of", "flat"]


# Not frozen, nor is what is derived of it: there is one for every parameter, and that would treble what it costs.
@dataclass(eq=False)
class Claim:
    """Somebody wants to write a slot.

    Attributes:
        slot: What is written.
        source: Where it was declared, or the method that wrote it.
        what: The declared initializer with its arguments.
    """

    slot: Slot
    source: str
    what: str


@dataclass(eq=False)
class Fill(Claim):
    """A rule fills a slot.

    Attributes:
        recipe: What with.
    """

    recipe: Recipe


@dataclass(eq=False)
class Load(Claim):
    """A checkpoint fills a slot, or one part of a parametrized slot.

    Attributes:
        initializer: How it is read.
        name: What the match calls the slot or part.
        key: The key that it takes, and what is done to the values on the way, as the plan tells it.
        part: The part's name.
    """

    initializer: PretrainedInit
    name: str
    key: str
    part: str | None = None


@dataclass(frozen=True, eq=False)
class FillStep:
    """All that one rule fills.

    Attributes:
        claims: What it fills.
        owner: The module whose step it is; None for a config that is applied alone.
    """

    claims: Sequence[Fill]
    owner: Node | None = None


@dataclass(frozen=True, eq=False)
class LoadStep:
    """All that one ``Pretrained`` rule loads.

    Attributes:
        claims: What it loads.
        source: Where it was declared.
        match: What goes where.
        checkpoint: Where from.
        slots: What stands behind the names that the match uses: a slot, or a part of one.
        owner: The module whose step it is; None for a config that is applied alone.
    """

    claims: Sequence[Load]
    source: str
    match: Match
    checkpoint: Checkpoint
    slots: Mapping[str, tuple[Slot, str | None]]
    owner: Node | None = None

    def write(self, claim: Load) -> None:
        """Writes the values for a claim.

        Raises:
            CheckpointError: They cannot be read or made to fit.
        """
        at = claim.part or claim.slot.name
        with self._named():
            claim.initializer.write(self.checkpoint, self.match, claim.name, claim.slot, at)

    def try_adapters(self, claims: Iterable[Load]) -> None:
        """Adapts once what has to be adapted, since the shape that a user's adapter makes shows only then.

        Args:
            claims: Those of its claims that are executed.

        Raises:
            CheckpointError: Values cannot be read or made to fit.
        """
        for claim in claims:
            if claim.name in self.match.adapted:
                with self._named():
                    claim.initializer.read(self.checkpoint, self.match, claim.name)

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Says in errors where the rule was declared."""
        try:
            yield
        except CheckpointError as error:
            raise CheckpointError([fault.below(self.source) for fault in error.faults]) from error


@dataclass(frozen=True, eq=False)
class Call:
    """A module's own ``init_weights`` is called.

    Attributes:
        node: The module.
        source: The class and method, as the report gives it.
        covers: The slots at and below the module, which the method may read and write.
        nested: For a `BaseModule` that overrides the method, the steps that ``super().init_weights()`` runs.
    """

    node: Node
    source: str
    covers: frozenset[Slot]
    nested: Sequence[Step] | None = None

    @property
    def owner(self) -> Node:
        """The module."""
        return self.node


@dataclass(frozen=True, eq=False)
class Done:
    """All steps of a module are behind it; it is marked with ``is_init``."""

    node: Node

    @property
    def owner(self) -> Node:
        """The module."""
        return self.node


Step: TypeAlias = FillStep | LoadStep | Call | Done


def claims_of(steps: Iterable[Step]) -> list[Claim]:
    """The claims in writing order, without those that only a method would make."""
    found: list[Claim] = []
    for step in steps:
        if isinstance(step, FillStep | LoadStep):
            found += step.claims
    return found


def flat(steps: Sequence[Step]) -> Iterator[Step]:
    """The steps in writing order, with those nested in calls."""
    for step in steps:
        yield step
        if isinstance(step, Call) and step.nested is not None:
            yield from flat(step.nested)
