"""The null: the same poses, CTF, shifts and noise spectrum, and a molecule that does not vary."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from gaussemble.analysis.null import Options, null
from gaussemble.errors import InputError
from gaussemble.io.mixtures import write_mixture
from gaussemble.io.mrc import write_map
from gaussemble.io.store import ImageStore, open_store, write_particles
from gaussemble.physics.ctf import evaluate
from gaussemble.physics.fourier import to_fourier
from gaussemble.physics.projection import project, shift_phases
from gaussemble.physics.rings import ring_means, ring_sums
from gaussemble.quantities import Map, Mixture
from made_store import BOX, PIXEL, lopsided, make_store

BRIGHTER = 1.7  # the particles' scale over the mixture's


def noise_spectrum(level: float) -> np.ndarray:
    """(group, ring): falls with frequency, in the second optics group twice as high."""
    return np.outer([1, 2], level**2 * BOX**2 * np.exp(-0.1 * np.arange(BOX // 2 + 1)))


@pytest.fixture
def half(tmp_path, generator) -> Path:
    """Particles of which a third lack a domain, and the mixture of those that have it, too faint."""
    made = make_store(tmp_path / "particles", generator, count=400, snr=0.5)
    power = noise_spectrum(made.noise)
    table = pd.DataFrame([(g, r, power[g, r]) for g in (0, 1) for r in range(BOX // 2 + 1)])
    table.columns = ["optics_group", "ring", "power"]
    (tmp_path / "consensus").mkdir()
    table.to_csv(tmp_path / "consensus" / "noise.csv", index=False)
    whole = lopsided()
    faint = Mixture(whole.center, whole.amplitude / BRIGHTER, whole.width)
    write_map(tmp_path / "map.mrc", Map(torch.zeros(BOX, BOX, BOX), PIXEL))
    write_mixture(tmp_path / "mixture.npz", faint, Map(torch.zeros(BOX, BOX, BOX), PIXEL))
    return tmp_path


def simulate(half: Path, out: str = "null", run: int = 1) -> ImageStore:
    null(
        particles=half / "particles",
        consensus=half / "consensus",
        neutral=half / "mixture.npz",
        out=half / out,
        options=Options(run=run),
    )
    return open_store(half / out)


def expected(store: ImageStore, mixture: Mixture) -> torch.Tensor:
    known = store.particles
    clean = project(mixture, known.rotation.float(), BOX, PIXEL) * evaluate(known.ctf, BOX, PIXEL)
    return clean * shift_phases(known.shift.float(), BOX, PIXEL)


def test_particles_are_those_of_the_half_and_none_lacks_the_domain(half):
    store, before = simulate(half), open_store(half / "particles")
    assert torch.equal(store.particles.particle, before.particles.particle)
    assert torch.equal(store.particles.rotation, before.particles.rotation)
    assert torch.equal(store.half, before.half)
    assert (half / "null/particles.star").read_bytes() == (half / "particles/particles.star").read_bytes()

    domain = lopsided().select(torch.tensor([6, 7]))
    seen = expected(store, domain)
    absent = torch.arange(len(store)) % 3 == 0
    for images, lacking in ((before, 0.0), (store, 0.8)):  # 0.8: the mean of all, since the factor is one for all
        found = to_fourier(images.read(slice(0, len(store)))) - expected(store, lopsided().select(torch.arange(6)))
        scale = ring_sums((seen.conj() * found).real, BOX).sum(1) / ring_sums(seen.abs().square(), BOX).sum(1)
        assert float(scale[absent].mean()) == pytest.approx(lacking, abs=0.25)


def test_noise_has_the_spectrum_of_its_group_and_is_new(half):
    store = simulate(half)
    images, group = to_fourier(store.read(slice(0, len(store)))), store.particles.optics_group
    clean = expected(store, lopsided())
    gain = ring_sums((clean.conj() * images).real, BOX).sum(0) / ring_sums(clean.abs().square(), BOX).sum(0)
    assert float(gain[1:6].mean()) == pytest.approx(0.85, abs=0.12)  # of particles of which a third lack a quarter
    noise = images - clean * gain.clamp(0, 1.2)[None, None, :1]
    level = open_store(half / "particles").read(slice(0, 1)).std()
    power = torch.stack([ring_means(noise[group == each].abs().square(), BOX).mean(0) for each in (0, 1)])
    ratio = power[:, 8:] / torch.from_numpy(noise_spectrum(1.0))[:, 8:]
    assert float(ratio.std() / ratio.mean()) < 0.1
    assert level > 0
    again, other = simulate(half, "again"), simulate(half, "other", run=2)
    first = store.read(slice(0, 5))
    assert torch.equal(first, again.read(slice(0, 5)))
    residual = [each.read(slice(0, 400)) for each in (store, other, open_store(half / "particles"))]
    mean = (residual[0] + residual[1]) / 2
    difference = residual[0] - residual[1]
    assert float(torch.corrcoef(torch.stack([difference.flatten(), mean.flatten()]))[0, 1].abs()) < 0.02


def test_copies_of_a_particle_share_its_image(half):
    store = open_store(half / "particles")
    twice = torch.arange(400) // 2
    write_particles(half / "particles", store.particles, BOX, PIXEL, image=twice.numpy())
    np.save(half / "particles/images.npy", np.array(store.images)[:200])
    simulated = simulate(half)
    assert len(simulated) == 400
    assert len(simulated.images) == 200
    assert torch.equal(simulated.image, twice)


def test_a_star_file_that_is_missing_is_named(half):
    (half / "particles/particles.star").unlink()
    with pytest.raises(InputError, match=r"particles\.star"):
        simulate(half)
    assert not (half / "null").exists()
