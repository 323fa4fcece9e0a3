"""The card of a trained model, as its recipe decides it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from catalogpose.catalog.labels import keypoint_table_hash, load_keypoint_table
from catalogpose.training.recipes import PhotoRecipe, Recipe
from catalogpose.truepose.model import ModelCard


def make_card(
    recipe: Recipe | PhotoRecipe, training: Mapping[str, Any], licence: str = "Apache-2.0"
) -> ModelCard:
    """Return the model card of a recipe; its licence is ours unless the weights inherit another."""
    options = recipe.truepose
    return ModelCard(
        name=recipe.name,
        height=recipe.height,
        width=recipe.width,
        steps=options["steps"],
        guidance=options["guidance"],
        keypoint_table=keypoint_table_hash(load_keypoint_table()),
        pose_style=options["pose_style"],
        licence=licence,
        training=training,
    )
