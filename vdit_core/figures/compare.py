"""Two videos side by side: what differs, where and how much."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .compare_sheet import draw_comparison
from .judging import AGREEMENT, Judged, Judges, Look, mean
from .pictures import colours_of
from .scores import PSNR_CAP, Scores
from .table import Cell, Table

_DIGITS = {"consistency": 4, "CLIP consistency": 4, AGREEMENT: 4}  # of the others: 2


@dataclass(frozen=True)
class Comparison:
    """image: [1, H, W, 3] float 0..1. report: as text. table: by frame. judged: the numbers."""

    image: Tensor
    report: str
    table: Table
    judged: Judged

    @property
    def psnr(self) -> float:
        """Of the whole video, dB."""
        return self.judged.scores.psnr

    @property
    def ssim(self) -> float:
        """Mean over the frames, up to 1."""
        return self.judged.scores.ssim


def compare_videos(a: Tensor, b: Tensor, judges: Judges | None = None) -> Comparison:
    """Compare two videos [F, H, W, 3] of values 0..1. Raises ValueError if they are not alike."""
    a, b = colours_of(a, "a"), colours_of(b, "b")
    if a.shape != b.shape:
        raise ValueError(
            f"compare videos: a has {_size(a)}, b has {_size(b)}, but they must be the same; cut "
            "the longer one with Get Image from Batch, resize with Upscale Image, or sample both "
            "from latents of the same size"
        )
    judges = judges or Judges()
    judged = judges.compare(judges.look(a), judges.look(b))
    qualities = "\n".join([*_quality_report(judged), *judges.notes()])
    report = _report(a, judged.scores) + "\n\n" + qualities
    return Comparison(draw_comparison(judged), report, _table(judged), judged)


def _table(judged: Judged) -> Table:
    """A pair of neighbours is in the row of the first of them."""
    scores = judged.scores
    columns = {
        "PSNR (dB)": scores.frame_psnr,
        "SSIM": scores.frame_ssim,
        "mean |a − b| (of 255)": 255 * scores.difference,
        "largest |a − b| (of 255)": 255 * scores.peak,
    }
    for name in judged.a.curves:
        columns |= {f"{name} of {x}": look.curves[name] for x, look in _both(judged).items()}
    optional = {"LPIPS": judged.lpips, "CLIP likeness": judged.clip}
    columns |= {name: curve for name, curve in optional.items() if curve is not None}
    frames = range(len(judged.a.video))
    rows: list[list[Cell]] = [
        [frame, *(_at(curve, frame) for curve in columns.values())] for frame in frames
    ]
    return Table(["frame", *columns], rows)


def _both(judged: Judged) -> dict[str, Look]:
    return {"a": judged.a, "b": judged.b}


def _at(curve: Tensor, frame: int) -> float | None:
    return float(curve[frame]) if frame < len(curve) else None


def _quality_report(judged: Judged) -> list[str]:
    """What each video is like by itself, and what only brought weights can tell."""
    lines = [f"{'mean over the frames':24}{'a':>9}{'b':>9}{'b − a':>10}"]
    for name in judged.a.curves:
        values = [mean(look.curves[name]) for look in (judged.a, judged.b)]
        digits = _DIGITS.get(name, 2)
        cells = zip((*values, judged.change(name)), (9, 9, 10), strict=True)
        lines.append(f"{name:24}" + "".join(_number(x, wide, digits) for x, wide in cells))
    for name, curve in (("LPIPS (0 = alike)", judged.lpips), ("CLIP (1 = alike)", judged.clip)):
        if curve is not None:
            lines.append(f"{name:24}{float(curve.mean()):>9.4f}  between a and b")
    return [
        *lines,
        "",
        "consistency: 1 − mean |x(t+1) − x(t)|, values 0 to 1; falls with flicker and with motion.",
        "sharpness: variance of the Laplacian of luma, squared levels of 255; noise counts too.",
        "colourfulness: Hasler and Süsstrunk, 0 is grey.",
    ]


def _number(value: float | None, wide: int, digits: int) -> str:
    if value is None:
        return f"{'–':>{wide}}"
    return f"{round(value, digits) + 0.0:>{wide}.{digits}f}"  # + 0.0: no minus before a zero


def _report(a: Tensor, scores: Scores) -> str:
    worst_psnr, worst_ssim = int(scores.frame_psnr.argmin()), int(scores.frame_ssim.argmin())
    most, top = int(scores.difference.argmax()), int(scores.peak.argmax())
    same = int(scores.identical.sum())
    lines = [
        f"a and b: {_size(a)}",
        "",
        f"{'':24}{'video':>9}{'worst':>9}{'at frame':>10}",
        _row("PSNR (dB)", scores.psnr, scores.frame_psnr[worst_psnr], worst_psnr, 2),
        _row("SSIM (1 = alike)", scores.ssim, scores.frame_ssim[worst_ssim], worst_ssim, 4),
        _row(
            "mean |a − b| (of 255)",
            255 * scores.difference.mean(),
            255 * scores.difference[most],
            most,
            2,
        ),
        _row("largest |a − b| (of 255)", 255 * scores.peak.max(), 255 * scores.peak[top], top, 0),
        f"{'identical frames':24}{same:>5} of {len(a)}",
        "",
        "PSNR of the video: from the mean squared error over all frames. SSIM: mean over frames.",
    ]
    if same:
        lines.append(f"Identical pictures have an infinite PSNR; it is given as {PSNR_CAP:g} dB.")
    return "\n".join(lines)


def _row(name: str, video: float | Tensor, worst: float | Tensor, frame: int, digits: int) -> str:
    return f"{name:24}{float(video):>9.{digits}f}{float(worst):>9.{digits}f}{frame:>10}"


def _size(video: Tensor) -> str:
    frames, height, width, _ = video.shape
    return f"{frames} frames of {width} × {height} pixels"
