"""`attend` and `measure`'s maps against dense float64 attention, in every implementation."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from vdit_attention.tests.oracle import Case, assert_as_good_as_torch, no_wish, wish_of
from vdit_attention.vdit_core.attention import attend
from vdit_attention.vdit_core.attention.reference import reference_attend
from vdit_attention.vdit_core.plan import AttentionPlan, MapMix, Source

LENGTHS = (1, 2, 63, 65, 105)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
HEADS = 3
Operands = tuple[Tensor, Tensor, Tensor]


def operands(length: int, dtype: torch.dtype, batch: int = 4, seed: int = 0) -> Operands:
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, HEADS, length, 16)
    q, k, v = (torch.randn(shape, generator=generator).to(dtype) for _ in range(3))
    return 4 * q, k, v


def table(*rows: list[float]) -> Tensor:
    """[4, HEADS], the given rows repeated."""
    return torch.tensor([rows[b % len(rows)] for b in range(4)])


PAIRS = torch.tensor([0, 0, 2, 2])
CROSSED = torch.tensor([1, 0, 3, 0])
FIELDS = {
    "temperature": AttentionPlan(temperature=table([0.3, 1, 2.5], [1, 1, 0.7])),
    "temperature of all": AttentionPlan(temperature=torch.full((4, HEADS), 0.6)),
    "gate": AttentionPlan(gate=table([0, 1, 1], [0, 1, 0])),
    "gate of all": AttentionPlan(gate=torch.zeros(4, HEADS)),
    "identity": AttentionPlan(map=MapMix(table([1, 0, 0.3]), torch.zeros(4, HEADS))),
    "uniform": AttentionPlan(map=MapMix(torch.zeros(4, HEADS), table([0.25, 1, 0], [0, 0, 0.5]))),
    "mixture": AttentionPlan(map=MapMix(table([0.2, 0.5, 0]), table([0.3, 0.5, 1]))),
    "source": AttentionPlan(source=Source(PAIRS, table([0, 0, 0], [1, 0, 1]))),
    "source in part": AttentionPlan(source=Source(PAIRS, table([0, 0, 0], [0.4, 0, 1]))),
    "source crossed": AttentionPlan(source=Source(CROSSED, table([1, 0.5, 1]))),
}
EVERYTHING = AttentionPlan(
    source=FIELDS["source in part"].source,
    temperature=FIELDS["temperature"].temperature,
    map=FIELDS["mixture"].map,
    gate=FIELDS["gate"].gate,
)


def masks(length: int) -> dict[str, Tensor | None]:
    generator = torch.Generator().manual_seed(7)
    keep = torch.rand(4, HEADS, length, length, generator=generator) > 0.4
    keep = keep | torch.eye(length, dtype=torch.bool)
    additive = torch.randn(4, 1, 1, length, generator=generator)
    return {
        "bool per key": keep[:, :1, :1] | (torch.arange(length) == 0),
        "bool per head and query": keep,
        "bool of all": keep[:1, :1],
        "additive per key": additive,
        "additive per query": torch.where(keep[:1, :1], 0.0, float("-inf")),
        "additive smallest": torch.where(keep, 0.0, torch.finfo(torch.float32).min),
    }


def check(
    plan: AttentionPlan,
    x: Operands,
    implementation: str,
    mask: Tensor | None = None,
    scale: float | None = None,
) -> None:
    out = attend(*x, plan, mask=mask, scale=scale, implementation=implementation)
    wish = wish_of(plan, x[0].shape[0], HEADS)
    assert_as_good_as_torch(out, Case(*x, wish, mask, scale))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("implementation", ["dense", "streaming", "auto"])
@pytest.mark.parametrize("field", FIELDS)
def test_every_field_alone(field: str, implementation: str, dtype: torch.dtype) -> None:
    for length in LENGTHS:
        check(FIELDS[field], operands(length, dtype), implementation)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("implementation", ["dense", "streaming"])
def test_all_fields_together(implementation: str, dtype: torch.dtype) -> None:
    for length in LENGTHS:
        check(EVERYTHING, operands(length, dtype), implementation)


@pytest.mark.parametrize("implementation", ["dense", "streaming", "reference"])
@pytest.mark.parametrize("kind", masks(2))
def test_masks_stay_in_force_in_every_path(kind: str, implementation: str) -> None:
    mask = masks(65)[kind]
    for plan in (EVERYTHING, *FIELDS.values()):
        check(plan, operands(65, torch.float32), implementation, mask)


@pytest.mark.parametrize("plan", [EVERYTHING, *FIELDS.values()], ids=["everything", *FIELDS])
def test_the_reference_equals_the_formula_in_float64(plan: AttentionPlan) -> None:
    x = operands(63, torch.float64)
    truth = Case(*x, wish_of(plan, 4, HEADS), scale=0.37).true_output()
    torch.testing.assert_close(reference_attend(*x, plan, scale=0.37), truth, rtol=0, atol=1e-12)


def weights(values: list[float]) -> st.SearchStrategy[Tensor]:
    row = st.lists(st.sampled_from(values), min_size=HEADS, max_size=HEADS)
    return st.lists(row, min_size=3, max_size=3).map(torch.tensor)


@st.composite
def plans(draw: st.DrawFn) -> AttentionPlan:
    mixes = st.builds(MapMix, weights([0.0, 0.2, 0.5]), weights([0.0, 0.3, 0.5]))
    rows = st.lists(st.integers(0, 2), min_size=3, max_size=3).map(torch.tensor)
    return AttentionPlan(
        source=draw(st.none() | st.builds(Source, rows, weights([0.0, 0.0, 0.35, 1.0]))),
        temperature=draw(st.none() | weights([0.2, 1.0, 1.7, 6.0])),
        map=draw(st.none() | mixes),
        gate=draw(st.none() | weights([0.0, 1.0, 1.0])),
    )


@settings(max_examples=40, deadline=None)
@given(
    plans(),
    st.sampled_from(["dense", "streaming"]),
    st.sampled_from(DTYPES),
    st.sampled_from([2, 7, 35]),
    st.booleans(),
    st.integers(0, 9),
)
def test_any_combination_of_fields(
    plan: AttentionPlan,
    implementation: str,
    dtype: torch.dtype,
    length: int,
    masked: bool,
    seed: int,
) -> None:
    mask = masks(length)["bool per key"] if masked else None
    mask = None if mask is None else mask[:3]
    check(plan, operands(length, dtype, 3, seed), implementation, mask)


def test_cross_attention_with_another_number_of_keys() -> None:
    q, k, v = operands(65, torch.float32)
    plan = AttentionPlan(
        temperature=EVERYTHING.temperature, gate=EVERYTHING.gate, source=EVERYTHING.source
    )
    for implementation in ("dense", "streaming", "reference"):
        check(plan, (q, k[:, :, :13], v[:, :, :13]), implementation)


def test_an_empty_plan_is_plain_torch_bit_for_bit() -> None:
    q, k, v = operands(63, torch.bfloat16)
    plain = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    assert torch.equal(attend(q, k, v, AttentionPlan()), plain)


def test_untouched_rows_and_heads_stay_bit_identical() -> None:
    q, k, v = operands(63, torch.bfloat16)
    plain = attend(q, k, v, AttentionPlan())
    temperature = torch.ones(4, HEADS)
    temperature[2, 1] = 0.5
    out = attend(q, k, v, AttentionPlan(temperature=temperature))
    changed = (out != plain).flatten(2).any(-1)
    assert changed.nonzero().tolist() == [[2, 1]]


class Spoiled:
    """Ways to be wrong that the comparison must notice."""

    @staticmethod
    def a_tile_dropped(out: Tensor) -> Tensor:
        spoiled = out.clone()
        spoiled[1, 2, 96:105] = 0
        return spoiled

    @staticmethod
    def one_token_off(out: Tensor) -> Tensor:
        spoiled = out.clone()
        spoiled[3, 0] = spoiled[3, 0].roll(1, 0)
        return spoiled


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("spoil", [Spoiled.a_tile_dropped, Spoiled.one_token_off])
def test_the_comparison_notices_a_wrong_output(spoil: object, dtype: torch.dtype) -> None:
    assert callable(spoil)
    case = Case(*operands(105, dtype), no_wish(4, HEADS))
    out = case.plain_output()
    assert_as_good_as_torch(out, case)
    with pytest.raises(AssertionError, match="twice plain torch"):
        assert_as_good_as_torch(spoil(out), case)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_comparison_notices_one_head_whose_temperature_is_ignored(dtype: torch.dtype) -> None:
    x = operands(105, dtype)
    asked = torch.full((4, HEADS), 0.9)
    ignored = asked.clone()
    ignored[2, 1] = 1
    out = attend(*x, AttentionPlan(temperature=ignored))
    case = Case(*x, wish_of(AttentionPlan(temperature=asked), 4, HEADS))
    with pytest.raises(AssertionError, match="row 2 head 1"):
        assert_as_good_as_torch(out, case)
    assert_as_good_as_torch(attend(*x, AttentionPlan(temperature=asked)), case)


def test_an_unknown_implementation_is_refused() -> None:
    x = operands(7, torch.float32)
    with pytest.raises(ValueError, match="got 'fast', allowed are auto, dense, streaming, refer"):
        attend(*x, AttentionPlan(), implementation="fast")


def test_an_identity_map_of_unequal_lengths_is_an_error() -> None:
    q, k, v = operands(7, torch.float32)
    with pytest.raises(ValueError, match=r"as many keys as queries; got 7 .* 5 keys"):
        attend(q, k[:, :, :5], v[:, :, :5], FIELDS["identity"])


def test_tensors_of_unequal_shapes_are_an_error() -> None:
    q, k, v = operands(7, torch.float32)
    with pytest.raises(ValueError, match=r"must be \[B, H, L, D\].*got \(4, 3, 7, 16\)"):
        attend(q, k[:, :2], v, AttentionPlan())
