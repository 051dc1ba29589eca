"""Rounds of training: which decoders learn, for how long, compared to what resolution."""

from dataclasses import dataclass

from gaussemble.model.heterogeneity import Transition


@dataclass(frozen=True)
class Round:
    """One round; the next one takes up its weights."""

    decoders: tuple[str, ...] | None = None  # names; None: all
    epochs: float = 1.0
    resolution: float | None = None  # Å, finest compared; None: the whole band
    learning_rate: float | None = None  # highest; None: the training's option
    transition: Transition = "trainable"
