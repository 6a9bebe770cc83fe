"""Models from a recipe's table: etude's own kinds, and the architectures that papers export."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import nn

from etude.errors import BadInput
from etude.generate.hub import locate
from etude.generate.pretrained import pretrained
from etude.nn.convolution import Convolution, ConvolutionConfig
from etude.nn.lora import lora
from etude.nn.mlp import MLP
from etude.nn.recurrent import RecurrentClassifier, RecurrentConfig, RecurrentLM
from etude.nn.transformer import Transformer, TransformerConfig
from etude.recipe.material import Material
from etude.recipe.settings import made, named, relocated, resolved
from etude.recipe.tables import ConvolutionTable, PaperModel, PerceptronTable, PretrainedTable, Recipe, RecurrentTable, TransformerTable

M = TypeVar("M", bound=nn.Module)
Models = Callable[[str], Mapping[str, tuple[type, Callable[[Any], nn.Module]]]]
"""A paper's slug (or a file) -> its architectures: name -> (class of the configuration, class of the model).

Whoever composes gives it. The configuration takes what the recipe says as settings; fields named `vocab`, `context`,
`inputs`, `classes` and `outputs`, at any depth, are set by the data.
"""


def model_of(recipe: Recipe, material: Material, models: Models) -> nn.Module:
    """Not initialised. Raises BadInput where a setting is refused or the kind of model does not read this kind of data."""
    table = recipe.model
    try:
        match table:
            case PaperModel():
                return paper_model(table, material, models)
            case PretrainedTable() if material.vocab is not None:
                return pretrained_model(table, material)
            case TransformerTable() if material.vocab is not None:
                shape = table.model_dump(exclude={"kind"})
                return Transformer(TransformerConfig(vocab=material.vocab, context=material.context, **shape))
            case RecurrentTable():
                shape: dict[str, Any] = {"cell": table.kind} | table.model_dump(exclude={"kind"})
                if material.vocab is not None:
                    return RecurrentLM(RecurrentConfig(vocab=material.vocab, **shape))
                return RecurrentClassifier(RecurrentConfig(**shape), inputs=1, classes=material.outputs)
            case PerceptronTable() if material.vocab is None:
                return MLP((material.inputs, *table.hidden, material.outputs), table.activation)
            case ConvolutionTable() if material.grid is not None:
                dimensions, size = material.grid
                layers = table.model_dump(exclude={"kind"})
                return Convolution(ConvolutionConfig(dimensions=dimensions, size=size, classes=material.outputs, **layers))
    except BadInput as error:
        head, _, key = error.where.partition(".")
        if not (head.endswith("Config") and key):
            raise
        raise BadInput(f"model.{key}", error.found, error.expected) from error
    kinds = {"text": "transformer, gru, lstm or elman", "images": "mlp, cnn, gru, lstm or elman", "a table": "mlp, gru, lstm or elman"}
    raise BadInput("model.kind", f"'{getattr(table, 'kind', '')}' for {material.kind}", kinds[material.kind])


def adapted(recipe: Recipe, model: M) -> M:
    """The model with the LoRA layers that a recipe asks for, in place. Raises BadInput for a target that it does not have."""
    if recipe.lora is None:
        return model
    return lora(model, **recipe.lora.model_dump(), seed=recipe.run.seed)


def pretrained_model(table: PretrainedTable, material: Material) -> nn.Module:
    """With its weights, in float32. Raises BadInput where it holds fewer tokens or positions than the data has."""
    found = locate(table.pretrained, table.revision, "model.pretrained")
    model = pretrained(found.path)
    assert material.vocab is not None
    if material.vocab > model.config.vocab:
        expected = f"at most the {model.config.vocab} of {table.pretrained}"
        raise BadInput("data.tokenizer", f"a vocabulary of {material.vocab} tokens", expected)
    if model.config.context is not None and material.context > model.config.context:
        raise BadInput("data.context", str(material.context), f"at most {model.config.context}, the context of {table.pretrained}")
    return model


def paper_model(table: PaperModel, material: Material, models: Models) -> nn.Module:
    found = resolved("model.use", models, table.use)
    config, model = named("model.use", table.use, found, "architecture to train", "a paper whose module exports MODELS, or `kind`")
    given = {"vocab": material.vocab, "context": material.context} if material.vocab is not None else {}
    given = given or {"inputs": material.inputs, "classes": material.outputs, "outputs": material.outputs}
    made_config = made(config, table.settings, "model", given)
    try:
        built = model(made_config)
    except BadInput as error:
        raise relocated(error, "model", inspect.signature(config).parameters) from error
    # An architecture that takes a transformer's shape for its blocks embeds tokens itself.
    inside = "shape." * hasattr(made_config, "shape")
    if getattr(getattr(made_config, "shape", made_config), "shifted", False) and not isinstance(built, Transformer):
        raise BadInput(f"model.{inside}shifted", "true", f"false: {table.use} reads each token by itself")
    return built
