"""HopSkipJump: how near it comes, its steps, and the jump to a tangent point."""

import pytest
import torch

import funnybone as fb
from funnybone.attacks.hopskipjump import touching
from funnybone.attacks.spaces import over, unit
from funnybone.threat import L2, Linf, Mask
from parts_for_tests import easy

JUMPS = ("normal", "tangent")


class Round(torch.nn.Module):
    """Class 1 outside of a sphere around a point, by the positions of all joints."""

    def __init__(self, centre, radius):
        super().__init__()
        self.centre, self.radius = centre, radius

    def forward(self, xyz):
        outside = (xyz - self.centre).flatten(1).norm(dim=1) - self.radius
        return torch.stack([-outside, outside], 1)


def ways(clips, outcome):
    return L2(1.0).distance(clips.xyz, outcome.adversarial.xyz)


@pytest.mark.parametrize("jump", JUMPS)
def test_the_border_of_a_line_is_found_as_near_as_it_is(jump):
    victim, clips = easy()
    way = ways(clips, fb.create_attack("hopskipjump", jump=jump, queries=1000)(victim, clips))
    assert way.min() > 0.0499
    assert way.max() < 1.1 * 0.05


@pytest.mark.parametrize("jump", JUMPS)
def test_the_nearest_point_of_a_sphere_is_found(jump):
    _, clips = easy()
    inside = clips[[0]]
    off = 0.6 * unit(torch.linspace(-1, 1, 12).view(1, 1, 2, 6)).view_as(inside.xyz)
    victim = fb.TorchVictim(Round(inside.xyz + off, 1.0), skeleton=clips.skeleton, classes=clips.classes)
    assert victim.labels(clips.xyz).tolist() == [0, 1, 1, 1]
    way = ways(inside, fb.create_attack("hopskipjump", jump=jump, probes=30, queries=700)(victim, inside, starts=clips))
    assert 0.4 * 0.999 < float(way) < 0.4 * 1.06


def test_a_ball_is_entered_in_the_end_and_a_mask_is_kept():
    victim, clips = easy()
    attack = fb.create_attack("hopskipjump", queries=300)
    inside = attack(victim, clips, threat=L2(0.08))
    assert inside.success.all()
    assert inside.violation.max() <= 1e-6
    assert not attack(victim, clips, threat=L2(0.045)).success.any()  # nothing nearer than 0.05 can succeed
    held = attack(victim, clips, threat=Mask(joints=(1,)) & Linf(1.0))
    assert held.success.all()
    assert torch.equal(held.adversarial.xyz[..., 0, :], clips.xyz[..., 0, :])


def test_steps_are_those_made():
    victim, clips = easy()
    assert (fb.create_attack("hopskipjump", steps=2, probes=20)(victim, clips).steps == 2).all()


def points(seed=0, n=20):
    """Flat borders: a point of each, the normal, a clean point beyond, and radii less than the way to it."""
    generator = torch.Generator().manual_seed(seed)
    at, beyond, normal = torch.randn(3, n, 1, 4, 6, generator=generator)
    normal = unit(normal)
    depth = (beyond * normal).sum((1, 2, 3), keepdim=True)
    clean = at + beyond - (depth + depth.abs()) * normal  # on the side where the goal is missed
    radius = (clean - at).flatten(1).norm(dim=1) * torch.rand(n, generator=generator).clamp(0.05, 0.9)
    return clean, at, normal, radius


def landed(clean, at, normal, jumped):
    """How far from the clean point the way there from another one crosses the border; infinite where it does not."""
    way = jumped - clean
    share = ((at - clean) * normal).sum((-3, -2, -1)) / (way * normal).sum((-3, -2, -1))
    return torch.where((share > 0) & (share <= 1), share * way.flatten(-3).norm(dim=-1), torch.inf)


def test_the_tangent_point_is_on_the_sphere_and_the_line_touches_it_there():
    clean, at, normal, radius = points()
    jump = touching(clean, at, normal, radius) - at
    torch.testing.assert_close(jump.flatten(1).norm(dim=1), radius)
    torch.testing.assert_close((jump * (clean - at - jump)).flatten(1).sum(1), torch.zeros(20), atol=1e-4, rtol=0)
    plane = torch.stack([(clean - at).flatten(1), normal.flatten(1)], 2)
    inside = plane @ torch.linalg.lstsq(plane, jump.flatten(1)[..., None]).solution
    torch.testing.assert_close(inside[..., 0], jump.flatten(1), atol=1e-4, rtol=0)
    ahead = unit(clean - at)
    aside = normal - (normal * ahead).sum((1, 2, 3), keepdim=True) * ahead
    assert ((jump * aside).sum((1, 2, 3)) > 0).all()


def test_on_a_flat_border_no_jump_of_a_radius_lands_nearer_than_that_to_the_tangent_point():
    clean, at, normal, radius = points()
    tangent = landed(clean, at, normal, touching(clean, at, normal, radius))
    assert tangent.isfinite().sum() >= 15  # else the normal leads beyond the tangent, and the radius is halved
    plain = landed(clean, at, normal, at + over(radius) * normal)
    assert (tangent < plain)[tangent.isfinite()].all()
    any_way = unit(torch.randn(500, 20, 1, 4, 6, generator=torch.Generator().manual_seed(1)))
    near = touching(clean, at, normal, radius) + 0.3 * over(radius) * any_way
    others = at + over(radius) * unit(near - at)  # on the sphere, not far from the tangent point
    reached = landed(clean, at, normal, others)
    assert reached.isfinite().any(0)[tangent.isfinite()].all()
    assert (reached >= tangent * (1 - 1e-5))[:, tangent.isfinite()].all()


def test_few_queries_come_nearer_by_the_tangent_than_by_the_normal():
    victim, clips = easy()
    plain, tangent = (
        ways(clips, fb.create_attack("hopskipjump", preset=preset, queries=300)(victim, clips))
        for preset in (None, "tangent")
    )
    assert tangent.mean() < 0.95 * plain.mean()


@pytest.mark.parametrize("settings", [{"probes": 0}, {"gamma": float("inf")}, {"jump": "aside"}], ids=str)
def test_settings_that_mean_nothing_are_refused(settings):
    with pytest.raises(fb.DataError, match=f"hopskipjump: {next(iter(settings))}"):
        fb.create_attack("hopskipjump", **settings)
