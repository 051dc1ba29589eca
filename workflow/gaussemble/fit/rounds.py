"""Rounds of training: which decoders learn, for how long, compared to what resolution."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gaussemble.fit.sections import DecoderOptions, RoundOptions
from gaussemble.model.heterogeneity import Transition

GENTLER = 0.5  # times the highest learning rate, once there is something to improve on
COARSE = 2.0  # times the finest resolution, in the first epochs where no rounds are given


@dataclass(frozen=True)
class Round:
    """One round; the next one takes up its weights."""

    decoders: tuple[str, ...] | None = None  # names; None: all
    epochs: float = 1.0
    resolution: float | None = None  # Å, finest compared; None: the whole band
    learning_rate: float | None = None  # highest; None: the training's option
    transition: Transition = "fixed"
    population: bool = False  # latents are drawn from posteriors over landmarks, in the place of the encoder's


def given_rounds(sections: Sequence[RoundOptions], decoders: Sequence[DecoderOptions], finest: float) -> list[Round]:
    """The rounds of a config; the resolution of one that gives none is the finest of its decoders' own."""
    return [
        Round(
            each.decoders,
            each.epochs,
            in_band(each.resolution or finest_of(decoders, each.decoders, finest), finest),
            each.learning_rate,
            each.transition,
        )
        for each in sections
    ]


def default_rounds(epochs: int, coarse_epochs: float, decoders: Sequence[DecoderOptions], finest: float) -> list[Round]:
    """All decoders, a share of the epochs at half the resolution and then the others at the whole.

    Coarse, a motion longer than the finest detail still pulls the right way (method of Chen, Toader & Lederman 2023).
    """
    coarse, end = int(coarse_epochs * epochs), finest_of(decoders, None, finest)
    rounds = [Round(None, float(coarse), COARSE * end), Round(None, float(epochs - coarse), in_band(end, finest))]
    return [each for each in rounds if each.epochs > 0]


def population_rounds(last: Round, count: int, epochs: int, learning_rate: float) -> list[Round]:
    """Rounds after the last of the others: what it trains, in the whole band, at latents drawn from posteriors.

    Each is a step of expectation maximisation (Wei & Tanner 1990, for draws): landmarks and posteriors first, then so
    many epochs. A decoder beside an encoder learns at latents that are all as uncertain along each axis, whatever a
    particle's view and noise; here it learns at those at which the particle may truly be.
    """
    rate = GENTLER * (last.learning_rate or learning_rate)
    return [replace(last, epochs=float(epochs), resolution=None, learning_rate=rate, population=True)] * count


def finest_of(decoders: Sequence[DecoderOptions], names: Sequence[str] | None, finest: float) -> float:
    """Å, the finest of some decoders' resolutions; of those without one it is the band's."""
    return min(each.resolution or finest for each in decoders if names is None or each.name in names)


def in_band(resolution: float, finest: float) -> float | None:
    """The resolution, or None where it is the whole band's."""
    return resolution if resolution > finest * (1 + 1e-6) else None
