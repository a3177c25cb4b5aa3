"""What to merge: the mergekit dialect, checked whole before a weight is read, and resolved tensor by tensor."""

from mergewise.recipe.dialect import load_recipe, parse_recipe, read_yaml
from mergewise.recipe.reference import ModelReference
from mergewise.recipe.resolve import LayerPositions, TensorSettings, check_parameters, tensor_settings
from mergewise.recipe.schema import AdapterOutput, Expert, Recipe

__all__ = [
    "AdapterOutput",
    "Expert",
    "LayerPositions",
    "ModelReference",
    "Recipe",
    "TensorSettings",
    "check_parameters",
    "load_recipe",
    "parse_recipe",
    "read_yaml",
    "tensor_settings",
]
