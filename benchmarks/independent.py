"""Merges and scores once more, from papers and transformers alone: no line of mergewise is imported here.

A merge is a formula on float64 arrays, rounded once to float32; a language model answers an item with the choice of the
largest log-likelihood, one forward pass per choice; an encoder with the choice whose embedding has the largest cosine.
`benchmarks/same_scores.py` compares item by item with the cells of a study.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

Weights = dict[str, np.ndarray[Any, Any]]
ZERO = 2.0**-23  # singular values below this share of the largest count as zero


def load(folder: Path) -> Weights:
    """Read a checkpoint of one file, in float64."""
    return {name: array.astype(np.float64) for name, array in load_file(folder / "model.safetensors").items()}


# ---- merging --------------------------------------------------------------------------------------------------------


def merged(method: str, base: Weights, experts: Sequence[Weights], given: Mapping[str, Any]) -> Weights:
    """Merge by a formula.

    Args:
        method: as studies call it.
        base: the base.
        experts: the experts, with weight 1 each.
        given: `lambda`, `density`, `scope`, `seed`, `mu`, `steps` as far as the method has them.

    Returns:
        The merged model in float32.
    """
    taus = [{name: expert[name] - base[name] for name in base} for expert in experts]
    scale = float(given.get("lambda", 1.0))
    if method in {"tsv_m", "iso_c", "wudi", "wudi_ridge"}:
        delta = {name: _on_matrix(method, [tau[name] for tau in taus], given) for name in base}
    elif method == "average":
        delta, scale = {name: _sum([tau[name] for tau in taus]) / len(taus) for name in base}, 1.0
    elif method == "task_arithmetic":
        delta = {name: _sum([tau[name] for tau in taus]) for name in base}
    else:
        delta = _voted(method, taus, given)
    return {name: (base[name] + scale * delta[name]).astype(np.float32) for name in base}


def _sum(arrays: Sequence[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    return np.asarray(sum(arrays))


def _voted(method: str, taus: Sequence[Weights], given: Mapping[str, Any]) -> Weights:
    """TIES (arXiv 2306.01708), DARE with its election (2311.03099), and RHT (2505.21226)."""
    density = float(given["density"])
    if method == "dare_ties":
        sparse = [
            {name: tau[name] * _mask(given["seed"], index, name, tau[name].shape, density) / density for name in tau}
            for index, tau in enumerate(taus)
        ]
    else:
        sparse = [_largest(tau, density) for tau in taus]
    if method == "rht":
        sparse = [{name: array / density for name, array in tau.items()} for tau in sparse]
    delta = {}
    for name in taus[0]:
        kept = np.stack([tau[name] for tau in sparse])
        agree = np.sign(kept) == np.where(kept.sum(0) >= 0, 1.0, -1.0)
        total = (kept * agree).sum(0)
        # the mean over those that agree; DARE-TIES adds them up
        delta[name] = total if method == "dare_ties" else total / np.maximum(1, agree.sum(0))
    return delta


def _largest(tau: Weights, density: float) -> Weights:
    """Keep the int(ρ·n) largest magnitudes of the whole model, ranked as float32; among equals the lower position."""
    names = sorted(tau)
    flat = np.concatenate([tau[name].ravel() for name in names])
    order = np.argsort(-np.abs(flat).astype(np.float32), kind="stable")
    flat[order[int(density * flat.size) :]] = 0.0
    ends = np.cumsum([tau[name].size for name in names])[:-1]
    return {name: part.reshape(tau[name].shape) for name, part in zip(names, np.split(flat, ends), strict=True)}


def _mask(seed: int, expert: int, name: str, shape: tuple[int, ...], density: float) -> np.ndarray[Any, Any]:
    """Draw the mask of an expert for a tensor: Philox4x32-10 (Salmon et al. 2011), the element's index as counter."""
    text = f"{seed}\0{expert}\0{name}".encode()
    key = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
    element = np.arange(math.prod(shape), dtype=np.uint64)
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    counter = element // np.uint64(1024) * np.uint64(256) + element % np.uint64(256)
    words = [counter & low, counter >> half, np.zeros_like(counter), np.zeros_like(counter)]
    keys = [key & 0xFFFFFFFF, key >> 32]
    for _ in range(10):
        product = [np.uint64(0xD2511F53) * words[0], np.uint64(0xCD9E8D57) * words[2]]
        words = [
            (product[1] >> half) ^ words[1] ^ np.uint64(keys[0]),
            product[1] & low,
            (product[0] >> half) ^ words[3] ^ np.uint64(keys[1]),
            product[0] & low,
        ]
        keys = [(keys[0] + 0x9E3779B9) & 0xFFFFFFFF, (keys[1] + 0xBB67AE85) & 0xFFFFFFFF]
    word = np.choose((element % np.uint64(1024) // np.uint64(256)).astype(int), words)
    return (word < np.uint64(round(density * 2.0**32))).reshape(shape)


def _on_matrix(method: str, taus: Sequence[np.ndarray[Any, Any]], given: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    """Merge one tensor by a method on matrices; others, and matrices without room for all experts, get the mean."""
    smallest = len(taus) if method == "tsv_m" else 1
    if taus[0].ndim != 2 or min(taus[0].shape) < smallest or not any(tau.any() for tau in taus):
        return np.asarray(sum(taus) / len(taus))
    if method == "iso_c":  # arXiv 2502.04959
        left, values, right = _svd(sum(taus))
        return np.asarray(values.sum() / min(taus[0].shape) * (left @ right))
    if method == "tsv_m":  # arXiv 2412.00081
        most = min(taus[0].shape) // len(taus)
        parts = [tuple(part[..., :most] if i < 2 else part[:most] for i, part in enumerate(_svd(tau))) for tau in taus]
        left = _nearest_orthonormal(np.hstack([part[0] for part in parts]))
        right = _nearest_orthonormal(np.vstack([part[2] for part in parts]))
        return np.asarray(left * np.concatenate([part[1] for part in parts]) @ right)
    # the least interference with the inputs that the changes tell of (arXiv 2503.08099): Σ ‖(τ − τ_i)τ_iᵀ‖²/‖τ_i‖²
    norms = [float(np.sum(tau * tau)) or 1.0 for tau in taus]
    gram = sum(tau.T @ tau / norm for tau, norm in zip(taus, norms, strict=True))
    wanted = sum(tau @ (tau.T @ tau) / norm for tau, norm in zip(taus, norms, strict=True))
    if method == "wudi":  # descent from the sum of the changes, by steps of 1/λ_max on half the gradient
        tau, largest = _sum(taus), float(np.linalg.eigvalsh(gram)[-1])
        for _ in range(int(given.get("steps", 300))):
            tau = tau - (tau @ gram - wanted) / largest
        return tau
    ridge = float(given.get("mu", 0.3)) * np.trace(gram) / len(gram)
    return np.asarray(np.linalg.solve(gram + ridge * np.eye(len(gram)), wanted.T).T)


def _svd(matrix: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    kept = int((values > ZERO * values[0]).sum())
    return left[:, :kept], values[:kept], right[:kept]


def _nearest_orthonormal(matrix: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    left, _, right = _svd(matrix)
    return np.asarray(left @ right)


# ---- scoring --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def answers_of_language_model(
    folder: Path, weights: Weights, items: Sequence[tuple[str, Sequence[str]]]
) -> tuple[list[int], list[float]]:
    """Answer items of (prompt, choices) with the choice of the largest log-likelihood after the prompt.

    Returns:
        The number of the choice for every item, and by how much it is ahead of the next one, in nats.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.eval()
    fault = model.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()}, strict=False)
    assert not fault.unexpected_keys, fault
    assert set(fault.missing_keys) <= {"lm_head.weight"}, fault
    chosen, leads = [], []
    for prompt, choices in items:
        start = len(tokenizer(prompt)["input_ids"])
        found = []
        for choice in choices:
            tokens = torch.tensor([tokenizer(f"{prompt} {choice}")["input_ids"]])
            logs = torch.log_softmax(model(input_ids=tokens).logits[0].double(), -1)
            found.append(sum(float(logs[at - 1, tokens[0, at]]) for at in range(start, tokens.shape[1])))
        chosen.append(int(np.argmax(found)))
        leads.append(_lead(found))
    return chosen, leads


@torch.no_grad()
def answers_of_encoder(
    folder: Path, weights: Weights, labeller: Path, items: Sequence[tuple[str, Sequence[str]]], longest: int
) -> tuple[list[int], list[float]]:
    """Answer items of (text, choices) with the choice whose embedding, by the labeller, is nearest to the text's.

    Returns:
        The number of the choice for every item, and by how much its cosine is ahead of the next one.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    fault = model.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()}, strict=False)
    assert not fault.unexpected_keys, fault
    assert all("position_ids" in name for name in fault.missing_keys), fault
    heads = AutoModel.from_pretrained(labeller, dtype=torch.float32).eval()
    known: dict[str, torch.Tensor] = {}
    chosen, leads = [], []
    for text, choices in items:
        for choice in choices:
            if choice not in known:
                known[choice] = _embedding(heads, tokenizer, choice, 64)
        mine = _embedding(model, tokenizer, text, longest)
        cosines = [float(mine @ known[choice]) for choice in choices]
        chosen.append(int(np.argmax(cosines)))
        leads.append(_lead(cosines))
    return chosen, leads


def _embedding(model: Any, tokenizer: Any, text: str, longest: int) -> torch.Tensor:
    states = model(**tokenizer(text, truncation=True, max_length=longest, return_tensors="pt")).last_hidden_state
    return torch.nn.functional.normalize(states[0].double().mean(0), dim=-1)


def _lead(values: Sequence[float]) -> float:
    first, second = sorted(values, reverse=True)[:2]
    return first - second
