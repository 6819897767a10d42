"""ComfyUI's conditionings: which branch each row of a batch is, and which prompt of that branch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..pairs import LENGTHS_KEY
from ..plan import WHOLE
from ..program import Edit, Spec

OTHER = "other"  # the branch of a conditioning that is none of the guider's
_NAMES = {"positive": "cond", "negative": "uncond"}


class Conditionings:
    """Those of a guider, and what the numbers in a batch (`cond_or_uncond`) stand for.

    Guiders with three conditionings number them in an order of their own, and ComfyUI copies a
    conditioning with its id into the other branch where that one has none for an area. So the
    branch is told from the whole lists that a number stands for.
    """

    def __init__(self, guider: Any) -> None:
        self._guider = guider
        self._keys: list[str | None] = []

    def numbered(self, executor: Any, model: Any, conds: list[Any], *args: Any) -> Any:
        """CALC_COND_BATCH wrapper: note what each number stands for in the calls that follow."""
        self._keys = [self._key(some or []) for some in conds]
        return executor(model, conds, *args)

    def labels(self, options: dict[str, Any]) -> list[tuple[str, int]]:
        """Branch and prompt of each chunk of the batch."""
        return [
            (OTHER, 0) if key is None else (_NAMES.get(key, key), self._ids(key).index(uuid))
            for key, uuid in self._chunks(options)
        ]

    def prompts(self, options: dict[str, Any], batch: int) -> Tensor | None:
        """Tokens of each row's prompt, [B] int64, where some were padded to join a pair."""
        chunks = [self._lengths(key, uuid) for key, uuid in self._chunks(options)]
        if not any(lengths is not None for lengths in chunks):
            return None
        each = batch // len(chunks)
        whole = torch.full((each,), WHOLE)
        return torch.cat([whole if n is None else n.repeat(each)[:each] for n in chunks])

    def _chunks(self, options: dict[str, Any]) -> list[tuple[str | None, Any]]:
        """Name, by the guider, and id of each chunk's conditioning."""
        numbers, uuids = options["cond_or_uncond"], options["uuids"]
        return [(self._noted(n, uuid), uuid) for n, uuid in zip(numbers, uuids, strict=True)]

    def _noted(self, number: int, uuid: Any) -> str | None:
        """What a number stands for; by the id alone where another node went round our wrapper."""
        key = self._keys[number] if number < len(self._keys) else None
        return key if key and uuid in self._ids(key) else self._key([{"uuid": uuid}])

    def _key(self, some: list[dict[str, Any]]) -> str | None:
        """The guider's name of a list of conditionings; a context window may use a part of it."""
        ids = {c.get("uuid") for c in some}
        holding = [key for key in self._guider.conds if ids <= {*self._ids(key)}]
        return min(holding, key=lambda key: len(self._ids(key)), default=None)

    def _ids(self, key: str) -> list[Any]:
        return [c.get("uuid") for c in self._guider.conds[key]]

    def _lengths(self, key: str | None, uuid: Any) -> Tensor | None:
        own = self._guider.original_conds.get(key, ())
        return next((c.get(LENGTHS_KEY) for c in own if c.get("uuid") == uuid), None)


def check_pair_prompts(active: Iterable[Spec], guider: Any) -> None:
    """A pair needs two prompts: one would be repeated in silence."""
    for spec in active:
        if not isinstance(spec, Edit) or not spec.change.pairs:
            continue
        for cond in guider.conds.get("positive", []):
            prompt = cond.get("cross_attn")
            if isinstance(prompt, Tensor) and prompt.shape[0] < 2:
                raise ValueError(
                    f"{spec.asker.name}: the positive conditioning holds one prompt, a pair needs "
                    "two; connect VDiT Pair Prompts (source, target) to the sampler's positive"
                )
