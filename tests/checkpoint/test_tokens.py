"""What a configuration and the names of tensors tell of a head that is the embedding."""

import pytest

from mergewise.checkpoint.header import TensorInfo
from mergewise.checkpoint.tokens import tied_head, with_tensors, with_vocabulary


def info(name):
    return TensorInfo(name, "F32", (4, 2), 0, 32)


@pytest.mark.parametrize(
    ("architecture", "embedding", "head"),
    [
        ("GPT2LMHeadModel", "wte.weight", "lm_head.weight"),
        ("GPT2LMHeadModel", "transformer.wte.weight", "lm_head.weight"),
        ("GemmaForCausalLM", "model.embed_tokens.weight", "lm_head.weight"),
        ("GPTNeoXForCausalLM", "gpt_neox.embed_in.weight", "embed_out.weight"),
        ("T5ForConditionalGeneration", "shared.weight", "lm_head.weight"),
        ("WhisperForConditionalGeneration", "model.decoder.embed_tokens.weight", "proj_out.weight"),
        ("LlavaForConditionalGeneration", "language_model.model.embed_tokens.weight", "language_model.lm_head.weight"),
        (
            "Blip2ForConditionalGeneration",
            "language_model.model.decoder.embed_tokens.weight",
            "language_model.lm_head.weight",
        ),
        ("BertLMHeadModel", "bert.embeddings.word_embeddings.weight", None),
        ("BertModel", "embeddings.word_embeddings.weight", None),
    ],
)
def test_a_tied_head_is_called_as_loaders_call_it(architecture, embedding, head):
    found = tied_head({"architectures": [architecture]}, ["x.weight", embedding])
    assert found == (None if head is None else (head, embedding))


@pytest.mark.parametrize("architectures", [True, 3, "GemmaForCausalLM", {}, [None], [["GemmaForCausalLM"]]], ids=str)
def test_architectures_that_are_no_list_of_names_tell_nothing(architectures):
    names = ["model.embed_tokens.weight"]
    assert tied_head({"architectures": architectures}, names) is None
    assert tied_head({"architectures": architectures, "tie_word_embeddings": True}, names) == ("lm_head.weight", *names)


def test_there_is_none_where_a_head_is_stored_or_said_to_be_its_own():
    config = {"architectures": ["GemmaForCausalLM"]}
    assert tied_head(config, ["model.embed_tokens.weight", "lm_head.weight"]) is None
    assert tied_head(config | {"tie_word_embeddings": False}, ["model.embed_tokens.weight"]) is None


@pytest.mark.parametrize(
    "config",
    [
        {"tie_word_embeddings": True},
        {"architectures": ["LlavaForConditionalGeneration"], "text_config": {"tie_word_embeddings": True}},
        {"architectures": ["GemmaForCausalLM"]},
    ],
)
def test_an_adapter_that_brings_a_head_unties_it_wherever_the_tie_is_said(config):
    embedding = info("model.embed_tokens.weight")
    changed = with_tensors(config, {embedding.name: embedding}, {}, ["lm_head.weight"])
    assert changed["tie_word_embeddings"] is False
    assert changed.get("text_config", {}).get("tie_word_embeddings") in (None, False)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"vocab_size": 3}, {"vocab_size": 8}),
        ({"n_vocab": 3}, {"n_vocab": 3}),
        ({"text_config": {"vocab_size": 3}}, {"text_config": {"vocab_size": 8}}),
        ({"text_config": {}}, {"text_config": {"vocab_size": 8}}),
        ({"vocab_size": 3, "text_config": {}}, {"vocab_size": 8, "text_config": {"vocab_size": 8}}),
        ({"thinker_config": {"text_config": {}}}, {"thinker_config": {"text_config": {"vocab_size": 8}}}),
    ],
    ids=str,
)
def test_the_number_of_rows_is_said_where_a_language_model_has_it_also_by_default(config, expected):
    assert with_vocabulary(config, 8) == expected
