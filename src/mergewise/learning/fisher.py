"""The diagonal of the Fisher information: how much a model's predictions depend on each weight.

F = E_x E_y (∂ log p(y|x) / ∂θ)², the mean over examples x (Matena & Raffel, arXiv 2111.09832). The labels y are:

- ``expected``: all classes, each as often as the model predicts it; exact, for classifiers;
- ``sampled``: one label for every prediction, drawn from what the model predicts. Squares are taken of the gradient of
  the sum over an example's predictions; in expectation, mixed terms vanish;
- ``given``: the example's own label or tokens. This is known as the empirical Fisher information.
"""

from collections.abc import Iterator
from typing import Literal, get_args

import torch

from mergewise.learning.errors import ExamplesError
from mergewise.learning.examples import Example
from mergewise.learning.network import Network, hide_tokens, log_probabilities

__all__ = ["Labels", "add_fisher", "labels_for"]

Labels = Literal["expected", "sampled", "given"]


def labels_for(network: Network, wanted: str | None) -> Labels:
    """Return which labels to use; by default the expected one of classifiers, sampled ones of language models.

    Raises:
        ExamplesError: The model predicts nothing, or has no such labels.
    """
    if network.kind == "encoder":
        raise ExamplesError(
            f"{network.location}: Fisher information needs a model that predicts something, found an encoder without "
            "a head; Gram matrices (--kind gram) need none."
        )
    problem = getattr(network.config, "problem_type", None)
    if network.kind == "classifier" and (network.config.num_labels < 2 or problem == "multi_label_classification"):
        raise ExamplesError(
            f"{network.location}: Fisher information needs a classifier of one class out of several, found "
            f"{network.config.num_labels} outputs{f' for {problem}' if problem else ''}."
        )
    if wanted is None:
        return "expected" if network.kind == "classifier" else "sampled"
    for labels in get_args(Labels):
        if wanted == labels and not (labels == "expected" and network.kind != "classifier"):
            return labels  # type: ignore[no-any-return]  # get_args has no types
    raise ExamplesError(
        "Labels must be 'sampled' or 'given' for language models, and 'expected' too for classifiers, "
        f"found {wanted!r}."
    )


def add_fisher(
    network: Network, example: Example, labels: Labels, generator: torch.Generator, sums: dict[str, torch.Tensor]
) -> int:
    """Add the squared gradients of one example to sums, float64, by tensor; return how many labels it has.

    Args:
        network: The model.
        example: What it is run on.
        labels: Which labels to use.
        generator: Draws labels, and which tokens are masked.
        sums: Where they go; gradients are taken with regard to these tensors only.

    Raises:
        ExamplesError: The example lacks a label, or has one beyond the model's classes.
    """
    own = network.parameters()
    parameters = [own[name] for name in sums]
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        truth: torch.Tensor | None
        if network.kind == "masked":
            predicted, truth = _masked(network, example, generator)
        else:
            predicted, truth = log_probabilities(network, example), _truth(network, example)
        if labels == "given" and truth is None:
            raise ExamplesError(f"{network.location}: '--labels given' needs a 'label' of every example, found none.")
        for weight, likelihood in _likelihoods(predicted, truth, labels, generator):
            gradients = torch.autograd.grad(
                likelihood, parameters, retain_graph=labels == "expected", allow_unused=True
            )
            for total, gradient in zip(sums.values(), gradients, strict=True):
                if gradient is not None:
                    total.add_(gradient.double().square(), alpha=weight)
        return predicted.shape[0]
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)


def _likelihoods(
    predicted: torch.Tensor, truth: torch.Tensor | None, labels: Labels, generator: torch.Generator
) -> Iterator[tuple[float, torch.Tensor]]:
    """Yield log likelihoods of which gradients are to be squared, and their weights."""
    if labels == "expected":
        for outcome in range(predicted.shape[1]):
            yield float(predicted[0, outcome].detach().exp()), predicted[0, outcome]
        return
    drawn = torch.multinomial(predicted.detach().exp(), 1, generator=generator)[:, 0] if labels == "sampled" else truth
    assert drawn is not None
    yield 1.0, predicted.gather(1, drawn[:, None]).sum()


def _truth(network: Network, example: Example) -> torch.Tensor | None:
    """Return the labels of an example's predictions; ``None`` if it has none."""
    if network.kind == "causal":
        return torch.tensor(example.tokens[max(1, example.start) :])
    if example.label is not None and not 0 <= example.label < network.config.num_labels:
        raise ExamplesError(
            f"{network.location}: expected labels from 0 to {network.config.num_labels - 1}, found {example.label}."
        )
    return None if example.label is None else torch.tensor([example.label])


def _masked(network: Network, example: Example, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Hide some tokens; return what the model predicts for these, and what they were."""
    read, hidden = hide_tokens(network, example, "Fisher information", generator)
    logits = network.run(example, read)[hidden]
    return torch.log_softmax(logits, dim=-1), torch.tensor(example.tokens)[hidden]
