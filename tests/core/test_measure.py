"""`measure`, each implementation, against plain float64 loops over dense maps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from vdit_attention.tests.core.measured import HEADS, IMPLEMENTATIONS, Scene, check, padded, scene
from vdit_attention.vdit_core.grid import TokenGrid

PLACES = {
    "1": TokenGrid(1, 1, 1),
    "2": TokenGrid(2, 1, 1),
    "63": TokenGrid(3, 3, 7),
    "65": TokenGrid(5, 1, 13),
    "127 with text": TokenGrid(4, 3, 5, prefix=30, suffix=37),
    "more frames than bins": TokenGrid(23, 2, 1),
}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", PLACES)
def test_every_statistic_equals_plain_loops(name: str, implementation: str) -> None:
    grid = PLACES[name]
    text = slice(grid.video.stop, len(grid)) if grid.suffix else None
    wanted = scene(grid, text=text)
    check(wanted.measured(implementation), wanted)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("width", [32, 64, 96, 128])
def test_dtypes_and_head_widths(width: int, dtype: torch.dtype) -> None:
    wanted = scene(TokenGrid(3, 5, 3), width=width, dtype=dtype, scale=1.0)
    check(wanted.measured(), wanted)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_peaked_rows(implementation: str) -> None:
    wanted = scene(TokenGrid(3, 5, 3), scale=30.0)
    check(wanted.measured(implementation), wanted, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("offset", [-100.0, -30.0, 30.0, 100.0])
@pytest.mark.parametrize("masked", [False, True])
def test_scores_far_from_zero(offset: float, masked: bool) -> None:
    """Near enough for their exponentials to be taken as they are, and too far for that."""
    grid = TokenGrid(2, 3, 5, suffix=7)
    mask = padded(1, grid, (4,), "bool") if masked else None
    wanted = scene(grid, text=slice(30, 37), mask=mask, scale=0.5)
    wanted.q[..., 0], wanted.k[..., 0] = 4.0, offset  # over √16
    check(wanted.measured(), wanted, atol=2e-5)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_flat_rows_are_all_ties(implementation: str) -> None:
    wanted = scene(TokenGrid(3, 5, 3), scale=0.0)
    found = wanted.measured(implementation)
    assert bool((found["realised_rate"] == 0).all())  # nothing lies strictly below a tie
    assert bool((found["mass_lost"] == 0).all())
    torch.testing.assert_close(found["threshold"], torch.full((1, HEADS), 1 / 45).double())
    torch.testing.assert_close(found["entropy"], torch.full_like(found["entropy"], 45.0).log())


def test_one_key_that_all_attend_to_is_found() -> None:
    wanted = scene(TokenGrid(3, 5, 3), scale=0.5)
    wanted.k[:, 1, 17] = 40 * torch.nn.functional.normalize(wanted.q[:, 1].mean(1), dim=-1)
    wanted.q[:, 1] += 4 * torch.nn.functional.normalize(wanted.q[:, 1].mean(1), dim=-1)
    found = wanted.measured()
    check(found, wanted, atol=1e-5)  # a rounding of scores about 40
    assert found["coverage_key"][0, 1] == 17
    assert found["coverage"][0, 1] > 0.9
    assert bool((found["coverage"][0, [0, 2]] < 0.5).all())


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_ties_at_the_threshold_stay(implementation: str) -> None:
    """Scores of −2, −1 or 0 only, so that each value occurs hundreds of times."""
    grid = TokenGrid(1, 1, 24)
    pattern = torch.arange(24)[:, None] + torch.arange(24)
    q = torch.eye(24)[None, None]
    k = -(pattern % 3).float().T[None, None]
    wanted = Scene(q, k, torch.randn(1, 1, 24, 24), grid)
    found = wanted.measured(implementation, rate=0.5)
    scores = pattern % 3
    ordered = (-scores).double().mul(24**-0.5).softmax(-1).flatten().sort().values
    threshold = ordered[288]
    torch.testing.assert_close(found["threshold"][0, 0], threshold, rtol=1e-6, atol=0)
    below = (ordered < threshold * (1 - 1e-9)).double().mean()
    assert found["realised_rate"][0, 0] == below


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(1, 90), st.integers(1, 100), st.integers(0, 10**6), st.floats(0.1, 8))
def test_the_split_into_tiles_never_changes_the_answer(
    length: int, tile: int, seed: int, scale: float
) -> None:
    wanted = scene(TokenGrid(1, 1, length), seed=seed, scale=scale)
    whole, parts = wanted.measured(tile=length), wanted.measured(tile=tile)
    for name, value in vars(whole).items():
        if value is not None:
            # products of other tiles round scores of up to 100 differently, by 1e-5
            counted = name in ("coverage", "keys_for_95", "mass_curve")
            loose = 1.5 / length if counted else 2e-5
            torch.testing.assert_close(getattr(parts, name), value, rtol=2e-4, atol=loose)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(2, 80), st.floats(0.001, 0.999), st.integers(0, 10**6), st.floats(0.1, 2))
def test_sums_and_bounds_hold_for_any_map(
    length: int, rate: float, seed: int, scale: float
) -> None:
    found = scene(TokenGrid(1, 1, length), seed=seed, scale=scale).measured(rate=rate, tile=7)
    entropy, sums, realised = found["entropy"], found["column_sums"], found["realised_rate"]
    top = torch.tensor(float(length)).log()
    assert bool(((entropy >= 0) & (entropy <= top * (1 + 1e-6))).all())
    torch.testing.assert_close(sums.sum(-1), torch.full((1, HEADS), float(length)).double())
    entries = length * length
    place = min(int(rate * entries), entries - 1)
    assert bool(((realised * entries - place).abs() <= 1).all())  # no ties in random maps


def test_a_dropped_tile_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests above are worth something: with one tile left out they fail."""
    from vdit_attention.vdit_core.attention.tiles import Softmax

    whole = Softmax.tiles

    def without_one(self: Softmax, size: int | None = None):
        yield from list(whole(self, size))[:-1]

    wanted = scene(TokenGrid(3, 3, 7))
    monkeypatch.setattr(Softmax, "tiles", without_one)
    with pytest.raises(AssertionError):
        check(wanted.measured(tile=16), wanted)
