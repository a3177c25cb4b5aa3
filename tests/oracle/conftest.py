"""Tiny Llama models, and mergekit run once over all recipes."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml

from oracle.recipes import DROPPING, RANKED, TABLE, placed
from support import load_model, save_file


@pytest.fixture(scope="session")
def mergekit():
    """The command that MERGEWISE_MERGEKIT names."""
    command = os.environ.get("MERGEWISE_MERGEKIT")
    if not command:
        pytest.skip("set MERGEWISE_MERGEKIT to the mergekit-yaml of an environment with mergekit 0.1.5 (make test-all)")
    return Path(command).absolute()


@pytest.fixture(scope="session")
def llamas(tmp_path_factory):
    """Folders of a random base, experts that moved partly or mostly together, and an unrelated model."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("llamas")
    config = transformers.LlamaConfig(
        vocab_size=48, hidden_size=16, intermediate_size=40, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=False, initializer_range=0.2,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder / "BASE")
    base = load_model(folder / "BASE")
    assert {a.dtype for a in base.values()} == {np.dtype(np.float32)}
    rng = np.random.default_rng(0)
    together = {k: rng.normal(size=v.shape) for k, v in base.items()}
    for name in ("E1", "E2", "E3", "E4", "FAR", "NEAR1", "NEAR2", "NEAR3"):
        scale, share = (0.3 if name == "FAR" else 0.02), (4.0 if name.startswith("NEAR") else 1.0)
        moved = {k: v + scale * (share * together[k] + rng.normal(size=v.shape)) for k, v in base.items()}
        (folder / name).mkdir()
        (folder / name / "config.json").write_bytes((folder / "BASE" / "config.json").read_bytes())
        save_file(folder / name / "model.safetensors", {k: v.astype(np.float32) for k, v in moved.items()})
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture(scope="session")
def oracle(mergekit, llamas, tmp_path_factory):
    """What mergekit makes of every recipe, by name; it starts in seconds and merges in milliseconds, so all at once."""
    folder = tmp_path_factory.mktemp("mergekit")
    recipes = {f"r{i}": content for i, content in enumerate((TABLE | DROPPING | RANKED).values())}
    options = ["--no-copy-tokenizer", "--no-write-model-card", "--random-seed", "1", "--quiet"]
    everything = mergekit.with_name("mergekit-multi")
    if everything.exists():
        stages = [{**placed(content, llamas), "name": name} for name, content in recipes.items()]
        (folder / "all.yaml").write_text(yaml.safe_dump_all(stages))
        runs = [[everything, folder / "all.yaml", "--intermediate-dir", folder, *options]]
    else:
        runs = []
        for name, content in recipes.items():
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(placed(content, llamas)))
            runs.append([mergekit, folder / f"{name}.yaml", folder / name, *options])
    for command in runs:
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr[-3000:]
    return {name: load_model(folder / f"r{i}") for i, name in enumerate(TABLE | DROPPING | RANKED)}
