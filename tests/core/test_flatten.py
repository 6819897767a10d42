"""Temperatures that raise the entropy by a wanted amount, against dense maps in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from vdit_attention.vdit_core.attention import flattening
from vdit_attention.vdit_core.attention.flatten import CLOSE


def entropies(q: Tensor, k: Tensor, temperature: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean row entropy of each head, [B, H]."""
    scores = q.double() @ k.double().mT / q.shape[-1] ** 0.5 / temperature[..., None, None]
    logs = (scores if mask is None else scores.masked_fill(~mask, -math.inf)).log_softmax(-1)
    return -(logs.exp() * logs.nan_to_num(neginf=0.0)).sum(-1).mean(-1)


@pytest.fixture
def operands() -> tuple[Tensor, Tensor]:
    """Heads from nearly uniform to nearly a single place."""
    generator = torch.Generator().manual_seed(3)
    q, k = (torch.randn(3, 4, 31, 8, generator=generator) for _ in range(2))
    return q * torch.tensor([0.2, 1.0, 3.0, 20.0])[:, None, None], k


@pytest.mark.parametrize("share", [0.05, 0.3, 0.8])
def test_entropy_goes_the_wanted_share_of_the_way(
    operands: tuple[Tensor, Tensor], share: float
) -> None:
    q, k = operands
    found = flattening(q, k, share, rows=[0, 2])
    assert found.shape == (2, 4) and bool((found >= 1).all())
    own = entropies(q, k, torch.ones(3, 4))[[0, 2]]
    reached = entropies(q[[0, 2]], k[[0, 2]], found)
    wanted = own + share * (math.log(31) - own)
    torch.testing.assert_close(reached, wanted, rtol=0, atol=1.1 * CLOSE)


def test_hidden_keys_are_no_part_of_the_way(operands: tuple[Tensor, Tensor]) -> None:
    q, k = operands
    mask = torch.rand(3, 1, 31, 31, generator=torch.Generator().manual_seed(1)) < 0.4
    mask |= torch.eye(31, dtype=torch.bool)
    found = flattening(q, k, 0.5, rows=[1], mask=mask)
    own = entropies(q, k, torch.ones(3, 4), mask)[1]
    most = mask[1].sum(-1).double().log().mean()
    reached = entropies(q[1:2], k[1:2], found, mask[1:2])[0]
    torch.testing.assert_close(reached, own + 0.5 * (most - own), rtol=0, atol=1.1 * CLOSE)


def test_all_of_the_way_ends_at_a_map_that_is_all_but_uniform(
    operands: tuple[Tensor, Tensor],
) -> None:
    q, k = operands
    found = flattening(q, k, 1.0, rows=[0])
    assert float(found.max()) <= 1000.001
    reached = entropies(q[:1], k[:1], found)
    torch.testing.assert_close(reached, torch.full_like(reached, math.log(31)), rtol=0, atol=2e-3)


def test_a_uniform_map_stays_as_it_is() -> None:
    zeros = torch.zeros(1, 2, 9, 4)
    assert torch.equal(flattening(zeros, zeros, 0.5, rows=[0]), torch.ones(1, 2).double())
