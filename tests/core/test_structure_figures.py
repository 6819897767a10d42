"""The views of VDiT Structure against planted maps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from vdit_attention.vdit_core.attention import ALWAYS_KEPT, MORE_KEPT, MapMeasures, measure
from vdit_attention.vdit_core.figures.colours import choose_scale
from vdit_attention.vdit_core.figures.likeness import compare_maps, map_likeness
from vdit_attention.vdit_core.figures.on_video import SHOWN
from vdit_attention.vdit_core.figures.panels import Chosen
from vdit_attention.vdit_core.figures.statistics import Statistics
from vdit_attention.vdit_core.figures.structure import VIEWS, draw_structure
from vdit_attention.vdit_core.grid import TokenGrid
from vdit_attention.vdit_core.record import Header, Measurement, RecordData
from vdit_attention.vdit_core.selection import parse_selection

GRID = TokenGrid(3, 4, 5, suffix=2)
KEYS, HEADS, LAYERS = len(GRID), 2, 4
VIDEO = torch.rand(9, 40, 50, 3, generator=torch.Generator().manual_seed(1))
OPEN = VIEWS[:-1]  # those that need no second record


def maps(seed: int, strength: float = 2.0) -> Tensor:
    """[HEADS, KEYS, KEYS] whose rows sum to 1."""
    generator = torch.Generator().manual_seed(seed)
    return (strength * torch.randn(HEADS, KEYS, KEYS, generator=generator)).softmax(-1)


def measured(planted: Tensor, size: int = 60) -> MapMeasures:
    """All that is measured of maps [HEADS, KEYS, KEYS]: their logarithms are scores on K = 1."""
    wants = [*ALWAYS_KEPT, *MORE_KEPT["structure"], *MORE_KEPT["sinks"]]
    keys = torch.eye(KEYS).expand(1, HEADS, KEYS, KEYS)
    scores = planted.log()[None]
    found = measure(scores, keys, keys, wants=wants, grid=GRID, map_size=size, scale=1.0)
    return MapMeasures.of(found, 0)


def recorded(planted: dict[int, Tensor], layers: int = LAYERS) -> RecordData:
    header = Header("Mochi", layers, HEADS, GRID, 60, (1.0, 0.5, 0.0))
    found = [
        Measurement(f"blocks.{n}.attn", n, 1, 0, 0.5, "cond", 0, (0, 1), measured(one))
        for n, one in planted.items()
    ]
    return RecordData(header, tuple(found))


def chosen(layer: str = "all", head: str = "mean", step: str = "mid") -> Chosen:
    return Chosen(parse_selection(layer, "layers"), head, parse_selection(step, "steps"), "both")


@pytest.fixture(scope="module")
def data() -> RecordData:
    return recorded({n: maps(n) for n in range(LAYERS)})


def numbers(drawn: Statistics, layer: int, head: str) -> list[float]:
    rows = [row for row in drawn.table.rows if row[3] == layer and row[4] == head]
    return [float(row[-1]) for row in rows]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_is_a_picture_a_report_and_a_table(view: str, data: RecordData) -> None:
    drawn = draw_structure(data, view, chosen(), video=VIDEO, other=data)
    assert drawn.image.ndim == 4 and drawn.image.shape[0] == 1 and drawn.image.shape[3] == 3
    assert max(drawn.image.shape) < 2000
    assert bool((drawn.image[:, :, -4:] == 1).all()), "something reaches the right edge"
    assert "step 1 (of 0 to 1)" in drawn.report
    assert len({len(row) for row in drawn.table.rows} | {len(drawn.table.columns)}) == 1
    again = draw_structure(data, view, chosen(), video=VIDEO, other=data)
    assert torch.equal(again.image, drawn.image)


def test_frames_are_told_who_looks_and_who_is_looked_at(data: RecordData) -> None:
    planted = maps(7)
    planted[:, 0:20, 40:60] += 3  # the first frame looks at the last
    planted /= planted.sum(-1, keepdim=True)
    drawn = draw_structure(recorded({2: planted}), "frame by frame", chosen(head="1"))
    mass = planted[1, :60, :60].unflatten(-1, (3, 20)).sum(-1).unflatten(0, (3, 20)).mean(1)
    assert numbers(drawn, 2, "1") == pytest.approx((100 * mass).flatten().tolist(), rel=1e-4)
    rows = {tuple(row[5:7]): row[7] for row in drawn.table.rows}
    assert rows[0, 2] > 50 and rows[2, 0] < 50  # pyright: ignore[reportOperatorIssue]


def test_a_record_of_an_older_version_says_what_it_lacks(data: RecordData) -> None:
    bare = [
        replace(m, measures=replace(m.measures, frame_mass=None, column_sums=None))
        for m in data.measurements
    ]
    old = replace(data, measurements=tuple(bare))
    with pytest.raises(ValueError, match=r"turn on structure on VDiT Capture .*older versions"):
        draw_structure(old, "frame by frame", chosen())
    with pytest.raises(ValueError, match=r"'looked at' needs .* turn on sinks"):
        draw_structure(old, "looked at", chosen())
    assert draw_structure(old, "by distance", chosen()).table.rows


@pytest.mark.parametrize("with_video", [False, True])
def test_the_place_that_all_look_at_is_bright_where_it_lies(with_video: bool) -> None:
    planted = maps(3, 0.3)
    token = 1 * 20 + 2 * 5 + 4  # frame 1, row 2, column 4
    planted[:, :, token] += 4
    planted /= planted.sum(-1, keepdim=True)
    video = torch.full((9, 40, 50, 3), 0.5) if with_video else None
    drawn = draw_structure(recorded({1: planted}), "looked at", chosen(), video=video)
    sums = planted.sum(1).mean(0)[:60]
    assert numbers(drawn, 1, "mean") == pytest.approx(sums.tolist(), rel=1e-4)
    top = choose_scale([sums], "log").colours(sums[token])
    colour = top if not with_video else torch.full((3,), 0.5).lerp(top, 0.8)
    hits = ((drawn.image[0] - colour).abs().amax(-1) < 0.01).nonzero()
    strip = hits[hits[:, 1] < 900]  # the colour bar is at its right
    high, wide = (strip.amax(0) - strip.amin(0) + 1).tolist()
    assert len(strip) == high * wide and 40 < wide < 80, "one cell, one colour"
    frame = (strip[:, 1].amin() - 140) // (wide * 5 + 8)
    col = (strip[:, 1].amin() - 140 - frame * (wide * 5 + 8)) // wide
    assert (int(frame), int(col)) == (1, 4)


def test_entropy_is_that_of_each_place() -> None:
    planted = maps(5)
    planted[:, 33] = 1 / KEYS
    drawn = draw_structure(recorded({0: planted}), "looks widely", chosen(head="0"))
    values = numbers(drawn, 0, "0")
    assert values[33] == pytest.approx(100, abs=0.01) and max(values) == values[33]
    truth = (
        100
        * torch.special.entr(planted[0].double()).sum(-1)[:60]
        / torch.log(torch.tensor(KEYS).double())
    )
    assert values == pytest.approx(truth.tolist(), rel=1e-4)


def test_a_latent_frame_is_drawn_on_the_last_of_its_frames() -> None:
    video = torch.zeros(9, 40, 50, 3)
    video[[0, 4, 8]] = 1.0  # 3 latent frames of a causal VAE: 1 + 4 + 4
    drawn = draw_structure(recorded({0: maps(0)}), "looked at", chosen(), video=video)
    row = drawn.image[0, 150, 140:900]
    assert bool((row == 1).all()), "white frames and white gaps"


def test_likeness_is_the_correlation_of_logarithms() -> None:
    a, b = torch.stack([maps(1), maps(2)]), torch.stack([maps(3), maps(1), 0.9 * maps(2)])
    found = map_likeness(a, b, KEYS)
    truth = torch.zeros(2, 3, HEADS, dtype=torch.float64)
    for n in range(2):
        for k in range(3):
            for h in range(HEADS):
                pair = torch.stack(
                    [a[n, h].double().log().flatten(), b[k, h].double().log().flatten()]
                )
                truth[n, k, h] = torch.corrcoef(pair)[0, 1]
    torch.testing.assert_close(found, truth.mean(-1))
    assert found[0, 1] == pytest.approx(1) and found[1, 2] == pytest.approx(1)
    assert abs(float(found[0, 0])) < 0.1, "unrelated maps"


def test_a_flat_map_is_like_nothing(data: RecordData) -> None:
    flat = recorded({n: torch.full((HEADS, KEYS, KEYS), 1 / KEYS) for n in (0, 1)})
    assert bool(compare_maps(flat, data, chosen()).values.isnan().all())
    drawn = draw_structure(flat, "similarity", chosen(), other=data)
    assert all(row[-1] is None for row in drawn.table.rows)


def test_layers_that_changed_places_are_found_again(data: RecordData) -> None:
    moved = recorded({n: maps((n + 1) % LAYERS) for n in range(LAYERS)})
    found = compare_maps(data, moved, chosen(head="all"))
    best = found.values.argmax(1).tolist()
    assert best == [3, 0, 1, 2] and found.own_best == 0
    assert float(found.same.abs().max()) < 0.2
    assert compare_maps(data, data, chosen()).own_best == LAYERS
    report = draw_structure(data, "similarity", chosen(), other=data).report
    assert "same layer 1.00" in report and "4 of 4 layers are most alike" in report


def test_models_of_other_depth_are_matched_by_depth(data: RecordData) -> None:
    deeper = recorded({n: maps(n) for n in (0, 3, 6)}, layers=7)
    assert compare_maps(data, deeper, chosen()).partner == [0, 1, 1, 2]


def test_one_layer_alone_has_no_control(data: RecordData) -> None:
    drawn = draw_structure(data, "similarity", chosen("2"), other=data)
    assert "no other layer was captured to hold it against" in drawn.report


def test_records_of_other_places_are_refused(data: RecordData) -> None:
    header = replace(data.header, map_size=30)
    with pytest.raises(ValueError, match=r"map_size 30, but this record's show .*map_size 60"):
        draw_structure(data, "similarity", chosen(), other=replace(data, header=header))
    with pytest.raises(ValueError, match="other: the view similarity compares two records"):
        draw_structure(data, "similarity", chosen())
    with pytest.raises(ValueError, match="view: got 'x', allowed are by distance"):
        draw_structure(data, "x", chosen())


def test_many_layers_are_thinned_and_said_to_be(data: RecordData) -> None:
    first = data.measurements[0]
    many = tuple(replace(first, layer=n) for n in range(48))
    large = RecordData(replace(data.header, layers=48), many)
    for view in OPEN:
        drawn = draw_structure(large, view, chosen())
        assert max(drawn.image.shape) < 2700
        assert len({row[3] for row in drawn.table.rows}) == 48


def test_what_a_view_reads_is_a_field_of_the_record() -> None:
    assert {asked.needs for asked in SHOWN.values()} <= {*MapMeasures.__dataclass_fields__}
