"""A transformers model folder as a causal language model, to be trained and to generate with (extra `hf`).

    model = pretrained("path/to/folder")
    etude.train(model, data)
    generator = LocalGenerator(model, model.tokenizer)

Weights are read from safetensors alone; no code from the folder is run.
Shapes: B sequences, T new tokens, S tokens read, V vocabulary.
"""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer as FastTokenizer
from torch import Tensor, nn

from etude.data.tokenizers import BytePairs, Tokenizer
from etude.engine.device import evaluating
from etude.errors import BadInput, nearest
from etude.nn.decoding import align_ends, check_rewind
from etude.nn.lora import frozen
from etude.nn.transformer import prefix_mask

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma3_text")
"""Architectures (`model_type`) that are tested; others work where transformers has them as causal language models."""


@dataclass(frozen=True)
class Sizes:
    """vocab: token ids. context: most tokens read, or None where the model does not say."""

    vocab: int
    context: int | None


class Pretrained(nn.Module):
    """inner: a transformers causal language model. tokenizer: the folder's, or None. end_tokens: ids that its completions end with.

    `model(tokens [B, T])["hidden"]` are its last hidden states [B, T, D], `model.head(hidden)` logits [B, T, V]; `begin` and `extend` as
    `generate.states` says. Raises BadInput for a model whose logits are not its head's alone (some scale or cap them).
    """

    def __init__(self, inner: Any, tokenizer: Tokenizer | None = None) -> None:
        super().__init__()
        self.inner, self.tokenizer = inner, tokenizer
        # Later releases of transformers have renamed it.
        self.cache_name = "cache" if "cache" in inspect.signature(type(inner).forward).parameters else "past_key_values"
        text = inner.config.get_text_config()
        self.config = Sizes(inner.get_input_embeddings().num_embeddings, getattr(text, "max_position_embeddings", None))
        ends = inner.generation_config.eos_token_id if inner.generation_config is not None else None
        self.end_tokens: tuple[int, ...] = tuple(ends) if isinstance(ends, list) else () if ends is None else (ends,)
        self._check_head()

    def forward(self, tokens: Tensor, document_ids: Tensor | None = None, prefix: Tensor | None = None) -> dict[str, Tensor]:
        """tokens: [B, T] ids. document_ids: [B, T]; positions look only at their own document, and count from its beginning.
        prefix: [B, T], True where attention is mutual. Raises BadInput for one on more tokens than a sliding window of attention holds."""
        # transformers takes a position that does not follow the one before for the beginning of another document, and masks it.
        more: dict[str, Any] = {"position_ids": None if document_ids is None else positions_within(document_ids)}
        if prefix is not None:
            window = getattr(self.inner.config.get_text_config(), "sliding_window", None)
            if window is not None and tokens.shape[1] > window:
                raise BadInput("model", f"attention of a sliding window of {window}", f"one of at least the {tokens.shape[1]} tokens read")
            more["attention_mask"] = prefix_mask(prefix, document_ids)
        return {"hidden": self.inner.base_model(input_ids=tokens, use_cache=False, **more).last_hidden_state}

    def head(self, hidden: Tensor) -> Tensor:
        return self.output_layer(hidden)

    @property
    def output_layer(self) -> nn.Module:
        return self.inner.get_output_embeddings()

    def checkpoint_activations(self) -> None:
        """See `nn.activations`. Raises BadInput for an architecture of which transformers cannot."""
        if not self.inner.supports_gradient_checkpointing:
            found = f"it for a {type(self.inner).__name__}"
            raise BadInput("activation_checkpointing", found, f"an architecture that transformers can: {', '.join(FAMILIES)}")
        # Later releases of transformers have renamed it.
        word = "activation" if hasattr(self.inner, "activation_checkpointing_enable") else "gradient"
        getattr(self.inner, f"{word}_checkpointing_enable")(**{f"{word}_checkpointing_kwargs": {"use_reentrant": False}})

    @property
    def kept_elsewhere(self) -> frozenset[str]:
        """What LoRA has frozen is in the folder that the model came from: no checkpoint holds it."""
        still = {id(p) for p in frozen(self).values()}
        return frozenset(name for name, value in self.state_dict(keep_vars=True).items() if id(value) in still)

    @torch.inference_mode()
    def _check_head(self) -> None:
        with evaluating(self.inner) as device:
            tokens = torch.zeros(1, 2, dtype=torch.int64, device=device)
            same = torch.allclose(self.head(self(tokens)["hidden"]), self.inner(input_ids=tokens, use_cache=False).logits, atol=1e-4)
        if not same:
            raise BadInput(
                "model", f"a {type(self.inner).__name__}, whose logits are not its head's alone", f"one of {', '.join(FAMILIES)}"
            )

    @torch.inference_mode()
    def begin(self, tokens: Tensor, mask: Tensor | None = None) -> PretrainedState:
        return PretrainedState(self, *align_ends(tokens, mask))

    @torch.inference_mode()
    def extend(self, tokens: Tensor, state: PretrainedState) -> Tensor:
        """Logits after each of tokens [B, T], [B, T, V]."""
        state.caught_up()
        return state.read(tokens)


def positions_within(document_ids: Tensor) -> Tensor:
    """[B, T] ids, equal within a document -> [B, T] places counted from the beginning of each."""
    columns = torch.arange(document_ids.shape[1], device=document_ids.device)
    begins = document_ids != document_ids.roll(1, 1)
    begins[:, 0] = True
    return columns - torch.where(begins, columns, 0).cummax(1).values


class PretrainedState:
    """tokens: [B, S], aligned at their ends; first: [B] each row's first real column, or None. The cache is made when needed."""

    def __init__(self, model: Pretrained, tokens: Tensor, first: Tensor | None) -> None:
        self.model, self.tokens, self.first = model, tokens, first
        self.cache: Any = None
        self._logits: Tensor | None = None

    def __len__(self) -> int:
        return self.tokens.shape[0]

    @property
    def logits(self) -> Tensor:
        self.caught_up()
        assert self._logits is not None
        return self._logits

    @torch.inference_mode()
    def caught_up(self) -> None:
        """Reads all tokens where no cache holds them: at the beginning, and after a step back."""
        if self.cache is None:
            tokens, self.tokens = self.tokens, self.tokens[:, :0]
            self.read(tokens)

    def read(self, tokens: Tensor) -> Tensor:
        before = self.tokens.shape[1]
        self.tokens = torch.cat((self.tokens, tokens), 1)
        columns = torch.arange(self.tokens.shape[1], device=tokens.device)
        first = columns.new_zeros(len(self)) if self.first is None else self.first
        out = self.model.inner(
            input_ids=tokens, use_cache=True, **{self.model.cache_name: self.cache},
            attention_mask=(columns >= first[:, None]).long(), position_ids=(columns[before:] - first[:, None]).clamp(min=0),
        )  # fmt: skip
        self.cache, self._logits = out[self.model.cache_name], out.logits[:, -1]
        return out.logits

    @torch.inference_mode()
    def select(self, rows: Sequence[int] | Tensor) -> PretrainedState:
        index = torch.as_tensor(rows, device=self.tokens.device, dtype=torch.int64)
        new = PretrainedState(self.model, self.tokens[index], None if self.first is None else self.first[index])
        if self.cache is not None:
            new.cache = copy.deepcopy(self.cache)
            new.cache.batch_select_indices(index)
            new._logits = self.logits[index]
        return new

    def rewind(self, num_tokens: int) -> None:
        """As `AttentionState.rewind`; what is left is read again, whatever kind of cache the model keeps."""
        check_rewind(num_tokens, self.tokens.shape[1], self.first)
        if num_tokens:
            self.tokens, self.cache, self._logits = self.tokens[:, : self.tokens.shape[1] - num_tokens], None, None


def check_folder(folder: str | Path, where: str) -> None:
    """Raises BadInput, naming `where`, for what is no transformers folder of a causal language model in safetensors, as far as can be told
    without its weights; and where transformers is not installed."""
    path = Path(folder)
    if not path.is_dir():
        raise BadInput(where, "a file" if path.exists() else "nothing there", "a folder with config.json and safetensors")
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(where, "no config.json", "a transformers model folder") from None
    except (ValueError, OSError) as error:
        raise BadInput(f"{where}/config.json", f"no JSON ({error})", "a transformers configuration") from None
    if not isinstance(config, dict) or "auto_map" in config:
        raise BadInput(f"{where}/config.json", "code of its own (auto_map)", "an architecture that transformers itself has")
    if not list(path.glob("*.safetensors")):
        found = "pickle files alone" if list(path.glob("*.bin")) else "no weights"
        raise BadInput(where, found, f"*.safetensors, which this writes: {conversion(where)}")
    try:
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as KNOWN
    except ImportError:
        raise BadInput(where, "no transformers", "the package: pip install 'etude[hf]'") from None
    kind = str(config.get("model_type", ""))
    if kind not in KNOWN:
        near = nearest(kind, FAMILIES) or nearest(kind, KNOWN)
        found = f"architecture '{kind}'" if kind else "no model_type"
        raise BadInput(
            f"{where}/config.json", found, f"a causal language model: {', '.join(FAMILIES)}" + (f"; nearest: '{near}'" if near else "")
        )


def conversion(name: str) -> str:
    """The command that writes a folder, or a repository of the Hub, of pickle files again in safetensors, with its tokenizer."""
    new = name.rstrip("/").rpartition("/")[2] + "-safetensors"
    each = "; ".join(f"{kind}.from_pretrained({name!r}).save_pretrained({new!r})" for kind in ("M", "T"))
    return f'python -c "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; {each}"'


def pretrained(folder: str | Path, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu") -> Pretrained:
    """The model of a transformers folder. Raises BadInput where transformers is not installed, and for a folder that is missing, has no
    config.json, has its weights in pickle files alone, needs code of its own, or is damaged."""
    path, where = Path(folder), str(folder)
    check_folder(path, where)
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    try:
        disable_progress_bar()
        inner: Any = AutoModelForCausalLM.from_pretrained(path, local_files_only=True, use_safetensors=True, dtype=dtype)
    except Exception as error:  # of many kinds: each says in its own way that this folder is no such model
        line = " ".join(str(error).split())
        raise BadInput(where, f"{type(error).__name__}: {line[:160]}", "a causal language model that transformers can load") from error
    return Pretrained(inner.to(device).eval(), tokenizer_of(path) if (path / "tokenizer.json").exists() else None)


def vocabulary_of(folder: str | Path) -> int | None:
    """How many token ids the model of a folder holds, where its configuration says it."""
    try:
        config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return (config.get("text_config") or config).get("vocab_size")


def tokenizer_of(folder: str | Path) -> BytePairs:
    """The tokenizer of a model folder, without added tokens that the model has no embedding for (an image's, in the text models of
    Gemma 3): what spells them is read as any text. Raises BadInput where there is none, or one that `tokenizers` cannot read."""
    path = Path(folder) / "tokenizer.json"
    if not path.exists():
        raise BadInput(str(folder), "no tokenizer.json", "a fast tokenizer beside the model; transformers writes one with save_pretrained")
    try:
        inner = FastTokenizer.from_file(str(path))
        vocab = vocabulary_of(folder)
        if vocab is not None and inner.get_vocab_size(with_added_tokens=False) <= vocab < inner.get_vocab_size():
            content = json.loads(path.read_text(encoding="utf-8"))
            content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] < vocab]
            inner = FastTokenizer.from_str(json.dumps(content))
        return BytePairs(inner)
    except Exception as error:  # tokenizers raises nothing more precise
        raise BadInput(str(path), f"unreadable content ({' '.join(str(error).split())[:120]})", "a tokenizer of `tokenizers`") from error
