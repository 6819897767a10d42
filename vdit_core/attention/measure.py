"""`measure`: statistics of the map a plan uses, without ever holding the map."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ..grid import TokenGrid
from ..plan import UNTOUCHED, AttentionPlan
from .checks import check_finite, check_mask, check_operands, check_region, grouped
from .question import Question
from .results import FIELDS, NEED_GRID, NEED_TEXT, NEED_VALUES, Measures

IMPLEMENTATIONS = ("auto", "streaming", "reference", "triton")


def measure(
    q: Tensor,
    k: Tensor,
    v: Tensor | None = None,
    *,
    wants: Iterable[str] | str = "all",
    grid: TokenGrid | None = None,
    spans: Mapping[str, slice] | None = None,
    mask: Tensor | None = None,
    scale: float | None = None,
    plan: AttentionPlan = UNTOUCHED,
    rows: list[int] | None = None,
    heads: Tensor | None = None,
    map_size: int = 64,
    window: tuple[int, int] | None = None,
    tau: float = 0.3,
    rate: float = 0.5,
    implementation: str = "auto",
    tile: int | None = None,
) -> Measures:
    """Measure the map M of the plan for the given batch rows and heads.

    q, k, v: [B, H, L, D]; k and v may have fewer heads, each serving a group. wants: names of
    fields of Measures, or "all" that the other arguments allow. grid: where the queries, and as
    many keys, lie in the video. spans: runs of keys by name; "text" is used. mask: broadcasts to
    [B, H, Lq, Lk], bool (True = may attend) or additive. rows, heads: only these ([n]). map_size,
    window: of the pooled map. tau, rate: see Measures. tile: queries at a time.

    A gate is not part of the map. Raises ValueError for arguments that do not fit together and for
    NaN or infinity in q, k or v, naming which.
    """
    k, v = grouped(k, q), None if v is None else grouped(v, q)
    text = (spans or {}).get("text")
    asked = _wanted(wants, v, grid, text)
    question = Question(asked, grid, text, map_size, window, tau, rate)
    check_operands(q, k, v)
    check_mask(mask, q, k)
    check_region(plan, q, k)
    _check_places(question, q, k)
    check_finite(q=q, k=k, v=v)
    if implementation not in IMPLEMENTATIONS:
        allowed = ", ".join(IMPLEMENTATIONS)
        raise ValueError(f"implementation: got {implementation!r}, allowed are {allowed}")
    operands = q, k, v, mask, scale, plan.ungated
    chosen = list(range(q.shape[0])) if rows is None else rows
    which = torch.arange(q.shape[1]) if heads is None else heads
    if implementation == "reference":
        from .reference_measures import reference_measure

        return reference_measure(question, *operands, chosen, which)
    if implementation == "triton":
        from .triton_measures import triton_measure

        return triton_measure(question, *operands, chosen, which)
    from .streaming import streaming_measure

    return streaming_measure(question, *operands, chosen, which, tile)


def _wanted(
    wants: Iterable[str] | str, v: Tensor | None, grid: TokenGrid | None, text: slice | None
) -> frozenset[str]:
    missing = {
        "v": NEED_VALUES if v is None else frozenset[str](),
        "grid": NEED_GRID if grid is None else frozenset[str](),
        'spans={"text": …}': NEED_TEXT if text is None else frozenset[str](),
    }
    if wants == "all":
        return frozenset(FIELDS).difference(*missing.values())
    asked = frozenset([wants] if isinstance(wants, str) else wants)
    if unknown := asked - set(FIELDS):
        raise ValueError(
            f"wants: got {', '.join(sorted(unknown))}; allowed are all, {', '.join(FIELDS)}"
        )
    for name, fields in missing.items():
        if lacking := asked & fields:
            raise ValueError(f"wants: {', '.join(sorted(lacking))} cannot be told without {name}")
    return asked


def _check_places(question: Question, q: Tensor, k: Tensor) -> None:
    queries, keys = q.shape[2], k.shape[2]
    grid, text = question.grid, question.text
    if grid is not None and question.wants & NEED_GRID and not len(grid) == queries == keys:
        raise ValueError(
            f"grid: {grid} has {len(grid)} tokens, but there are {queries} queries and {keys} keys"
        )
    if text is not None and not 0 <= text.start < text.stop <= keys:
        raise ValueError(f"spans: text is {text.start} to {text.stop}, but there are {keys} keys")
    if question.window is not None and question.asks("pooled_map", "other_mass"):
        question.map_grid  # noqa: B018 (raises for frames that do not exist)
