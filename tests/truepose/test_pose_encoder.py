import math

import pytest
import torch
from torch import Tensor

from catalogpose.records import JOINTS
from catalogpose.truepose.pose_encoder import LIMBS, STYLE_CHANNELS, PoseEncoder, draw_pose

STANDING = (
    *((44, 20), (44, 34), (36, 34), (32, 50), (30, 64), (52, 34), (56, 50), (58, 64), (39, 64)),
    *((38, 88), (37, 112), (49, 64), (50, 88), (51, 112), (42, 18), (46, 18), (40, 19), (48, 19)),
)
"""A standing person's joints on a canvas of 128 x 88 pixels."""


def standing(*, without: tuple[str, ...] = (), only: tuple[str, ...] = JOINTS) -> Tensor:
    """Return one standing pose (1, 18, 3), some of its joints missing."""
    joints = torch.cat([torch.tensor(STANDING, dtype=torch.float32), torch.ones(18, 1)], dim=1)
    for index, name in enumerate(JOINTS):
        if name in without or name not in only:
            joints[index] = torch.tensor([math.nan, math.nan, 0.0])
    return joints[None]


def centre_of(picture: Tensor) -> tuple[float, float]:
    """Return the x and y of the centre of a picture's ink (C, H, W), in pixels."""
    ink = picture.sum(0)
    y = torch.arange(ink.shape[0]) + 0.5
    x = torch.arange(ink.shape[1]) + 0.5
    return (
        float((ink.sum(0) * x).sum() / ink.sum()),
        float((ink.sum(1) * y).sum() / ink.sum()),
    )


@pytest.mark.parametrize(
    ("pixels", "cells"),
    [((512, 352), (64, 44)), ((256, 176), (32, 22)), ((128, 88), (16, 11)), ((100, 70), (13, 9))],
)
def test_features_have_the_latents_size(pixels, cells):
    """Features lie on the grid of an eightfold smaller latent, rounded up."""
    encoder = PoseEncoder(in_channels=3, widths=(4, 4, 4), out_channels=5)
    assert encoder(torch.zeros(2, 3, *pixels)).shape == (2, 5, *cells)


@pytest.mark.parametrize(
    ("strides", "cells"), [((2, 2, 1), (32, 22)), ((2, 1, 1), (64, 44)), ((1, 1, 1), (128, 88))]
)
def test_strides_follow_the_vaes_factor(strides, cells):
    """A VAE that halves a picture less often has finer latents, and features lie on their grid."""
    encoder = PoseEncoder(in_channels=3, widths=(4, 4, 4), out_channels=5, strides=strides)
    assert encoder(torch.zeros(1, 3, 128, 88)).shape == (1, 5, *cells)


def test_it_is_four_convolutions_and_starts_at_zero():
    """As in the paper there are four convolutions, and a fresh one adds nothing to the latent."""
    encoder = PoseEncoder()
    convolutions = [layer for layer in encoder.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert len(convolutions) == 4
    features = encoder(draw_pose(standing(), 128, 88))
    assert features.shape[1] == 320
    assert not features.any()


def test_it_learns_from_the_first_step():
    """At the start the last convolution has a gradient; the others, behind its zeros, have none."""
    encoder = PoseEncoder(widths=(4, 4, 8), out_channels=6)
    (encoder(draw_pose(standing(), 128, 88)) - 1).square().sum().backward()
    moved = {name for name, weight in encoder.named_parameters() if weight.grad.any()}
    assert moved == {"out.weight", "out.bias"}


def test_it_keeps_its_options_on_disk(tmp_path):
    """A saved encoder loads with the same sizes and weights."""
    encoder = PoseEncoder(in_channels=21, widths=(4, 4, 8), out_channels=6)
    torch.nn.init.normal_(encoder.out.weight)
    encoder.save_pretrained(tmp_path)
    again = PoseEncoder.from_pretrained(tmp_path)
    picture = draw_pose(standing(), 128, 88, "rgb+joints")
    assert torch.equal(again(picture), encoder(picture))


@pytest.mark.parametrize("style", STYLE_CHANNELS)
def test_a_style_has_its_channels(style):
    """Every style gives float32 of its own number of channels between 0 and 1."""
    picture = draw_pose(standing(), 128, 88, style)
    assert picture.shape == (1, STYLE_CHANNELS[style], 128, 88)
    assert picture.dtype == torch.float32
    assert picture.min() >= 0
    assert 0.9 < picture.max() <= 1


def test_an_unknown_style_is_refused():
    """A wrong style would silently ruin pictures, so it is an error that names the known ones."""
    with pytest.raises(ValueError, match=r"'rbg'.*rgb, rgb\+joints"):
        draw_pose(standing(), 128, 88, "rbg")


def test_joints_have_blobs_of_their_own():
    """In `rgb+joints` the skeleton comes first, then one blob a joint, each at its joint."""
    picture = draw_pose(standing(without=("nose",)), 128, 88, "rgb+joints")[0]
    assert torch.equal(picture[:3], draw_pose(standing(without=("nose",)), 128, 88)[0])
    assert not picture[3].any()
    for joint in range(1, 18):
        row, column = divmod(int(picture[3 + joint].argmax()), 88)
        x, y = STANDING[joint]
        assert abs(column + 0.5 - x) <= 0.5
        assert abs(row + 0.5 - y) <= 0.5
        assert picture[3 + joint].max() > 0.9


def test_every_joint_has_its_own_colour():
    """The colour alone tells joints apart, left from right included."""
    colours = set()
    for joint, (x, y) in enumerate(STANDING):
        picture = draw_pose(standing(only=(JOINTS[joint],)), 128, 88)[0]
        colours.add(tuple(round(value, 3) for value in picture[:, y, x].tolist()))
    assert len(colours) == 18


def test_bones_have_their_far_joints_colour():
    """Between its joints a bone has its second joint's colour, dimmed to 0.6."""
    both = draw_pose(standing(only=("left-hip", "left-knee")), 256, 88)[0]
    knee = draw_pose(standing(only=("left-knee",)), 256, 88)[0]
    middle, dot = (part.flatten(1).max(dim=1).values for part in (both[:, 74:78], knee))
    torch.testing.assert_close(middle, 0.6 * dot)


def test_missing_joints_take_their_bones_with_them():
    """Without the left elbow neither of its bones is drawn, and the wrist stays as a dot."""
    picture = draw_pose(standing(without=("left-elbow",)), 128, 88)[0]
    assert not picture[:, 42, 54].any()
    assert not picture[:, 57, 57].any()
    assert picture[:, 63:65, 57:59].any()
    assert draw_pose(standing(), 128, 88)[0, :, 57, 57].any()


@pytest.mark.parametrize(
    "joint", [(math.nan, math.nan, 0.0), (20.0, 20.0, 0.0), (math.inf, 3.0, 1.0), (-1.0, -1.0, 0)]
)
def test_ways_of_missing_look_alike(joint):
    """A joint without confidence or with impossible coordinates is not there, and harms nothing."""
    joints = standing()
    joints[0, JOINTS.index("left-knee")] = torch.tensor(joint)
    without = draw_pose(standing(without=("left-knee",)), 128, 88, "rgb+joints")
    assert torch.equal(draw_pose(joints, 128, 88, "rgb+joints"), without)


def test_no_joints_draw_nothing():
    """A pose of missing joints is a black picture."""
    assert not draw_pose(standing(only=()), 128, 88, "rgb+joints").any()


def test_far_joints_spoil_nothing():
    """A joint far outside the canvas leaves the picture finite, its bone pointing there."""
    joints = standing(only=("neck", "nose"))
    joints[0, JOINTS.index("nose"), 0] = 1e30
    picture = draw_pose(joints, 128, 88, "rgb+joints")
    assert picture.isfinite().all()
    assert picture[0, :3, 34, 70].any()


def test_a_fraction_of_a_pixel_shows():
    """Moving a joint by a quarter of a pixel moves the centre of its ink by as much."""
    for shift in (0.0, 0.25, 0.5):
        joints = standing(only=("nose",))
        joints[0, 0, 0] += shift
        x, y = centre_of(draw_pose(joints, 128, 88)[0])
        assert x == pytest.approx(44 + shift, abs=0.06)
        assert y == pytest.approx(20, abs=0.06)


def test_a_fraction_of_a_pixel_shows_in_bones():
    """A bone's ink lies on the line between its joints to a fraction of a pixel."""
    for shift in (0.0, 0.3, 0.7):
        joints = standing(only=("left-hip", "left-knee"))
        joints[0, [11, 12], 0] = 50 + shift
        x, _ = centre_of(draw_pose(joints, 128, 88)[0])
        assert x == pytest.approx(50 + shift, abs=0.06)


@pytest.mark.parametrize("style", STYLE_CHANNELS)
def test_a_pose_looks_the_same_at_every_size(style):
    """A pose drawn at twice the size and shrunk again is nearly the pose drawn small."""
    double = standing()
    double[..., :2] *= 2
    large = draw_pose(2 * double * torch.tensor([1, 1, 0.5]), 512, 352, style)
    small = draw_pose(double, 256, 176, style)
    shrunk = torch.nn.functional.avg_pool2d(large, 2)
    assert (shrunk - small).abs().mean() < 0.003
    assert large.mean().item() == pytest.approx(small.mean().item(), rel=0.1)


def test_pictures_of_a_batch_are_independent():
    """Each pose of a batch is drawn as it is alone."""
    poses = torch.cat([standing(), standing(without=("nose", "neck")), standing(only=())])
    together = draw_pose(poses, 128, 88, "rgb+joints")
    for index in range(3):
        alone = draw_pose(poses[index : index + 1], 128, 88, "rgb+joints")
        assert torch.equal(together[index : index + 1], alone)


def test_the_bones_join_every_joint_once():
    """The 17 bones are a tree over the 18 joints."""
    assert len(LIMBS) == 17
    reached = {LIMBS[0][0]}
    for _ in LIMBS:
        reached |= {b for a, b in LIMBS if a in reached} | {a for a, b in LIMBS if b in reached}
    assert reached == set(range(18))


@pytest.mark.parametrize(("strides", "factor"), [((2, 2, 2), 8), ((2, 2, 1), 4)])
def test_an_encoder_knows_the_side_of_a_latent(strides: tuple[int, int, int], factor: int) -> None:
    """Its factor is that by which its features are smaller than the picture."""
    encoder = PoseEncoder(strides=strides)
    assert encoder.factor == factor
    assert encoder(torch.zeros(1, 3, 32, 16)).shape[2:] == (32 // factor, 16 // factor)
