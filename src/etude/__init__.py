"""etude: which published training method helps on my model and my data, and by how much?

`etude.train(model, data, methods=[...])` trains your own module; `etude.adapt.hf(trainer, methods)` puts methods into a trainer of
transformers or TRL; `etude.lora(model)` puts LoRA layers in; `etude.method(slug)` gives a paper's method, `etude.study(slug)` its study,
`etude.corpus(name)` a corpus, `etude.rows(file, tokenizer=...)` a file of rows, `etude.task(name)` a generator of problems with its
verifier. Everything is imported when it is asked for, so that `import etude` is light.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from etude import adapt
    from etude.data.corpora import corpus
    from etude.data.tasks import task
    from etude.engine.ledger import Budget
    from etude.nn.lora import lora
    from etude.papers.catalogue import load_study as study
    from etude.papers.loading import method
    from etude.recipe.rows import rows
    from etude.recipe.train import train

_HOMES = {
    "adapt": ("etude.adapt", ""),
    "train": ("etude.recipe.train", "train"),
    "lora": ("etude.nn.lora", "lora"),
    "rows": ("etude.recipe.rows", "rows"),
    "corpus": ("etude.data.corpora", "corpus"),
    "study": ("etude.papers.catalogue", "load_study"),
    "task": ("etude.data.tasks", "task"),
    "method": ("etude.papers.loading", "method"),
    "Budget": ("etude.engine.ledger", "Budget"),
}
__version__ = "0.1.0"
__all__ = ["Budget", "__version__", "adapt", "corpus", "lora", "method", "rows", "study", "task", "train"]


def __dir__() -> list[str]:
    """What has not been asked for yet is listed too, so that completion finds it; nothing is imported."""
    return sorted({*__all__, *(name for name, value in globals().items() if name.startswith("__") or isinstance(value, ModuleType))})


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'etude' has no attribute '{name}'")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute) if attribute else import_module(module)
