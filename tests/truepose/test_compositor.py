"""The compositor: what it lays over a picture, and what a pipeline makes of it."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from catalogpose.catalog.sheets import fit_on
from catalogpose.truepose.compositor import Compositor
from catalogpose.truepose.matcher import Matcher
from catalogpose.truepose.pipeline import TruePosePipeline, load_pipeline

EVERY = frozenset({6, 11})
"""Labels of the test's person."""


def make_compositor(
    logit: float, added: float = 0.0, pose_channels: int = 3, scale: int = 1
) -> Compositor:
    """Return a small compositor whose mask has this logit and which adds so much, everywhere."""
    torch.manual_seed(0)
    compositor = Compositor(
        pose_channels, channels=(8, 16), groups=4, scale=scale, last_channels=8
    ).eval()
    torch.nn.init.zeros_(compositor.tower.leave.weight)
    with torch.no_grad():
        compositor.tower.leave.bias.copy_(torch.tensor([logit] * 4 + [added] * 12))
    return compositor


def pictures() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return two painted and two carried pictures and two poses; the second of the carried ones is
    sure of nothing.
    """
    draw = torch.Generator().manual_seed(2)
    painted = 2 * torch.rand(2, 3, 32, 24, generator=draw) - 1
    carried = torch.rand(2, 4, 32, 24, generator=draw)
    carried[1, 3] = 0
    return painted, carried, torch.rand(2, 3, 32, 24, generator=draw)


def test_the_mask_decides_between_both() -> None:
    """At 1 what was carried lies above, at 0 what was painted, retouched, at a half their mean."""
    painted, carried, pose = pictures()
    for logit, share in ((30.0, 1.0), (-30.0, 0.0), (0.0, 0.5)):
        with torch.no_grad():
            found = make_compositor(logit, 0.25).compose(painted, carried, pose)[0]
        below = painted[0] + 0.25
        torch.testing.assert_close(found, share * carried[0, :3] + (1 - share) * below)


def test_nothing_changes_where_nothing_is_sure_or_allowed() -> None:
    """A row without a photo stays as painted; so does what lies outside of `within`, and what was
    taken out of the photo.
    """
    painted, carried, pose = pictures()
    carried[0, 3, :, :4] = 0
    within = torch.zeros(2, 1, 32, 24)
    within[:, :, :16] = 1
    with torch.no_grad():
        found = make_compositor(30.0, 0.25).compose(painted, carried, pose, within)
    torch.testing.assert_close(found[1], painted[1])
    torch.testing.assert_close(found[0, :, :16, 4:], carried[0, :3, :16, 4:])
    torch.testing.assert_close(found[0, :, :16, :4], painted[0, :, :16, :4])
    torch.testing.assert_close(found[0, :, 16:], painted[0, :, 16:])


def test_each_pixel_has_its_own_mask_and_a_new_net_retouches_nothing() -> None:
    """The mask is as fine as the picture, however large the cells, and sees the pose; a net that
    was not trained leaves what was painted.
    """
    painted, carried, pose = pictures()
    for stride in (1, 2, 4):
        net = Compositor(channels=(8, 8), groups=4, stride=stride)
        with torch.no_grad():
            logits, touched = net(painted, carried, pose)
            other, _ = net(painted, carried, 1 - pose)
        assert logits.shape == (2, 1, 32, 24)
        assert logits.unique().numel() > 32 * 24
        assert not torch.equal(logits, other)
        assert torch.equal(touched, painted)


def enlarged(picture: torch.Tensor) -> torch.Tensor:
    """Return pictures (B, C, H, W) twice as high and wide, bicubic."""
    return F.interpolate(picture, scale_factor=2.0, mode="bicubic", align_corners=False)


def test_a_finer_photo_makes_a_finer_picture() -> None:
    """With twice the canvas, at 1 the photo lies above to the pixel; what is sure of nothing or
    lies outside of `within` stays as it was painted, enlarged, and so does all without a photo.
    """
    net, (painted, _, pose) = make_compositor(30.0, 0.25, scale=2), pictures()
    carried = torch.rand(2, 4, 64, 48, generator=torch.Generator().manual_seed(3))
    carried[1, 3] = 0
    within = torch.zeros(2, 1, 32, 24)
    within[:, :, :16] = 1
    with torch.no_grad():
        found = net.compose(painted, carried, pose, within)
        bare = net.compose(painted, None, pose)
    below = enlarged(painted)
    torch.testing.assert_close(found[0, :, :32], carried[0, :3, :32])
    torch.testing.assert_close(found[0, :, 32:], below[0, :, 32:])
    torch.testing.assert_close(found[1], below[1])
    torch.testing.assert_close(bare, below)


def test_a_last_look_changes_nothing_at_first_and_sees_every_pixel() -> None:
    """A trained net given one composes as before, enlarged; once it has learnt, one pixel of a
    finer photo, or of the pose, changes what it gives.
    """
    torch.manual_seed(0)
    plain = Compositor(channels=(8, 16), groups=4).eval()
    torch.nn.init.normal_(plain.tower.leave.weight, std=0.1)
    finer = Compositor(channels=(8, 16), groups=4, scale=2, last_channels=8).eval()
    finer.load_state_dict(plain.state_dict(), strict=False)
    painted, carried, pose = pictures()
    large = carried.repeat_interleave(2, 2).repeat_interleave(2, 3)
    with torch.no_grad():
        logits, touched = finer(painted, large, pose)
        small_logits, small_touched = plain(painted, carried, pose)
        torch.testing.assert_close(touched, enlarged(small_touched))
        wanted = F.interpolate(small_logits, scale_factor=2.0, mode="bilinear")
        torch.testing.assert_close(logits, wanted)
        assert finer.last_look is not None
        torch.nn.init.normal_(finer.last_look.leave.weight)
        before = finer(painted, large, pose)
        # The mean of its cell on the canvas stays, so that the tower sees no difference.
        large[0, 0, 20, 10:12] += torch.tensor([0.2, -0.2])
        after = finer(painted, large, pose)
        turned = finer(painted, large, 1 - pose)
    assert all((a[0] != b[0]).any() for a, b in zip(after, before, strict=True))
    assert all(torch.equal(a[1], b[1]) for a, b in zip(after, before, strict=True))
    assert all((a != b).any() for a, b in zip(turned, after, strict=True))


@pytest.mark.parametrize("scale", [0, 1.5])
def test_pictures_are_a_whole_number_of_canvases(scale: float) -> None:
    """There is no picture without pixels, and none of halves."""
    with pytest.raises(ValueError, match=f"scale must be a whole number, 1 or more, not {scale}"):
        Compositor(scale=scale)  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=[1, 2])
def composing(
    request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return the folder of the tiny model with a matcher and a compositor beside its nets, for
    pictures of the canvas's size and twice it.
    """
    pipe = load_pipeline(tiny_model, "cpu")
    torch.manual_seed(0)
    seen = pipe.pose_encoder.config.in_channels
    matcher = Matcher(pose_channels=seen, channels=(8, 16), width=8, groups=4)
    pipe.unet.add_carried(pipe.vae.config.latent_channels + 1)
    compositor = make_compositor(30.0, pose_channels=seen, scale=request.param)
    parts = {"matcher": matcher, "compositor": compositor}
    made = TruePosePipeline(**{**pipe.components, **parts})
    made.card = pipe.card
    folder = tmp_path_factory.mktemp("composing") / "model"
    made.save_pretrained(folder)
    return folder


def person(scale: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return a photo of noise, so many times as high and wide as the canvas, and its map there."""
    size = (128 * scale, 88 * scale, 3)
    photo = np.random.default_rng(3).integers(0, 256, size, dtype=np.uint8)
    labels = np.zeros((128, 88), dtype=np.uint8)
    labels[20:70, 16:74], labels[70:120, 20:70] = sorted(EVERY)
    return photo, labels


def poses(count: int) -> np.ndarray:
    """Return random poses on the canvas."""
    joints = np.random.default_rng(1).uniform((4, 4), (84, 124), (count, 18, 2))
    return np.concatenate([joints, np.ones((count, 18, 1))], axis=2).astype(np.float32)


def test_a_pipeline_lays_the_photo_over_the_painted_picture(composing: Path) -> None:
    """A saved model paints what its matcher carries; a row without a photo is as a model without a
    compositor paints it, and so is what words fill and what stays of a reference.
    """
    pipe, below = (load_pipeline(composing, "cpu") for _ in range(2))
    below.compositor = None
    (photo, labels), joints, (finer, _) = person(), poses(1), person(pipe.scale)
    source = pipe.condition(pipe.encode_source(photo, labels, {}, finer=finer), EVERY)
    carried = pipe.carry([source.photo], pipe.draw_poses(joints))
    assert carried is not None
    shown = ((carried[0, :3].movedim(0, -1) + 1) * 127.5).numpy()
    found = pipe.generate([source], joints, [1])
    assert np.abs(found[0] - shown).max() <= 1
    bare = dataclasses.replace(source, photo=None)
    upper = torch.zeros(1, 1, 128, 88)
    upper[:, :, :64] = 1
    worded = dataclasses.replace(source, within=upper)
    kept = pipe.keep_reference(pipe.encode_photos(photo[None]), upper[0, 0].numpy())
    for row, options in ((bare, {}), (worded, {}), (source, {"references": [kept]})):
        one, other = (model.generate([row], joints, [1], **options) for model in (pipe, below))
        if pipe.scale > 1:
            large = enlarged(torch.from_numpy(other).movedim(-1, 1).float())
            other = large.movedim(1, -1).clamp(0, 255).numpy()
        # Pictures are rounded after they are enlarged, these before.
        apart = np.abs(one - other.astype(float))
        assert apart[:, 64 * pipe.scale :].max() <= 1.5 * (pipe.scale - 1)
        assert (apart.max() < 2) == (row is bare)


def test_a_photo_may_come_without_a_finer_one(composing: Path) -> None:
    """It is then carried enlarged, so that rows of both kinds share a batch; a finer one must have
    the pictures' size, and calling the pipeline takes it too.
    """
    pipe = load_pipeline(composing, "cpu")
    (photo, labels), joints, (finer, _) = person(), poses(1), person(pipe.scale)
    plain, large, fine = (
        pipe.condition(pipe.encode_source(photo, labels, {}, finer=shown), EVERY)
        for shown in (None, fit_on(finer.shape[:2], photo), finer)
    )
    both = pipe.generate([plain, fine], np.repeat(joints, 2, axis=0), [1, 1])
    assert both.shape == (2, 128 * pipe.scale, 88 * pipe.scale, 3)
    np.testing.assert_array_equal(*(pipe.generate([row], joints, [1]) for row in (plain, large)))
    assert np.array_equal(*both) == (pipe.scale == 1)
    called = pipe(photo, labels, {}, joints, [EVERY], [1], finer=finer)
    np.testing.assert_array_equal(called, pipe.generate([fine], joints, [1]))
    with pytest.raises(ValueError, match=f"finer must be .*, {pipe.scale} times the model's"):
        pipe.encode_source(photo, labels, {}, finer=finer[1:])


def test_composed_rows_do_not_depend_on_their_batch(composing: Path) -> None:
    """Rows with a photo, without one, and over a reference share a batch, each as if alone."""
    pipe = load_pipeline(composing, "cpu")
    assert pipe.compositor is not None
    torch.nn.init.normal_(pipe.compositor.tower.leave.weight, std=0.05)
    (photo, labels), joints, (finer, _) = person(), poses(3), person(pipe.scale)
    source = pipe.condition(pipe.encode_source(photo, labels, {}, finer=finer), EVERY)
    rows = [source, dataclasses.replace(source, photo=None), source]
    kept = pipe.keep_reference(pipe.encode_photos(photo[None]), labels > 0)
    references = [None, None, kept]
    together = pipe.generate(rows, joints, [1, 2, 3], references=references).astype(int)
    for index, (row, reference) in enumerate(zip(rows, references, strict=True)):
        one = slice(index, index + 1)
        alone = pipe.generate([row], joints[one], [1 + index], references=[reference])
        assert np.abs(alone[0] - together[index]).max() <= 1
