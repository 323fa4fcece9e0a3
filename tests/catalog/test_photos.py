import hashlib
import io
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from catalogpose.catalog.photos import read_photo
from catalogpose.errors import RowError


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """Return an image's file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def halves() -> Image.Image:
    """Return a picture of 40 x 20 whose left half is red and whose right half is blue."""
    image = Image.new("RGB", (40, 20), (255, 0, 0))
    image.paste((0, 0, 255), (20, 0, 40, 20))
    return image


def png_16(values: NDArray[np.uint16], colour_type: int) -> bytes:
    """Return a 16-bit PNG of values (H, W) or (H, W, channels)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def read(tmp_path: Path, content: bytes) -> NDArray[np.uint8]:
    """Return the picture in a file of these bytes."""
    (tmp_path / "photo").write_bytes(content)
    photo = read_photo(tmp_path / "photo")
    assert photo.sha256 == hashlib.sha256(content).hexdigest()
    assert photo.picture.dtype == np.uint8
    assert photo.picture.shape == (photo.height, photo.width, 3)
    return photo.picture


def failure(tmp_path: Path, content: bytes, **options: int) -> RowError:
    """Return the error of a file of these bytes."""
    (tmp_path / "photo").write_bytes(content)
    with pytest.raises(RowError) as caught:
        read_photo(tmp_path / "photo", **options)
    assert caught.value.stage == "photo"
    assert "\n" not in caught.value.message
    return caught.value


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("JPEG", {"quality": 100, "subsampling": 0}), ("WEBP", {"lossless": True})],
)
def test_the_three_formats(tmp_path: Path, kind: str, options: dict[str, object]) -> None:
    """JPEG, PNG and WebP are decoded, whatever the file is called."""
    picture = read(tmp_path, encode(halves(), kind, **options))
    assert picture.shape == (20, 40, 3)
    assert np.abs(picture.astype(int) - np.asarray(halves())).max() <= 3


UPRIGHT = np.arange(6, dtype=np.uint8).reshape(2, 3)
TURNED = {
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.T,
    6: np.rot90(UPRIGHT, 1),
    7: np.rot90(UPRIGHT, 2).T,
    8: np.rot90(UPRIGHT, -1),
}
"""How a camera of each EXIF orientation stores the same picture."""


@pytest.mark.parametrize("orientation", TURNED)
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    """All eight orientations come out upright."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(TURNED[orientation] * 40))
    picture = read(tmp_path, encode(stored.convert("RGB"), "PNG", exif=exif))
    assert np.array_equal(picture[..., 0], UPRIGHT * 40)


def test_a_rotated_jpeg(tmp_path: Path) -> None:
    """The usual phone photo, stored lying: the red left half comes out on top."""
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = read(tmp_path, encode(halves(), "JPEG", exif=exif, quality=100))
    assert picture.shape == (40, 20, 3)
    assert picture[5, 10, 0] > 200
    assert picture[35, 10, 2] > 200


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0nonsense", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0"]
)
def test_damaged_exif_does_not_matter(tmp_path: Path, exif: bytes) -> None:
    """Pixels are fine without their tags."""
    assert read(tmp_path, encode(halves(), "JPEG", exif=exif)).shape == (20, 40, 3)


def test_16_bit_grey_is_scaled(tmp_path: Path) -> None:
    """Values from 0 to 65535 become 0 to 255, not white."""
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    picture = read(tmp_path, png_16(values, 0))
    assert np.abs(picture - (values / 257)[..., None]).max() <= 0.5


@pytest.mark.parametrize(("colour_type", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_16_bit_colour_is_scaled(tmp_path: Path, colour_type: int, channels: int) -> None:
    """RGB and pictures with an opaque alpha channel keep their brightness to one level."""
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8, 1).repeat(channels, axis=2)
    if channels in (2, 4):
        values[..., -1] = 65535
    picture = read(tmp_path, png_16(values, colour_type))
    assert np.abs(picture - values[..., :1] / 257).max() <= 1


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA"])
def test_other_modes(tmp_path: Path, mode: str) -> None:
    """Bits, grey, palettes and alpha channels all become RGB."""
    image = Image.new("L", (8, 8), 255).convert(mode)
    assert (read(tmp_path, encode(image)) == 255).all()


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    """A hidden colour stays hidden; half transparent red on white is pink."""
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    image.putpixel((1, 0), (255, 0, 0, 128))
    assert read(tmp_path, encode(image)).tolist() == [[[255, 255, 255], [255, 127, 127]]]


def test_a_transparent_palette_is_laid_on_white(tmp_path: Path) -> None:
    """One transparent index of a palette becomes white, the others keep their colours."""
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((1, 0), 1)
    picture = read(tmp_path, encode(image, transparency=0))
    assert picture.tolist() == [[[255, 255, 255], [0, 255, 0]]]


def test_a_cmyk_jpeg(tmp_path: Path) -> None:
    """Without a profile, print colours turn into the obvious ones."""
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    picture = read(tmp_path, encode(image, "JPEG", quality=100))
    assert np.abs(picture.astype(int) - [255, 0, 0]).max() <= 3


def swap_tags(content: bytearray) -> bytes:
    """Exchange the names of the red and green colourant tags of a profile, and its description."""
    for start in range(132, 132 + 12 * int.from_bytes(content[128:132], "big"), 12):
        name = bytes(content[start : start + 4])
        content[start : start + 4] = {b"rXYZ": b"gXYZ", b"gXYZ": b"rXYZ"}.get(name, name)
    return bytes(content).replace("sRGB".encode("utf-16-be"), "odd!".encode("utf-16-be"))


def test_an_embedded_profile_decides_the_colours(tmp_path: Path) -> None:
    """Where the profile says that the first channel is green, red pixels are green in sRGB."""
    picture = read(tmp_path, encode(halves(), icc_profile=swap_tags(bytearray(srgb()))))
    assert np.abs(picture[0, 0].astype(int) - [0, 255, 0]).max() <= 3
    assert np.abs(picture[0, 39].astype(int) - [0, 0, 255]).max() <= 3


def srgb() -> bytes:
    """Return sRGB's own profile."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def test_srgb_with_a_profile_is_left_alone(tmp_path: Path) -> None:
    """No rounding happens to a picture that is sRGB already."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))
    assert np.array_equal(read(tmp_path, encode(noise, icc_profile=srgb())), np.asarray(noise))


def test_grey_and_transparent_pictures_with_an_rgb_profile(tmp_path: Path) -> None:
    """The profile applies to the colours; alpha is untouched by it."""
    odd = swap_tags(bytearray(srgb()))
    assert (read(tmp_path, encode(Image.new("L", (4, 4), 255), icc_profile=odd)) >= 254).all()
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert (read(tmp_path, encode(clear, icc_profile=odd)) == 255).all()


@pytest.mark.parametrize(("mode", "profile"), [("RGB", b"no profile"), ("CMYK", srgb())])
def test_a_wrong_profile_fails_the_row(tmp_path: Path, mode: str, profile: bytes) -> None:
    """A broken profile, or one for other channels, leaves the colours unknown."""
    error = failure(tmp_path, encode(Image.new(mode, (8, 8)), "JPEG", icc_profile=profile))
    assert error.error_class == "colour"


def test_an_animation_gives_its_first_frame(tmp_path: Path) -> None:
    """An animated WebP is a photo like any other."""
    second = Image.new("RGB", (40, 20), "green")
    content = encode(halves(), "WEBP", save_all=True, append_images=[second], lossless=True)
    assert np.array_equal(read(tmp_path, content), np.asarray(halves()))


def noise_file(kind: str) -> bytes:
    """Return the file of a noisy picture, large enough to be cut."""
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    return encode(Image.fromarray(noise), kind)


@pytest.mark.parametrize(
    ("content", "error_class"),
    [
        (b"", "empty"),
        (b"<!doctype html><title>404</title>", "not-an-image"),
        (b"\xff\xd8\xff", "not-an-image"),
        (encode(halves(), "TIFF"), "unsupported-format"),
        (encode(halves(), "GIF"), "unsupported-format"),
        (encode(halves(), "BMP"), "unsupported-format"),
        (b"\0\0\0\x20ftypheic" + bytes(64), "unsupported-format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "unsupported-format"),
        (noise_file("JPEG")[:-2000], "truncated"),
        (noise_file("PNG")[:-2000], "truncated"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_is_no_photo_fails_the_row(tmp_path: Path, content: bytes, error_class: str) -> None:
    """Each kind of wrong file has its class."""
    assert failure(tmp_path, content).error_class == error_class


def test_a_cut_webp_fails_the_row(tmp_path: Path) -> None:
    """Its decoder does not say why, but the row fails all the same."""
    assert failure(tmp_path, noise_file("WEBP")[:-500]).error_class in (
        "truncated",
        "damaged",
        "not-an-image",
    )


def test_a_missing_photo(tmp_path: Path) -> None:
    """A file that is not there, and a folder in its place, are told apart."""
    with pytest.raises(RowError) as caught:
        read_photo(tmp_path / "gone.jpg")
    assert caught.value.error_class == "missing"
    with pytest.raises(RowError) as caught:
        read_photo(tmp_path)
    assert caught.value.error_class == "unreadable"


def huge_png(width: int, height: int) -> bytes:
    """Return a PNG that says it is huge and ends there."""
    return png_16(np.zeros((1, 1), np.uint16), 0).replace(
        struct.pack(">II", 1, 1), struct.pack(">II", width, height)
    )


def crc_of_header(content: bytes) -> bytes:
    """Return a PNG with the right checksum after its changed header."""
    return content[:29] + struct.pack(">I", zlib.crc32(content[12:29])) + content[33:]


@pytest.mark.parametrize("side", [8001, 10_000, 15_000, 100_000])
def test_too_many_pixels(tmp_path: Path, side: int) -> None:
    """The limit holds before anything is decoded, below and above Pillow's own two."""
    content = crc_of_header(huge_png(side, side))
    assert failure(tmp_path, content).error_class == "too-large"


def test_the_limit_is_the_callers(tmp_path: Path) -> None:
    """A picture of exactly the limit passes, one more pixel does not."""
    content = encode(halves())
    (tmp_path / "photo").write_bytes(content)
    assert read_photo(tmp_path / "photo", max_pixels=800).width == 40
    assert failure(tmp_path, content, max_pixels=799).error_class == "too-large"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_flipped_bytes_never_crash(tmp_path: Path, kind: str) -> None:
    """A damaged file is a picture or a row's failure, never another exception."""
    content = noise_file(kind)
    generator = np.random.default_rng(7)
    for _ in range(60):
        broken = bytearray(content)
        for place in generator.integers(0, min(len(broken), 600), 4):
            broken[place] = generator.integers(256)
        (tmp_path / "photo").write_bytes(broken)
        with suppress(RowError):
            assert read_photo(tmp_path / "photo", max_pixels=10**6).picture.ndim == 3
