"""What `measure` can be asked: masks, edits, other keys, a zoom, chosen heads; what it refuses."""

from __future__ import annotations

import pytest
import torch
from vdit_attention.tests.core.measured import HEADS, IMPLEMENTATIONS, Scene, check, padded, scene
from vdit_attention.tests.oracle import Case, no_wish
from vdit_attention.vdit_core.attention import measure
from vdit_attention.vdit_core.grid import TokenGrid
from vdit_attention.vdit_core.plan import AttentionPlan, MapMix, Source


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("kind", ["bool", "−inf", "lowest"])
def test_padded_text_of_different_lengths(kind: str, implementation: str) -> None:
    grid = TokenGrid(2, 3, 5, suffix=7)
    mask = padded(3, grid, (0, 3, 7), kind)
    wanted = scene(grid, batch=3, text=slice(30, 37), mask=mask)
    found = wanted.measured(implementation)
    check(found, wanted)
    assert bool((found["text_mass"][0] == 0).all())


def test_padding_changes_nothing_for_a_shorter_prompt() -> None:
    grid = TokenGrid(2, 3, 5, suffix=7)
    wanted = scene(grid, text=slice(30, 37), mask=padded(1, grid, (3,), "bool"))
    short = TokenGrid(2, 3, 5, suffix=3)
    q, k, v = (x[:, :, :33] for x in (wanted.q, wanted.k, wanted.v))
    alone = Scene(q, k, v, short, slice(30, 33))
    found, truth = wanted.measured(wants=["pooled_map"]), alone.measured(wants=["pooled_map"])
    torch.testing.assert_close(found["pooled_map"], truth["pooled_map"], rtol=1e-5, atol=1e-9)


def test_a_query_that_may_attend_nowhere_counts_for_nothing() -> None:
    grid = TokenGrid(1, 2, 4)
    mask = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    mask[..., 3, :] = False
    wanted = scene(grid, mask=mask)
    for found in (wanted.measured(), wanted.measured("reference")):
        assert bool((found["out"][:, :, 3] == 0).all())
        assert bool((found["entropy"][:, :, 3] == 0).all())
        assert bool(torch.isneginf(found["lse"][:, :, 3]).all())
    check(wanted.measured(), wanted)


PLANS = {
    "temperature": AttentionPlan(temperature=torch.tensor([[0.5, 1, 2], [1, 1, 0.7]])),
    "full transfer": AttentionPlan(
        source=Source(torch.tensor([0, 0]), torch.tensor([[0.0, 0, 0], [1, 0, 1]]))
    ),
    "everything": AttentionPlan(
        source=Source(torch.tensor([0, 0]), torch.tensor([[0, 0, 0], [1, 0.5, 0]])),
        temperature=torch.tensor([[0.5, 1, 2], [1, 1, 0.7]]),
        map=MapMix(
            torch.tensor([[0.2, 0, 0], [0, 0, 0.5]]), torch.tensor([[0, 0.3, 0], [0, 0, 0.3]])
        ),
    ),
}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", PLANS)
def test_the_map_is_measured_as_the_edits_made_it(name: str, implementation: str) -> None:
    wanted = scene(TokenGrid(3, 3, 5), batch=2, plan=PLANS[name])
    check(wanted.measured(implementation), wanted)


def test_lse_is_that_of_the_scores_divided_by_the_temperature() -> None:
    plan = PLANS["temperature"]
    wanted = scene(TokenGrid(3, 5, 7), batch=2, plan=plan)
    scores = 0.3 * torch.einsum("bhid,bhjd->bhij", wanted.q.double(), wanted.k.double())
    assert plan.temperature is not None
    lse = (scores / plan.temperature[:, :, None, None].double()).logsumexp(-1)
    for implementation in IMPLEMENTATIONS:
        found = wanted.measured(implementation, wants=["lse"], scale=0.3)["lse"]
        torch.testing.assert_close(found.double(), lse, rtol=1e-5, atol=1e-5)


def test_key_heads_that_serve_several_query_heads() -> None:
    wanted = scene(TokenGrid(2, 3, 5))
    shared = Scene(wanted.q, wanted.k[:, :1], wanted.v[:, :1], wanted.grid)
    whole = Scene(
        wanted.q,
        wanted.k[:, :1].expand_as(wanted.k),
        wanted.v[:, :1].expand_as(wanted.v),
        wanted.grid,
    )
    for name, value in vars(whole.measured()).items():
        assert value is None or torch.equal(getattr(shared.measured(), name), value), name


def test_cross_attention_has_other_keys_than_queries() -> None:
    q, k, v = (torch.randn(2, HEADS, n, 16) for n in (30, 11, 11))
    found = measure(q, k, v, spans={"text": slice(0, 11)}, grid=None)
    maps = Case(q, k, v, no_wish(2, HEADS)).true_maps()
    torch.testing.assert_close(found["text_mass"].double(), maps.mean(2), rtol=1e-5, atol=1e-7)
    assert found.pooled_map is None


def test_the_zoom_shows_single_tokens() -> None:
    wanted = scene(TokenGrid(5, 3, 4, prefix=2))
    found = wanted.measured(window=(2, 3), map_size=24)
    maps = Case(wanted.q, wanted.k, wanted.v, no_wish(1, HEADS)).true_maps()
    part = slice(2 + 24, 2 + 48)
    torch.testing.assert_close(
        found["pooled_map"].double(),
        maps[:, :, part, part],
        rtol=1e-4,
        atol=1e-8,
    )
    outside = 1 - maps[:, :, part, part].sum(-1)
    torch.testing.assert_close(found["other_mass"].double(), outside, rtol=1e-5, atol=1e-6)


def test_chosen_rows_and_heads_come_back_in_the_order_asked() -> None:
    wanted = scene(TokenGrid(2, 3, 5), batch=2, plan=PLANS["everything"])
    whole = wanted.measured()
    some = wanted.measured(rows=[1], heads=torch.tensor([2, 0]))
    for name, value in vars(some).items():
        if value is not None:
            torch.testing.assert_close(value, getattr(whole, name)[1:][:, [2, 0]])


@pytest.mark.parametrize("name", ["q", "k", "v"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_infinity_are_named(name: str, bad: float) -> None:
    wanted = scene(TokenGrid(1, 2, 3))
    getattr(wanted, name)[0, 1, 2, 3] = bad
    with pytest.raises(ValueError, match=f"^{name}: holds NaN or infinity"):
        wanted.measured()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"wants": ["entropi"]}, "wants: got entropi; allowed are all, out, lse"),
        ({"wants": ["text_mass"]}, r'text_mass cannot be told without spans=\{"text"'),
        ({"rate": 1.0}, "rate: got 1.0, allowed is between 0 and 1"),
        ({"tau": 0.0}, "tau: got 0.0"),
        ({"window": (1, 3)}, "frames: got 1 to 3, but there are latent frames 0 to 1"),
        ({"implementation": "fast"}, "implementation: got 'fast', allowed are auto"),
    ],
)
def test_bad_questions_are_refused_in_words(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scene(TokenGrid(2, 1, 3)).measured(**({"implementation": "auto"} | options))


def test_a_grid_of_another_length_is_an_error() -> None:
    wanted = scene(TokenGrid(1, 2, 3))
    with pytest.raises(ValueError, match="7 tokens, but there are 6 queries and 6 keys"):
        Scene(wanted.q, wanted.k, wanted.v, TokenGrid(1, 1, 7)).measured()
