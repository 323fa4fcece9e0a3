"""The colours of the studio by the names that captions use."""

from __future__ import annotations

from collections.abc import Mapping

Colour = tuple[float, float, float]
"""sRGB 0..255."""

CLOTHS: Mapping[str, Colour] = {
    "white": (240, 239, 235), "black": (36, 36, 40), "grey": (136, 138, 142),
    "light grey": (196, 198, 202), "charcoal": (72, 75, 82), "navy": (34, 46, 92),
    "blue": (46, 92, 180), "light blue": (150, 190, 226), "teal": (24, 122, 128),
    "mint": (166, 218, 196), "green": (40, 128, 72), "olive": (108, 110, 58),
    "dark green": (28, 74, 54), "yellow": (240, 204, 62), "mustard": (206, 152, 42),
    "orange": (228, 120, 44), "rust": (172, 78, 42), "red": (204, 42, 48),
    "burgundy": (116, 28, 48), "pink": (240, 170, 188), "hot pink": (222, 62, 130),
    "lilac": (190, 168, 220), "purple": (104, 60, 148), "beige": (214, 194, 164),
    "cream": (242, 230, 204), "camel": (184, 138, 88), "brown": (106, 70, 46),
    "coral": (240, 122, 104), "turquoise": (66, 192, 196),
}  # fmt: skip
"""Colours of cloth."""

DENIMS: Mapping[str, Colour] = {
    "blue": (70, 104, 150), "light blue": (146, 176, 208), "dark blue": (44, 60, 92),
    "black": (50, 52, 58), "grey": (128, 134, 142),
}  # fmt: skip
"""Colours of jeans."""

SKINS: Mapping[str, Colour] = {
    "pale": (244, 214, 196), "fair": (236, 196, 170), "light": (224, 178, 146),
    "tanned": (204, 154, 116), "olive": (188, 142, 104), "brown": (152, 104, 74),
    "dark brown": (112, 74, 54), "deep": (84, 56, 44),
}  # fmt: skip
"""Colours of skin."""

HAIRS: Mapping[str, Colour] = {
    "black": (34, 29, 30), "dark brown": (66, 44, 34), "brown": (104, 70, 46),
    "auburn": (132, 60, 36), "red": (178, 88, 42), "blonde": (214, 176, 110),
    "light blonde": (232, 208, 158), "grey": (158, 156, 156),
}  # fmt: skip
"""Colours of hair."""

BACKGROUNDS: tuple[Colour, ...] = (
    (236, 236, 236), (226, 228, 232), (240, 236, 230), (232, 226, 218), (222, 230, 234),
    (238, 228, 228), (228, 234, 226), (245, 245, 244), (214, 216, 220), (234, 230, 240),
)  # fmt: skip
"""Colours of the studio's wall at its brightest."""


def contrast(first: Colour, second: Colour) -> float:
    """Return how far two colours lie apart, 0..1, brightness counting most."""
    red, green, blue = (a - b for a, b in zip(first, second, strict=True))
    light = abs(0.30 * red + 0.59 * green + 0.11 * blue)
    return min((light * 0.7 + 0.2 * (abs(red) + abs(green) + abs(blue)) / 3) / 255 * 1.4, 1.0)
