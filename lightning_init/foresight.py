"""What is remarkable about a plan before anything is written."""

from __future__ import annotations

from lightning_init.ledger import Ledger, Written
from lightning_init.plan import InitPlan
from lightning_init.report.findings import Finding
from lightning_init.settings import Settings
from lightning_init.steps import Call, FillStep, LoadStep, flat
from lightning_init.tree import Tree

__all__ = ["foreseen"]


def foreseen(plan: InitPlan, tree: Tree) -> tuple[Finding, ...]:
    """The findings of the report that an initialisation would leave, except those that need values.

    Args:
        plan: The plan.
        tree: What it was made for. What a method may write counts as written by it.
    """
    ledger = Ledger(Settings())
    ledger.take_plan(plan)
    for step in flat(plan.steps):
        if isinstance(step, FillStep):
            for claim in plan.executed.fills[step]:
                ledger.filled(claim)
        elif isinstance(step, LoadStep):
            ledger.read(step, [(claim.slot.name, claim.what) for claim in plan.executed.loads[step]])
        elif isinstance(step, Call):
            for slot in step.covers:
                ledger.written[slot.name] = Written(step.source)
    return ledger.report(tree, None).findings
