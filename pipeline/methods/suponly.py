"""Supervised training on the labelled images alone, the lower bound of every table.

With a `decay`, a moving average of the network is kept and evaluated as `teacher`, a free and stronger baseline that
no gradient comes from; the paper has none. The number of steps is the protocol's: the paper counts SupOnly's epochs
over the labelled list, which makes them up to a hundred times fewer steps than the other methods take.

Batch normalisation: one forward of the labelled images. Differs from the paper and the released code: nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pipeline.data.batch import Batch
from pipeline.models.segnet import SegNet
from pipeline.training import method
from pipeline.training.method import Progress, Setting
from pipeline.training.teacher import Teacher, check_decay


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """`decay`: of the moving average of the network, below 1; null for none."""

    decay: float | None

    def __post_init__(self) -> None:
        if self.decay is not None:
            check_decay(self.decay)


class Method(method.Method):
    """L = L_s."""

    reads = "nothing"

    def __init__(self, setting: Setting, parameters: Parameters) -> None:
        super().__init__(setting, parameters)
        self.student = setting.build()
        decay = parameters.decay
        self.teacher = None if decay is None else Teacher(self.student, decay=decay, buffers="average")

    def begin(self) -> None:
        """Let the average start from the student."""
        if self.teacher is not None:
            self.teacher.start(self.student)

    def losses(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Return the supervised loss."""
        return {"supervised": self.setting.supervised(self.student(batch.labelled), batch.mask)}

    def after_step(self, step: int) -> None:
        """Move the average."""
        if self.teacher is not None:
            self.teacher.update(self.student, step)

    def predictors(self) -> dict[str, SegNet]:
        """Return the student, and the average where one is kept."""
        students: dict[str, SegNet] = {"student": self.student}
        return students if self.teacher is None else students | {"teacher": self.teacher.net}
