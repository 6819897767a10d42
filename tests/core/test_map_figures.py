"""Drawn maps: what lies where on the picture, what is shown, what is refused in which words."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from typing import Any

import matplotlib
import pytest
import torch
from torch import Tensor
from vdit_attention.vdit_core.attention import MapMeasures
from vdit_attention.vdit_core.figures import attention_map
from vdit_attention.vdit_core.figures.colours import ColourScale, choose_scale, paint
from vdit_attention.vdit_core.figures.frames import FrameAxis, profile
from vdit_attention.vdit_core.figures.legend import (
    has_others,
    moment_text,
    others_text,
    size_text,
)
from vdit_attention.vdit_core.figures.origin import check_origin
from vdit_attention.vdit_core.figures.panels import choose_panels
from vdit_attention.vdit_core.grid import TokenGrid
from vdit_attention.vdit_core.record import Header, Measurement, RecordData
from vdit_attention.vdit_core.selection import parse_selection

GRID = TokenGrid(3, 5, 7)
SIGMAS = (1.0, 0.9, 0.7, 0.4, 0.0)
SIZE = 6  # two bins per frame


def measurement(
    layer: int,
    maps: Tensor,
    *,
    step: int = 2,
    branch: str = "cond",
    item: int = 0,
    heads: tuple[int, ...] = (0, 2),
) -> Measurement:
    count, bins = maps.shape[:2]
    entropy = torch.arange(1.0, count + 1)
    measures = MapMeasures(
        maps, torch.zeros(count, bins), entropy, torch.zeros(count), torch.zeros(count)
    )
    name = f"blocks.{layer}.self_attn"
    return Measurement(name, layer, step, 0, SIGMAS[step], branch, item, heads, measures)


def record(
    *found: Measurement,
    grid: TokenGrid = GRID,
    size: int = SIZE,
    window: tuple[int, int] | None = None,
) -> RecordData:
    return RecordData(Header("Wan", 6, 4, grid, size, SIGMAS, window), found)


def example() -> RecordData:
    maps = torch.rand(2, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) / len(GRID)
    return record(
        measurement(1, maps),
        measurement(1, maps, branch="uncond"),
        measurement(4, maps),
        measurement(4, maps, step=0),
    )


def draw(data: RecordData, **changes: Any) -> Tensor:
    asked: dict[str, Any] = {"layers": "all", "head": "mean", "step": "mid", "branch": "both"}
    asked |= {"scale": "log"} | changes
    layers, step = asked.pop("layers"), asked.pop("step")
    return attention_map(
        data,
        layers=parse_selection(layers, "layers"),
        step=parse_selection(step, "steps"),
        **asked,
    )


def planted(query: int, key: int) -> Tensor:
    """A page whose only bright block is frame `query` looking at frame `key`."""
    blocks = torch.full((2, SIZE, SIZE), 0.1)
    blocks[:, 2 * query : 2 * query + 2, 2 * key : 2 * key + 2] = 10
    return draw(record(measurement(1, blocks / len(GRID))), layers="1")[0]


@pytest.mark.parametrize(("query", "key"), [(0, 0), (0, 2), (2, 0), (1, 2)])
def test_a_bright_block_lies_where_its_frames_are(query: int, key: int) -> None:
    away = (planted(0, 0) - planted(2, 2)).abs().sum(-1) > 0.1  # two corners of the map
    rows, cols = away.any(1).nonzero()[:, 0], away.any(0).nonzero()[:, 0]
    top, left = int(rows[0]), int(cols[0])
    frame = (int(rows[-1]) + 1 - top) // 3
    page = planted(query, key)[top : top + 3 * frame, left : left + 3 * frame]
    light = page.mean(-1)  # of the map alone
    inner = frame // 4  # clear of the lines
    for row in range(3):
        for col in range(3):
            block = light[
                row * frame + inner : (row + 1) * frame - inner,
                col * frame + inner : (col + 1) * frame - inner,
            ]
            bright = (row, col) == (query, key)
            assert bool((block > 0.8).all() if bright else (block < 0.2).all()), (row, col)


def test_lines_lie_before_the_first_bin_of_each_frame() -> None:
    axis = FrameAxis(GRID, SIZE, 60)
    assert (axis.side, axis.bins, axis.edges(), axis.lines()) == (60, 6, [0, 2, 4], [2, 4])
    flat = paint(torch.ones(6, 6), ColourScale(0.5, 2.0, True, False), 60, axis.lines())
    changed = (flat != flat[5, 5]).any(-1)
    assert changed.all(1).nonzero()[:, 0].tolist() == [20, 40]
    assert changed.all(0).nonzero()[:, 0].tolist() == [20, 40]
    assert int(changed.sum()) == 4 * 60 - 4


def test_frames_are_labelled_in_their_middle() -> None:
    places, names = FrameAxis(GRID, SIZE, 60).labels(room=10)
    assert (places, names) == ([10.0, 30.0, 50.0], ["0", "1", "2"])
    assert FrameAxis(TokenGrid(21, 3, 5), 64, 63).labels(room=10)[1] == ["0", "5", "10", "15", "20"]


def test_maps_larger_than_their_room_keep_their_frames_apart() -> None:
    axis = FrameAxis(GRID, 90, 14)
    assert (axis.measured, axis.bins) == (90, 12)
    block = torch.zeros(90, 90)
    block[30:60, :30] = 1  # frame 1 looks at frame 0
    fitted = axis.fit(block)
    assert torch.equal(fitted[4:8, :4], torch.ones(4, 4))
    assert float(fitted.sum()) == 16


def test_more_frames_than_bins_share_lines_and_places() -> None:
    axis = FrameAxis(TokenGrid(7, 3, 5), 3, 300)
    assert (axis.bins, axis.edges(), axis.lines()) == (3, [0, 0, 0, 1, 1, 2, 2], [1, 2])
    maps = torch.rand(1, 3, 3)
    data = record(measurement(0, maps, heads=(0,)), grid=TokenGrid(7, 3, 5), size=3)
    assert draw(data, layers="0").shape[0] == 1


def test_the_strip_shows_shares_as_lengths() -> None:
    bars = profile(torch.tensor([0.0, 0.5, 1.0]), 40, 30)
    filled = (bars == bars[29, 0]).all(-1).sum(1)
    assert filled.tolist() == [0] * 10 + [20] * 10 + [40] * 10


def test_attention_off_the_video_adds_a_strip() -> None:
    maps = torch.rand(2, SIZE, SIZE)
    alone = draw(record(measurement(1, maps)), layers="1")
    beside = draw(record(measurement(1, maps), grid=replace(GRID, suffix=4)), layers="1")
    assert beside.shape[2] > alone.shape[2]


def test_a_zoom_is_drawn_on_its_own_frames() -> None:
    header = record(grid=TokenGrid(21, 3, 5), size=30, window=(2, 4)).header
    axis = FrameAxis.of(header, None, 90)
    assert (axis.bins, axis.edges(), axis.side) == (30, [0, 10, 20], 90)
    assert axis.labels(room=10) == ([15.0, 45.0, 75.0], ["2", "3", "4"])
    assert size_text(header) == "frames 2 to 4 of 21, 3 × 5 tokens each"
    assert size_text(replace(header, window=(7, 7))) == "frame 7 of 21, 3 × 5 tokens each"
    assert size_text(replace(header, window=None)) == "21 frames of 3 × 5 tokens"


def test_attention_outside_a_zoom_adds_a_strip_that_says_so() -> None:
    maps = torch.rand(2, 2, 2)
    zoom = record(measurement(1, maps), measurement(4, maps), size=2, window=(1, 1))
    assert has_others(zoom.header) and others_text(zoom.header) == "elsewhere"
    assert not has_others(record().header) and others_text(record().header) == "not video"
    alone = draw(record(measurement(1, maps), grid=TokenGrid(1, 5, 7), size=2), layers="1")
    assert draw(zoom, layers="1").shape[2] > alone.shape[2]
    assert draw(zoom).shape[0] == 1


def test_a_picture_is_the_same_bits_each_time_and_changes_no_settings() -> None:
    before = dict(matplotlib.rcParams)
    first, second = draw(example()), draw(example())
    assert torch.equal(first, second)
    assert dict(matplotlib.rcParams) == before
    assert first.dtype == torch.float32
    assert first.shape[0] == 1 and first.shape[3] == 3
    assert 0 <= float(first.min()) < float(first.max()) <= 1


def test_figures_never_import_pyplot() -> None:
    program = (
        "import sys, vdit_attention.vdit_core.figures; sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def panels(data: RecordData, layers: str, head: str, step: str = "mid", branch: str = "both"):
    return choose_panels(
        data, parse_selection(layers, "layers"), head, parse_selection(step, "steps"), branch, 0
    )


def test_all_means_all_that_was_captured() -> None:
    _, rows = panels(example(), "all", "all")
    assert [[(p.layer, p.head) for p in row] for row in rows] == [
        [(1, "0"), (1, "2")],
        [(4, "0"), (4, "2")],
    ]
    assert [row[0].layer for row in panels(example(), "!1", "mean")[1]] == [4]


def test_mean_is_the_mean_of_the_captured_heads_times_the_keys() -> None:
    data = example()
    maps = data.measurements[0].measures.pooled_map
    ((panel,),) = panels(data, "1", "mean")[1]
    assert torch.allclose(panel.weights, maps.mean(0) * len(GRID))
    assert (panel.heads, panel.entropy) == (2, 1.5)
    assert panel.share == pytest.approx(1.5 / math.log(105))
    ((third,),) = panels(data, "1", "2")[1]
    assert torch.allclose(third.weights, maps[1] * len(GRID))


def test_mid_is_the_captured_step_nearest_to_the_middle() -> None:
    maps = torch.rand(2, SIZE, SIZE)
    data = record(measurement(1, maps, step=0), measurement(1, maps, step=3))
    moment, _ = panels(data, "1", "mean")
    assert (moment.step, moment.sigma) == (3, 0.4)


def test_both_takes_cond_where_it_was_captured() -> None:
    assert panels(example(), "1", "mean")[0].branch == "cond"
    only = record(measurement(1, torch.rand(2, SIZE, SIZE), branch="uncond"))
    assert panels(only, "1", "mean")[0].branch == "uncond"


def test_the_title_says_when_for_whom_and_of_which_video() -> None:
    maps = torch.rand(2, SIZE, SIZE)
    data = record(measurement(1, maps), measurement(1, maps, item=1))
    text = moment_text(data.header, panels(data, "1", "mean")[0])
    assert text == "step 2 (of 0 to 3), σ 0.7 · cond · video 0 · Wan with 6 layers of 4 heads"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"layers": "3"}, "no map of layer 3.*captured were layers 1, 4"),
        ({"layers": "7"}, "names layer 7, but this record's model has layers 0 to 5"),
        ({"layers": "none"}, "leaves no layer to show; captured were layers 1, 4"),
        ({"step": "1"}, "no map of layer 1, step 1.*steps 2, 0"),
        ({"step": "0,2"}, "names 2 steps, but a picture shows one"),
        ({"step": "9"}, "this record's sampling has steps 0 to 3"),
        ({"head": "1"}, "asks for 1 of layer 1, but there heads 0, 2 were captured"),
        ({"head": "none"}, "asks for no head of layer 1"),
        ({"head": ""}, "heads: the text is empty"),
        ({"layers": "4", "branch": "uncond"}, "branch uncond.*branches cond, uncond"),
        ({"branch": "left"}, "branch: got 'left', allowed are both, cond, uncond"),
        ({"scale": "square"}, "scale: got 'square', allowed are log and linear"),
    ],
)
def test_what_is_not_there_is_refused_in_words(asked: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw(example(), **asked)


def test_an_empty_record_says_so() -> None:
    with pytest.raises(ValueError, match="holds no maps"):
        draw(record())


def test_a_log_scale_spans_the_values_and_says_what_it_clips() -> None:
    values = torch.logspace(-9, 1, 500)
    scale = choose_scale([values], "log")
    assert scale.high == pytest.approx(10)
    assert scale.low == pytest.approx(1e-3)
    assert scale.clipped
    assert scale.ticks() == pytest.approx([1e-3, 1e-2, 0.1, 1, 10])


def test_a_flat_map_is_not_blown_up_to_full_contrast() -> None:
    scale = choose_scale([torch.ones(9) + 0.01 * torch.rand(9)], "log")
    assert (scale.low, scale.high) == pytest.approx((0.5, 2), rel=0.02)
    assert 1.0 in scale.ticks()


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("scale", ["log", "linear"])
def test_constant_maps_can_be_drawn(value: float, scale: str) -> None:
    page = draw(record(measurement(1, torch.full((2, SIZE, SIZE), value))), scale=scale)
    assert bool(page.isfinite().all())


def test_colours_go_from_dark_to_light_and_grey_for_no_number() -> None:
    scale = ColourScale(0.01, 100.0, True, False)
    rgb = scale.colours(torch.tensor([0.0, 0.01, 1.0, 100.0, 1e9, torch.nan]))
    light = rgb.mean(-1).tolist()
    assert light[0] == light[1] < light[2] < light[3] == light[4]
    assert rgb[5].tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("size", [(3, 5, 7), (3, 10, 14), (3, 9, 13)])
def test_a_latent_of_the_same_grid_fits(size: tuple[int, int, int]) -> None:
    check_origin(example(), torch.zeros(1, 16, *size))


@pytest.mark.parametrize("size", [(5, 5, 7), (3, 5, 14), (3, 7, 5)])
def test_a_latent_of_another_grid_is_refused(size: tuple[int, int, int]) -> None:
    with pytest.raises(
        ValueError, match=r"a record from another model or size: .*3 frames of 5 × 7"
    ):
        check_origin(example(), torch.zeros(1, 16, *size))
    with pytest.raises(ValueError, match="no video latent"):
        check_origin(example(), torch.zeros(1, 4, 5, 7))
