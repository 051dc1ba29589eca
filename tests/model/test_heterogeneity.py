"""The deformable mixture: neutral at first, focused, saved and read, safe."""

import math
import pickle

import pytest
import torch

from gaussemble.errors import InputError
from gaussemble.model.decoders import transition_matrix
from gaussemble.model.encoders import gradient_evidence
from gaussemble.model.heterogeneity import Design, build_model, load_model, save_model, single_design
from tiny import molecule


def design(**changes) -> Design:
    """A small model of the tiny molecule."""
    values = dict(
        gaussians=24,
        latent_dim=2,
        inputs=16,
        decoder="dense",
        anchors=4,
        hidden=8,
        layers=2,
        dropout=0.0,
        position=True,
        amplitude=True,
        width=True,
        length=10.0,
        field=192.0,
    )
    return single_design(**(values | changes))


ALL = torch.ones(24, dtype=torch.bool)


def shaken(model):
    """The model with its last decoder layer no longer zero."""
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if name.startswith("decoders"):
            torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("decoder", ["dense", "hierarchical"])
def test_starts_as_the_neutral_mixture(decoder):
    model = build_model(design(decoder=decoder), molecule(), [ALL], seed=0)
    mixture = model.decode(torch.randn(3, 2))
    for image in range(3):
        assert torch.allclose(mixture.center[image], molecule().center)
        assert torch.allclose(mixture.amplitude[image], molecule().amplitude)
        assert torch.allclose(mixture.width[image], molecule().width)


@pytest.mark.parametrize("decoder", ["dense", "hierarchical"])
def test_only_the_region_and_the_chosen_variables_change(decoder):
    varies = torch.arange(24) >= 16
    model = shaken(build_model(design(decoder=decoder, amplitude=False, region=8), molecule(), [varies], seed=0))
    mixture = model.decode(torch.randn(1, 2))
    moved = (mixture.center[0] - molecule().center).norm(dim=-1)
    assert (moved[:16] == 0).all()
    assert (moved[16:] > 0).all()
    assert torch.equal(mixture.amplitude[0], molecule().amplitude)
    assert (mixture.width[0, 16:] != molecule().width[16:]).all()


def test_amplitudes_never_turn_negative_and_can_vanish():
    model = build_model(design(position=False, width=False), molecule(), [ALL], seed=0)
    torch.nn.init.constant_(model.decoders[0].network.network.head.bias, -20.0)
    mixture = model.decode(torch.zeros(1, 2))
    assert (mixture.amplitude >= 0).all()
    assert float(mixture.amplitude.detach().max()) < 1e-6


def test_each_channel_is_its_parameter():
    """A known last layer: +x by 2 Å, -y, +z; amplitude by softplus(1 + c), which is 1.5 to 2; width by exp(0.5)."""
    model = build_model(design(), molecule(), [ALL], seed=0)
    bias = torch.tensor([0.2, -0.1, 0.3, 1.0, 0.5]).repeat(24)
    with torch.no_grad():
        model.decoders[0].network.network.head.bias.copy_(bias)
        mixture = model.decode(torch.zeros(1, 2))
    expected = molecule().center + torch.tensor([2.0, -1.0, 3.0])
    assert torch.allclose(mixture.center[0], expected, atol=1e-5)
    grown = mixture.amplitude[0] / molecule().amplitude
    assert torch.allclose(grown, torch.full((24,), math.log(1 + math.e * (math.e - 1))), atol=1e-5)
    assert torch.allclose(mixture.width[0], molecule().width * math.exp(0.5), atol=1e-4)


def test_anchors_drive_their_neighbours():
    center = molecule().center
    transition = transition_matrix(center, center[:4], 192.0)
    assert torch.allclose(transition.sum(-1), torch.ones(24))
    nearest = torch.cdist(center, center[:4]).argmin(-1)
    assert torch.equal(transition.argmax(-1), nearest)
    far = transition_matrix(center + 1e4, center[:4], 192.0)
    assert torch.isfinite(far).all()


@pytest.mark.parametrize("decoder", ["dense", "hierarchical"])
def test_comes_back_from_its_file(tmp_path, decoder):
    model = shaken(build_model(design(decoder=decoder), molecule(), [ALL], seed=0)).eval()
    save_model(tmp_path / "model.pt", model)
    again = load_model(tmp_path / "model.pt")
    latent, evidence = torch.randn(3, 2), gradient_evidence(torch.randn(3, 16))
    assert torch.equal(again.decode(latent).center, model.decode(latent).center)
    assert torch.equal(again.encode(evidence), model.encode(evidence))


@pytest.mark.parametrize("part", [0, 100, 0.5])
def test_a_damaged_file_is_refused_in_one_line(tmp_path, part):
    path = tmp_path / "model.pt"
    save_model(path, build_model(design(), molecule(), [ALL], seed=0))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole)) if part < 1 else part])
    with pytest.raises(InputError, match=r"model\.pt: not a heterogeneity model, or damaged .*again$") as caught:
        load_model(path)
    assert "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(InputError, match="no such file"):
        load_model(path)


def test_weights_of_another_design_are_refused(tmp_path):
    path = tmp_path / "model.pt"
    save_model(path, build_model(design(), molecule(), [ALL], seed=0))
    content = torch.load(path, weights_only=True)
    content["design"]["encoder"]["hidden"] += 1
    torch.save(content, path)
    with pytest.raises(InputError, match="not a heterogeneity model"):
        load_model(path)


def test_a_pickle_is_not_executed(tmp_path):
    class Attack:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    (tmp_path / "model.pt").write_bytes(pickle.dumps({"design": Attack()}))
    with pytest.raises(InputError, match=r"model\.pt"):
        load_model(tmp_path / "model.pt")
    assert not (tmp_path / "executed").exists()
