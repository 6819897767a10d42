"""`measure`, each implementation, against plain float64 loops over dense maps."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from vdit_attention.tests import statistics
from vdit_attention.tests.oracle import Case, no_wish, wish_of
from vdit_attention.vdit_core.attention import Measures, measure
from vdit_attention.vdit_core.grid import TokenGrid
from vdit_attention.vdit_core.plan import UNTOUCHED, AttentionPlan, MapMix, Source

IMPLEMENTATIONS = ["streaming", "reference"]
TAU, RATE = 0.3, 0.7
HEADS = 3


@dataclass(frozen=True)
class Scene:
    """q, k, v [B, H, L, D], the video's grid, and where the text lies, if anywhere."""

    q: Tensor
    k: Tensor
    v: Tensor
    grid: TokenGrid
    text: slice | None = None
    mask: Tensor | None = None
    plan: AttentionPlan = UNTOUCHED

    def measured(self, implementation: str = "streaming", **options: object) -> Measures:
        wanted: dict[str, object] = {"tau": TAU, "rate": RATE, "map_size": 10} | options
        spans = None if self.text is None else {"text": self.text}
        q, k, v = self.q, self.k, self.v
        if implementation == "reference":
            q, k, v = q.double(), k.double(), v.double()
        return measure(
            q,
            k,
            v,
            grid=self.grid,
            spans=spans,
            mask=self.mask,
            plan=self.plan,
            implementation=implementation,
            **wanted,  # pyright: ignore[reportArgumentType]
        )

    def expected(self, b: int, h: int) -> dict[str, Tensor]:
        """All statistics of one head from its dense map."""
        weights = self.true_maps()[b, h].nan_to_num(0)
        allowed = self.allowed(b, h)
        grid, tokens = self.grid, list(range(self.grid.video.start, self.grid.video.stop))
        place = statistics.Place(grid.frames, grid.rows, grid.cols, grid.prefix)
        found = statistics.of_rows(weights) | statistics.of_columns(weights, self.v[b, h], TAU)
        found |= statistics.of_sizes(weights, allowed, RATE)
        found |= statistics.of_places(weights, place)
        found |= statistics.pooled(weights, tokens, grid.bins(10).tolist())
        out = weights @ self.v[b, h].double()
        found |= {"out": out, "energy": out.square().sum()}
        if self.text is not None:
            found["text_mass"] = weights[tokens][:, self.text].mean(0)
            found["text_own_mass"] = weights[self.text, self.text].mean(0)
        return found

    def true_maps(self) -> Tensor:
        """Gates are no part of the map."""
        wish = wish_of(self.plan.ungated, *self.q.shape[:2])
        return Case(self.q, self.k, self.v, wish, self.mask).true_maps()

    def allowed(self, b: int, h: int) -> Tensor:
        shape = (*self.q.shape[:3], self.k.shape[2])
        if self.mask is None:
            return torch.ones(shape[2:], dtype=torch.bool)
        mask = self.mask.expand(shape)[b, h]
        return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2


def scene(
    grid: TokenGrid,
    *,
    scale: float = 2.0,
    width: int = 16,
    batch: int = 1,
    dtype: torch.dtype = torch.float32,
    seed: int = 3,
    text: slice | None = None,
    mask: Tensor | None = None,
    plan: AttentionPlan | None = None,
) -> Scene:
    generator = torch.Generator().manual_seed(seed)
    shape = batch, HEADS, len(grid), width
    q, k, v = (torch.randn(shape, generator=generator) for _ in range(3))
    q, k, v = (x.to(dtype) for x in (scale * q, k, v))
    return Scene(q, k, v, grid, text, mask, plan or UNTOUCHED)


def check(found: Measures, wanted: Scene, **tolerance: float) -> None:
    """Each field of each head: within float32 rounding of the truth."""
    loose = {"rtol": 1e-4, "atol": 1e-6} | tolerance
    for b in range(wanted.q.shape[0]):
        for h in range(wanted.q.shape[1]):
            for name, truth in wanted.expected(b, h).items():
                value = getattr(found, name)
                assert value is not None, name
                own = dict(loose)
                if name in ("realised_rate", "coverage", "keys_for_95", "mass_curve"):
                    own["atol"] = 1.5 / len(wanted.grid)  # one entry of a row, or a near tie
                if name == "out":
                    own["rtol"] = max(loose["rtol"], torch.finfo(value.dtype).eps)
                if name == "coverage_key" and float(found["coverage"][b, h]) == 0:
                    continue
                torch.testing.assert_close(
                    value[b, h].double(), truth.double(), msg=lambda m, n=name: f"{n}: {m}", **own
                )


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


def padded(batch: int, grid: TokenGrid, lengths: tuple[int, ...], kind: str) -> Tensor:
    """Text of different lengths at the end of the keys: bool, or additive numbers."""
    keys = torch.arange(len(grid))
    mask = torch.stack([keys < grid.video.stop + n for n in lengths])[:, None, None]
    if kind == "bool":
        return mask
    lowest = float("-inf") if kind == "−inf" else torch.finfo(torch.bfloat16).min
    return torch.zeros(mask.shape, dtype=torch.bfloat16).masked_fill(~mask, lowest)


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
