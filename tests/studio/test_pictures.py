from collections import Counter
from functools import lru_cache

import numpy as np
import pytest

from catalogpose.errors import UsageError
from catalogpose.records import GARMENTS, JOINTS, LABEL_ID, LABELS
from catalogpose.studio import (
    SPLITS,
    Picture,
    draw_view,
    make_product,
    make_scene,
    split_of,
)

TRAINED_ON = {
    (7, 0): (
        {
            "background": 9186,
            "hair": 39,
            "face": 91,
            "sunglasses": 16,
            "dress": 1328,
            "left-arm": 116,
            "right-arm": 166,
            "left-leg": 15,
            "right-leg": 20,
            "left-shoe": 91,
            "right-shoe": 72,
            "torso-skin": 124,
        },
        (193.0, 200.9, 197.6),
    ),
    (1234, 2): (
        {
            "background": 8752,
            "hair": 62,
            "face": 103,
            "upper-clothes": 920,
            "pants": 782,
            "left-arm": 150,
            "right-arm": 172,
            "left-leg": 40,
            "right-leg": 34,
            "left-shoe": 119,
            "right-shoe": 94,
            "torso-skin": 36,
        },
        (210.8, 202.1, 190.3),
    ),
    (2000000, 1): (
        {
            "background": 7124,
            "hair": 187,
            "face": 285,
            "coat": 2145,
            "dress": 1121,
            "left-arm": 53,
            "right-arm": 80,
            "left-leg": 47,
            "torso-skin": 222,
        },
        (185.1, 184.7, 175.5),
    ),
}
"""By product and view: pixels of each label, and the photo's mean colour."""
PRODUCTS = range(4000, 4045)
HANDS = {"left": ("left-arm", "gloves"), "right": ("right-arm", "gloves")}


@lru_cache(maxsize=1)
def pictures() -> tuple[Picture, ...]:
    """Return one small picture of each of many products."""
    return tuple(draw_view(p, p % 5, height=128, width=88) for p in PRODUCTS)


def label_at(picture: Picture, joint: str) -> str | None:
    """Return the label under a joint, None where the joint is missing."""
    x, y, confidence = picture.joints[JOINTS.index(joint)]
    return LABELS[picture.labels[int(y), int(x)]] if confidence else None


def test_the_same_numbers_give_the_same_bytes() -> None:
    """Photo, map and joints of a view are equal however often it is drawn."""
    first, again = (draw_view(77, 3, height=128, width=88) for _ in range(2))
    assert first.photo.tobytes() == again.photo.tobytes()
    assert first.labels.tobytes() == again.labels.tobytes()
    assert first.joints.tobytes() == again.joints.tobytes()
    assert first.caption == again.caption


def test_pictures_have_not_changed() -> None:
    """Areas of labels and mean colours are those that the bundled model was trained on."""
    for (product, view), (areas, colour) in TRAINED_ON.items():
        picture = draw_view(product, view, height=128, width=88)
        counts = np.bincount(picture.labels.ravel(), minlength=len(LABELS))
        found = {LABELS[i]: int(counts[i]) for i in np.flatnonzero(counts)}
        # Another processor's sines may move a pixel at an edge.
        assert found == {name: pytest.approx(area, abs=4) for name, area in areas.items()}
        np.testing.assert_allclose(picture.photo.mean(axis=(0, 1)), colour, atol=0.3)


def test_a_picture_has_the_promised_form() -> None:
    """Shapes, types and ranges are those of the docstring, even at an odd landscape size."""
    picture = draw_view(5, 1, height=67, width=90)
    assert picture.photo.shape == (67, 90, 3)
    assert picture.photo.dtype == np.uint8
    assert picture.labels.shape == (67, 90)
    assert picture.labels.dtype == np.uint8
    assert picture.joints.shape == (18, 3)
    assert picture.joints.dtype == np.float32
    assert -180 <= picture.yaw <= 180


def test_maps_have_known_labels_only() -> None:
    """No map has a label without a side, such as arm, or an unknown id."""
    assert max(int(picture.labels.max()) for picture in pictures()) <= 23


def test_most_labels_occur() -> None:
    """Among many products nearly every label is worn or seen by somebody."""
    seen = {LABELS[i] for picture in pictures() for i in np.unique(picture.labels)}
    assert len(seen) >= 20


def test_a_joint_is_in_the_picture_or_missing() -> None:
    """A joint has confidence 1 and lies in the picture, or it is NaN, NaN, 0."""
    for picture in pictures():
        height, width = picture.labels.shape
        for x, y, confidence in picture.joints:
            if confidence:
                assert confidence == 1
                assert 0 <= x < width
                assert 0 <= y < height
            else:
                assert np.isnan((x, y)).all()


def test_noses_lie_on_faces() -> None:
    """A seen nose is on the face, but for the rare hand or bag before it."""
    labels = Counter(label_at(picture, "nose") for picture in pictures())
    seen = sum(labels.values()) - labels[None]
    assert seen > 20
    assert labels["face"] >= 0.95 * seen


@pytest.mark.parametrize("side", ["left", "right"])
def test_wrists_lie_on_their_own_arm(side: str) -> None:
    """A wrist is on that side's arm, its glove or its sleeve, unless something hides it."""
    counts = Counter(label_at(picture, f"{side}-wrist") for picture in pictures())
    seen = sum(counts.values()) - counts[None]
    own = sum(counts[name] for name in HANDS[side])
    other = counts["left-arm" if side == "right" else "right-arm"]
    assert own >= 0.65 * seen
    assert other <= 0.05 * seen
    assert counts["background"] == 0


@pytest.mark.parametrize("side", ["left", "right"])
def test_bare_knees_lie_on_their_own_leg(side: str) -> None:
    """A knee under no cloth is on that side's leg, unless the other leg hides it."""
    counts = Counter(label_at(picture, f"{side}-knee") for picture in pictures())
    other = "left-leg" if side == "right" else "right-leg"
    assert counts[f"{side}-leg"] > 3 * counts[other]
    assert counts["background"] == 0


def test_left_is_the_persons_own() -> None:
    """From the front the left shoulder is on the picture's right; from behind it is on its left."""
    left, right = JOINTS.index("left-shoulder"), JOINTS.index("right-shoulder")
    checked = 0
    for picture in pictures():
        if abs(picture.yaw) < 60 or abs(picture.yaw) > 120:
            is_right = picture.joints[left, 0] > picture.joints[right, 0]
            assert is_right == (abs(picture.yaw) < 60)
            checked += 1
    assert checked > 20


def test_feet_have_their_own_shoes() -> None:
    """The centre of each shoe's pixels is nearer to the ankle of its own side."""
    right = 0
    wrong = 0
    for picture in pictures():
        for side, other in (("left", "right"), ("right", "left")):
            mask = picture.labels == LABEL_ID[f"{side}-shoe"]
            ankles = [picture.joints[JOINTS.index(f"{s}-ankle"), :2] for s in (side, other)]
            if mask.sum() < 12 or np.isnan(ankles).any() or np.hypot(*(ankles[0] - ankles[1])) < 10:
                continue
            middle = np.argwhere(mask).mean(axis=0)[::-1] + 0.5
            near, far = (np.hypot(*(ankle - middle)) for ankle in ankles)
            right, wrong = (right + 1, wrong) if near < far else (right, wrong + 1)
    assert right > 20
    assert wrong == 0


def test_no_face_from_behind() -> None:
    """Somebody turned away has no nose, at most one eye and next to no pixel of face."""
    behind = [n for n in range(4100, 4160) if abs(make_scene(n, 0).yaw) > 145]
    assert len(behind) >= 4
    for product in behind:
        picture = draw_view(product, 0, height=64, width=44)
        assert label_at(picture, "nose") is None
        assert label_at(picture, "left-eye") is None or label_at(picture, "right-eye") is None
        assert (picture.labels == LABEL_ID["face"]).sum() < 0.02 * (picture.labels > 0).sum()


def test_a_far_ear_is_missing() -> None:
    """In profile one ear is seen and the other is not."""
    found = 0
    for picture in pictures():
        ears = [label_at(picture, f"{side}-ear") is not None for side in ("left", "right")]
        head = abs(picture.yaw)
        if 75 < head < 105:
            found += 1
            assert sum(ears) == 1
    assert found >= 2


@pytest.mark.parametrize("product", [4001, 4017])
def test_another_size_is_the_same_scene(product: int) -> None:
    """At twice the size the joints are twice as far and nearly all pixels have the same label."""
    small = draw_view(product, 1, height=128, width=88)
    large = draw_view(product, 1, height=256, width=176)
    np.testing.assert_allclose(large.joints[:, :2], small.joints[:, :2] * 2, atol=1e-3)
    shrunk = large.labels[1::2, 1::2]
    assert (shrunk == small.labels).mean() > 0.95
    mean = large.photo.reshape(128, 2, 88, 2, 3).mean(axis=(1, 3))
    assert np.abs(mean - small.photo).mean() < 5


def test_views_of_a_product_share_background_and_clothes() -> None:
    """Two views have the same wall at the top corners and captions of the same outfit."""
    first, second = (draw_view(4010, view, height=128, width=88) for view in (0, 1))
    np.testing.assert_allclose(first.photo[0, 0], second.photo[0, 0], atol=1)
    assert first.person == second.person
    assert first.product == second.product == "studio-0004010"


def test_views_differ() -> None:
    """Another view is another pose."""
    first, second = (make_scene(4010, view) for view in (0, 1))
    assert first.yaw != second.yaw


def test_splits_share_nothing() -> None:
    """Number ranges are disjoint, and so are ids, people's seeds and cloths of their products."""
    starts = [numbers.start for numbers in SPLITS.values()]
    assert (
        sum(len(numbers) for numbers in SPLITS.values())
        == len(set().union(*(range(n.start, n.stop, 1000) for n in SPLITS.values()))) * 1000
    )
    made = [[make_product(start + i) for i in range(40)] for start in starts]
    for kind in (
        lambda p: p.person_id,
        lambda p: p.name,
        lambda p: p.person.seed,
        lambda p: p.outfit[0].cloth,
    ):
        values = [kind(product) for products in made for product in products]
        assert len(set(values)) == len(values)


def test_a_number_names_its_split() -> None:
    """Every number belongs to one split, and a number beyond them is refused with the range."""
    assert [split_of(n) for n in (0, 1_000_000, 2_999_999)] == ["train", "validation", "test"]
    with pytest.raises(UsageError, match="0 to 2999999"):
        make_product(3_000_000)


def test_captions_name_colour_and_pattern() -> None:
    """The phrase of a garment's region has its colours and its pattern, whatever the view."""
    for product_id, picture in zip(PRODUCTS, pictures(), strict=True):
        for garment in make_product(product_id).outfit:
            phrase = picture.region_captions.get(garment.label)
            if phrase is None:
                continue
            assert garment.cloth.names[0] in phrase
            if garment.cloth.pattern == "horizontal stripes":
                assert f"with {garment.cloth.names[1]} horizontal stripes" in phrase


def test_every_region_has_a_phrase() -> None:
    """A picture's phrases are those of its labels, background left out."""
    for picture in pictures():
        labels = {LABELS[i] for i in np.unique(picture.labels)} - {"background"}
        assert set(picture.region_captions) == labels


def test_captions_tell_garments_and_view() -> None:
    """The sentence says what is worn and from where it is seen."""
    picture = next(p for p in pictures() if abs(p.yaw) < 20)
    assert picture.caption.endswith("seen from the front.")
    worn = next(label for label in picture.region_captions if label in GARMENTS)
    assert picture.region_captions[worn] in picture.caption


def test_a_print_is_on_the_chest_only() -> None:
    """A print's colour covers pixels of the top seen from the front and none seen from behind."""
    product_id = next(n for n in range(5000, 6000) if has_lone_print(n))
    product = make_product(product_id)
    ink = np.array(product.outfit[0].cloth.front.colour)  # type: ignore[union-attr]
    views = sorted(range(40), key=lambda view: abs(make_scene(product_id, view).yaw))
    counts = []
    for view in (views[0], views[-1]):
        picture = draw_view(product_id, view, height=256, width=176)
        colours = picture.photo[picture.labels == LABEL_ID["upper-clothes"]].astype(float)
        counts.append(int((hue_distance(colours, ink) < 0.05).sum()))
    assert counts[0] > 60
    assert counts[1] < 0.1 * counts[0]


def has_lone_print(product_id: int) -> bool:
    """Tell whether a product shows one colourful print, on the chest, and wears no coat over it."""
    top = make_product(product_id).outfit[0]
    slots = {garment.slot for garment in make_product(product_id).outfit}
    front = top.cloth.front
    return (
        front is not None
        and top.cloth.back is None
        and max(front.colour) - min(front.colour) > 120
        and max(top.cloth.colours[0]) - min(top.cloth.colours[0]) < 40
        and not slots & {"coat", "scarf", "bag"}
    )


def hue_distance(colours: np.ndarray, ink: np.ndarray) -> np.ndarray:
    """Return how far colours (N, 3) are from an ink whatever the light on them."""
    shares = colours / np.maximum(colours.sum(axis=1, keepdims=True), 1)
    return np.abs(shares - ink / ink.sum()).max(axis=1)
