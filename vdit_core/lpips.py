"""LPIPS, a perceptual distance of pictures, with AlexNet and weights that the user brings.

Zhang et al., *The Unreasonable Effectiveness of Deep Features as a Perceptual Metric*, CVPR 2018
(arXiv 1801.03924), version 0.1, as `lpips.LPIPS(net="alex")` computes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as nnf

SMALLEST = 31  # pixels a side, for AlexNet to have an output at every layer
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of values −1..1
_TINY = 1e-10


@dataclass(frozen=True)
class Convolution:
    """index: in `features` of torchvision's alexnet. pool: whether a pooling comes before."""

    index: int
    inputs: int
    outputs: int
    size: int
    stride: int
    padding: int
    pool: bool


ALEXNET = (
    Convolution(0, 3, 64, 11, 4, 2, False),
    Convolution(3, 64, 192, 5, 1, 2, True),
    Convolution(6, 192, 384, 3, 1, 1, True),
    Convolution(8, 384, 256, 3, 1, 1, False),
    Convolution(10, 256, 256, 3, 1, 1, False),
)


class Lpips:
    """features: the state of torchvision's alexnet. linear: of the lpips package, v0.1/alex.pth.

    Raises ValueError if they are something else.
    """

    def __init__(self, features: Mapping[str, Tensor], linear: Mapping[str, Tensor]) -> None:
        self._layers: list[tuple[Convolution, Tensor, Tensor, Tensor]] = []
        for n, layer in enumerate(ALEXNET):
            shape = layer.outputs, layer.inputs, layer.size, layer.size
            place = f"features.{layer.index}"
            weight = _taken(features, f"{place}.weight", shape, "AlexNet")
            bias = _taken(features, f"{place}.bias", shape[:1], "AlexNet")
            mix = _taken(linear, f"lin{n}.model.1.weight", (1, layer.outputs, 1, 1), "LPIPS")
            self._layers.append((layer, weight, bias, mix))

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Distances of the frames of two videos [F, H, W, 3] of values 0..1, [F]; 0 is alike."""
        if min(a.shape[1:3]) < SMALLEST:
            raise ValueError(
                f"lpips: the videos have {a.shape[2]} × {a.shape[1]} pixels, but LPIPS needs "
                f"{SMALLEST} × {SMALLEST} at least; turn it off, or enlarge both with Upscale Image"
            )
        pairs = (torch.stack(pair) for pair in zip(a, b, strict=True))
        return torch.tensor([self._distance(pair) for pair in pairs], dtype=torch.float64)

    def _distance(self, pair: Tensor) -> float:
        """Of two pictures [2, H, W, 3]."""
        shift, scale = pair.new_tensor(_SHIFT), pair.new_tensor(_SCALE)
        seen, total = ((2 * pair - 1 - shift) / scale).movedim(-1, 1), 0.0
        for layer, weight, bias, mix in self._layers:
            if layer.pool:
                seen = nnf.max_pool2d(seen, 3, 2)
            seen = nnf.conv2d(seen, weight, bias, layer.stride, layer.padding).relu()
            unit = seen / (seen.square().sum(1, keepdim=True).sqrt() + _TINY)
            total += float(nnf.conv2d((unit[:1] - unit[1:]).square(), mix).mean())
        return total


def _taken(state: Mapping[str, Tensor], name: str, shape: tuple[int, ...], what: str) -> Tensor:
    found = state.get(name)
    if found is None or tuple(found.shape) != shape:
        got = "no such tensor" if found is None else f"shape {tuple(found.shape)}"
        raise ValueError(
            f"lpips: the file with the {what} weights should have {name!r} of shape {shape}, but "
            f"has {got}; see the help of VDiT Compare Videos for the two files that are wanted"
        )
    return found.detach().float().cpu()
