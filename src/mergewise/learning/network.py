"""Models of transformers with the weights of any checkpoint, and what they say about one example."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from mergewise.checkpoint import STORAGE_DTYPES, Source, numpy_dtype
from mergewise.learning.errors import ExamplesError
from mergewise.learning.examples import Example, open_tokenizer

__all__ = ["Network", "hide_tokens", "log_probabilities", "open_network", "stored"]

Kind = Literal["causal", "classifier", "masked", "encoder"]

_KINDS: tuple[tuple[str, Kind, str], ...] = (
    ("ForCausalLM", "causal", "AutoModelForCausalLM"),
    ("LMHeadModel", "causal", "AutoModelForCausalLM"),
    ("ForSequenceClassification", "classifier", "AutoModelForSequenceClassification"),
    ("ForMaskedLM", "masked", "AutoModelForMaskedLM"),
)
_MASKED = 0.15  # share of tokens that a masked language model is asked for, as in its training


@dataclass(frozen=True)
class Network:
    """A model that can be run.

    Attributes:
        model: The module, in eval mode, with float32 weights.
        kind: What it predicts: the next token, a class, hidden tokens, or nothing.
        names: The tensor of the checkpoint that each parameter of the module comes from.
        folder: The folder of its tokenizer; ``None`` if it is not on this machine.
        location: What messages call it.
    """

    model: torch.nn.Module
    kind: Kind
    names: Mapping[str, str]
    folder: Path | None
    location: str

    @property
    def config(self) -> Any:
        """Its configuration, as transformers has it."""
        return self.model.config

    @property
    def vocabulary(self) -> int:
        """How many tokens it knows."""
        return int(self.config.get_text_config().vocab_size)

    def length(self, wanted: int) -> int:
        """Return how many tokens of an example it reads, of so many that are wanted."""
        most = getattr(self.config.get_text_config(), "max_position_embeddings", None)
        for name, module in self.model.named_modules():
            if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
                most = module.num_embeddings - module.padding_idx - 1  # as of RoBERTa, which counts from there on
        return min(wanted, most) if isinstance(most, int) and most > 0 else wanted

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """Return the parameters by the names that their tensors have in the checkpoint."""
        own = dict(self.model.named_parameters())
        return {tensor: own[parameter] for parameter, tensor in self.names.items()}

    def run(self, example: Example, tokens: tuple[int, ...] | None = None) -> torch.Tensor:
        """Return what it gives for one example, (length, vocabulary), (classes,) or (length, width).

        Args:
            example: The example.
            tokens: What it reads in place of the example's own tokens.

        Raises:
            ExamplesError: It needs more than tokens, such as an image.
        """
        given = torch.tensor([example.tokens if tokens is None else tokens])
        more = {} if example.segments is None else {"token_type_ids": torch.tensor([example.segments])}
        try:
            output = self.model(input_ids=given, attention_mask=torch.ones_like(given), **more)
        except (AttributeError, TypeError, ValueError) as error:  # as its class does without an image
            reason = " ".join(str(error).split())[:200]
            raise ExamplesError(f"{self.location}: the model cannot be run on tokens alone ({reason}).") from None
        found: torch.Tensor = output.last_hidden_state if self.kind == "encoder" else output.logits
        return found[0]


def open_network(source: Source, purpose: str) -> Network:
    """Build the model that a checkpoint's configuration describes, and give it the checkpoint's weights.

    Args:
        source: The checkpoint.
        purpose: What it is for, in messages.

    Raises:
        ExamplesError: Transformers has no such model, or it needs weights that the checkpoint lacks.
    """
    import transformers  # noqa: PLC0415 - slow to import

    config = source.config()
    named = config.get("architectures")
    architecture = str(named[0]) if isinstance(named, list) and named else ""
    if not config.get("model_type"):
        raise ExamplesError(
            f"{source.location}: {purpose} needs a model of transformers, found no config.json with a 'model_type'."
        )
    found = next((entry for entry in _KINDS if architecture.endswith(entry[0])), ("", "encoder", "AutoModel"))
    _, kind, loader = found
    if config.get("is_encoder_decoder"):
        raise ExamplesError(
            f"{source.location}: {purpose} needs a causal or masked language model, a sequence classifier or an "
            f"encoder, found {architecture or 'a model of encoder and decoder'}."
        )
    try:
        with torch.random.fork_rng(devices=[]):
            described = transformers.AutoConfig.for_model(**config)
            model = getattr(transformers, loader).from_config(described)
    except Exception as error:  # whatever its classes find amiss
        reason = " ".join(str(error).split())[:200]
        raise ExamplesError(f"{source.location}: transformers cannot build this model ({reason}).") from None
    if model.main_input_name != "input_ids":
        raise ExamplesError(
            f"{source.location}: {purpose} needs a model that reads tokens, found {architecture or 'a model'}, which "
            f"reads '{model.main_input_name}'."
        )
    model = model.float().eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    names = _load(model, source, kind, architecture)
    folder = source.folder if isinstance(source.folder, Path) else None
    return Network(model, kind, names, folder, source.location)


def _load(model: Any, source: Source, kind: Kind, architecture: str) -> dict[str, str]:
    """Copy all weights; return the tensor that each parameter comes from."""
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    parameters = dict(model.named_parameters())
    names: dict[str, str] = {}
    known: set[int] = set()
    missing: dict[str, int] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        own = next((n for n in (name, name.removeprefix(prefix), prefix + name) if n in source.tensors), None)
        if id(tensor) in known:
            continue  # tied to one that is loaded
        if own is None or source.tensors[own].shape != tuple(tensor.shape):
            missing[name] = id(tensor)
            continue
        known.add(id(tensor))
        with torch.no_grad():
            tensor.copy_(stored(source, own))
        if name in parameters:
            names[name] = own
    left = [name for name, tensor in missing.items() if tensor not in known]
    if kind != "encoder" and left:
        raise ExamplesError(
            f"{source.location}: {architecture} needs {len(left)} tensors that the checkpoint has not under these "
            f"names and shapes, such as '{left[0]}'."
        )
    if not names:
        raise ExamplesError(
            f"{source.location}: none of its tensors has a place in the model that transformers builds."
        )
    return names


def stored(source: Source, name: str) -> torch.Tensor:
    """Return a tensor of a checkpoint, in float32 where it holds floating weights.

    Raises:
        CheckpointError: It cannot be read.
    """
    info = source.tensors[name]
    raw = np.empty(info.nbytes, np.uint8)
    source.read_into(info, 0, raw)
    values = raw.view(numpy_dtype(info.dtype)).reshape(info.shape)
    exact = STORAGE_DTYPES[info.dtype].kind == "exact"
    return torch.from_numpy(values if exact else values.astype(np.float32))


def log_probabilities(network: Network, example: Example) -> torch.Tensor:
    """Return what a model predicts for an example: log probabilities, (predictions, outcomes).

    A causal model predicts every token of the target from those before it, a masked one every token from all of them, a
    classifier one class.
    """
    logits = network.run(example)
    if network.kind == "causal":
        logits = logits[max(0, example.start - 1) : -1]
    elif network.kind == "masked":
        logits = logits[example.start :]
    else:
        logits = logits[None]
    return torch.log_softmax(logits.float(), dim=-1)


def hide_tokens(
    network: Network, example: Example, purpose: str, generator: torch.Generator
) -> tuple[tuple[int, ...], torch.Tensor]:
    """Hide some tokens of an example: return what a masked language model then reads, and which they are, in order.

    Args:
        network: The model.
        example: The example.
        purpose: What it is for, in messages.
        generator: Draws the tokens.

    Raises:
        ExamplesError: The model's tokenizer has no mask token.
    """
    mask = open_tokenizer(network.folder, network.location).mask_token_id
    if mask is None:
        raise ExamplesError(f"{network.location}: its tokenizer has no mask token, which {purpose} needs.")
    count = max(1, round(_MASKED * len(example.tokens)))
    hidden = torch.randperm(len(example.tokens), generator=generator)[:count].sort().values
    read = torch.tensor(example.tokens)
    read[hidden] = mask
    return tuple(read.tolist()), hidden
