"""Training a compositor: what it is to learn, against known answers, and that it learns it."""

from pathlib import Path

import numpy as np
import torch

from catalogpose.records import LABEL_ID
from catalogpose.training.compositor import (
    FORGOTTEN,
    HEAD_WEIGHT,
    Layers,
    composing_loss,
    forget,
    likeness,
    train_compositor,
)
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
    carried = torch.cat([torch.full_like(truth, 3.0), truth[:, :1]], dim=1)
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
    """In about `FORGOTTEN` of the rows exactly one region of the person, any of those there is, is
    sure of nothing and shows another row's pixels; all else is as it was carried.
    """
    names = ("hat", "face", "coat")
    labels = torch.zeros(600, 8, 8, dtype=torch.int64)
    for row, name in enumerate(names):
        labels[:, row] = LABEL_ID[name]
    carried = torch.rand(600, 4, 8, 8) + 0.1
    found = forget(carried, labels, torch.Generator().manual_seed(0))
    gone = found[:, 3] == 0
    assert gone[:, len(names) :].sum() == 0  # the background is never forgotten
    lines = gone[:, : len(names)].all(dim=2)
    assert torch.equal(lines, gone[:, : len(names)].any(dim=2))
    assert lines.sum(dim=1).max() == 1
    assert abs(lines.any(dim=1).float().mean() - FORGOTTEN) < 0.05
    assert lines.any(dim=0).all()
    assert torch.equal(found.movedim(1, -1)[~gone], carried.movedim(1, -1)[~gone])
    other = carried.roll(1, dims=0).movedim(1, -1)[gone]
    assert torch.equal(found.movedim(1, -1)[gone][:, :3], other[:, :3])


def test_it_learns_to_lay_what_fits_and_to_retouch_the_rest(tmp_path: Path) -> None:
    """Of pairs whose carried photo is right in the upper half it lays that half alone; what was
    painted too dark is made lighter in the other.
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
    train_compositor(layers, net, "rgb", schedule, tmp_path, device="cpu")
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
