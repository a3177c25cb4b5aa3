"""Random masks as methods see them: drawn by a counter-based generator, in whatever library their arrays are of."""

from typing import Any, Protocol

import array_api_compat
import numpy as np

from mergewise.method.parameters import Parameter

__all__ = ["SEED", "Masks", "masks_like"]

SEED = Parameter("seed", 0, "of the random masks", low=0)


class Masks(Protocol):
    """Random masks of the elements that a method has in hand.

    What an element gets depends on the seed, the tensor's name, the number of the mask and the element's index in the
    tensor, and on nothing else: neither on what is in hand with it, nor on the order of work.
    """

    def __call__(self, number: int, density: Any, /) -> Any:
        """Return a mask.

        Args:
            number: Which one; by custom the index of an expert, so that every expert has its own.
            density: The probability that an element is kept, as a number, or as an array of the shape in hand.

        Returns:
            Booleans of the shape in hand, in an array of the library that the method's arrays are of.
        """


def masks_like(array: Any, masks: Masks) -> Masks:
    """Return masks as arrays of an array's library, on its device, from masks that take and give NumPy's."""
    xp, device = array_api_compat.array_namespace(array), array_api_compat.device(array)

    def mask(number: int, density: Any, /) -> Any:
        if array_api_compat.is_array_api_obj(density):
            density = np.asarray(array_api_compat.to_device(density, "cpu"))
        return xp.asarray(masks(number, density), device=device)

    return mask
