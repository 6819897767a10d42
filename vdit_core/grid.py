"""Where the tokens of a sequence lie in the video. The only place that unravels a token index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenGrid:
    """A sequence of `prefix` other tokens, frames × rows × cols video tokens, `suffix` others.

    text: first token of the prompt and the one after its last, where it is in the sequence.
    """

    frames: int
    rows: int
    cols: int
    prefix: int = 0
    suffix: int = 0
    text: tuple[int, int] | None = None

    def __len__(self) -> int:
        return self.prefix + self.video_tokens + self.suffix

    @property
    def video_tokens(self) -> int:
        return self.frames * self.rows * self.cols

    @property
    def video(self) -> slice:
        """The span of the video tokens in the sequence."""
        return slice(self.prefix, self.prefix + self.video_tokens)

    def ravel(self, frame: Tensor, row: Tensor, col: Tensor) -> Tensor:
        """Token index of a place in the video."""
        return ((frame * self.rows) + row) * self.cols + col + self.prefix

    def unravel(self, token: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Frame, row and column of video tokens; the inverse of `ravel`."""
        index = token - self.prefix
        per_frame = self.rows * self.cols
        return index // per_frame, index % per_frame // self.cols, index % self.cols

    def bins(self, size: int) -> Tensor:
        """Bin of every video token for a map of at most `size` × `size`, [video_tokens] int64.

        Bins are runs of neighbouring tokens of near equal length; while frames ≤ size none spans
        two frames, otherwise each holds whole frames.
        """
        per_frame = self.rows * self.cols
        token = torch.arange(self.video_tokens)
        frame, place = token // per_frame, token % per_frame
        if self.frames > size:
            return frame * size // self.frames
        each = min(size // self.frames, per_frame)
        return frame * each + place * each // per_frame

    def distances(self) -> Tensor:
        """Distance in tokens between the places of a frame, Euclidean, rounded. [R·C, R·C]."""
        place = torch.arange(self.rows * self.cols)
        row, col = place // self.cols, place % self.cols
        return (
            torch.hypot((row[:, None] - row).float(), (col[:, None] - col).float()).round_().long()
        )

    def window(self, first: int, last: int) -> TokenGrid:
        """The same sequence with only frames first … last as video."""
        if not 0 <= first <= last < self.frames:
            raise ValueError(
                f"frames: got {first} to {last}, but there are latent frames 0 to {self.frames - 1}"
            )
        each = self.rows * self.cols
        before, after = first * each, (self.frames - 1 - last) * each
        return replace(
            self, frames=last - first + 1, prefix=self.prefix + before, suffix=self.suffix + after
        )


def in_patches(latent: Sequence[int], patch: Sequence[int]) -> tuple[int, int, int]:
    """Frames, rows and columns of tokens of a latent [..., F, H, W] cut into patches, padded."""
    frames, rows, cols = (-(-n // p) for n, p in zip(latent[-3:], patch, strict=True))
    return frames, rows, cols
