"""A model of a few thousand random weights, for which each item, number and call of a tool is one token.

It stands in for one that has learned to write, so that the example takes a minute and needs no download.
"""

from __future__ import annotations

import json
from typing import Any

WORDS = ("apples", "pears", "two", "six", "nothing")
CALLS = tuple(
    f"<tool_call>{json.dumps({'name': name, 'arguments': {}}, separators=(',', ':'))}</tool_call>"
    for name in ("look_left", "look_right")
)
ROLES = ("<user>", "<assistant>", "<tool>")
TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}> {{ message['content'] }}"
    "{% for call in message['tool_calls'] or [] %}"
    '<tool_call>{"name":"{{ call[\'function\'][\'name\'] }}","arguments":{}}</tool_call>'
    "{% endfor %} <end> {% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def load_tiny_model() -> tuple[Any, Any]:
    """Returns the model and its tokenizer."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {token: number for number, token in enumerate(("<unknown>", "<end>", *ROLES, *WORDS, *CALLS))}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unknown>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", unk_token="<unknown>")
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        eos_token_id=vocabulary["<end>"],
        bos_token_id=None,
    )
    return LlamaForCausalLM(config), tokenizer
