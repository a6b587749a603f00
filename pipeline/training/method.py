"""What the engine asks of a method, and what every method is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from pipeline.data.batch import Batch
from pipeline.models.resize import resize
from pipeline.models.segnet import Output, SegNet
from pipeline.training.losses import sample_nearest


@dataclass(frozen=True)
class Progress:
    """Where training stands. Epochs and steps count from 0 and include the warm start, which ends at `first_step`."""

    step: int
    total_steps: int
    epoch: int
    epochs: int
    first_step: int = 0

    @property
    def fraction(self) -> float:
        """The share of the steps after the warm start that is done, 0–1: where a method's own ramps start at 0."""
        return (self.step - self.first_step) / (self.total_steps - self.first_step)

    @property
    def epoch_fraction(self) -> float:
        """The share of all epochs, the warm start's too, that is done, 0–1; constant within an epoch (t/T of Eq. 7)."""
        return self.epoch / self.epochs


@dataclass(frozen=True)
class Setting:
    """What every method is built from, whatever it does.

    `build(representation=False)` makes a freshly initialised network. `supervised(output, mask)` is the protocol's
    supervised loss (cross-entropy, or OHEM with an auxiliary head). `loss_resolution` is `full` (logits are
    upsampled to the image, as published) or `network` (labels are sampled at the logits' grid).
    """

    build: Callable[..., SegNet]
    supervised: Callable[[Output, Tensor], Tensor]
    num_classes: int
    loss_resolution: str


class Method(nn.Module):
    """A method answers one question: what is the loss of this batch?

    All its state is sub-modules and buffers, so `state_dict()` is its checkpoint. It draws random numbers from
    torch's default generator, which the engine seeds from (seed, step) before every step.
    """

    student: SegNet
    reads: str = "images"
    """What is read of a batch's unlabelled half: `nothing`, the `images`, or their `classes` too (image labels)."""

    def __init__(self, setting: Setting, parameters: Any) -> None:
        super().__init__()
        self.setting = setting
        self.hyper = parameters

    def losses(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Return named scalar losses whose sum is minimised, weights already applied."""
        raise NotImplementedError

    def after_step(self, step: int) -> None:
        """Update what follows the optimiser step; `step` counts from the end of the warm start."""

    def monitors(self) -> dict[str, Tensor]:
        """Return scalars worth a curve by `group/name` (`method/reliable_share`, say); read once per log interval."""
        return {}

    def lr_factor(self, name: str, head_lr_factor: float) -> float:
        """Return what multiplies the learning rate of the parameter `name`: 1 for encoders, the head's for the rest."""
        return 1.0 if ".encoder." in f".{name}" else head_lr_factor

    def networks(self) -> list[SegNet]:
        """Return the networks a warm start initialises, in order (two for the methods that train a pair)."""
        return [self.student]

    def begin(self) -> None:
        """Take over the warm-started networks, once, before the first step (teachers copy their students)."""

    def predictors(self) -> dict[str, SegNet]:
        """Return the networks to evaluate by name; the last is the one the method deploys."""
        return {"student": self.student}

    @property
    def deployed(self) -> SegNet:
        """The network that is used in the end, and whose best epoch is kept."""
        return list(self.predictors().values())[-1]

    def resize(self, logits: Tensor, size: tuple[int, ...]) -> Tensor:
        """Bring logits (B, C, h, w) to the resolution of the loss: `size`, or as they are."""
        if self.setting.loss_resolution == "network":
            return logits
        return resize(logits, size)

    def sample(self, labels: Tensor, size: tuple[int, ...]) -> Tensor:
        """Nearest-sample a map (B, H, W) of any dtype at `size`."""
        return sample_nearest(labels, size)
