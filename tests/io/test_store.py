"""The image store gives back what was put in, in the order in which it was put."""

from dataclasses import fields

import numpy as np
import pytest
import torch

from gaussemble.errors import InputError
from gaussemble.io.store import open_store, write_particles, write_store, written_images
from gaussemble.quantities import ContrastTransfer, Particles


def _particles(count: int, generator: torch.Generator) -> Particles:
    """All columns different."""
    ctf = ContrastTransfer(**{field.name: torch.rand(count, generator=generator) for field in fields(ContrastTransfer)})
    rotation, shift = torch.rand(count, 3, 3, generator=generator), torch.rand(count, 2, generator=generator)
    return Particles(torch.arange(count) * 2 + 1, rotation, shift, ctf, torch.arange(count) % 3)


def test_what_was_written_is_read(tmp_path, generator):
    particles, images = _particles(7, generator), torch.randn(7, 6, 6, generator=generator)
    write_store(tmp_path, particles, images, 2.5)
    store = open_store(tmp_path)
    assert (len(store), store.box, store.pixel_size) == (7, 6, 2.5)
    for one, other in ((particles, store.particles), (particles.ctf, store.particles.ctf)):
        for name in (field.name for field in fields(one) if field.name != "ctf"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert torch.equal(store.read(slice(2, 5)), images[2:5])
    assert torch.equal(store.read(torch.tensor([6, 0, 3])), images[[6, 0, 3]])
    assert torch.equal(store.read(np.array([1, 1])), images[[1, 1]])


def test_blocks_cover_all_once(tmp_path, generator):
    write_store(tmp_path, _particles(7, generator), torch.zeros(7, 4, 4), 1.0)
    found = [i for block in open_store(tmp_path).blocks(3) for i in range(block.start, block.stop)]
    assert found == list(range(7))


@pytest.mark.parametrize("count", [0, 9, 12345])
def test_images_are_appended_without_knowing_their_number(tmp_path, count):
    """The header is written again at the end; no length of the number may move the data."""
    with written_images(tmp_path, 2) as writer:
        for start in range(0, count, 1000):
            block = torch.arange(start, min(start + 1000, count)).float()
            writer.append(block[:, None, None].expand(-1, 2, 2))
    images = np.load(tmp_path / "images.npy", allow_pickle=False)
    assert images.shape == (count, 2, 2)
    assert images.dtype == np.float32
    assert np.array_equal(images[:, 1, 0], np.arange(count))


def test_a_failure_leaves_no_file(tmp_path):
    with pytest.raises(KeyError), written_images(tmp_path, 2) as writer:
        writer.append(torch.zeros(1, 2, 2))
        raise KeyError
    assert not list(tmp_path.iterdir())


def test_files_that_are_missing_or_do_not_belong_together_are_refused(tmp_path, generator):
    with pytest.raises(InputError, match=r"images\.npy: no such file"):
        open_store(tmp_path)
    write_store(tmp_path, _particles(7, generator), torch.zeros(7, 4, 4), 1.0)
    write_particles(tmp_path, _particles(6, generator), 4, 1.0)
    with pytest.raises(InputError, match=r"shape \(7, 4, 4\).*\(6, 4, 4\)"):
        open_store(tmp_path)
    (tmp_path / "particles.npz").write_bytes(b"PK junk")
    with pytest.raises(InputError, match="not the particles of an image store"):
        open_store(tmp_path)


def test_damaged_images_are_refused(tmp_path, generator):
    write_store(tmp_path, _particles(7, generator), torch.zeros(7, 4, 4), 1.0)
    path = tmp_path / "images.npy"
    whole = path.read_bytes()
    store = open_store(tmp_path)
    images = np.lib.format.open_memmap(path, mode="r+")
    images[5, 2, 3] = np.nan
    images.flush()
    assert torch.equal(store.read(slice(0, 5)), torch.zeros(5, 4, 4))
    number = int(store.particles.particle[5])
    with pytest.raises(InputError, match=rf"images\.npy: particle {number}: pixels that are not finite .*in 1 images"):
        store.read(torch.tensor([0, 5]))
    for content in (b"", b"text", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"images\.npy: damaged"):
            open_store(tmp_path)
