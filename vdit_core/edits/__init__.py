"""Edits: one file per operation, each a pure function from plan to plan."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from ..plan import AttentionPlan
from ..sites import Call


class Change(Protocol):
    """What an edit does to the plan of one call.

    field: the field of the plan it sets. region: of REGIONS, whether it acts on the map of all
    tokens or on that of the video among itself. neutral: changes nothing, so need not run.
    pairs: it needs a batch of source and target pairs, and is applied to the targets. rehearses: it
    needs a dense evaluation of the model before each.
    """

    @property
    def field(self) -> str: ...
    @property
    def region(self) -> str: ...
    @property
    def neutral(self) -> bool: ...
    @property
    def pairs(self) -> bool: ...
    @property
    def rehearses(self) -> bool: ...
    def apply(self, plan: AttentionPlan, call: Call, chosen: Tensor) -> AttentionPlan:
        """chosen: [B, H] bool, the rows and heads asked for."""
        ...
