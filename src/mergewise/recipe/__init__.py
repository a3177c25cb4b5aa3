"""What to merge: the mergekit dialect, checked whole before a weight is read, and resolved tensor by tensor."""

from mergewise.recipe.dialect import load_recipe, load_stages, parse_recipe, read_yaml
from mergewise.recipe.parts import (
    AdapterOutput,
    Expert,
    Module,
    Selection,
    Slice,
    SliceSource,
    TokenizerRecipe,
    TokenRule,
)
from mergewise.recipe.reference import ModelReference
from mergewise.recipe.resolve import (
    LayerPositions,
    Origin,
    TensorSettings,
    check_parameters,
    layer_of,
    setting_origins,
    tensor_settings,
    unmatched_filters,
)
from mergewise.recipe.schema import Recipe
from mergewise.recipe.sections import Section
from mergewise.recipe.stages import Stage, order_stages, placed, references

__all__ = [
    "AdapterOutput",
    "Expert",
    "LayerPositions",
    "ModelReference",
    "Module",
    "Origin",
    "Recipe",
    "Section",
    "Selection",
    "Slice",
    "SliceSource",
    "Stage",
    "TensorSettings",
    "TokenRule",
    "TokenizerRecipe",
    "check_parameters",
    "layer_of",
    "load_recipe",
    "load_stages",
    "order_stages",
    "parse_recipe",
    "placed",
    "read_yaml",
    "references",
    "setting_origins",
    "tensor_settings",
    "unmatched_filters",
]
