"""Training a compositor: what it is to learn, against known answers, and that it learns it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from catalogpose.records import LABEL_ID
from catalogpose.training import compositor
from catalogpose.training.compositor import (
    FORGOTTEN,
    HEAD_WEIGHT,
    Layers,
    Rivals,
    composing_loss,
    forget,
    likeness,
    train_compositor,
)
from catalogpose.training.critic import Critic, Criticism
from catalogpose.training.schedule import Schedule
from catalogpose.truepose.compositor import Compositor
from catalogpose.truepose.pose_encoder import draw_pose


def stripes(period: int, shift: int = 0, dark: float = -0.5, light: float = 0.5) -> torch.Tensor:
    """Return a picture (1, 3, 48, 48) of rows in two colours, `period` pixels a pair."""
    rows = (torch.arange(48) + shift) % period < period / 2
    return torch.where(rows, dark, light)[None, None, :, None].expand(1, 3, 48, 48)


EVERYWHERE = torch.ones(1, 1, 48, 48, dtype=torch.bool)
INNER = slice(8, 40)


def middle(like: torch.Tensor) -> tuple[float, float]:
    """Return the least and the greatest likeness away from the border."""
    inner = like[..., INNER, INNER]
    return float(inner.min()), float(inner.max())


def test_stripes_that_lie_a_little_off_are_alike() -> None:
    """The same is like itself, and so are shifted stripes; their mean colour, another colour, and
    the colours of half of them are not.
    """
    truth = stripes(6)
    assert middle(likeness(truth, truth, EVERYWHERE)) == (1, 1)
    assert middle(likeness(stripes(6, shift=3), truth, EVERYWHERE))[0] > 0.9
    plain = torch.zeros_like(truth)
    others = (plain, stripes(6, dark=0.1, light=1.0), torch.full_like(truth, 0.5))
    for other in others:
        assert middle(likeness(other, truth, EVERYWHERE))[1] < 0.3


def test_background_does_not_count() -> None:
    """Off the person nothing is alike, and what lies there changes nothing on it."""
    truth, person = stripes(6), EVERYWHERE.clone()
    person[..., 24:] = False
    other = torch.where(person, truth, torch.ones(()))
    like = likeness(other, truth, person)
    assert like[..., 24:].max() == 0
    torch.testing.assert_close(like[..., :24], torch.ones_like(like[..., :24]))


def test_likeness_is_found_on_the_canvas() -> None:
    """Of pictures twice as fine with the same colours it is the same, in cells of two pixels."""
    draw = torch.Generator().manual_seed(0)
    carried, truth = torch.rand(2, 1, 3, 24, 24, generator=draw)
    person = torch.rand(1, 1, 24, 24, generator=draw) > 0.3

    def finer(picture: torch.Tensor) -> torch.Tensor:
        """Return a picture with four pixels in the place of each."""
        return picture.repeat_interleave(2, 2).repeat_interleave(2, 3)

    found = likeness(finer(carried), finer(truth), finer(person), 2)
    torch.testing.assert_close(found, finer(likeness(carried, truth, person)))


def test_a_head_counts_more() -> None:
    """What is painted wrong on a head weighs `HEAD_WEIGHT` times as much as on a coat; the weights'
    mean is 1, so that a picture that is wrong all over loses the same.
    """
    torch.manual_seed(0)
    net = Compositor(channels=(16, 16), groups=4)
    with torch.no_grad():
        for parameter in net.tower.leave.parameters():
            parameter.zero_()
    truth, pose = stripes(6), torch.zeros(1, 3, 48, 48)
    # Nothing is like the truth in what was carried, and the mask hides half of it.
    carried = torch.cat([torch.full_like(truth, 3.0), torch.ones_like(truth[:, :1])], dim=1)
    labels = torch.full((1, 48, 48), LABEL_ID["coat"])
    labels[:, :12] = LABEL_ID["face"]
    mean = (HEAD_WEIGHT + 3) / 4
    for rows, share in (
        (slice(0, 12), HEAD_WEIGHT / mean / 4), (slice(36, 48), 1 / mean / 4), (slice(0, 48), 1.0),
    ):  # fmt: skip
        painted = truth.clone()
        painted[:, :, rows] += 0.4
        wrong = composing_loss(net, (painted, carried, pose), truth, labels)["wrong"]
        torch.testing.assert_close(wrong, torch.tensor(0.2 * share))


def test_some_rows_forget_a_region() -> None:
    """In `FORGOTTEN` of the rows one region of the person, each as often, is grey and sure of
    nothing; all else is as it was carried, and a row without a person whole.
    """
    names = ("hat", "face", "coat")
    labels = torch.zeros(3000, 8, 4, dtype=torch.int64)
    for row, name in enumerate(names):
        labels[:-500, row] = LABEL_ID[name]
    carried = torch.rand(3000, 4, 8, 4) + 0.1
    found = forget(carried, labels, torch.Generator().manual_seed(0))
    gone = found[:, 3] == 0
    assert torch.equal(found, carried * ~gone[:, None])
    lines = gone.all(dim=2)
    assert torch.equal(lines, gone.any(dim=2))
    assert lines.sum(dim=1).max() == 1
    assert lines[:, len(names) :].sum() == lines[-500:].sum() == 0
    for share in lines[:-500, : len(names)].float().mean(dim=0).tolist():
        assert abs(share - FORGOTTEN / 3) < 0.02


def test_the_generator_decides_what_is_forgotten() -> None:
    """The same generator forgets the same, whatever else was drawn; another one something else."""
    labels, carried = torch.randint(0, 9, (64, 8, 8)), torch.rand(64, 4, 8, 8)
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(found))
        found.append(forget(carried, labels, torch.Generator().manual_seed(seed)))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_what_is_not_sure_stays_and_spoils_nothing() -> None:
    """Where nothing is sure the picture stays as it was painted, however it is retouched; and what
    lies there does not make what is right beside it unlike the truth.
    """
    torch.manual_seed(0)
    net = Compositor(channels=(16, 16), groups=4)
    net.tower.leave.bias.data[4:] = 0.5  # it retouches everything
    net.tower.leave.bias.data[:4] = 30.0  # and lays everything
    truth, pose = stripes(6), torch.zeros(1, 3, 48, 48)
    labels = torch.full((1, 48, 48), LABEL_ID["coat"])
    carried = torch.cat([truth, torch.ones_like(truth[:, :1])], dim=1)
    whole = composing_loss(net, (truth, carried, pose), truth, labels)
    carried[..., :20] = 0
    hidden = composing_loss(net, (truth, carried, pose), truth, labels)
    assert whole["laid"].item() > 0.99
    assert abs(hidden["laid"].item() - 28 / 48) < 0.01
    assert hidden["wrong"].item() < 0.01
    # The mask's logits are 30 everywhere: right where something is sure, and only there.
    assert hidden["loss"].item() == pytest.approx(30 * 20 / 48, abs=0.3)
    rivals = Rivals(net, Critic(3), Criticism())
    off = composing_loss(rivals, (truth, carried, pose), truth, labels)["off"]
    composed = net.compose(truth, carried, pose)
    torch.testing.assert_close(off, (composed - truth).abs().mean())
    assert off.item() == 0 < (net(truth, carried, pose)[1] - truth).abs().mean().item()


def test_it_learns_to_lay_what_fits_and_to_retouch_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of pairs whose carried photo is right in the upper half it lays that half alone; what was
    painted too dark is made lighter in the other; some rows forget what was carried.
    """
    draw = np.random.default_rng(0)
    truth = draw.integers(64, 256, (8, 4, 4, 3)).repeat(8, axis=1).repeat(8, axis=2)
    truth, dark = truth.astype(np.uint8), (truth - 64).astype(np.uint8)
    carried = np.ones((8, 4, 32, 32), dtype=np.float32)
    carried[:, :3, :16] = truth.transpose(0, 3, 1, 2)[:, :, :16] / 127.5 - 1
    carried[:, :3, 16:] = -carried[:, :3, :16]
    layers = Layers(
        painted=dark,
        carried=carried,
        joints=np.ones((8, 18, 3), dtype=np.float32),
        truth=truth,
        labels=np.full((8, 32, 32), LABEL_ID["dress"], dtype=np.uint8),
    )
    torch.manual_seed(0)
    net = Compositor(channels=(16, 16), groups=4)
    schedule = Schedule(steps=60, batch=4, learning_rate=0.01, warmup=5)
    seen: list[torch.Tensor] = []

    def watched(carried: torch.Tensor, *others: Any) -> torch.Tensor:
        """Forget, and remember what was left."""
        seen.append(forget(carried, *others))
        return seen[-1]

    monkeypatch.setattr(compositor, "forget", watched)
    train_compositor(layers, net, "rgb", schedule, tmp_path, device="cpu")
    assert 0 < sum(float((left[:, 3] == 0).any()) for left in seen) < len(seen) == 60
    pose = draw_pose(torch.from_numpy(layers.joints), 32, 32)
    below, wanted = (torch.from_numpy(part).movedim(-1, 1) / 127.5 - 1 for part in (dark, truth))
    with torch.no_grad():
        logits, touched = net(below, torch.from_numpy(carried), pose)
    upper, lower = logits[:, :, :14].sigmoid().mean(), logits[:, :, 18:].sigmoid().mean()
    assert upper > 0.8
    assert lower < upper - 0.4
    away, before = ((part - wanted)[:, :, 18:].abs().mean() for part in (touched, below))
    assert away < 0.5 * before
    assert (tmp_path / "preview.png").is_file()


def test_it_learns_of_photos_finer_than_the_canvas(tmp_path: Path) -> None:
    """Of a photo twice as fine as the canvas it lays rows of single pixels, which the canvas shows
    as their mean, the better for its last look; and the loss compares what `compose` makes.
    """
    draw = np.random.default_rng(0)
    colours = draw.integers(64, 192, (8, 1, 4, 3)).repeat(64, axis=1).repeat(16, axis=2)
    truth = (colours + 50 * (-1) ** np.arange(64)[:, None, None]).astype(np.uint8)
    carried = np.ones((8, 4, 64, 64), dtype=np.float32)
    carried[:, :3] = truth.transpose(0, 3, 1, 2) / 127.5 - 1
    layers = Layers(
        painted=colours[:, ::2, ::2].astype(np.uint8),
        carried=carried,
        joints=np.ones((8, 18, 3), dtype=np.float32),
        truth=truth,
        labels=np.full((8, 64, 64), LABEL_ID["dress"], dtype=np.uint8),
    )
    torch.manual_seed(0)
    net = Compositor(channels=(16, 16), groups=4, scale=2, last_channels=8)
    schedule = Schedule(steps=40, batch=4, learning_rate=0.01, warmup=5)
    train_compositor(layers, net, "rgb", schedule, tmp_path, device="cpu", criticism=Criticism())
    pose = draw_pose(torch.from_numpy(layers.joints), 32, 32)
    painted, wanted = (
        torch.from_numpy(part).movedim(-1, 1) / 127.5 - 1 for part in (layers.painted, truth)
    )
    seen = painted, torch.from_numpy(carried), pose
    with torch.no_grad():
        found = net.compose(*seen)
        rivals = Rivals(net, Critic(3), Criticism())
        off = composing_loss(rivals, seen, wanted, torch.from_numpy(layers.labels).long())["off"]
    away, before = ((part - wanted).abs().mean() for part in (found, net.enlarge(painted)))
    torch.testing.assert_close(off, away)
    assert away < 0.4 * before
    assert net.last_look is not None
    with torch.no_grad():
        for weights in net.last_look.leave.parameters():
            weights.zero_()
        assert away < (net.compose(*seen) - wanted).abs().mean()
