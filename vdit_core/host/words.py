"""The words behind a prompt's tokens, from ComfyUI's own tokenizers."""

from __future__ import annotations

from typing import Any

_LLAMA = "llama"  # HunyuanVideo's encoder wraps the prompt in a template and cuts its head off
_HEADER = 128006, 882, 128007  # of the template: "user" between the signs of a header
_LINES = 271  # two line ends after it
_SIGNS = {"▁": "", "Ġ": "", "Ċ": "⏎", "</w>": ""}  # how vocabularies write spaces and line ends


def words_if_given(clip: Any, text: str) -> list[str]:
    """`prompt_words` of a node's two optional inputs: none of an empty text."""
    if not text.strip():
        return []
    if clip is None:
        raise ValueError("clip: connect the text encoder that goes with text, or empty text")
    return prompt_words(clip, text)


def prompt_words(clip: Any, text: str) -> list[str]:
    """What each token of an encoded prompt stands for, from the first to the last before padding.

    clip: ComfyUI's CLIP, whose last encoder gives the tokens that video models attend to.
    """
    found: dict[str, list[list[tuple[Any, ...]]]] = clip.tokenize(text, return_word_ids=True)
    key, chunks = list(found.items())[-1]
    tokenizer = _tokenizer_of(clip.tokenizer, key)
    tokens = [token for chunk in chunks for token in chunk]
    pad = getattr(tokenizer, "pad_token", None)
    while tokens and pad is not None and tokens[-1][0] == pad and tokens[-1][2] == 0:
        tokens.pop()
    if key == _LLAMA:
        tokens = _without_template(tokens)
    return [_plain(piece) for _, piece in tokenizer.untokenize([token[:2] for token in tokens])]


def _tokenizer_of(tokenizer: Any, key: str) -> Any:
    """The part of a tokenizer that made the tokens of this key."""
    for name in (f"clip_{key}", key):
        if hasattr(tokenizer, name):
            return getattr(tokenizer, name)
    return tokenizer


def _without_template(tokens: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """As core's encoder cuts it: from the header's end on, or from after its line ends."""
    ids = [token[0] for token in tokens]
    ends = [n + 2 for n in range(len(ids) - 2) if (*ids[n : n + 3],) == _HEADER]
    if not ends:
        return tokens
    start = ends[-1]
    return tokens[start + 2 if ids[start + 1 : start + 2] == [_LINES] else start :]


def _plain(piece: str) -> str:
    """A piece of the vocabulary as one reads it."""
    plain = piece
    for sign, meaning in _SIGNS.items():
        plain = plain.replace(sign, meaning)
    return plain or piece
