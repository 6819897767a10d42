"""Words of a prompt and their tokens, and where they are looked at from, planted and drawn."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from vdit_attention.vdit_core.attention import MapMeasures, TextMeasures, measure_words
from vdit_attention.vdit_core.figures.panels import Chosen
from vdit_attention.vdit_core.figures.token_heatmap import TokenHeatmap, draw_token_heatmap
from vdit_attention.vdit_core.grid import TokenGrid
from vdit_attention.vdit_core.plan import UNTOUCHED
from vdit_attention.vdit_core.record import CrossMeasurement, Header, Measurement, RecordData
from vdit_attention.vdit_core.selection import parse_selection
from vdit_attention.vdit_core.sites import Excerpt
from vdit_attention.vdit_core.words import tokens_of

TEXT = "A snowy forest, a dog's (red:1.2) ball; snow again"
PIECES = "A snow y forest , a dog ' s red ball ; snow again </s>".split()

GRID = TokenGrid(3, 5, 7, prefix=2, suffix=1)
FRAMES, SIZE = 9, (20, 28)  # of the decoded video: 4 frames to a latent one, 4 pixels to a token
PLACE = (1, 3, 5)
CHOSEN = Chosen(parse_selection("all", "layers"), "mean", parse_selection("mid", "steps"), "both")


@pytest.mark.parametrize(
    ("asked", "tokens"),
    [
        ("dog", (6,)),
        ("SNOWY", (1, 2)),
        ("snow", (12,)),  # not the beginning of snowy
        ("a", (0, 5)),
        ("red ball", (9, 10)),
        ("snowy forest", (1, 2, 3)),
        ("dog's", (6, 7, 8)),
    ],
)
def test_a_word_is_all_of_its_tokens(asked: str, tokens: tuple[int, ...]) -> None:
    text = TEXT.replace("(", "").replace(":1.2)", "")
    assert tokens_of(asked, text, PIECES) == {asked: tokens}


def test_several_words_and_weights_in_brackets() -> None:
    assert tokens_of(" red , ball,red", TEXT, PIECES) == {"red": (9,), "ball": (10,)}


def test_without_the_prompt_a_word_is_a_number() -> None:
    assert tokens_of("0, 12", "", []) == {"0": (0,), "12": (12,)}
    with pytest.raises(ValueError, match=r"got 'dog', but without clip and text .* connect clip"):
        tokens_of("dog", " ", [])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("cat", "'cat' is not in the prompt; its words are A, snowy, forest, a, dog's, red"),
        ("dog, ball red", "'ball red' is not in the prompt"),
        (" , ", "words: the text is empty; write words of the prompt"),
    ],
)
def test_words_that_are_not_there_are_named(asked: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tokens_of(asked, TEXT, PIECES)


def planted(word: int, place: tuple[int, int, int], joint: bool) -> Tensor:
    """Places of a call in which the token at one place looks at a word, all others elsewhere."""
    words, start = 4, GRID.video.stop if joint else 0
    grid = replace(GRID, suffix=words) if joint else GRID
    q, k = torch.zeros(1, 2, len(grid), 8), torch.zeros(1, 2, len(grid) if joint else words, 8)
    k[..., start + word, 0] = 1.0
    k[..., start + (word + 1) % words, 1] = 1.0
    q[..., 1] = 60.0
    token = int(grid.ravel(*map(torch.tensor, place)))
    q[:, :, token, 1], q[:, 0, token, 0] = 0.0, 60.0  # the second head looks at all alike
    how = {"grid": grid, "words": slice(start, start + words)}
    return measure_words(q, k, UNTOUCHED, rows=[0], heads=torch.arange(2), **how)["prompt_places"][
        0
    ]


def record(places: Tensor, cross: bool, **more: Any) -> RecordData:
    """Two layers; in the second no word is looked at."""
    header = Header("Wan", 3, 2, GRID, 8, (1.0, 0.5, 0.0))
    maps, each = (torch.rand(2, 3, 3), torch.rand(2, 3)), torch.rand(3, 2)
    found: list[Measurement] = []
    outside: list[CrossMeasurement] = []
    for layer, one in ((0, places), (2, torch.zeros_like(places))):
        labels = (layer, 1, 0, 0.5, "cond", 0, (0, 1))
        kept = None if cross else one
        measures = MapMeasures(*maps, *each, prompt_places=kept)
        tokens = {"tokens": len(places)} | more
        found.append(Measurement(f"blocks.{layer}.attn", *labels, measures, **tokens))
        if cross:
            mass = torch.rand(2, len(places) + 3)  # three of padding
            text = TextMeasures(mass, torch.rand(2), one)
            outside.append(CrossMeasurement(f"blocks.{layer}.cross_attn", *labels, text, **tokens))
    return RecordData(header, tuple(found), tuple(outside))


def drawn(data: RecordData, **how: Any) -> TokenHeatmap:
    video = torch.rand(FRAMES, *SIZE, 3, generator=torch.Generator().manual_seed(0))
    asked: dict[str, Any] = {"opacity": 0.6, "threshold": 0.5, "video": video, "pieces": []}
    return draw_token_heatmap(data, chosen=CHOSEN, **(asked | {"words": {"ball": (1,)}} | how))


@pytest.mark.parametrize("joint", [False, True])
def test_a_planted_word_is_found_where_it_is_looked_at_from(joint: bool) -> None:
    places = planted(1, PLACE, joint)
    data = record(places, cross=not joint)
    found = drawn(data)
    # latent frame 1 is decoded frames 1 to 4, and no other
    assert found.mask.flatten(1).any(1).tolist() == [False, *[True] * 4, *[False] * 4]
    top, left = 4 * PLACE[1], 4 * PLACE[2]
    centre = found.mask[3, top : top + 4, left : left + 4]
    assert float(centre.mean()) > 0.7 and found.soft[3].argmax() // 28 in range(top, top + 4)
    assert float(found.mask[3].sum()) <= 36
    keys = len(GRID) + 3 if joint else 4
    weight = 100 * (1 + 1 / keys) / 4  # means of two heads and two layers; one head looks evenly
    rows = list(csv.DictReader(io.StringIO(found.table.csv())))
    best = max(rows, key=lambda row: float(row["weight (%)"]))
    assert [int(best[name]) for name in ("latent frame", "row", "col")] == [*PLACE]
    assert float(best["weight (%)"]) == pytest.approx(weight, rel=0.01)
    assert "ball" in found.report and "layers 0, 2" in found.report


def test_the_tokens_of_a_word_add_up() -> None:
    places = torch.zeros(4, GRID.video_tokens).to(torch.bfloat16)
    places[1, 10], places[2, 10], places[3, 80] = 0.25, 0.5, 0.25
    rows = {
        word: [float(r["weight (%)"]) for r in csv.DictReader(io.StringIO(one.table.csv()))]
        for word, tokens in {"one": (1,), "both": (1, 2)}.items()
        for one in (drawn(record(places, True), words={word: tokens}),)
    }
    assert max(rows["one"]) == 12.5 and max(rows["both"]) == 37.5  # mean of two layers
    two = drawn(record(places, True), words={"a": (1,), "b": (3,)})
    assert bool(two.mask[0].any()) and bool(two.mask[8].any())


def test_opacity_0_leaves_the_video_as_it_is_and_thresholds_bound_the_mask() -> None:
    data = record(planted(1, PLACE, False), True)
    video = torch.rand(FRAMES, *SIZE, 3)
    assert torch.equal(drawn(data, video=video, opacity=0.0).overlay, video)
    shown = drawn(data, video=video, opacity=1.0)
    assert not torch.equal(shown.overlay, video) and torch.equal(shown.soft, drawn(data).soft)
    assert bool((drawn(data, threshold=0.0).mask == 1).all())
    wide, narrow = drawn(data, threshold=0.2).mask, drawn(data, threshold=0.9).mask
    assert bool((narrow <= wide).all()) and float(narrow.sum()) < float(wide.sum())


def test_frames_outside_of_a_window_have_no_mask() -> None:
    places = torch.rand(4, GRID.video_tokens).to(torch.bfloat16)
    data = record(places, True, excerpt=Excerpt((2, 3, 4), 5))
    soft = drawn(data, video=torch.rand(17, *SIZE, 3)).soft
    assert soft.flatten(1).any(1).tolist() == [False] * 5 + [True] * 12


def test_what_does_not_fit_is_said() -> None:
    data = record(planted(1, PLACE, False), True)
    with pytest.raises(ValueError, match="'x' is token 4, but the prompt of this record has"):
        drawn(data, words={"x": (4,)})
    with pytest.raises(ValueError, match="it has 3 tokens, but the prompt of this record has 4"):
        drawn(data, pieces=["a", "red", "ball"])
    bare = replace(data, cross=tuple(replace(m, measures=_bare(m)) for m in data.cross))
    with pytest.raises(ValueError, match="layer 0 was not captured; turn on words on VDiT Capture"):
        drawn(bare)


def _bare(m: CrossMeasurement) -> TextMeasures:
    return replace(m.measures, prompt_places=None)
