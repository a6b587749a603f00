"""What can be chosen of the contrast of U2PL, each with what the paper and the released code say."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.training.memory import DTYPES
from pipeline.training.parameters import require

CHOICES = {
    "contrast": ("infonce", "bce", "none"),
    "negatives": ("unreliable", "reliable", "all"),
    "anchors": ("reliable", "lowest"),
    "positives": ("anchors", "unfiltered"),
    "contrast_normaliser": ("classes", "present"),
    "queue_dtype": tuple(DTYPES),
}


@dataclass(frozen=True, kw_only=True)
class ContrastParameters:
    """The contrast's parameters, to be inherited by those of a method that has one.

    The paper's value comes first where the two disagree.
    """

    contrast: str  # infonce (Eq. 4), bce (Eq. A1), none
    contrast_weight: float  # λ_c: 0.1; released 1, which averaging over R processes twice makes 1 / R
    num_anchors: int  # M: 50; released 256
    num_negatives: int  # N: 256; released 50
    share_negatives: bool  # false: each anchor draws its own; true: one draw per class, the same in expectation, faster
    temperature: float  # τ
    anchor_threshold: float  # δ_p
    rank_low: int  # r_l, counted from 0; below the number of classes
    rank_high: int  # r_h; what lies beyond the number of classes is cut
    prt: bool  # false: the window of unlabelled negatives is [1, r_h), so that only the predicted class is left out
    negatives: str  # which unlabelled pixels: entropy in the upper α_t, the lower α_t, or all (Table 4)
    queue: bool  # false: negatives of the current batch only
    queue_size: int  # features per class
    queue_size_class_0: int  # features of class 0
    queue_dtype: str
    max_enqueue_per_class: int | None  # ours: the paper and the released code enqueue all (null: a whole queue at most)
    anchors: str  # which unlabelled pixels: reliable (H < γ_t); released: the lowest α_t by entropy
    positives: str  # the mean of the anchors; released: unfiltered, without δ_p
    contrast_normaliser: str  # classes: C, as Eq. 4; released: the classes present
    defect_one_hot: bool  # released: labels of all images land in the first one of each half
    defect_class_index: bool  # released: the i-th present class's queue against class i
    defect_labelled_negatives: bool  # released: labelled pixels are never negatives
    defect_unlabelled_negatives: bool  # released: an unlabelled negative of c must have the pseudo-label c

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            require(name, getattr(self, name) in allowed, of=self, allowed=" or ".join(allowed))
        for name in ("num_anchors", "num_negatives", "rank_low", "queue_size", "queue_size_class_0"):
            value = getattr(self, name)
            require(name, isinstance(value, int) and value >= 1, of=self, allowed="whole numbers from 1")
        require("contrast_weight", self.contrast_weight >= 0, of=self, allowed="0 and above")
        require("temperature", self.temperature > 0, of=self, allowed="above 0")
        require("anchor_threshold", 0 <= self.anchor_threshold <= 1, of=self, allowed="0 to 1")
        require("rank_high", self.rank_high > self.rank_low, of=self, allowed=f"above rank_low ({self.rank_low})")
        if self.max_enqueue_per_class is not None:
            shortest = min(self.queue_size, self.queue_size_class_0)
            fits = 1 <= self.max_enqueue_per_class <= shortest
            require("max_enqueue_per_class", fits, of=self, allowed=f"null, or 1 to the shortest queue ({shortest})")

    def check_classes(self, num_classes: int) -> None:
        """Refuse a rank window without classes.

        With C classes ranks run to C - 1, and `rank_low` must leave at least the last. Two classes need `rank_low: 1`:
        the less likely class is the unlabelled negative then, and the more likely one, where wrong, the labelled one.
        """
        require(
            "rank_low",
            self.rank_low < num_classes,
            of=self,
            allowed=f"1 to {num_classes - 1} with {num_classes} classes",
        )
