"""Photos: any JPEG, PNG or WebP becomes upright sRGB, or one plain reason why it cannot."""

from __future__ import annotations

import hashlib
import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, UnidentifiedImageError

from catalogpose.errors import RowError

FORMATS = ("JPEG", "PNG", "WEBP")
"""Decoders that photos may reach; every other one stays shut to files from outside."""

MAX_PIXELS = 64_000_000
"""Largest photo by default, in pixels."""

MAX_BYTES = 256_000_000
"""Largest photo file, in bytes."""

OTHER_FORMATS = (
    (b"II*\0", "TIFF"), (b"MM\0*", "TIFF"), (b"GIF8", "GIF"), (b"BM", "BMP"),
    (b"8BPS", "Photoshop"), (b"%PDF", "PDF"), (b"%!PS", "PostScript"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"), (b"\xff\x0a", "JPEG XL"),
)  # fmt: skip
"""First bytes of picture formats that we do not decode, to name them in the message."""

UPRIGHT = {
    2: (Image.Transpose.FLIP_LEFT_RIGHT,),
    3: (Image.Transpose.ROTATE_180,),
    4: (Image.Transpose.FLIP_TOP_BOTTOM,),
    5: (Image.Transpose.TRANSPOSE,),
    6: (Image.Transpose.ROTATE_270,),
    7: (Image.Transpose.TRANSVERSE,),
    8: (Image.Transpose.ROTATE_90,),
}
"""What turns a picture of each EXIF orientation upright."""


@dataclass(frozen=True, kw_only=True)
class Photo:
    """A decoded photo."""

    picture: NDArray[np.uint8]
    """(H, W, 3) upright sRGB."""
    sha256: str
    """Hash of the file's bytes, in hex."""

    @property
    def width(self) -> int:
        """Width of the upright photo in pixels."""
        return int(self.picture.shape[1])

    @property
    def height(self) -> int:
        """Height of the upright photo in pixels."""
        return int(self.picture.shape[0])


def read_photo(path: Path, *, max_pixels: int = MAX_PIXELS) -> Photo:
    """Read a photo's file once, hash it and decode it; of an animation, the first frame.

    Transparency is laid on white, 16-bit values are scaled, colours go through the embedded profile
    to sRGB. Raises `RowError` of stage `photo` with class `missing`, `unreadable`, `empty`,
    `not-an-image`, `unsupported-format`, `too-large`, `truncated`, `damaged` or `colour`.
    """
    content = _read_bytes(Path(path))
    # Pillow warns of damaged tags, which do not matter here, and of its own looser pixel limit.
    with warnings.catch_warnings(action="ignore"):
        picture = _decode(content, max_pixels)
    return Photo(picture=picture, sha256=hashlib.sha256(content).hexdigest())


def read_size(path: Path) -> tuple[int, int] | None:
    """Return a photo's upright width and height from its header; None where that cannot be read."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=FORMATS) as image:
            # Pillow would decode a whole PNG to look for tags behind the picture; few have any.
            tagged = image.format != "PNG" or "exif" in image.info
            turned = tagged and _orientation(image) >= 5
            return (image.height, image.width) if turned else (image.width, image.height)
    except Exception:  # damaged bytes make decoders raise nearly anything
        return None


def _error(error_class: str, message: str) -> RowError:
    """Return the error of a photo that cannot be used."""
    return RowError("photo", error_class, message)


def _read_bytes(path: Path) -> bytes:
    """Return a file's bytes, unless they are too many."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise _error("missing", f"missing photo {str(path)!r}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise _error("unreadable", f"the photo cannot be read: {reason}") from None
    if not content:
        raise _error("empty", "the photo's file is empty")
    if len(content) > MAX_BYTES:
        raise _error("too-large", f"the photo's file is larger than {MAX_BYTES // 10**6} MB")
    return content


def _decode(content: bytes, max_pixels: int) -> NDArray[np.uint8]:
    """Return the upright sRGB picture (H, W, 3) in a file's bytes."""
    image = _open(content)
    with image:
        if image.width * image.height > max_pixels:
            raise _error(
                "too-large",
                f"the photo has {image.width}x{image.height} pixels, more than {max_pixels}",
            )
        try:
            image.load()
        except MemoryError:
            raise
        except Exception as error:  # damaged bytes make decoders raise nearly anything
            short = "truncated" in str(error) or isinstance(error, EOFError)
            if short:
                raise _error("truncated", "the photo's file ends too early") from None
            raise _error("damaged", f"the photo is damaged: {_one_line(error)}") from None
        orientation = _orientation(image)
        picture = _to_srgb(image)
    for turn in UPRIGHT.get(orientation, ()):
        picture = picture.transpose(turn)
    return np.array(picture, dtype=np.uint8)


def _open(content: bytes) -> Image.Image:
    """Open a picture without decoding it yet."""
    try:
        return Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError:
        raise _error("too-large", "the photo has far too many pixels") from None
    except UnidentifiedImageError:
        other = next((name for start, name in OTHER_FORMATS if content.startswith(start)), None)
        if other is None and content[4:8] == b"ftyp":
            other = "HEIC or AVIF"
        if other:
            reason = f"the photo is a {other} file; convert it to JPEG, PNG or WebP"
            raise _error("unsupported-format", reason) from None
        raise _error("not-an-image", "the photo's file is no JPEG, PNG or WebP") from None
    except MemoryError:
        raise
    except Exception as error:  # as above: nearly anything
        raise _error("damaged", f"the photo is damaged: {_one_line(error)}") from None


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 where there is none or where the tags are damaged."""
    try:
        value = image.getexif().get(0x0112, 1)
    except Exception:  # a photo is no worse for its broken tags
        return 1
    return value if isinstance(value, int) else 1


def _to_srgb(image: Image.Image) -> Image.Image:
    """Return a loaded picture as RGB in sRGB, transparency laid on white."""
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow's conversion would clip at 255
        deep = np.asarray(image).astype(np.float64)
        image = Image.fromarray(np.rint(deep / 257).clip(0, 255).astype(np.uint8))
    alpha = None
    try:
        if image.has_transparency_data:
            image = image.convert("RGBA")
            alpha = image.getchannel("A")
            image = image.convert("RGB")
        elif image.mode not in ("L", "RGB", "CMYK"):
            image = image.convert("RGB")
        image = _through_profile(image, profile) if profile else image.convert("RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        raise _error(
            "colour", "the photo's colours cannot be turned into sRGB; save it anew as sRGB"
        ) from None
    if alpha is not None:
        image = Image.composite(image, Image.new("RGB", image.size, "white"), alpha)
    return image


def _through_profile(image: Image.Image, profile: bytes) -> Image.Image:
    """Turn L, RGB or CMYK into sRGB by an embedded ICC profile.

    Raises `ImageCms.PyCMSError` or `OSError` where the profile is damaged or made for other
    channels.
    """
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    space = source.profile.xcolor_space.strip()
    if image.mode == "L" and space == "RGB":
        image = image.convert("RGB")  # a grey JPEG whose maker left the camera's profile in
    if image.mode == "RGB" and space == "GRAY":
        image = image.convert("L")  # grey pixels in a palette or with transparency
    if image.mode == "RGB" and (source.profile.profile_description or "").startswith("sRGB"):
        return image  # nothing to do, and no rounding either
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    turned = ImageCms.profileToProfile(image, source, srgb, outputMode="RGB")
    assert turned is not None  # None is only for pictures changed in place
    return turned


def _one_line(error: Exception) -> str:
    """Return a library's message on one line."""
    return " ".join(str(error).split()) or type(error).__name__
