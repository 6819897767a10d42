"""What a run knows of the footage that its pairs follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .edits.footage import FollowFootage
from .footage import Footage, on_tokens
from .grid import TokenGrid
from .plan import AttentionPlan
from .program import Edit, Spec
from .sites import Evaluation, size_in_words


class Following:
    """The one video of all nodes that ask for one; None where none does."""

    def __init__(self, active: Sequence[Spec]) -> None:
        self.footage: Footage | None = None
        self._name, self._latent = "", tuple[int, ...]()
        for spec in active:
            if not isinstance(spec, Edit) or not isinstance(spec.change, FollowFootage):
                continue
            if self.footage is not None and not self.footage.equals(spec.change.footage):
                raise ValueError(
                    f"{spec.asker.name}: {self._name} already follows another video, or has "
                    "another mask; give both nodes the same, or take one out"
                )
            self.footage, self._name = spec.change.footage, spec.asker.name

    def check_latent(self, latent: tuple[int, ...]) -> None:
        """Raises ValueError unless the sampler's pairs [2·P, C, F, H, W] are of its size."""
        self._latent = latent
        if self.footage is None:
            return
        videos, *size = self.footage.latent.shape
        if size != list(latent[1:]) or videos not in (1, latent[0] // 2):
            raise ValueError(
                f"{self._name}: the sampler's latent is {size_in_words(latent)}, but the video is "
                f"{size_in_words(self.footage.latent.shape)}; connect this node's latent output to "
                "the sampler, or give VDiT Pair Latent the same video"
            )

    def check_noise(self, any_noise: bool) -> None:
        """Raises ValueError for a sampler that begins without noise."""
        if self.footage is not None and not any_noise:
            raise ValueError(
                f"{self._name}: the sampler adds no noise, but the video must get the noise that "
                "the edit begins with; switch on add_noise, and use one sampler for all steps"
            )

    def check_evaluation(self, evaluation: Evaluation) -> None:
        """Raises ValueError for a part of the video, on which a mask would lie wrong."""
        if self.footage is None or self.footage.own is None:
            return
        if tuple(evaluation.latent[-3:]) != self._latent[-3:]:
            raise ValueError(
                f"{self._name}: a mask cannot be combined with prompts that have an area of their "
                "own; take the areas out, or leave the mask open"
            )

    def placed(self, plan: AttentionPlan, grid: TokenGrid) -> AttentionPlan:
        """The plan with its blend on the tokens of a call."""
        blend = plan.blend
        assert blend is not None
        return replace(plan, blend=replace(blend, own=on_tokens(blend.own, grid)))
