"""A language model of a few thousand weights, with a tokenizer of whole words, for a toy task."""

from __future__ import annotations

import os
from typing import Any

DEVICE = os.environ.get("AGL_TEST_DEVICE", "cpu")
"""Where the models of the tests are: `AGL_TEST_DEVICE=cuda` tries all that is computed on a GPU."""

COLOURS = ("red", "green")
ANSWERS = ("stop", "go")
TASKS = [{"colour": colour, "answer": answer} for colour, answer in zip(COLOURS, ANSWERS, strict=True)]
"""The toy task: to answer each colour with its word."""

_SPECIAL = ("<pad>", "<end>", "<unknown>", "<user>", "<assistant>")
_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<' + message['role'] + '> ' + message['content'] }}"
    "{% for call in message['tool_calls'] or [] %}{{ ' ' + call['function']['name'] }}{% endfor %}"
    "{{ ' <end> ' }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def load_tiny_tokenizer(words: tuple[str, ...] = (*COLOURS, *ANSWERS)) -> Any:
    """Returns the tokenizer of the model, without PyTorch.

    Args:
        words: The vocabulary.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate((*_SPECIAL, *words))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unknown>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<end>", unk_token="<unknown>"
    )
    tokenizer.chat_template = _TEMPLATE
    return tokenizer


def load_tiny_model(words: tuple[str, ...] = (*COLOURS, *ANSWERS), size: int = 16, seed: int = 0) -> tuple[Any, Any]:
    """Returns a model with random weights, and its tokenizer.

    Args:
        words: The vocabulary.
        size: Width of the model.
        seed: Chooses the weights.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = load_tiny_tokenizer(words)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size,
        intermediate_size=2 * size,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config), tokenizer
