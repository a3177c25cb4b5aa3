"""Checkpoints that an earlier stage has still to make."""

from typing import Any

from mergewise.checkpoint import Place, TensorInfo
from mergewise.checkpoint.source import Writable
from mergewise.engine.jobs import Plan
from mergewise.engine.provenance import merged_config
from mergewise.errors import CheckpointError

__all__ = ["PlannedCheckpoint"]


class PlannedCheckpoint:
    """A checkpoint that is still to be made: its tensors are known, their bytes are not.

    Args:
        planned: The merge that makes it.
        location: Where it will be.

    Attributes:
        planned: The same merge.
    """

    costly = False

    def __init__(self, planned: Plan, location: str) -> None:
        self.location = location
        self.files: tuple[Place, ...] = ()
        self.folder: Place | None = None
        outputs = [job.output for job in planned.jobs]
        self.tensors = {o.name: TensorInfo(o.name, o.dtype, o.shape, 0, o.nbytes) for o in outputs}
        self.planned = planned

    def config(self) -> dict[str, Any]:
        """Return the configuration that it will have."""
        return merged_config(self.planned)

    def will_read(self, tensor: TensorInfo, offset: int, nbytes: int) -> None:
        """Do nothing: there is nothing to read yet."""

    def read_into(self, tensor: TensorInfo, offset: int, buffer: Writable) -> None:  # noqa: ARG002 - a Source reads so
        """Refuse: there is nothing to read yet.

        Raises:
            CheckpointError: Always.
        """
        raise CheckpointError(f"{self.location}: '{tensor.name}' cannot be read before this stage is merged.")
