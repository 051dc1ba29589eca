"""Parts that move keep the model's shape, and get scale and blur of what stands still."""

import numpy as np
import pandas as pd
import pytest
import torch

from gaussemble.errors import InputError
from gaussemble.fit.moving import among_moving, mask_round, read_moving, scale_and_blur
from gaussemble.fit.neutral import Options, neutral
from gaussemble.io.files import write_csv
from gaussemble.io.mixtures import read_mixture, write_mixture
from gaussemble.io.mrc import write_map
from gaussemble.physics.projection import mixture_to_map
from gaussemble.quantities import Map, Mixture
from tiny import BOX, PIXEL, bent, molecule

ARM = torch.arange(24) >= 16
ANGLES = torch.linspace(-0.8, 0.8, 17)
SCALE = 0.7  # of the seeds' amplitudes over the true ones


@pytest.fixture(scope="module")
def smeared(tmp_path_factory):
    """A consensus of all angles of the arm, and seeds at rest: too light and too narrow, the arm in between."""
    folder = tmp_path_factory.mktemp("smeared")
    states = bent(molecule(), ANGLES)
    each = zip(states.center, states.amplitude, states.width, strict=True)
    density = Map(torch.stack([mixture_to_map(Mixture(*one), BOX, PIXEL) for one in each]).mean(0), PIXEL)
    write_map(folder / "map.mrc", density)
    write_map(folder / "mask.mrc", density.with_voxels(torch.ones(BOX, BOX, BOX)))
    frequency = np.arange(BOX // 2 + 1) / (BOX * PIXEL)
    write_csv(folder / "fsc.csv", pd.DataFrame({"frequency": frequency, "fsc_masked": 1.0 * (frequency < 1 / 14)}))
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    truth = molecule().select(order)
    seed = Mixture(truth.center, SCALE * truth.amplitude, truth.width - 1)
    write_mixture(folder / "still.npz", seed, density, moving=ARM[order].numpy())
    write_mixture(folder / "all.npz", seed, density)
    return folder, order


def fitted(smeared, seeds: str) -> Mixture:
    """The neutral mixture, in the truth's order."""
    folder, order = smeared
    neutral(consensus=folder, seeds=folder / seeds, out=folder / f"{seeds}_fit", options=Options(steps=200, rounds=2))
    return read_mixture(folder / f"{seeds}_fit" / "mixture.npz").select(order.argsort())


def test_the_arm_stays_as_the_model_has_it_on_the_scale_of_the_rest(smeared):
    found, truth = fitted(smeared, "still.npz"), molecule()
    folder, order = smeared
    assert torch.equal(read_moving(folder / "still.npz_fit" / "mixture.npz", 24, "C1"), ARM[order])
    assert not read_moving(folder / "all.npz", 24, "C1").any()
    assert torch.allclose(found.center[ARM], truth.center[ARM], atol=1e-3)
    ratio = found.amplitude[ARM] / truth.amplitude[ARM]
    assert torch.allclose(ratio, ratio[:1], rtol=1e-4)  # as heavy beside each other as in the model
    assert float(ratio[0]) == pytest.approx(1, abs=0.05)  # the core is fitted where the arm's root is smeared over it
    assert found.width[ARM].numpy() == pytest.approx(6, abs=0.3)
    assert float((found.center - truth.center)[~ARM].norm(dim=1).mean()) < 2.0


def test_turned_back_it_is_the_true_arm_and_without_the_flag_it_is_not(smeared):
    """What a rigid decoder needs: the same turn makes the same density. Correlation of maps, mean over angles."""

    def likeness(mixture: Mixture) -> float:
        ours, true = (bent(each, ANGLES) for each in (mixture, molecule()))
        pairs = zip(zip(*vars(ours).values(), strict=True), zip(*vars(true).values(), strict=True), strict=True)
        maps = [[mixture_to_map(Mixture(*(part[16:] for part in one)), BOX, PIXEL) for one in pair] for pair in pairs]
        return float(np.mean([torch.corrcoef(torch.stack(pair).flatten(1))[0, 1].item() for pair in maps]))

    still, all_of_it = (likeness(fitted(smeared, name)) for name in ("still.npz", "all.npz"))
    assert still > 0.995
    assert all_of_it < 0.97


def test_what_came_beside_the_model_stays_last(smeared):
    seed = molecule()
    own = seed.select(~ARM)
    beside = Mixture(torch.tensor([[1.0, 2, 3]]), torch.tensor([9.0]), torch.tensor([7.0]))
    grown = Mixture(
        *(torch.cat([one, more]) for one, more in zip(vars(own).values(), vars(beside).values(), strict=True))
    )
    interleaved = torch.randperm(24, generator=torch.Generator().manual_seed(2))
    found = among_moving(grown, seed.select(interleaved), ARM[interleaved], 2.0, -7.0, 3.0)
    # own Gaussians were given in the core's own order, so that is where they are put
    assert len(found) == 25 and float(found.amplitude[-1]) == 9
    assert torch.equal(found.center[:24][ARM[interleaved]], seed.select(interleaved).center[ARM[interleaved]])
    assert torch.equal(found.center[:24][~ARM[interleaved]], own.center)
    assert torch.equal(found.amplitude[:24][~ARM[interleaved]], own.amplitude)
    assert torch.allclose(
        found.amplitude[:24][ARM[interleaved]], 2 * seed.select(interleaved).amplitude[ARM[interleaved]]
    )
    assert found.width[:24][ARM[interleaved]].numpy() == pytest.approx(29**0.5)  # of 36 Å² less 7
    narrow = among_moving(own, seed, ARM, 1.0, -35.0, 3.0)
    assert narrow.width[ARM].tolist() == 8 * [3.0]


def test_scale_and_blur_of_a_mixture_are_found_through_noise(generator):
    """The map is the mixture, heavier and wider, in noise of its own strength; errors of both sides would show."""
    still = molecule()
    true = Mixture(still.center, 1.4 * still.amplitude, (still.width.square() + 9).sqrt())
    clean = mixture_to_map(true, BOX, PIXEL)
    noisy = Map(clean + clean.std() * torch.randn(clean.shape, generator=generator), PIXEL)
    everywhere = torch.ones(BOX, BOX, BOX)
    assert scale_and_blur(still, Map(clean, PIXEL), everywhere, 13.0) == pytest.approx(
        (1.4, 9.0), rel=0.01
    )  # shells are a ring wide
    scale, blur = scale_and_blur(still, noisy, everywhere, 13.0)
    assert scale == pytest.approx(1.4, rel=0.03)
    assert blur == pytest.approx(9.0, abs=2.0)


@pytest.mark.parametrize("width", [5.0, 15.0])
def test_the_mask_reaches_round_what_stands_still_alone(width):
    """As far as a Gaussian has a twentieth of its height, which is 2.45 widths, and softly on."""
    still = Mixture(torch.tensor([[12.0, -18.0, 30.0]]), torch.ones(1), torch.full((1,), width))
    mask = mask_round(still, Map(torch.zeros(BOX, BOX, BOX), PIXEL), 12.0)
    axis = (torch.arange(BOX) - BOX // 2) * PIXEL
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    far = (torch.stack([x, y, z], -1) - still.center[0]).norm(dim=-1)
    assert (mask[far <= 2.3 * width] == 1).all()
    assert (mask[far >= 2.6 * width + 18] == 0).all()  # an edge of 12 Å, but of three voxels at least
    assert ((mask > 0) & (mask < 1))[(far > 2.7 * width) & (far < 2.4 * width + 17)].any()


@pytest.mark.parametrize(
    ("change", "finest", "message"),
    [
        ({}, 150.0, r"option resolution: the box holds 1 shells up to 150 Å; set it finer"),
        ({"amplitude": -1.0}, 13.0, "option moving: the map is not like the model's other parts"),
    ],
)
def test_a_map_that_tells_no_scale_is_refused(change, finest, message):
    still = molecule()
    voxels = change.get("amplitude", 1.0) * mixture_to_map(still, BOX, PIXEL)
    with pytest.raises(InputError, match=message):
        scale_and_blur(still, Map(voxels, PIXEL), torch.ones(BOX, BOX, BOX), finest)


@pytest.mark.parametrize(("key", "value"), [("grow", "yes"), ("amplitudes", "signed")])
def test_no_gaussians_grow_on_the_smear(smeared, key, value):
    folder, _ = smeared
    with pytest.raises(InputError, match=f"option {key} is {value}, but parts of the model move"):
        neutral(consensus=folder, seeds=folder / "still.npz", out=folder / "no", options=Options(**{key: value}))
    assert not (folder / "no").exists()


@pytest.mark.parametrize(
    ("moving", "symmetry", "message"),
    [
        (np.ones(24, bool), "C1", r"array moving is bool \(24,\); expected 24 bool, not all true"),
        (np.zeros(23, bool), "C1", r"array moving is bool \(23,\); expected 24 bool"),
        (np.zeros(24), "C1", r"array moving is float64 \(24,\); expected 24 bool"),
        (ARM.numpy(), "C3", r"option symmetry is C3, but .*seeds\.npz has parts that move, each copy by itself"),
    ],
)
def test_wrong_flags_are_told(tmp_path, moving, symmetry, message):
    frame = Map(torch.zeros(BOX, BOX, BOX), PIXEL)
    write_mixture(tmp_path / "seeds.npz", molecule(), frame, moving=moving)
    with pytest.raises(InputError, match=message):
        read_moving(tmp_path / "seeds.npz", 24, symmetry)
    assert not read_moving_of_none(tmp_path, frame).any()


def read_moving_of_none(folder, frame: Map) -> torch.Tensor:
    """The flags where seeds say nothing of them, whatever the symmetry."""
    write_mixture(folder / "plain.npz", molecule(), frame)
    return read_moving(folder / "plain.npz", 24, "C3")
