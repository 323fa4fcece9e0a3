import numpy as np
import pytest
import torch

from catalogpose.catalog.labels import load_keypoint_table
from catalogpose.records import JOINTS, LABEL_ID, LABELS
from catalogpose.truepose.regions import label_grid, label_mask, selected_labels, selection_mask

HEAD = ("nose", "right-eye", "left-eye", "right-ear", "left-ear")
"""Joints of the head."""
ARMS = ("right-elbow", "right-wrist", "left-elbow", "left-wrist")
"""Joints of both arms below the shoulder."""
TORSO = ("neck", "right-shoulder", "left-shoulder")
"""Joints of the upper torso."""


def pose(*names: str) -> np.ndarray:
    """Return joints (18, 3) of which only the named are seen."""
    joints = np.zeros((18, 3), dtype=np.float32)
    joints[:, :2] = np.nan
    for name in names:
        joints[JOINTS.index(name)] = (10.0, 20.0, 0.9)
    return joints


def shown(*names: str) -> set[str]:
    """Return the names of the labels that a pose shows by the shipped table."""
    return {LABELS[label] for label in selected_labels(pose(*names), load_keypoint_table())}


def test_a_whole_body_shows_every_label_with_a_rule():
    """Seeing all joints shows every label of the table that can show at all."""
    table = load_keypoint_table()
    expected = {label for label, clauses in table.items() if clauses}
    assert selected_labels(pose(*JOINTS), table) == expected
    assert LABEL_ID["background"] not in expected


def test_a_half_body_drops_what_is_below_it():
    """A pose cut above the hips shows head, arms and tops, and nothing worn below."""
    labels = shown(*HEAD, *TORSO, *ARMS)
    assert labels >= {"hair", "face", "upper-clothes", "coat", "dress", "left-arm", "right-arm"}
    below = {"pants", "skirt", "belt", "socks", "left-leg", "right-leg", "left-shoe", "right-shoe"}
    assert not labels & below


def test_hips_show_trousers_but_no_legs():
    """Hips alone bring back pants, skirt and belt; legs and shoes need knees and ankles."""
    labels = shown(*HEAD, *TORSO, "right-hip", "left-hip")
    assert labels >= {"pants", "skirt", "belt"}
    assert not labels & {"left-leg", "right-leg", "left-shoe", "right-shoe", "socks"}


def test_a_back_view_has_hair_and_no_face():
    """Ears without eyes and nose are the back of a head."""
    labels = shown("right-ear", "left-ear", *TORSO)
    assert "hair" in labels
    assert not labels & {"face", "sunglasses"}


def test_sides_are_the_persons_own():
    """One wrist and one ankle show that side's arm and shoe, not the other's."""
    labels = shown("left-wrist", "right-ankle")
    assert labels >= {"left-arm", "right-shoe", "right-leg"}
    assert not labels & {"right-arm", "left-shoe", "left-leg"}


def test_nothing_seen_shows_nothing():
    """A pose without joints shows no label, so that the caller falls back to the whole person."""
    assert shown() == set()


@pytest.mark.parametrize(
    ("joint", "seen"),
    [
        ((1.0, 2.0, 0.01), True),
        ((0.0, 0.0, 1.0), True),
        ((1.0, 2.0, 0.0), False),
        ((np.nan, 2.0, 1.0), False),
        ((1.0, np.inf, 1.0), False),
        ((1.0, 2.0, np.nan), False),
    ],
)
def test_what_counts_as_seen(joint, seen):
    """A joint counts with any confidence above 0 and finite coordinates."""
    joints = pose()
    joints[4] = joint
    table = {"glove": [{"at_least": 1, "of": [4]}]}
    assert selected_labels(joints, table) == ({"glove"} if seen else set())


def test_clauses_are_alternatives():
    """A label shows by any one clause, and a clause needs its number of joints."""
    table = {7: [{"at_least": 2, "of": [1, 2, 5]}, {"at_least": 1, "of": [8]}], 9: []}
    assert selected_labels(pose("neck"), table) == set()
    assert selected_labels(pose("neck", "left-shoulder"), table) == {7}
    assert selected_labels(pose("right-hip"), table) == {7}


def test_tables_by_name_and_tensors():
    """A table's keys may be names, and joints may be a tensor."""
    by_id = load_keypoint_table()
    by_name = {LABELS[label]: clauses for label, clauses in by_id.items()}
    joints = torch.from_numpy(pose(*HEAD, "left-knee"))
    names = {LABELS[label] for label in selected_labels(joints, by_id)}
    assert selected_labels(joints, by_name) == names


def test_joints_of_another_shape_are_refused():
    """COCO-17 is not COCO-18, and the message says what was given."""
    with pytest.raises(ValueError, match=r"\(18, 3\), not \(17, 3\)"):
        selected_labels(np.zeros((17, 3)), {})


def test_label_mask_is_the_union():
    """M is true where the map shows any of the labels."""
    label_map = torch.tensor([[[0, 3], [5, 3]]])
    assert label_mask(label_map, frozenset({3, 9})).tolist() == [[[False, True], [False, True]]]
    assert not label_mask(label_map, frozenset()).any()


def test_half_a_cell_is_enough():
    """A cell is selected from half of its area upwards, and cells go row by row."""
    mask = torch.tensor(
        [[[1, 1, 1, 0], [1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]], dtype=torch.bool
    )
    assert selection_mask(mask, (2, 2)).tolist() == [[True, True, False, False]]


@pytest.mark.parametrize("size", [(64, 44), (32, 22), (16, 11), (8, 6)])
def test_half_the_canvas_is_half_the_cells(size):
    """At every layer size of a 512 x 352 canvas its left half selects the left cells."""
    mask = torch.zeros(1, 512, 352, dtype=torch.bool)
    mask[:, :, :176] = True
    cells = selection_mask(mask, size).view(size)
    assert cells[:, : (size[1] + 1) // 2].all()
    assert not cells[:, (size[1] + 1) // 2 :].any()
    assert selection_mask(~mask, size).sum() == size[0] * ((size[1] + 1) // 2)


def test_label_grid_takes_the_nearest_pixel():
    """Each cell takes the label at its middle; labels are never mixed."""
    label_map = torch.randint(0, 28, (2, 512, 352), generator=torch.Generator().manual_seed(0))
    cells = label_grid(label_map, (64, 44))
    assert cells.dtype == torch.int64
    assert torch.equal(cells.view(2, 64, 44), label_map[:, 4::8, 4::8])


def test_label_grid_of_odd_sizes():
    """Where cells are not whole pixels the pixel under the cell's middle counts."""
    label_map = torch.arange(11).repeat(1, 16, 1)
    middles = [int((column + 0.5) * 11 / 6) for column in range(6)]
    assert label_grid(label_map, (8, 6)).view(8, 6).tolist() == [middles] * 8
