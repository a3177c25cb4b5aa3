"""Chat templates: what models have, and well-known formats, written from their public descriptions."""

from collections import Counter
from collections.abc import Iterable

from mergewise.checkpoint.place import Place
from mergewise.tokenizer.files import read_template

__all__ = ["chat_template", "common_template"]

_PROMPT = "{% if add_generation_prompt %}"
FORMATS = {
    # github.com/tatsu-lab/stanford_alpaca: ### Instruction: and ### Response: on lines of their own
    "alpaca": (
        "{% for message in messages %}"
        "{% if message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}"
        "{% elif message['role'] == 'user' %}{{ '### Instruction:\\n' + message['content'] + '\\n\\n' }}"
        "{% elif message['role'] == 'assistant' %}{{ '### Response:\\n' + message['content'] + eos_token + '\\n\\n' }}"
        "{% endif %}{% endfor %}" + _PROMPT + "{{ '### Response:\\n' }}{% endif %}"
    ),
    # OpenAI's ChatML: <|im_start|>role, newline, text, <|im_end|>, newline
    "chatml": (
        "{% for message in messages %}"
        "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
        "{% endfor %}" + _PROMPT + "{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
    # Meta's Llama 3 model card: headers, an empty line, trimmed text, <|eot_id|>
    "llama3": (
        "{{ bos_token }}{% for message in messages %}"
        "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + "
        "'<|eot_id|>' }}"
        "{% endfor %}" + _PROMPT + "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
    ),
    # Mistral's instruct models: [INST] text [/INST] answer</s>; a system message precedes the first instruction
    "mistral": (
        "{{ bos_token }}{% set ns = namespace(system='') %}{% for message in messages %}"
        "{% if message['role'] == 'system' %}{% set ns.system = message['content'] + '\\n\\n' %}"
        "{% elif message['role'] == 'user' %}"
        "{{ '[INST] ' + ns.system + message['content'] + ' [/INST]' }}{% set ns.system = '' %}"
        "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}"
        "{% endif %}{% endfor %}"
    ),
    # LG's EXAONE 3.0 model card: [|role|]text, [|endofturn|] after system and assistant
    "exaone": (
        "{% for message in messages %}"
        "{% if loop.first and message['role'] != 'system' %}{{ '[|system|][|endofturn|]\\n' }}{% endif %}"
        "{{ '[|' + message['role'] + '|]' + message['content'] }}"
        "{% if message['role'] != 'user' %}{{ '[|endofturn|]' }}{% endif %}{{ '\\n' }}"
        "{% endfor %}" + _PROMPT + "{{ '[|assistant|]' }}{% endif %}"
    ),
}


def chat_template(wanted: str, folders: Iterable[Place]) -> str | None:
    """Return a chat template.

    Args:
        wanted: ``auto``, the name of a well-known format, or Jinja text.
        folders: The folders of the models, for ``auto``.

    Returns:
        The template; ``None`` if it is ``auto`` and no model has one.
    """
    return common_template(folders) if wanted == "auto" else FORMATS.get(wanted, wanted)


def common_template(folders: Iterable[Place]) -> str | None:
    """Return the template that most models have; of several, that of the first model."""
    found = Counter(template for folder in folders if (template := read_template(folder)) is not None)
    return found.most_common(1)[0][0] if found else None
