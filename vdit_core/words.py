"""Which tokens of a prompt are a word: its pieces are looked up in the text, letter by letter."""

from __future__ import annotations

import re
from collections.abc import Sequence

Span = tuple[int, int]


def tokens_of(asked: str, text: str, pieces: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """The tokens of each word or phrase of `asked`, separated by commas.

    text: the prompt. pieces: what each token stands for, in order. A word that stands there twice
    has the tokens of both. Without text a word is the number of a token. Raises ValueError for a
    word that is not in the prompt.
    """
    words = list(dict.fromkeys(word for part in asked.split(",") if (word := part.strip())))
    if not words:
        raise ValueError("words: the text is empty; write words of the prompt, separated by commas")
    if not text.strip():
        return {word: _numbered(word) for word in words}
    spans = _spans(text, pieces)
    return {word: _tokens(word, text, spans) for word in words}


def _numbered(word: str) -> tuple[int, ...]:
    if not word.isdecimal():
        raise ValueError(
            f"words: got {word!r}, but without clip and text tokens have numbers only, from 0; "
            "connect clip and write the prompt into text, or give numbers"
        )
    return (int(word),)


def _tokens(word: str, text: str, spans: Sequence[Span | None]) -> tuple[int, ...]:
    pattern = r"\s+".join(re.escape(part) for part in word.split())
    at = [m.span() for m in re.finditer(rf"(?<!\w){pattern}(?!\w)", text, re.IGNORECASE)]
    found = [
        n
        for n, span in enumerate(spans)
        if span is not None and any(span[0] < stop and start < span[1] for start, stop in at)
    ]
    if not found:
        known = ", ".join(dict.fromkeys(re.findall(r"\w+(?:['’-]\w+)*", text)))
        raise ValueError(
            f"words: {word!r} is not in the prompt; its words are {known}; choose some of these, "
            "separated by commas"
        )
    return tuple(found)


def _spans(text: str, pieces: Sequence[str]) -> list[Span | None]:
    """Where in the text each piece stands; None for signs that are not in it (the prompt's end)."""
    low, cursor, spans = text.lower(), 0, list[Span | None]()
    for piece in pieces:
        letters = piece.strip().lower()
        start = low.find(letters, cursor) if letters else -1
        if start < 0:
            spans.append(None)
            continue
        cursor = start + len(letters)
        spans.append((start, cursor))
    return spans
