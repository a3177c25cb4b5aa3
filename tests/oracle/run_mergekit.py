"""Run by the interpreter that mergekit is installed for: many recipes in one process, or the names that it knows.

``python run_mergekit.py merge JOBS``: JOBS is a JSON list of ``{"recipe": …, "out": FOLDER}``; prints a JSON list with
``null`` for what was merged, and the words of the fault for what was not. ``python run_mergekit.py names`` prints
the names of merge methods, parameters, options and keys.
"""

import contextlib
import json
import sys
import warnings
from pathlib import Path


def merge(jobs):
    from mergekit.config import MergeConfiguration
    from mergekit.merge import MergeOptions, run_merge

    outcomes = []
    for job in jobs:
        options = MergeOptions(
            write_model_card=False, copy_tokenizer=job.get("tokenizer", False), quiet=True, random_seed=1
        )
        try:
            run_merge(MergeConfiguration.model_validate(job["recipe"]), job["out"], options)
            outcomes.append(None)
        except Exception as error:
            outcomes.append(f"{type(error).__name__}: {error}")
    return outcomes


def names():
    import click
    from mergekit import config, merge_methods
    from mergekit.scripts import extract_lora, merge_raw_pytorch, multimerge, run_yaml
    from mergekit.tokenizer import config as tokenizer

    parts = {
        "recipe": config.MergeConfiguration, "model": config.InputModelDefinition,
        "source": config.InputSliceDefinition, "slice": config.OutputSliceDefinition,
        "module": config.OutputModuleDefinition, "tokenizer": tokenizer.TokenizerConfig,
        "token": tokenizer.TokenEmbeddingConfig, "model_token": tokenizer.ModelTokenEmbedding,
    }  # fmt: skip
    scripts = {
        "mergekit-yaml": run_yaml, "mergekit-multi": multimerge, "mergekit-pytorch": merge_raw_pytorch,
        "mergekit-extract-lora": extract_lora,
    }  # fmt: skip
    commands = {
        name: next(value for value in vars(script).values() if isinstance(value, click.Command))
        for name, script in scripts.items()
    }
    return {
        "methods": {
            method.spec.name: {
                parameter.name: None if parameter.required else parameter.default
                for parameter in method.spec.parameters
            }
            for method in merge_methods.registered_methods()
        },
        "keys": {name: list(part.model_fields) for name, part in parts.items()},
        "options": {
            name: sorted({flag for p in command.params for flag in p.opts if flag.startswith("-")})
            for name, command in commands.items()
        },
        "commands": sorted(entry_points()),
    }


def entry_points():
    from importlib.metadata import entry_points

    return [one.name for one in entry_points(group="console_scripts") if one.value.startswith("mergekit.")]


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    with contextlib.redirect_stdout(sys.stderr):
        found = merge(json.loads(Path(sys.argv[2]).read_text())) if sys.argv[1] == "merge" else names()
    print(json.dumps(found))
