"""What the prompt's tokens receive, layer by layer (2504.10317, Fig. 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..record import CrossMeasurement, Measurement, RecordData
from .legend import moment_text
from .panels import Chosen, Moment
from .statistics import Statistics
from .table import Cell, Table
from .text_sheet import draw_sheet


@dataclass(frozen=True)
class TextOfLayer:
    """Mean mass of a video query on each token of the text: received [H, T]; heads: their numbers.

    own: the same of a text query, where both attend together. tokens: those before the padding.
    """

    layer: int
    heads: tuple[int, ...]
    received: Tensor
    own: Tensor | None
    tokens: int

    @property
    def share(self) -> Tensor:
        """Of each token in what the whole text receives from the video, mean of the heads, [T]."""
        mean = self.received.mean(0)
        return mean / mean.sum().clamp_min(1e-300)

    @property
    def mass(self) -> float:
        """Of a video query on the whole text."""
        return float(self.received.sum(-1).mean())

    @property
    def own_mass(self) -> float | None:
        """Of a text query on the whole text."""
        return None if self.own is None else float(self.own.sum(-1).mean())


def text_of_layers(data: RecordData, chosen: Chosen) -> tuple[Moment, list[TextOfLayer]]:
    """What the text receives in each chosen layer. Raises ValueError if it was not captured."""
    moment, found = chosen.calls(data)
    return moment, [_of_layer(data, m) for m in found]


def _of_layer(data: RecordData, m: Measurement) -> TextOfLayer:
    if m.measures.text_mass is not None:
        own = m.measures.text_own_mass
        received = m.measures.text_mass.double()
        tokens = received.shape[1] if m.tokens is None else m.tokens
        return TextOfLayer(m.layer, m.heads, received, own, tokens)
    if (other := cross_of(data, m)) is not None:
        received = other.measures.text_mass.double()
        tokens = received.shape[1] if other.tokens is None else other.tokens
        return TextOfLayer(m.layer, other.heads, received, None, tokens)
    raise ValueError(
        f"record: what the prompt's tokens receive in layer {m.layer} was not captured; turn on "
        "text on VDiT Capture and sample again"
    )


def cross_of(data: RecordData, m: Measurement) -> CrossMeasurement | None:
    """The cross-attention of the same layer in the same evaluation, if it was captured."""
    return next((other for other in data.cross if _whom(other) == _whom(m)), None)


def _whom(m: Measurement | CrossMeasurement) -> tuple[object, ...]:
    return m.layer, m.step, m.branch, m.item, m.prompt, m.excerpt, m.evaluation


def draw_text_attention(
    data: RecordData, chosen: Chosen, *, words: Sequence[str] = (), most: int = 24
) -> Statistics:
    """Draw layers × tokens. words: of the prompt, from its first token on; most: tokens shown.

    Raises ValueError for a record without text, and for words of another prompt than the record's.
    """
    moment, layers = text_of_layers(data, chosen)
    count = max(text.tokens for text in layers)
    check_words(words, count, layers[0].received.shape[1])
    names = [*words, *map(str, range(len(words), layers[0].received.shape[1]))]
    if words:
        count = len(words)
    shares = _shown(torch.stack([text.share for text in layers]), count, most)
    first = torch.stack([text.share[0] for text in layers])
    image = draw_sheet(
        moment,
        [text.layer for text in layers],
        100 * shares.values,
        [*names[: shares.shown], *shares.more],
        100 / layers[0].received.shape[1],
        100 * first,
        [100 * text.mass for text in layers],
        [None if (own := text.own_mass) is None else 100 * own for text in layers],
    )
    report = _report(moment, layers, names, count)
    return Statistics(image, report, _table(moment, layers, names, count))


def check_words(words: Sequence[str], tokens: int, places: int) -> None:
    """Raises ValueError for words of another prompt than one of `tokens` tokens in `places`."""
    padded = tokens < places
    if words and (len(words) > tokens or (padded and len(words) != tokens)):
        raise ValueError(
            f"text: it has {len(words)} tokens, but the prompt of this record has {tokens}; give "
            "the prompt of the branch that is shown, and the CLIP that encoded it"
        )


@dataclass(frozen=True)
class _Shown:
    """values: [layers, columns], `shown` tokens and then the sums named by `more`."""

    values: Tensor
    shown: int
    more: list[str]


def _shown(share: Tensor, tokens: int, most: int) -> _Shown:
    """share: [layers, T] → the first tokens one by one, the other words and the padding as sums."""
    shown = min(tokens, most)
    columns, more = [share[:, :shown]], list[str]()
    for name, start, stop in (("more tokens", shown, tokens), ("padding", tokens, share.shape[1])):
        if stop > start:
            columns.append(share[:, start:stop].sum(1, keepdim=True))
            more.append(
                f"{stop - start} {name}" if name != "padding" else f"padding ({stop - start})"
            )
    return _Shown(torch.cat(columns, 1), shown, more)


def _report(
    moment: Moment, layers: Sequence[TextOfLayer], names: Sequence[str], tokens: int
) -> str:
    mean = float(torch.stack([text.share[0] for text in layers]).mean())
    places = layers[0].received.shape[1]
    even = f"an even share of {places} tokens is {100 / places:.2g} %"
    rows: list[list[Cell]] = []
    for text in layers:
        top = int(text.share[:tokens].argmax())
        own = text.own_mass
        cells: list[Cell] = [text.layer, 100 * text.mass, None if own is None else 100 * own]
        cells += [100 * float(text.share[0]), names[top], 100 * float(text.share[top])]
        rows.append([*cells, 100 * float(text.share[tokens:].sum())])
    columns = ["layer", "video on text (%)", "text on text (%)", "first token (%)", "most", "its %"]
    return "\n".join(
        [
            "What the prompt's tokens receive; shares of what the whole text receives from the "
            "video",
            moment_text(moment.header, moment),
            f"first token {names[0]!r}: {100 * mean:.1f} %, mean of {len(layers)} layers; {even}",
            "",
            Table([*columns, "padding (%)"], rows).text(),
        ]
    )


def _table(
    moment: Moment, layers: Sequence[TextOfLayer], names: Sequence[str], tokens: int
) -> Table:
    """Every layer, head and token."""
    rows: list[list[Cell]] = []
    for text in layers:
        for at, head in enumerate(text.heads):
            for token, value in enumerate(text.received[at].tolist()):
                word = names[token] if token < tokens else "padding"
                own = None if text.own is None else 100 * float(text.own[at, token])
                label: list[Cell] = [moment.item, moment.step, moment.branch, text.layer, head]
                rows.append([*label, token, word, 100 * value, own])
    columns = ["video", "step", "branch", "layer", "head", "token", "word"]
    return Table([*columns, "of the video's attention (%)", "of the text's attention (%)"], rows)
