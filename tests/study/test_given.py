"""Experts that are given fit their base, or are refused before anything is trained."""

import numpy as np
import pytest
from safetensors.numpy import save_file
from study_fakes import TINY, study

from mergewise.study.errors import StudyError
from mergewise.study.run import open_workshop

WHOLE = {"layers.0.weight": (8, 8), "layers.1.weight": (8, 8)}


def opened(tmp_path, options, shapes):
    """Open a study with a given expert of some tensors; a text in place of weights for None."""
    folder = tmp_path / "given"
    folder.mkdir()
    if shapes is None:
        (folder / "model.safetensors").write_text("it")
    else:
        weights = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
        save_file(weights, folder / "model.safetensors")
    given = study(TINY, options, experts={"given": {"it-large": {"task_a": str(folder)}}})
    return open_workshop(given, tmp_path / "cache", print, [])


def test_an_expert_with_the_tensors_of_its_base_is_taken(tmp_path):
    assert opened(tmp_path, None, WHOLE)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (None, "expected a safetensors file"),
        ({"layers.0.weight": (8, 8)}, r"lacks 1 of the tensors of .*, such as 'layers\.1\.weight'"),
        (WHOLE | {"layers.2.weight": (8, 8)}, r"lacks 1 of the tensors of .*, such as 'layers\.2\.weight'"),
        (WHOLE | {"layers.1.weight": (8, 4)}, r"'layers\.1\.weight' has shape \[8, 4\] .*, expected \[8, 8\]"),
    ],
)
def test_an_expert_of_another_architecture_is_refused_before_anything_is_trained(tmp_path, shapes, message):
    with pytest.raises(StudyError, match=rf"^experts\.given\.it-large\.task_a: .*{message}"):
        opened(tmp_path, None, shapes)


def test_an_expert_of_a_base_that_is_still_to_be_made_is_taken_as_it_is(tmp_path):
    assert opened(tmp_path, {"tuned_bases": True}, {"layers.0.weight": (8, 8)})
