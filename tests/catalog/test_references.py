from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from catalogpose.catalog.photos import read_photo, read_size
from catalogpose.catalog.poses import write_pose
from catalogpose.catalog.references import mask_fault, read_mask, shape_fault, split_regions
from catalogpose.errors import RowError
from catalogpose.records import Pose


def save(path: Path, mode: str = "L", size: tuple[int, int] = (4, 3), **options: object) -> Path:
    """Write a picture of this mode whose left half is white."""
    image = Image.new("L", size, 0)
    image.paste(255, (0, 0, size[0] // 2, size[1]))
    image.convert(mode).save(path, **options)
    return path


def save_pose(path: Path, width: int, height: int) -> Path:
    """Write a pose on a canvas of this size, all joints in its middle."""
    joints = np.full((18, 3), (width / 2, height / 2, 1), dtype=np.float32)
    write_pose(path, Pose(joints=joints, width=width, height=height))
    return path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("skirt", (("skirt",), None)),
        (" upper-clothes, skirt ,upper-clothes", (("upper-clothes", "skirt"), None)),
        ("masks/a.png", ((), "masks/a.png")),
        ("masks/a, b.PNG", ((), "masks/a, b.PNG")),
    ],
)
def test_names_are_told_from_paths(text: str, expected: object) -> None:
    """All words are labels, or the whole is the path of a PNG, commas and blanks included."""
    assert split_regions(text) == expected


@pytest.mark.parametrize("text", ["shirt", "skirt,", "background", "skirt,shirt", "mask.jpg", ","])
def test_words_that_are_neither_are_refused(text: str) -> None:
    """The reason names the word, all labels and the way to give a mask; no cloth is background."""
    with pytest.raises(ValueError, match=r"unknown label .* \(hat, hair, .* ends in \.png"):
        split_regions(text)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_masks_of_every_kind_are_the_same(tmp_path: Path, mode: str) -> None:
    """Black and white, grey, indexed and colour PNGs of one picture are one mask."""
    mask = read_mask(save(tmp_path / "m.png", mode))
    assert mask.dtype == np.uint8
    assert mask.tolist() == [[255, 255, 0, 0]] * 3


@pytest.mark.parametrize("mode", ["LA", "RGBA", "I;16"])
def test_masks_that_could_mean_two_things_are_refused(tmp_path: Path, mode: str) -> None:
    """Transparency and 16 bits have no one reading, here as when the manifest is checked."""
    path = save(tmp_path / "m.png", "L")
    image = Image.open(path)
    (image.convert("I").convert("I;16") if mode == "I;16" else image.convert(mode)).save(path)
    with pytest.raises(RowError, match="save it as 8-bit black and white") as caught:
        read_mask(path)
    assert (caught.value.stage, caught.value.error_class) == ("reference", "not-a-mask")
    assert "save it as 8-bit" in str(mask_fault(path, path))


def test_files_that_are_no_masks(tmp_path: Path) -> None:
    """A missing file, another format and a cut PNG are reasons on one line."""
    with pytest.raises(RowError, match="missing mask"):
        read_mask(tmp_path / "gone.png")
    jpeg = save(tmp_path / "jpeg.png", format="JPEG")
    with pytest.raises(RowError, match="is not a PNG"):
        read_mask(jpeg)
    assert "is not a PNG" in str(mask_fault(jpeg, jpeg))
    cut = save(tmp_path / "cut.png", size=(200, 200))
    cut.write_bytes(cut.read_bytes()[:60])
    with pytest.raises(RowError, match="cannot be read"):
        read_mask(cut)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_size_is_that_of_the_upright_photo(tmp_path: Path, suffix: str, orientation: int) -> None:
    """The header alone says what decoding says, turned photos included."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / f"a.{suffix}", "RGB", size=(20, 10), exif=exif)
    photo = read_photo(path)
    assert read_size(path) == (photo.width, photo.height)
    assert read_size(path) == ((10, 20) if orientation > 4 else (20, 10))


def test_a_size_of_what_is_no_photo(tmp_path: Path) -> None:
    """A missing, an empty and a damaged file have none; their rows fail later."""
    (tmp_path / "empty.png").touch()
    for name in ("empty.png", "gone.png"):
        assert read_size(tmp_path / name) is None


def test_a_mask_has_its_references_upright_size(tmp_path: Path) -> None:
    """Another size is a fault with both sizes; a reference that cannot be read is none of its."""
    photo = save(tmp_path / "photo.jpg", "RGB", size=(20, 30))
    assert mask_fault(save(tmp_path / "m.png", size=(20, 30)), photo) is None
    assert mask_fault(save(tmp_path / "n.png", size=(30, 20)), photo) == (
        "the mask has 30x20 pixels, the upright reference 20x30"
    )
    (tmp_path / "broken.jpg").touch()
    assert mask_fault(tmp_path / "n.png", tmp_path / "broken.jpg") is None


def test_a_pose_lies_on_its_reference(tmp_path: Path) -> None:
    """Its canvas may be larger or rounded, not of another shape: the joints would miss the body."""
    photo = save(tmp_path / "photo.png", "RGB", size=(100, 150))
    for size in ((100, 150), (200, 300), (67, 100)):
        assert shape_fault(save_pose(tmp_path / "p.json", *size), None, photo) is None
    square = save_pose(tmp_path / "p.json", 150, 150)
    reason = "its canvas of 150x150 has another shape than the upright reference of 100x150"
    assert str(shape_fault(square, None, photo)).startswith(reason)
    assert shape_fault(square, (1000, 1500), photo) is None
    (tmp_path / "broken.png").touch()
    assert shape_fault(square, None, tmp_path / "broken.png") is None
