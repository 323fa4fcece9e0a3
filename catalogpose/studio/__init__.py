"""A procedural fashion catalogue: people who never existed, with exact maps, joints and captions.

A product number decides a person, an outfit and a background; a view number decides pose, turn and
framing:

    picture = draw_view(product_id, view, height=256, width=176)

Nothing else is random, so two views of a product differ by pose and camera alone.
"""

from catalogpose.studio.catalogue import (
    SPLITS,
    Background,
    Picture,
    Product,
    Scene,
    draw,
    draw_view,
    make_product,
    make_scene,
    split_of,
)

__all__ = [
    "SPLITS",
    "Background",
    "Picture",
    "Product",
    "Scene",
    "draw",
    "draw_view",
    "make_product",
    "make_scene",
    "split_of",
]
