"""A sweep, read: which layer changes the video most, and a schedule that spares it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..sweep import BASELINE, layer_of
from .judging import Judged, Judges, mean
from .pictures import colours_of
from .ranking_sheet import Place, draw_ranking
from .sweep import Row, sweep_grid
from .sweep_measures import MEASURES, NEEDS, Measure
from .table import Cell, Table


@dataclass(frozen=True)
class Asked:
    """measure: of MEASURES. The schedule spares so many layers and gives the others `value`."""

    measure: str = "difference"
    spare: int = 2
    value: float = 0.7
    spared_value: float = 0.0


@dataclass(frozen=True)
class SweepReport:
    """grid, ranking: [1, H, W, 3] float 0..1. table: every number of every video."""

    grid: Tensor
    ranking: Tensor
    report: str
    table: Table
    schedule: str


@dataclass(frozen=True)
class _Seen:
    """One video of the sweep. layer: None for the baseline."""

    label: str
    layer: int | None
    to_reference: Judged
    to_source: Judged | None


def report_sweep(
    videos: Sequence[Tensor],
    labels: Sequence[str],
    asked: Asked,
    reference: Tensor | None = None,
    source: Tensor | None = None,
    judges: Judges | None = None,
) -> SweepReport:
    """Rank the layers of a sweep by how far their videos [F, H, W, 3] are from the reference.

    reference: None for the one labelled none. Raises ValueError for what cannot be compared.
    """
    judges = judges or Judges()
    layers = _check(videos, labels, asked, reference)
    _check_needs(asked, judges)
    if reference is None:
        reference = videos[layers.index(None)]
    _check_sizes(videos, labels, reference, source)
    looked = judges.look(colours_of(reference, "reference"))
    from_source = None if source is None else judges.look(colours_of(source, "source"))
    seen: list[_Seen] = []
    for video, label, layer in zip(videos, labels, layers, strict=True):
        look = judges.look(colours_of(video, "videos"))
        to_source = from_source and judges.compare(from_source, look)
        seen.append(_Seen(label, layer, judges.compare(looked, look), to_source))
    measure, without = MEASURES[asked.measure], _sweeps_without(labels)
    ranks = _ranks(seen, measure, without)
    spared = sorted(ranks, key=lambda layer: ranks[layer])[: asked.spare]
    schedule = _schedule(asked, sorted(spared))
    table = _table(seen, ranks, measure)
    places = [
        Place(s.layer, measure.read(s.to_reference), s.to_source and measure.read(s.to_source))
        for s in seen
        if s.layer is not None
    ]
    apart = from_source and measure.read(judges.compare(looked, from_source))
    ranking = draw_ranking(places, ranks, spared, measure.title, without, apart)
    grid = _grid(videos, seen, ranks, measure, source)
    words = "\n".join([*_words(seen, asked, table, schedule), *judges.notes()])
    return SweepReport(grid, ranking, words, table, schedule)


def _check(
    videos: Sequence[Tensor], labels: Sequence[str], asked: Asked, reference: Tensor | None
) -> list[int | None]:
    """The layer of each label."""
    if asked.measure not in MEASURES:
        raise ValueError(f"measure: got {asked.measure!r}, allowed are {', '.join(MEASURES)}")
    if len(videos) != len(labels):
        raise ValueError(
            f"sweep report: got {len(videos)} videos and {len(labels)} labels; connect both to the "
            "same VDiT Layer Sweep, the videos by way of sampler and VAE Decode"
        )
    layers = [layer_of(label) for label in labels]
    if reference is None and None not in layers:
        raise ValueError(
            f"reference: no video is labelled {BASELINE!r}; turn on baseline on VDiT Layer Sweep, "
            "or connect a video to compare with"
        )
    named = [layer for layer in layers if layer is not None]
    if not named:
        raise ValueError("labels: no label names a layer, so there is nothing to rank")
    if twice := sorted({layer for layer in named if named.count(layer) > 1}):
        raise ValueError(
            f"labels: layer {', '.join(map(str, twice))} comes more than once; give each sweep a "
            "report of its own"
        )
    return layers


def _check_needs(asked: Asked, judges: Judges) -> None:
    given = {"lpips": judges.perceive, "clip_vision": judges.embed, "prompt": judges.prompt}
    needs = MEASURES[asked.measure].needs
    if needs and given[needs] is None:
        raise ValueError(f"measure: {asked.measure} needs weights of its own; {NEEDS[needs]}")


def _check_sizes(
    videos: Sequence[Tensor], labels: Sequence[str], reference: Tensor, source: Tensor | None
) -> None:
    wanted = tuple(reference.shape[:3])
    given = [
        *zip(labels, videos, strict=True),
        *([("source", source)] if source is not None else []),
    ]
    for name, video in given:
        if tuple(video.shape[:3]) != wanted:
            size, other = (" × ".join(map(str, x)) for x in (tuple(video.shape[:3]), wanted))
            raise ValueError(
                f"videos: {name!r} has {size} frames, rows and columns, the reference {other}; all "
                "must have one length and size: sample them from one latent"
            )


def _sweeps_without(labels: Sequence[str]) -> bool:
    """Whether each video is without its layer's edit, and the most important one changed least."""
    kinds = {label.strip().startswith("all but") for label in labels if layer_of(label) is not None}
    if len(kinds) > 1:
        raise ValueError(
            "labels: “layer 3” and “all but layer 3” cannot be ranked together; give each sweep a "
            "report of its own"
        )
    return kinds.pop()


def _ranks(seen: Sequence[_Seen], measure: Measure, without: bool) -> dict[int, int]:
    """Layer → 1 for the one that matters most; equal ones in the order of the layers."""
    changes = {s.layer: measure.read(s.to_reference) for s in seen if s.layer is not None}
    sign = 1 if without else -1
    order = sorted(changes, key=lambda layer: (sign * changes[layer], layer))
    return {layer: rank for rank, layer in enumerate(order, 1)}


def _schedule(asked: Asked, spared: Sequence[int]) -> str:
    """In the grammar of parse_values."""
    whole = f"all={asked.value:g}"
    if not spared:
        return whole
    return f"{whole}; {','.join(map(str, spared))}={asked.spared_value:g}"


def _table(seen: Sequence[_Seen], ranks: dict[int, int], measure: Measure) -> Table:
    numbers = ["PSNR (dB)", "SSIM", "mean difference (of 255)"]
    columns = ["label", "layer", "rank", "change", *numbers]
    if seen[0].to_source is not None:
        columns += [f"{name} to the source" for name in numbers]
    further = [*_further(seen[0].to_reference)]
    rows: list[list[Cell]] = []
    for s in seen:
        rank = None if s.layer is None else ranks[s.layer]
        cells: list[Cell] = [s.label, s.layer, rank, measure.read(s.to_reference)]
        pixels = [*_numbers(s.to_reference), *_numbers(s.to_source)]
        rows.append([*cells, *pixels, *_further(s.to_reference).values()])
    return Table([*columns, *further], rows)


def _numbers(judged: Judged | None) -> list[Cell]:
    if judged is None:
        return []
    scores = judged.scores
    return [scores.psnr, scores.ssim, 255 * float(scores.difference.mean())]


def _further(judged: Judged) -> dict[str, Cell]:
    """What the video is like by itself, and what brought weights tell of it and the reference."""
    found: dict[str, Cell] = {name: mean(curve) for name, curve in judged.b.curves.items()}
    told = {"LPIPS": judged.lpips, "CLIP likeness": judged.clip}
    return found | {name: mean(curve) for name, curve in told.items() if curve is not None}


def _grid(
    videos: Sequence[Tensor],
    seen: Sequence[_Seen],
    ranks: dict[int, int],
    measure: Measure,
    source: Tensor | None,
) -> Tensor:
    rows = [] if source is None else [Row(source, "source")]
    for video, s in zip(videos, seen, strict=True):
        note = ""
        if s.layer is not None:
            note = f"{measure.read(s.to_reference):.3g} · rank {ranks[s.layer]}"
        rows.append(Row(video, s.label, note))
    return sweep_grid(rows)


def _words(seen: Sequence[_Seen], asked: Asked, table: Table, schedule: str) -> list[str]:
    measure = MEASURES[asked.measure]
    order = (
        "least changed without it first"
        if _sweeps_without([s.label for s in seen])
        else ("most changed first")
    )
    lines = [f"change: {measure.words}; rank: {order}", "", table.text()]
    if asked.spare:
        lines += ["", f"schedule, sparing the first {asked.spare}: {schedule}"]
        lines += ["(layers that were not swept get the value of all)"]
    return lines
