"""The policy: a language model of transformers that is sampled from and trained."""

from __future__ import annotations

import copy
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from agentlightning.algorithm.grpo.packing import Row

if TYPE_CHECKING:
    from agentlightning.algorithm.grpo.config import LoRA

ModelSource = str | Path | Callable[[], tuple[Any, Any]]
"""Where a model comes from: its name or folder, or a function that returns a model and its tokenizer."""


class Policy:
    """A causal language model with its tokenizer.

    One thread at a time may use the weights; whoever reads or changes them holds `lock`.

    Attributes:
        model: The model, with its adapters if it has any.
        tokenizer: Its tokenizer.
        lock: Held while the weights are used.
        version: How often the weights have been changed.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, lora: LoRA | None = None, with_reference: bool = False, seed: int = 0
    ) -> None:
        """Prepares a model for training.

        Args:
            model: A causal language model of transformers. It is changed in place.
            tokenizer: Its tokenizer.
            lora: The adapters to train; None trains all weights.
            with_reference: Whether `logprobs` will be asked for the reference.
            seed: Chooses the first weights of the adapters.

        Raises:
            ValueError: The model has layers that cannot be packed, or its tokenizer has no end-of-sequence token.
        """
        _expect_full_attention(model)
        if tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer has no eos_token: without one no answer ends")
        model.requires_grad_(lora is None)
        self._lora = lora
        self._reference: Any = None
        if lora is None:
            self._reference = copy.deepcopy(model).requires_grad_(False) if with_reference else None
        else:
            model = _with_adapters(model, lora, seed)
        # Dropout would make the probabilities of the trained policy other ones than those of the policy that answers.
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.lock = threading.Lock()
        self.version = 0

    @classmethod
    def load(cls, source: ModelSource, *, device: str | None = None, dtype: str = "float32", **options: Any) -> Policy:
        """Loads a model.

        Args:
            source: Where it comes from.
            device: Where to put it; None means a GPU if there is one.
            dtype: The type of its weights, such as `float32`.
            **options: What `Policy` takes besides.

        Raises:
            OSError: There is no such model.
            ValueError: There is no such type, or the model cannot be trained here; see `Policy`.
        """
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        torch_dtype = getattr(torch, dtype, None)
        if not isinstance(torch_dtype, torch.dtype):
            raise ValueError(f"PyTorch has no type {dtype!r}; use float32, bfloat16, ...")
        if callable(source):
            model, tokenizer = source()
        else:
            import transformers

            model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch_dtype)
            tokenizer = transformers.AutoTokenizer.from_pretrained(source)
        return cls(model.to(device, torch_dtype), tokenizer, **options)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.model.device
        return device

    @property
    def max_context_tokens(self) -> int:
        """How many tokens the model reads at most."""
        limit = getattr(self.model.config.get_text_config(decoder=True), "max_position_embeddings", None)
        return int(limit) if limit else sys.maxsize

    @property
    def vocabulary_size(self) -> int:
        """How many tokens the model knows."""
        return int(self.model.get_input_embeddings().num_embeddings)

    @property
    def end_tokens(self) -> frozenset[int]:
        """The tokens that end an answer."""
        ends = self.model.generation_config.eos_token_id
        listed = ends if isinstance(ends, (list, tuple)) else [ends]
        return frozenset({self.tokenizer.eos_token_id, *(token for token in listed if token is not None)})

    def trainable(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """Yields the weights that are trained, by name."""
        return ((name, weight) for name, weight in self.model.named_parameters() if weight.requires_grad)

    def state(self) -> dict[str, Tensor]:
        """Returns copies of the weights that are trained."""
        return {name: weight.detach().clone() for name, weight in self.trainable()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes weights that `state` returned.

        Raises:
            ValueError: They are those of another model, or of other adapters.
        """
        weights = dict(self.trainable())
        if {name: weight.shape for name, weight in weights.items()} != {
            name: kept.shape for name, kept in state.items()
        }:
            raise ValueError("the checkpoint holds the weights of another model, or of other adapters")
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(state[name])

    def save(self, folder: Path) -> None:
        """Writes the policy as transformers and PEFT read it: the adapters, or all weights, and the tokenizer."""
        # Embeddings are never trained beside adapters, and PEFT would ask the hub whether they might have been.
        self.model.save_pretrained(folder, **({"save_embedding_layers": False} if self._lora else {}))
        self.tokenizer.save_pretrained(folder)

    def logprobs(self, row: Row, *, of_reference: bool = False) -> tuple[Tensor, Tensor]:
        """Returns the log-probability of each target of a row, and the entropy where it was predicted.

        Args:
            row: The tokens.
            of_reference: Whether to ask the policy as it was before any training instead.

        Returns:
            Two tensors of the shape (targets,), in nats, of single precision at least. The entropy has no graph.
        """
        model = self._reference if of_reference and self._reference is not None else self.model
        with self._untrained() if of_reference else nullcontext():
            output = model(
                input_ids=row.tokens[None],
                position_ids=row.positions[None],
                attention_mask=_bias(row.visible(), model.dtype)[None, None],
                logits_to_keep=row.predicting,
                use_cache=False,
            )
        logits = output.logits[0]
        exact = torch.promote_types(logits.dtype, torch.float32)
        everything = torch.log_softmax(logits.to(exact) / row.temperatures[:, None].to(exact), dim=-1)
        with torch.no_grad():
            entropy = torch.special.entr(everything.exp()).sum(-1)
        return everything.gather(-1, row.targets[:, None]).squeeze(-1), entropy

    def _untrained(self) -> AbstractContextManager[Any]:
        return self.model.disable_adapter() if self._lora else nullcontext()


def _bias(visible: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill(~visible, torch.finfo(dtype).min)


def _expect_full_attention(model: Any) -> None:
    config = model.config.get_text_config(decoder=True)
    windows = ["sliding_attention"] if getattr(config, "sliding_window", None) else []
    kinds = set(getattr(config, "layer_types", None) or windows) - {"full_attention"}
    if getattr(model, "_is_stateful", False):
        kinds.add("recurrent")
    if kinds:
        raise ValueError(
            f"{type(model).__name__} has layers of the kind {', '.join(sorted(kinds))}; only models whose layers all "
            "attend to the whole sequence can be trained here"
        )
    if model.config._attn_implementation not in ("sdpa", "eager"):  # noqa: SLF001 - there is no public name
        model.set_attn_implementation("sdpa")


def _with_adapters(model: Any, lora: LoRA, seed: int) -> Any:
    import peft

    targets = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    config = peft.LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, target_modules=targets, lora_dropout=0.0, task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return peft.get_peft_model(model, config)
