"""Decoders by their laws: neutral at zero output, rigid where rigid, summed, held to their regions, trained in turn."""

import math

import pytest
import torch
from scipy.spatial.transform import Rotation

from gaussemble.model.decoders import DecoderDesign, DenseDecoder, embedded_positions, transition_matrix
from gaussemble.model.encoders import Encoder, EncoderDesign
from gaussemble.model.heterogeneity import Design, build_model, load_model, save_model, single_design
from gaussemble.model.rigid import RigidDecoder, rotation_change, sine_ratio
from gaussemble.quantities import Mixture
from tiny import molecule

KINDS = ["dense", "hierarchical", "rigid", "features", "encoded"]
ALL = torch.ones(24, dtype=torch.bool)
DOMAINS = torch.tensor([-1] * 4 + [0] * 12 + [1] * 8)  # of a rigid decoder: the arm is domain 1
ENCODER = EncoderDesign("gradient", 16, 0, 1.0, 8, 2, 0.0)


def part(name: str, kind: str, region: torch.Tensor, **changes) -> DecoderDesign:
    """A small decoder; `encoded` is a features decoder whose vectors come from an encoder."""
    sizes = {"anchors": 4, "embedding": 8, "domains": 2, "vectors": "encoded" if kind == "encoded" else "learned"}
    own = {"position": True, "amplitude": kind != "rigid", "width": kind != "rigid"} | sizes
    gaussians = int(region.sum() if region.dtype == torch.bool else (region >= 0).sum())
    kind = "features" if kind == "encoded" else kind
    return DecoderDesign(name, kind, gaussians, length=10.0, hidden=8, layers=2, dropout=0.0, **(own | changes))


def model_of(*parts: tuple[DecoderDesign, torch.Tensor], shake: float = 0.3, seed: int = 1):
    """A model of some decoders and their regions, its decoders' weights no longer those of the neutral mixture."""
    design = Design(24, 2, 192.0, ENCODER, tuple(each for each, _ in parts))
    model = build_model(design, molecule(), [region for _, region in parts], seed=0)
    torch.manual_seed(seed)
    for parameter in model.decoders.parameters():
        if shake and parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=shake)
    return model.eval()


def region_for(kind: str) -> torch.Tensor:
    """All Gaussians; of a rigid decoder two domains."""
    return DOMAINS if kind == "rigid" else ALL


def parts_of(mixture: Mixture) -> tuple[torch.Tensor, ...]:
    return mixture.center, mixture.amplitude, mixture.width


@pytest.mark.parametrize("kind", KINDS)
def test_starts_as_the_neutral_mixture_exactly(kind):
    model = model_of((part("a", kind, region_for(kind)), region_for(kind)), shake=0)
    for found, expected in zip(parts_of(model.decode(torch.randn(3, 2))), parts_of(molecule()), strict=True):
        assert torch.equal(found, expected.expand_as(found))


@pytest.mark.parametrize("kind", KINDS)
def test_gaussians_outside_the_region_never_change(kind):
    region = torch.where(torch.arange(24) >= 16, 0, -1) if kind == "rigid" else torch.arange(24) >= 16
    model = model_of((part("a", kind, region, domains=1), region))
    before, after = parts_of(molecule()), parts_of(model.decode(torch.randn(5, 2)))
    for found, expected in zip(after, before, strict=True):
        assert torch.equal(found[:, :16], expected[:16].expand_as(found[:, :16]))
    assert (after[0][:, 16:] != before[0][16:]).all()
    assert torch.equal(model.varies, torch.arange(24) >= 16)


@pytest.mark.parametrize("kind", KINDS)
def test_output_has_the_gradient_of_its_values(kind):
    model = model_of((part("a", kind, region_for(kind)), region_for(kind))).double()
    latent = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda values: parts_of(model.decode(values)), latent)
    assert torch.autograd.gradcheck(
        lambda values: parts_of(model.decode(values)), latent, check_forward_ad=True, check_backward_ad=False
    )


@pytest.mark.parametrize("kind", KINDS)
def test_comes_back_from_its_file(tmp_path, kind):
    region = region_for(kind)
    model = model_of((part("a", kind, region), region), (part("b", "dense", ALL, position=False), ALL))
    save_model(tmp_path / "model.pt", model)
    again, latent = load_model(tmp_path / "model.pt"), torch.randn(3, 2)
    assert again.design == model.design
    assert again.names == ["a", "b"]
    assert all(map(torch.equal, parts_of(again.decode(latent)), parts_of(model.decode(latent))))


def test_one_dense_decoder_is_the_network_of_always():
    """Weights drawn in the same order, and positions, amplitudes and widths by the same formulas."""
    values = dict(gaussians=24, latent_dim=2, inputs=16, hidden=8, layers=2, dropout=0.0, field=192.0, length=10.0)
    model = build_model(single_design(**values, width=True), molecule(), [ALL], seed=5)
    torch.manual_seed(5)
    encoder = Encoder(ENCODER, 2, molecule(), 192.0)
    network = DenseDecoder(2, 24, 5, 8, 2, 0.0)
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, model.encoder.state_dict()[name])
    for name, value in network.state_dict().items():
        assert torch.equal(value, model.decoders[0].network.state_dict()[name])
    torch.nn.init.normal_(network.network.head.weight, std=0.3)
    model.decoders[0].network.load_state_dict(network.state_dict())
    latent = torch.randn(3, 2)
    change, neutral, mixture = network(latent), molecule(), model.decode(latent)
    assert torch.equal(mixture.center, neutral.center + 10.0 * change[..., :3])
    one = math.log(math.e - 1)
    assert torch.allclose(mixture.amplitude, neutral.amplitude * torch.log1p(torch.exp(change[..., 3] + one)))
    assert torch.allclose(mixture.width, neutral.width * torch.exp(change[..., 4]))


def test_outputs_of_two_decoders_are_summed():
    """Displacements add; amplitudes and widths add before softplus and exp; a name chooses one of them."""
    arm = torch.arange(24) >= 12
    model = model_of((part("a", "dense", ALL), ALL), (part("b", "features", arm), arm))
    latent, neutral = torch.randn(4, 2), molecule()
    both, one, other = (model.decode(latent, active) for active in (None, ("a",), {"b"}))
    moved = [each.center - neutral.center for each in (both, one, other)]
    assert torch.allclose(moved[0], moved[1] + moved[2], atol=1e-4)
    logarithms = [torch.log(each.width / neutral.width) for each in (both, one, other)]
    assert torch.allclose(logarithms[0], logarithms[1] + logarithms[2], atol=1e-4)
    outputs = [torch.log(torch.expm1(each.amplitude / neutral.amplitude)) for each in (both, one, other)]
    assert torch.allclose(outputs[0], outputs[1] + outputs[2] - math.log(math.e - 1), atol=1e-3)
    assert all(map(torch.equal, parts_of(model.decode(latent, ("a", "b"))), parts_of(both)))
    assert (other.center[:, :12] == neutral.center[:12]).all()


def distances(center: torch.Tensor) -> torch.Tensor:
    """All pairs, without the rounding of squares."""
    return (center[..., :, None, :] - center[..., None, :, :]).norm(dim=-1)


@torch.no_grad()
def test_rigid_domains_keep_their_distances_and_move_apart():
    model = model_of((part("a", "rigid", DOMAINS), DOMAINS), shake=1.0)
    latent = 3 * torch.randn(20, 2)
    center, before = model.decode(latent).center, molecule().center
    for own in (DOMAINS == 0, DOMAINS == 1):
        turned = distances(center[:, own]) - distances(before[own])
        assert float(turned.abs().max()) < 1e-5 * float(center.abs().max())  # Å: what float32 holds at that distance
    exact = model.double().decode(latent.double()).center
    for own in (DOMAINS == 0, DOMAINS == 1):
        assert float((distances(exact[:, own]) - distances(before[own].double())).abs().max()) < 1e-5
    assert float(distances(center)[:, DOMAINS == 0][..., DOMAINS == 1].std(0).mean()) > 1  # Å, between the two


def test_a_domain_turns_about_its_centre_of_mass_by_the_sign_of_its_axis():
    """A quarter turn about +z carries +x to +y; a translation of 1 is the decoder's length, a turn of 1 that at the
    radius of gyration."""
    model = model_of((part("a", "rigid", DOMAINS), DOMAINS), shake=0)
    neutral, own = molecule(), DOMAINS.eq(1)
    mass = neutral.amplitude[own]
    middle = (mass[:, None] * neutral.center[own]).sum(0) / mass.sum()
    offset = neutral.center[own] - middle
    radius = ((mass * offset.square().sum(-1)).sum() / mass.sum()).sqrt()
    six = torch.zeros(2, 6)
    six[1, 2], six[1, 3:] = math.pi / 2 * radius / 10.0, torch.tensor([1.0, 0.0, -2.0])
    with torch.no_grad():
        model.decoders[0].network.network.head.bias.copy_(six.flatten())
        center = model.decode(torch.zeros(1, 2)).center[0]
    expected = middle + torch.stack([-offset[:, 1], offset[:, 0], offset[:, 2]], dim=-1) + torch.tensor([10.0, 0, -20])
    assert torch.allclose(center[own], expected, atol=1e-3)
    assert torch.equal(center[~own], neutral.center[~own])


@pytest.mark.parametrize("angle", [1e-9, 1e-4, 0.0999, 0.1001, 1.0, 3.1, 7.0])
def test_rotation_is_that_of_scipy(angle, generator):
    vector = torch.randn(6, 1, 3, generator=generator, dtype=torch.float64)
    vector = angle * vector / vector.norm(dim=-1, keepdim=True)
    offset = torch.randn(1, 3, generator=generator, dtype=torch.float64)
    expected = Rotation.from_rotvec(vector[:, 0].numpy()).apply(offset[0].numpy()) - offset.numpy()
    found = rotation_change(vector, offset)[:, 0].numpy()
    assert abs(found - expected).max() < 1e-15 + 1e-13 * angle


def test_rotation_is_smooth_at_rest():
    offset = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    for vector in (torch.zeros(1, 1, 3), torch.full((1, 1, 3), 1e-8), torch.full((1, 1, 3), 0.0577)):
        start = vector.double().requires_grad_()
        assert torch.autograd.gradcheck(lambda values: rotation_change(values, offset), start)
        assert torch.autograd.gradgradcheck(lambda values: rotation_change(values, offset), start)
    around = torch.tensor([0.01 - 1e-9, 0.01 + 1e-9], dtype=torch.float64)
    assert float(sine_ratio(around).diff().abs()) < 1e-9


def test_a_domain_of_one_gaussian_has_finite_gradients():
    region = torch.where(torch.arange(24) == 3, 0, -1)
    model = model_of((part("a", "rigid", region, domains=1), region))
    model.decode(torch.randn(2, 2)).center.sum().backward()
    assert all(each.grad is None or each.grad.isfinite().all() for each in model.parameters())
    assert isinstance(model.decoders[0].network, RigidDecoder)


def test_learned_vectors_begin_alike_where_gaussians_are_near(generator):
    center = 60 * torch.randn(200, 3, generator=generator)
    vectors = embedded_positions(center, 4000, 192.0, seed=0)
    kernel = torch.exp(-50 * (torch.cdist(center, center) / 192.0).square())
    # a mean of 4000 products of variance below 1 is off by 0.016; five deviations
    assert float((vectors @ vectors.T / 4000 - kernel).abs().max()) < 0.1
    assert vectors.shape == (200, 4000)


def test_anchors_lie_in_the_region():
    arm = torch.arange(24) >= 16
    model = model_of((part("a", "hierarchical", arm), arm), shake=0)
    transition = model.decoders[0].network.transition
    assert transition.shape == (8, 4)
    assert torch.allclose(transition.sum(-1), torch.ones(8))
    assert len(transition.argmax(-1).unique()) == 4  # each anchor is nearest to some
    assert transition_matrix(molecule().center[arm], molecule().center[arm], 192.0).diagonal().min() > 0.1


def test_a_round_trains_what_it_names():
    model = model_of((part("a", "hierarchical", ALL), ALL), (part("b", "dense", ALL), ALL))

    def trained() -> set[str]:
        return {name.removeprefix("decoders.") for name, each in model.named_parameters() if each.requires_grad}

    model.set_round(("a",), "fixed")
    assert "0.network.anchors.network.head.weight" in trained()
    assert not {name for name in trained() if name.startswith("1.") or name.endswith("transition")}
    model.set_round(None, "trainable")
    assert {"0.network.transition", "1.network.network.head.bias", "encoder.linear.weight"} <= trained()
    model.set_round(("b",), "trainable")
    assert not {name for name in trained() if name.startswith("0.")}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model.decode(torch.randn(4, 2), ("b",)).center.square().sum().backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith("decoders.1.") for name in changed)


def test_without_penalties_nothing_is_added():
    model = model_of((part("a", "dense", ALL), ALL))
    latent = torch.randn(3, 2)
    assert torch.equal(model.penalty(model.decode(latent), torch.ones(3)), torch.zeros(3))
