"""DeepLabv3+ as U2PL trains it: encoder, decoder, classifier, and an optional representation and auxiliary head."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from pipeline.models.decoder import AuxiliaryHead, Decoder, DecoderShape, Head


class Output(NamedTuple):
    """What a network says of a batch (B images). All maps are float32, also under autocast."""

    logits: Tensor  # (B, C, h, w), stride 4
    representation: Tensor | None  # (B, D, h, w), stride 4, not normalised
    auxiliary: Tensor | None  # (B, C, h', w'), the stride of the third stage

    def take(self, images: slice) -> Output:
        """Return the output of some images of the batch (views)."""
        logits, representation, auxiliary = self
        return Output(
            logits=logits[images],
            representation=None if representation is None else representation[images],
            auxiliary=None if auxiliary is None else auxiliary[images],
        )


class SegNet(nn.Module):
    """One network, callable as a whole or in its parts: `features`, `fuse`, `classify`.

    `encoder`, `decoder` and `classifier` are always there; `represent` and `auxiliary_head` are None where absent.
    The encoder trains at the base learning rate, everything else at the head's.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: DecoderShape,
        *,
        num_classes: int,
        representation_channels: int | None = None,
        auxiliary: bool = False,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.encoder = encoder
        self.feature_channels: list[int] = list(encoder.channels)  # type: ignore[arg-type]  # of every backbone
        self.decoder = Decoder(self.feature_channels, decoder)
        self.fused_channels = self.decoder.num_out
        self.classifier = Head(self.fused_channels, num_classes, shape=decoder)
        self.auxiliary_head = AuxiliaryHead(self.feature_channels[2], num_classes, shape=decoder) if auxiliary else None
        # Last, so that a network without it starts from the same weights under the same seed.
        self.represent: Head | None = None
        self.representation_channels = representation_channels or 0
        if representation_channels is not None:
            self.represent = Head(self.fused_channels, representation_channels, shape=decoder)

    def forward(self, image: Tensor, *, representation: bool = True, auxiliary: bool = True) -> Output:
        """Map images (B, 3, H, W) to everything the network has heads for, less what is not asked for."""
        features = self.features(image)
        fused = self.fuse(features)
        return Output(
            logits=self.classify(fused),
            representation=self.represent(fused).float() if self.represent is not None and representation else None,
            auxiliary=self.auxiliary_head(features[2]).float()
            if self.auxiliary_head is not None and auxiliary
            else None,
        )

    def predict(self, image: Tensor) -> Tensor:
        """Map images (B, 3, H, W) to logits (B, C, h, w) alone; the other heads are not run."""
        return self.classify(self.fuse(self.features(image)))

    def features(self, image: Tensor) -> list[Tensor]:
        """Return the encoder's maps [c1 … c4], of `feature_channels` channels."""
        return self.encoder(image)

    def fuse(self, features: list[Tensor]) -> Tensor:
        """Decode c1 and c4 to the shared input of the heads (B, `fused_channels`, h, w), stride 4."""
        return self.decoder(features[0], features[3])

    def classify(self, fused: Tensor) -> Tensor:
        """Map a fused map to logits (B, C, h, w), float32."""
        return self.classifier(fused).float()
