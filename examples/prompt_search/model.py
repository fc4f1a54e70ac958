"""The model: SmolLM2-135M-Instruct on one CPU core, loaded as the quickstart does."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent.parent / "quickstart"))
from smollm2 import find_weights, load_model

__all__ = ["complete", "find_weights"]

MAX_NEW_TOKENS = 32


def complete(prompt: str) -> str:
    """Returns how the model goes on after `prompt`, up to the first closing brace or `MAX_NEW_TOKENS`.

    It takes the likeliest token each time, so the same prompt gets the same answer. The first call loads the model,
    which takes some 20 seconds.
    """
    tokenizer, model, last_tokens = _load()
    import torch

    tokens = tokenizer(prompt, return_tensors="pt")
    with torch.inference_mode():
        output = model.generate(
            **tokens,
            max_new_tokens=MAX_NEW_TOKENS,
            do_sample=False,
            eos_token_id=last_tokens,
            pad_token_id=tokenizer.eos_token_id,
        )
    answer: str = tokenizer.decode(output[0, tokens["input_ids"].shape[1] :], skip_special_tokens=True)
    head, brace, _ = answer.partition("}")
    return (head + brace).strip()


@functools.cache
def _load() -> tuple[Any, Any, list[int]]:
    """Returns the tokenizer, the model, and the tokens after which an answer ends."""
    import torch

    torch.set_num_threads(1)
    model, tokenizer = load_model()
    closing = [number for token, number in tokenizer.get_vocab().items() if "}" in token]
    return tokenizer, model.eval(), [tokenizer.eos_token_id, *closing]
