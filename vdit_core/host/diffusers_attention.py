"""diffusers: hear each attention of the modules that own one, and let a run answer it.

Every processor of diffusers ends in torch's `scaled_dot_product_attention`. While an owner module
runs, a torch function mode sees that call with Q, K and V as the model made them; nothing of
diffusers or torch is replaced, and a call that no spec wants is made with its own arguments.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from ..operands import Operands
from ..run import Run
from ..sites import Evaluation, Layout, Site

PARAMETERS = ("query", "key", "value", "attn_mask")  # of the function heard, in this order


@dataclass(frozen=True)
class ModelCall:
    """One evaluation of a transformer. branches, items: one for each row of its batch."""

    run: Run
    layout: Layout
    evaluation: Evaluation
    branches: tuple[str, ...]
    items: tuple[int, ...]


class Listener(TorchFunctionMode):
    """Hears the attention of the owner module that is running, for the model call it is part of."""

    def __init__(self) -> None:
        super().__init__()
        self.call: ModelCall | None = None
        self._left: list[Site] = []  # sites of the running owner that are to come
        self._row = 0  # rows of the first of them that came already
        self._before: Operands | None = None  # those of the last call, if it may have been a source
        self._seen: set[Site] = set()
        self._entered = False

    @contextmanager
    def installed(self, owners: dict[nn.Module, tuple[Site, ...]]) -> Iterator[None]:
        """Listen to these modules, which attend at these sites."""
        with ExitStack() as stack:
            for owner, sites in owners.items():
                before = owner.register_forward_pre_hook(partial(self._enter, sites))
                after = owner.register_forward_hook(partial(self._leave, sites), always_call=True)
                stack.callback(before.remove)
                stack.callback(after.remove)
            yield

    def _enter(self, sites: tuple[Site, ...], *_: object) -> None:
        if self.call is None:
            return
        self._left, self._row, self._entered = list(sites), 0, True
        self._before = None
        self.__enter__()

    def _leave(self, sites: tuple[Site, ...], _: nn.Module, __: object, output: object) -> None:
        if not self._entered:
            return
        self._entered, self._before = False, None
        self.__exit__(None, None, None)
        if output is None or self.call is None:  # the module failed
            return
        if self._row:
            raise RuntimeError(
                f"{self._left[0]}: it attended for {self._row} of {len(self.call.items)} rows, and "
                "nobody knows for which; switch off what drops rows of the batch (FasterCache does)"
            )
        if unheard := [site for site in self._left if site not in self._seen]:
            raise RuntimeError(
                f"{unheard[0]}: no call of torch's scaled_dot_product_attention was seen; if the "
                "model uses another attention backend, set_attention_backend('native'), and if it "
                "is compiled, use it uncompiled"
            )

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is scaled_dot_product_attention and self._left:
            return self._attend(func, args, kwargs)
        return func(*args, **kwargs)

    def _attend(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        named = dict(zip(PARAMETERS, args, strict=False)) | kwargs
        call, site, rows = self._taken(named["query"].shape[0])
        operands = _operands(function, named, args, call)
        guests, before = 0, self._before
        self._before = operands if call.run.of_pairs else None
        if before is not None and call.items[rows.start] % 2:
            operands, guests = _after_source(before, operands, site), 1
        here = slice(rows.start - guests, rows.stop)
        label = call.run.call(site, call.branches[here], call.items[here], guests=guests)
        out = call.run.attend(label, operands)
        return function(*args, **kwargs) if out is None else out

    def _taken(self, count: int) -> tuple[ModelCall, Site, slice]:
        """Which site is attending, and for which rows: some processors go through them in turn."""
        assert self.call is not None
        site, rows = self._left[0], slice(self._row, self._row + count)
        self._seen.add(site)
        self._row = rows.stop
        if self._row == len(self.call.items):
            self._left.pop(0)
            self._row = 0
        return self.call, site, rows


def _after_source(source: Operands, target: Operands, site: Site) -> Operands:
    """The last row of a call before this one, put before its target."""
    if source.q.shape[2] != target.q.shape[2]:
        raise ValueError(
            f"{site}: the source has {source.q.shape[2]} tokens here and the target "
            f"{target.q.shape[2]}, as this model drops the padding of each prompt; a pair needs "
            "equally many: give both prompts the attention mask of the longer one"
        )
    assert source.mask is None and target.mask is None  # who goes row by row drops the padding
    q, k, v = (
        torch.cat([before[-1:], own])
        for before, own in ((source.q, target.q), (source.k, target.k), (source.v, target.v))
    )
    return replace(target, q=q, k=k, v=v)


def _operands(
    function: Any, named: dict[str, Any], args: tuple[Any, ...], call: ModelCall
) -> Operands:
    """What torch's function was given, as a run wants it."""
    q, k, v = (named[name] for name in PARAMETERS[:3])
    extra = args[len(PARAMETERS) :]

    def dense(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, temperature: float) -> Tensor:
        settings = {name: x for name, x in named.items() if name not in PARAMETERS}
        if temperature != 1:
            scale = settings.get("scale")
            settings["scale"] = (q.shape[-1] ** -0.5 if scale is None else scale) / temperature
        return function(q, k, v, mask, *extra, **settings)

    mask = named.get("attn_mask")
    if mask is not None:
        mask = mask[(None,) * (4 - mask.ndim)]
    grid = partial(call.layout.grid, call.evaluation, q.shape[2])
    return Operands(q, k, v, mask, named.get("scale"), dense, grid)
