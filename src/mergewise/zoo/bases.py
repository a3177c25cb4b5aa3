"""The bases of the zoo's family: two qualities in four sizes, and the hyper-parameters that make them.

The pretrained base of six layers is the published encoder. Smaller ones keep its first layers and are distilled onto
its embeddings on unlabelled texts (`healing`). Instruction-tuned ones are the pretrained ones trained further, in the
same label-prompt form, on a mixture of tasks that share nothing with the study's (`mixture`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from mergewise.zoo.experts import Precision, Recipe

__all__ = ["BASES", "SIZES", "WHOLE", "BaseModel", "HealingRecipe", "Quality", "instruction_recipe"]

Quality: TypeAlias = Literal["pt", "it"]

SIZES = (1, 2, 4, 6)  # layers
EMBEDDING_PARAMETERS = 11_918_592
LAYER_PARAMETERS = 1_774_464
POOLER_PARAMETERS = 147_840


@dataclass(frozen=True)
class BaseModel:
    """One base.

    Attributes:
        quality: "pt", pretrained, or "it", instruction-tuned.
        layers: of the encoder.
    """

    quality: Quality
    layers: int

    @property
    def name(self) -> str:
        """Such as "it-2"."""
        return f"{self.quality}-{self.layers}"

    @property
    def parameters(self) -> int:
        """Number of parameters; half of them and more are word embeddings, which no training here changes."""
        return EMBEDDING_PARAMETERS + self.layers * LAYER_PARAMETERS + POOLER_PARAMETERS


BASES = {base.name: base for quality in ("pt", "it") for size in SIZES if (base := BaseModel(quality, size))}
"""All bases by name, smaller before larger ones."""
WHOLE = BaseModel("pt", 6)
"""The base that is there from the beginning."""


@dataclass(frozen=True)
class HealingRecipe:
    """The hyper-parameters of a distillation: AdamW on everything but the word embeddings, without dropout.

    Attributes:
        steps: optimizer steps.
        batch: texts per step.
        learning_rate: the highest one, reached after `warm_up` steps, from where it falls linearly to zero.
        warm_up: steps.
        weight_decay: decoupled.
        max_length: tokens of a text.
        seed: of the order of the texts.
        precision: of the matrix products.
    """

    steps: int = 500
    batch: int = 64
    learning_rate: float = 5e-4
    warm_up: int = 50
    weight_decay: float = 0.01
    max_length: int = 32
    seed: int = 0
    precision: Precision = "float32"


def instruction_recipe(precision: Precision) -> Recipe:
    """Return the hyper-parameters for each task of the instruction mixture.

    At the rate of experts a base learns the mixture better, and forgets more of everything else.
    """
    return Recipe(steps=120, learning_rate=2e-5, precision=precision)
