"""Where on the video words of the prompt are looked at from: over its frames, and as masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from kornia.color import rgb_to_grayscale
from kornia.geometry.transform import resize
from torch import Tensor

from ..record import Measurement, RecordData
from .colours import ColourScale
from .legend import moment_text
from .on_video import Strips, draw_strips
from .panels import Chosen, Moment
from .table import Cell, Table
from .text_attention import check_words, cross_of

_STRIPS = Strips(
    "Where words are looked at from",
    "weight ÷ its mean over the video",
    "The weight that each place of the video gives a word, over the word's mean in the whole "
    "video: at 2 a place looks at it twice as much as the average one.",
    True,
)
_ENDS = 0.01, 0.99  # quantiles that become 0 and 1 of a mask: single tokens may stand far out
_UNIT = ColourScale(0.0, 1.0, log=False, clipped=False)


@dataclass(frozen=True)
class TokenHeatmap:
    """overlay: [N, H, W, 3]. soft: [N, H, W] 0..1. mask: soft from the threshold on, 0 or 1.

    sheet: [1, h, w, 3], a row for each word.
    """

    overlay: Tensor
    soft: Tensor
    mask: Tensor
    sheet: Tensor
    report: str
    table: Table


def draw_token_heatmap(
    data: RecordData,
    words: Mapping[str, Sequence[int]],
    pieces: Sequence[str],
    chosen: Chosen,
    video: Tensor,
    *,
    opacity: float,
    threshold: float,
) -> TokenHeatmap:
    """words: the tokens of each. pieces: all tokens of the prompt, or none if they are not known.

    video: [N, H, W, 3] of values 0..1, of one item of the batch. The masks are of all words
    together, whose weights add up. Raises ValueError for words that were not captured.
    """
    moment, found = chosen.calls(data)
    places = torch.stack([places_of(data, m) for m in found]).mean(0)
    cross = cross_of(data, found[0])
    check_words(pieces, len(places), cross.measures.text_mass.shape[1] if cross else len(places))
    _check_tokens(words, len(places))
    grid = moment.header.grid
    shape = grid.frames, grid.rows, grid.cols
    maps = {word: places[[*tokens]].sum(0).view(shape) for word, tokens in words.items()}
    together = places[sorted({n for tokens in words.values() for n in tokens})].sum(0).view(shape)
    soft = _soft(_over_time(together, moment, len(video)), video.shape[1:3])
    strips = [(word, one / one.mean().clamp_min(1e-30)) for word, one in maps.items()]
    if len(strips) > 1:
        strips.append(("together", together / together.mean().clamp_min(1e-30)))
    return TokenHeatmap(
        _overlay(video, soft, opacity),
        soft,
        (soft >= threshold).float(),
        draw_strips(moment, _STRIPS, strips, video),
        _report(moment, words, maps, [m.layer for m in found]),
        _table(moment, maps),
    )


def _check_tokens(words: Mapping[str, Sequence[int]], count: int) -> None:
    for word, tokens in words.items():
        if max(tokens) >= count:
            raise ValueError(
                f"words: {word!r} is token {max(tokens)}, but the prompt of this record has tokens "
                f"0 to {count - 1}"
            )


def places_of(data: RecordData, m: Measurement) -> Tensor:
    """The weight of each video token on each token of the prompt, [T, F·R·C] float32."""
    cross = cross_of(data, m)
    places = m.measures.prompt_places if cross is None else cross.measures.prompt_places
    if places is None:
        raise ValueError(
            f"record: from where words are looked at in layer {m.layer} was not captured; turn on "
            "words on VDiT Capture and sample again"
        )
    return places.float()


def _over_time(values: Tensor, moment: Moment, frames: int) -> Tensor:
    """[F, R, C] of latent frames → [N, R, C] of the video's.

    A latent frame stands for the frames after the one before it, up to its own (1, 4, 4 … in Wan).
    Frames outside of an excerpt have 0.
    """
    excerpt = moment.excerpt
    numbers = [*excerpt.frames] if excerpt else [*range(len(values))]
    last = (excerpt.of if excerpt else len(values)) - 1
    whole = values.new_zeros(last + 1, *values.shape[1:])
    whole[numbers] = values
    at = torch.arange(frames) * last
    return whole[-(-at // max(1, frames - 1))]


def _soft(values: Tensor, size: Sequence[int]) -> Tensor:
    """[N, R, C] → [N, H, W] in 0..1, smooth in the picture; an even map is 0 everywhere."""
    flat = values.flatten()
    low, high = (float(flat.kthvalue(1 + round(q * (len(flat) - 1))).values) for q in _ENDS)
    scaled = ((values - low) / max(high - low, 1e-30)).clamp(0, 1)
    fine = resize(scaled[:, None], (size[0], size[1]), interpolation="bilinear")[:, 0]
    return fine.clamp(0, 1)


def _overlay(video: Tensor, soft: Tensor, opacity: float) -> Tensor:
    """The frames as grey as the colours over them are strong; at opacity 0 as they are."""
    grey = rgb_to_grayscale(video.movedim(-1, 1)).movedim(1, -1).expand_as(video)
    return video.lerp(grey, opacity).lerp(_UNIT.colours(soft), opacity)


def _report(
    moment: Moment,
    words: Mapping[str, Sequence[int]],
    maps: Mapping[str, Tensor],
    layers: Sequence[int],
) -> str:
    rows: list[list[Cell]] = []
    for word, values in maps.items():
        tokens = " ".join(map(str, words[word]))
        place = [int(n) for n in torch.unravel_index(values.argmax(), values.shape)]
        ends = 100 * float(values.mean()), 100 * float(values.max())
        flat = values.flatten().sort(descending=True).values
        tenth = 100 * float(flat[: max(1, len(flat) // 10)].sum() / flat.sum().clamp_min(1e-30))
        rows.append([word, tokens, *ends, *place, tenth])
    columns = ["word", "tokens", "mean weight (%)", "largest (%)", "at latent frame", "row", "col"]
    some = (
        f"mean of layers {', '.join(map(str, layers))}" if len(layers) > 1 else f"layer {layers[0]}"
    )
    return "\n".join(
        [
            "Where words are looked at from",
            moment_text(moment.header, moment),
            some,
            "",
            Table([*columns, "held by a tenth of the places (%)"], rows).text(),
        ]
    )


def _table(moment: Moment, maps: Mapping[str, Tensor]) -> Table:
    """The weight of every place on every word."""
    rows: list[list[Cell]] = []
    for word, values in maps.items():
        places = torch.cartesian_prod(*map(torch.arange, values.shape)).view(-1, 3).tolist()
        labels: list[Cell] = [moment.item, moment.step, moment.branch, word]
        numbers = (100 * values).flatten().tolist()
        rows += [[*labels, *at, value] for at, value in zip(places, numbers, strict=True)]
    columns = ["video", "step", "branch", "word", "latent frame", "row", "col", "weight (%)"]
    return Table(columns, rows)
