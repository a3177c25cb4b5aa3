"""Tokenizers as files: vocabularies, their union, and chat templates. Needs no tokenizer library."""

from mergewise.tokenizer.chat import chat_template, common_template
from mergewise.tokenizer.files import TOKENIZER_FILES, TokenizerFiles, read_tokenizer
from mergewise.tokenizer.named import Renumbering, settings_without_lost, special_tokens
from mergewise.tokenizer.rows import row_maps
from mergewise.tokenizer.union import Vocabulary, chosen_vocabulary

__all__ = [
    "TOKENIZER_FILES",
    "Renumbering",
    "TokenizerFiles",
    "Vocabulary",
    "chat_template",
    "chosen_vocabulary",
    "common_template",
    "read_tokenizer",
    "row_maps",
    "settings_without_lost",
    "special_tokens",
]
