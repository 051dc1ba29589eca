"""The neutral mixture: Gaussians fitted to the consensus map.

It starts at the seeds (the seeds' coordinates are the first fit) and goes on against projections of the masked map,
coarse to fine, positions locally, amplitudes and widths (`fit.projections`). Their number grows until the map is
explained (`fit.growth`); an atomic model's Gaussians stay, with its geometry, and others come beside them.
"""

import copy
import math
import time
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool
from pydantic import Field
from torch import Tensor

from gaussemble.errors import InputError
from gaussemble.fit.asymmetric import folded, joined, symmetric_rows
from gaussemble.fit.devices import DeviceName, choose_device
from gaussemble.fit.growth import (
    COARSEST,
    DOUBLED,
    LEAST_BESIDE,
    Round,
    beside,
    enough,
    fewer,
    grown,
    measure,
    next_step,
    room,
    table,
    worth_keeping,
)
from gaussemble.fit.moving import among_moving, mask_round, read_moving, scale_and_blur
from gaussemble.fit.parameters import Form, MixtureParameters
from gaussemble.fit.projections import Schedule, Target, fit_round, make_target
from gaussemble.fit.restraints import Restraints, among, geometry, read_restraints, unrestrained
from gaussemble.fit.signed import out_of_reach, refined
from gaussemble.io.files import read_csv, read_npz, write_csv, write_json
from gaussemble.io.mixtures import read_mixture, write_mixture, write_pseudo_atoms
from gaussemble.io.mrc import read_map, write_map
from gaussemble.io.tensors import write_tensors
from gaussemble.options import StageOptions
from gaussemble.physics.band_limited import band_limited_map
from gaussemble.physics.symmetry import operators
from gaussemble.prepare.consensus import curve_resolution, fsc_table
from gaussemble.progress import say
from gaussemble.quantities import Map, Mixture


class Options(StageOptions):
    """Options of the neutral fit."""

    resolution: float | None = Field(
        default=None, gt=0, description="Finest resolution to fit, in Å; none: the consensus map's own (FSC 0.143)."
    )
    target: float = Field(
        default=0.95, gt=0, lt=1, description="FSC with the map, inside the mask, to reach everywhere below it."
    )
    strict: bool = Field(default=False, description="Stop with an error where the target is not reached.")
    grow: Literal["auto", "yes", "no"] = Field(
        default="auto",
        description="More Gaussians until the target is reached: doubled, from coarse resolution on, or beside a "
        "model's, whose geometry is kept; auto: where the seeds have no count, seeds.residual is on, and no parts "
        "move (seeds.moving).",
    )
    most: int = Field(default=16384, ge=1, description="Most Gaussians to grow to.")
    amplitudes: Literal["auto", "positive", "signed"] = Field(
        default="auto",
        description="Signs of the Gaussians that growth adds at the finest resolution: positive, as a molecule is; "
        "signed, also negative ones for solvent below zero and ripples of sharpening; auto: signed only where "
        "positive ones would not reach the target.",
    )
    rounds: int = Field(
        default=3, ge=1, description="Without growth: resolutions from coarse to fine, each twice as fine as the last."
    )
    steps: int = Field(default=300, ge=1, description="Optimiser steps a round.")
    learning_rate: float = Field(
        default=0.1, gt=0, description="Learning rate of positions in voxels; other parameters in proportion."
    )
    max_move: float = Field(default=8.0, gt=0, description="Farthest from its seed along each axis, in Å.")
    symmetry: str = Field(
        default="C1", description="Point group, with RELION's names and axes, under which the mixture is symmetric."
    )
    restraint: float = Field(
        default=0.1,
        ge=0,
        description="Weight, in 1/Å², of mean-square deviations from the model's distances and pseudo-angles between "
        "consecutive residues, against the map's relative error.",
    )
    form: Form = Field(
        default="direct", description="Fit the parameters themselves, or a small decoder's output at latent 0."
    )
    device: DeviceName = Field(default="auto", description="Where to compute: auto takes a GPU when there is one.")
    seed: int = Field(default=0, ge=0, description="Seed of the projection directions and of new Gaussians.")


def neutral(*, consensus: Path, seeds: Path, out: Path, options: Options) -> None:
    """Fit the neutral mixture to the consensus map.

    Writes mixture.npz, mixture.cif, map.mrc, fsc.csv, growth.csv, geometry.json, decoder.pt.

    Args:
        consensus: folder of the stage `consensus`: map.mrc, mask.mrc, fsc.csv.
        seeds: seeds.npz, where the Gaussians start.
        out: folder to write.
        options: see `Options`.
    """
    density, mask = read_map(consensus / "map.mrc"), read_map(consensus / "mask.mrc")
    refuse_unfit(consensus, density, mask)
    seed = read_mixture(seeds)
    refuse_too_many(seeds, seed, consensus, mask)
    refuse_beyond_nyquist(options.resolution, density.pixel_size, consensus)
    finest = max(options.resolution or consensus_resolution(consensus / "fsc.csv"), 2.0 * density.pixel_size)
    moving, restraints = read_moving(seeds, len(seed), options.symmetry), read_restraints(seeds, seed.center)
    if moving.any():
        refuse_growth_on_smear(options)
        mask = mask.with_voxels(mask.voxels * mask_round(seed.select(~moving), mask, finest))
        restraints = among(restraints, torch.nonzero(~moving).flatten(), len(seed))
    target = make_target(density, mask.voxels, finest, options.seed)
    start, kept = begin(seed.select(~moving), restraints, options)
    rows: int | None = len(start)  # that stay, as the restraints name them
    refuse_signs_without_growth(seeds, options)
    if not may_grow(seeds, options):
        parameters, rounds = fit_mixture(target, start, kept, options)
    elif len(kept) or on_model(seeds):
        parameters, rounds = grow_beside(target, start, kept, options)
    else:
        rows = None
        parameters, rounds = grow(target, start, options)
    judge(rounds, target, options)
    with torch.no_grad():
        mixture = parameters()
    if moving.any():
        scale, blur = scale_and_blur(seed.select(~moving), density, mask.voxels, finest)
        say(
            f"neutral: {int(moving.sum())} Gaussians of parts that move are as the model has them, but for amplitudes "
            f"(times {scale:.3f}) and squared widths ({blur:+.1f} Å²)"
        )
        mixture = among_moving(mixture, seed, moving, scale, blur, parameters.smallest_width)
    flags = torch.cat([moving, moving.new_zeros(len(mixture) - len(moving))]) if moving.any() else None
    write(out, density, mask, parameters, (mixture, flags), shape_of(parameters, kept, rows), rounds)


def refuse_unfit(folder: Path, density: Map, mask: Map) -> None:
    """Raise InputError where the mask has another box, or nothing is in it."""
    if mask.box != density.box:
        raise InputError(f"{folder / 'mask.mrc'}: box {mask.box}, but the map's is {density.box}")
    if not (mask.voxels > 0.5).any():
        raise InputError(f"{folder / 'mask.mrc'}: no voxel above 0.5; give a mask that is 1 at the molecule")
    if not (density.voxels[mask.voxels > 0.5] > 0).any():
        raise InputError(
            f"{folder / 'map.mrc'}: no positive density inside the mask; give a map in which the molecule is bright"
        )


def refuse_too_many(seeds: Path, seed: Mixture, folder: Path, mask: Map) -> None:
    """Raise InputError where there are more Gaussians than voxels to explain."""
    voxels = int((mask.voxels > 0.5).sum())
    if len(seed) > voxels:
        raise InputError(
            f"{seeds}: {len(seed)} Gaussians, but {folder / 'mask.mrc'} holds {voxels} voxels; lower seeds.count, take "
            "coarser seeds.atoms, or enlarge particles.box"
        )


def refuse_beyond_nyquist(resolution: float | None, pixel_size: float, folder: Path) -> None:
    """Raise InputError where finer detail is asked for than pixels of this size (Å) hold."""
    if resolution is not None and resolution < 2.0 * pixel_size * (1 - 1e-3):
        raise InputError(
            f"option resolution is {resolution:g} Å, but pixels of {pixel_size:.4g} Å in {folder} hold nothing finer "
            f"than {2.0 * pixel_size:.4g} Å; set that or more, or enlarge particles.box"
        )


def consensus_resolution(curve: Path) -> float:
    """Å at which the half-maps' FSC (masked, corrected for the mask) of the consensus falls below 0.143."""
    return curve_resolution(read_csv(curve, ["frequency", "fsc_masked"]))


def may_grow(seeds: Path, options: Options) -> bool:
    """Whether the number of Gaussians is free: as asked, or as the seeds say."""
    if options.grow != "auto":
        return options.grow == "yes"
    return bool(read_npz(seeds, "seeds").get("grow", False))


def refuse_signs_without_growth(seeds: Path, options: Options) -> None:
    """Raise InputError where negative Gaussians are asked for, which only growth adds, and nothing may grow."""
    if options.amplitudes == "signed" and not may_grow(seeds, options):
        raise InputError(
            f"option amplitudes is signed: growth adds the negative Gaussians, but the number of those in {seeds} is "
            "fixed; set grow: yes, or leave seeds.count and grow: no out"
        )


def refuse_growth_on_smear(options: Options) -> None:
    """Raise InputError where more Gaussians are asked for while parts of the model move."""
    for key in ("grow", "amplitudes"):
        value = getattr(options, key)
        if value in ("yes", "signed"):
            raise InputError(
                f"option {key} is {value}, but parts of the model move (seeds.moving), and more Gaussians would draw "
                f"what the map shows of them, smeared; leave {key} or seeds.moving out"
            )


def on_model(seeds: Path) -> bool:
    """Whether the seeds stand on an atomic model, as they say."""
    return bool(read_npz(seeds, "seeds").get("model", False))


def begin(seed: Mixture, restraints: Restraints, options: Options) -> tuple[Mixture, Restraints]:
    """The seeds of the asymmetric unit (all of them without symmetry) and the restraints between these."""
    group = operators(options.symmetry).float()
    if len(group) == 1:
        return seed, restraints
    rows, others = symmetric_rows(seed.center, group)
    if len(others) > len(seed) / 2:
        if len(restraints):
            say(f"neutral: WARNING: the model is not {options.symmetry} symmetric within 5 Å; its geometry is not kept")
        unit, kept = folded(seed, group, options.seed), unrestrained()
    else:
        unit, kept = seed.select(rows), among(restraints, rows, len(seed))
        if len(others):
            unit = joined(unit, folded(seed.select(others), group, options.seed))
    say(f"neutral: {len(unit)} Gaussians in the asymmetric unit, {len(unit) * len(group)} by {options.symmetry}")
    return unit, kept


def make_parameters(seed: Mixture, target: Target, options: Options) -> MixtureParameters:
    """Parameters at the seeds, on the device."""
    torch.manual_seed(options.seed)  # of a decoder's first weights
    group = operators(options.symmetry).float()
    widest = target.finest if (seed.amplitude < 0).any() else math.inf
    parameters = MixtureParameters(seed, options.max_move, target.voxel, group, options.form, widest)
    return parameters.to(choose_device(options.device))


def make_schedule(options: Options) -> Schedule:
    """How every round is fitted."""
    return Schedule(options.steps, options.learning_rate, options.restraint, options.seed)


def measured(parameters: MixtureParameters, target: Target, fitted: float, wanted: float, start: float) -> Round:
    """What a mixture reaches, said too."""
    with torch.no_grad():
        found = measure(parameters(), target, fitted, wanted, start)
    say(f"neutral: {found}")
    return found


def fit_mixture(
    target: Target, seed: Mixture, restraints: Restraints, options: Options
) -> tuple[MixtureParameters, list[Round]]:
    """A fixed number of Gaussians, coarse to fine; the parameters (call them for the mixture) and what they reach."""
    start = time.monotonic()
    parameters, schedule = make_parameters(seed, target, options), make_schedule(options)
    for number in reversed(range(options.rounds)):
        resolution = target.finest * 2**number
        error = fit_round(parameters, target, resolution, schedule, restraints if len(restraints) else None)
        say(f"neutral: to {resolution:.1f} Å, relative error {error:.3f}")
    return parameters.cpu(), [measured(parameters, target, target.finest, options.target, start)]


def grow(target: Target, seed: Mixture, options: Options) -> tuple[MixtureParameters, list[Round]]:
    """More Gaussians and finer until the stop rule; the best parameters, and what each round reached."""
    start, resolution, schedule = time.monotonic(), max(COARSEST, target.finest), make_schedule(options)
    rounds: list[Round] = []
    seed = fewer(seed, target, operators(options.symmetry).float(), options.most, options.seed)
    parameters = best = make_parameters(seed, target, options)
    signed = False
    while True:
        fit_round(parameters, target, resolution, schedule)
        rounds.append(measured(parameters.cpu(), target, resolution, options.target, start))
        if rounds[-1] is best_round(rounds):
            best = copy.deepcopy(parameters)
        if not signed and begins_signed(rounds, target, options, DOUBLED):
            step, signed = "more", True
        else:
            step = next_step(rounds, target, options.target, options.most, LEAST_BESIDE if signed else DOUBLED)
        if step == "stop":
            break
        if step == "again":
            parameters.to(choose_device(options.device))
            continue
        if step == "more" and signed:
            kept = detached(parameters)
            kept = kept.select(worth_keeping(kept, target))
            seed = refined(kept, parameters.operators, target, resolution, options.most, options.seed)
        elif step == "more":
            seed = grown(parameters, target, resolution, options.seed)
        else:
            resolution = max(target.finest, resolution / 2)
            seed = detached(parameters)
        parameters = make_parameters(seed, target, options)
    say_enough(rounds, options.target)
    return best, rounds


def grow_beside(
    target: Target, seed: Mixture, restraints: Restraints, options: Options
) -> tuple[MixtureParameters, list[Round]]:
    """All seeds, coarse to fine, and new Gaussians beside them while these help; the best, and what was reached."""
    start, schedule = time.monotonic(), make_schedule(options)
    parameters, rounds = fit_mixture(target, seed, restraints, options)
    best, kept = copy.deepcopy(parameters), restraints if len(restraints) else None
    signed = False
    while True:
        if not signed and begins_signed(rounds, target, options, LEAST_BESIDE):
            step, signed = "more", True
        else:
            step = next_step(rounds, target, options.target, options.most, LEAST_BESIDE)
        if step == "stop":
            break
        if step == "more":
            more = (target, target.finest, options.most, options.seed)
            stand = refined(detached(parameters), parameters.operators, *more) if signed else beside(parameters, *more)
            seed = joined(seed, stand.select(torch.arange(len(seed), len(stand))))
            parameters = make_parameters(seed, target, options)
            parameters.start_at(stand)
        fit_round(parameters.to(choose_device(options.device)), target, target.finest, schedule, kept)
        rounds.append(measured(parameters.cpu(), target, target.finest, options.target, start))
        if rounds[-1] is best_round(rounds):
            best = copy.deepcopy(parameters)
    say_enough(rounds, options.target)
    return best, rounds


def begins_signed(rounds: list[Round], target: Target, options: Options, least: float) -> bool:
    """Whether Gaussians of both signs come next, after positive ones; said where that is not asked for but needed."""
    now, copies = rounds[-1], len(operators(options.symmetry))
    fewest = max(LEAST_BESIDE * now.gaussians, now.gaussians + copies)
    if now.lowest_fsc >= options.target or fewest > room(target, options.most):
        return False
    if options.amplitudes == "auto" and out_of_reach(rounds, target, options.target, options.most, least):
        say(f"neutral: positive Gaussians would not reach {options.target:g}; negative ones come beside them")
        return True
    return options.amplitudes == "signed" and now.resolution == target.finest


def detached(parameters: MixtureParameters) -> Mixture:
    """The Gaussians of the asymmetric unit as new seeds."""
    with torch.no_grad():
        return parameters.unique()


def best_round(rounds: list[Round]) -> Round:
    """The one with the highest FSC at its lowest among those of the finest resolution."""
    finest = min(one.resolution for one in rounds)
    return max((one for one in rounds if one.resolution == finest), key=lambda one: one.lowest_fsc)


def say_enough(rounds: list[Round], wanted: float) -> None:
    """An answer to how many Gaussians are needed, where the rounds give one."""
    number = enough(rounds, wanted)
    if number is not None:
        say(f"neutral: about {number} Gaussians would reach {wanted:g}, to judge by the last two rounds")


def judge(rounds: list[Round], target: Target, options: Options) -> None:
    """Warn where the best round stays below the target; raise InputError instead if strict."""
    best = best_round(rounds)
    if best.lowest_fsc >= options.target:
        return
    found = (
        f"the FSC with the map is {best.lowest_fsc:.3f} at its lowest up to {target.finest:.1f} Å with "
        f"{best.gaussians} Gaussians, below the target {options.target:g}"
    )
    remedies = (
        "a coarser neutral.resolution, a tighter mask or more Gaussians (seeds.count or atoms, neutral.most) help"
    )
    if options.amplitudes == "positive":
        remedies += ", and so do negative ones (neutral.amplitudes: auto)"
    if options.strict:
        raise InputError(f"option strict: {found}; {remedies}")
    say(f"neutral: WARNING: {found}; {remedies}")


def shape_of(parameters: MixtureParameters, restraints: Restraints, rows: int | None) -> dict[str, float | int]:
    """What geometry.json holds, of the first Gaussians (all: None); said where there are restraints."""
    with torch.no_grad():
        center = parameters.unique().center
    shape = geometry(center[:rows], parameters.seed_center[:rows], restraints)
    if len(restraints):
        say(
            "neutral: root-mean-square deviation from the model: {position_rmsd:.2f} Å of positions, "
            "{distance_rmsd:.2f} Å of {bonds} distances, {angle_rmsd_degrees:.1f}° of {angles} angles".format(**shape)
        )
    return shape


def write(
    out: Path,
    density: Map,
    mask: Map,
    parameters: MixtureParameters,
    found: tuple[Mixture, Bool[Tensor, " gaussian"] | None],
    shape: dict[str, float | int],
    rounds: list[Round],
) -> None:
    """All files of the stage; the curve is of what was fitted, inside the mask of the fit."""
    mixture, moving = found
    drawn = band_limited_map(mixture, density.box, density.pixel_size)
    with torch.no_grad():
        fitted = band_limited_map(parameters(), density.box, density.pixel_size)
    curve = fsc_table(fitted, density.voxels, mask.voxels, density.pixel_size)
    reached = curve_resolution(curve, threshold=0.5)
    say(f"neutral: {len(parameters())} Gaussians agree with the map (FSC 0.5) to {reached:.1f} Å")
    if negative := int((mixture.amplitude < 0).sum()):
        say(f"neutral: {negative} of them are negative; neutral.amplitudes: positive does without")
    write_mixture(out / "mixture.npz", mixture, density, **({} if moving is None else {"moving": moving.numpy()}))
    write_pseudo_atoms(out / "mixture.cif", mixture, density)
    write_map(out / "map.mrc", density.with_voxels(drawn))
    write_csv(out / "fsc.csv", curve)
    write_csv(out / "growth.csv", table(rounds))
    write_json(out / "geometry.json", shape)
    write_tensors(out / "decoder.pt", parameters.state_dict())
