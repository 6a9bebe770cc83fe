"""The tables of a recipe of schema 1, typed and ranged: what each key may be. No torch here.

Unknown keys are errors. A table whose kinds share little is several classes; `[data]` is told apart by the key that names the
data, `[model]` by `kind` or `use`, an optimizer and a sampler by `kind`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from etude.recipe.answer_tables import HarnessTable, RolloutsTable, TaskData, VerifierTable, measure
from etude.recipe.fields import Activation, Below1, Count, NotNegative, Part, Positive, Real, Share, Table, Text, Weights, Whole


# --- [model] ----------------------------------------------------------------------------------------------------------
class TransformerTable(Table):
    kind: Literal["transformer"] = "transformer"
    width: Count = 96
    depth: Count = 4
    heads: Count = 4
    kv_heads: Count | None = None
    hidden: Count | None = None  # of the SwiGLU layer; 8/3 of the width, rounded up to 8, where it is not given
    tied: bool = True
    rope_base: Positive = 10_000.0
    norm_eps: Positive = 1e-5
    init_std: Positive = 0.02
    shifted: bool = False  # whether a token comes with a map of the one before it


class RecurrentTable(Table):
    """A language model on text; on images and tables a classifier that reads one number a step."""

    kind: Literal["gru", "lstm", "elman"]
    width: Count = 128
    depth: Count = 1
    dropout: Below1 = 0.0  # between layers
    tied: bool = True  # text
    init_std: Positive = 0.02  # text


class PerceptronTable(Table):
    """For images and tables; inputs and outputs follow the data."""

    kind: Literal["mlp"]
    hidden: tuple[Count, ...] = (64, 64)
    activation: Activation = "relu"


class ConvolutionTable(Table):
    """For images: one number a layer."""

    kind: Literal["cnn"]
    channels: tuple[Count, ...] = (16, 24, 24)
    kernels: tuple[Count, ...] = (3, 3, 3)
    strides: tuple[Count, ...] = (1, 2, 2)


class PaperModel(BaseModel):
    """`use` names a paper with an architecture ("slug", or "slug:name"); the other keys are the settings of its configuration."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)
    use: Text

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class PretrainedTable(Table):
    """A transformers folder, or an id of the Hub with a revision, fetched once."""

    pretrained: Text
    revision: Text | None = None


MODELS: dict[str, type[BaseModel]] = {
    "transformer": TransformerTable, "gru": RecurrentTable, "lstm": RecurrentTable, "elman": RecurrentTable,
    "mlp": PerceptronTable, "cnn": ConvolutionTable,
}  # fmt: skip


# --- [data] -----------------------------------------------------------------------------------------------------------
class TextSource(Table):
    """One domain of a mixture: a text file or a folder of them, a corpus by name, or a folder of memory-mapped tokens."""

    text: Text | None = None
    corpus: Text | None = None
    tokens: Text | None = None


class TextData(TextSource):
    """Language: one source, or several named ones as `[data.domains.NAME]`; the folders inside a folder of texts are domains too."""

    domains: Annotated[dict[str, TextSource], Field(min_length=1)] | None = None
    tokenizer: Literal["byte", "character", "bpe", "model"] = "byte"  # "model": a pretrained one's. Tokens are encoded already
    vocab: Annotated[Whole, Field(ge=257)] = 1024  # bpe only
    context: Annotated[Whole, Field(ge=2)] = 128
    batch: Count = 16
    held_out: Part = 0.1  # share of a text or of tokens, from the end; corpora have a validation split
    separator: Annotated[str, Field(min_length=1)] | None = None  # between the documents of a text file
    documents: Literal["joined", "masked", "packed"] = "joined"
    difficulty: Text | None = None  # "length" (packed documents), or a scorer of windows or documents: "./hard.py:words"


class RowsData(Table):
    """Rows of a JSONL or Parquet file, or of a folder that `datasets` saved, in TRL's columns. Models of etude's own kinds read bytes.

    On-policy objectives read the column `prompt` alone and hand the others to the verifier; `batch` is rollouts an update then.
    """

    rows: Text
    held_out: Below1 = 0.05  # share of the rows, spread evenly, that is measured on; assumed
    held_out_rows: Text | None = None  # another file of them instead
    context: Annotated[Whole, Field(ge=2)] = 512  # tokens; assumed
    batch: Count = 8
    too_long: Literal["error", "drop", "cut"] = "error"  # rows of more tokens than the context; documents are always cut into pieces
    domain: Text | None = None  # the field that holds each row's domain
    difficulty: Text | None = None  # the field that holds a number, higher is harder; "length" (tokens); or a scorer, "./hard.py:words"


class ImageData(Table):
    images: Literal["digits", "mnist1d"]
    batch: Count = 32
    label_noise: Share = 0.0  # of the training labels, replaced by another class


class TableData(Table):
    """A CSV file, or an NPZ file of named arrays."""

    table: Text
    target: Text  # the column to predict
    features: Annotated[tuple[Text, ...], Field(min_length=1)] | None = None  # all others where not given
    classify: bool = True  # else the target is a number
    standardize: bool = True  # by mean and deviation of the training rows
    held_out: Part = 0.2  # share of the rows, in a fixed random order
    batch: Count = 32


DATA: dict[str, type[Table]] = {"text": TextData, "rows": RowsData, "task": TaskData, "images": ImageData, "table": TableData}


# --- [sampler] --------------------------------------------------------------------------------------------------------
class ShuffleTable(Table):
    kind: Literal["shuffle"] = "shuffle"
    replacement: bool = False


class WeightedTable(Table):
    """Each epoch draws `share` of the samples without replacement; a sample's weight is that of its domain or class."""

    kind: Literal["weighted"]
    weights: Weights
    share: Annotated[Real, Field(gt=0, le=1)] = 0.5


class MixtureTable(Table):
    """Domains in the proportions of `weights`, `update_every` samples a stage."""

    kind: Literal["mixture"]
    weights: Weights
    update_every: Count = 512
    replacement: bool = False


class OnlineTable(Table):
    """Domains in proportions that follow their training losses, or what rollouts come to, measured again every `update_every` samples."""

    kind: Literal["online"]
    signal: Literal["loss", "reward", "advantage"] = "loss"  # of rollouts: minus the reward, its size, or that of the advantage
    weigh: Literal["loss", "softmax"] = "loss"  # in proportion to the signal, or to its exponential
    temperature: Positive = 1.0  # softmax
    update_every: Count = 512
    smoothing: Below1 = 0.5
    weights: Weights | None = None  # before any feedback; equal where not given


class CurriculumTable(Table):
    """Easy samples first: every `update_every` samples are drawn from the easiest share of all, which grows from `start` to all of them."""

    kind: Literal["curriculum"]
    by: Literal["difficulty", "loss"] = "difficulty"  # data.difficulty; or the present model's loss, measured and charged
    start: Annotated[Real, Field(gt=0, le=1)] = 0.25
    over: Count = 10  # stretches until all samples are in
    power: Positive = 2.0  # 2: the share grows as a square root, 1: as a line
    update_every: Count = 512
    hardest_first: bool = False
    measure_every: Count = 10  # stretches; loss


SAMPLERS: dict[str, type[Table]] = {
    "shuffle": ShuffleTable, "weighted": WeightedTable, "mixture": MixtureTable, "online": OnlineTable, "curriculum": CurriculumTable,
}  # fmt: skip


# --- [optimizer], [optimizers.NAME] -----------------------------------------------------------------------------------
class AdamWTable(Table):
    kind: Literal["adamw"] = "adamw"
    lr: Positive = 2e-3
    betas: tuple[Below1, Below1] = (0.9, 0.95)
    eps: Positive = 1e-8
    weight_decay: NotNegative = 0.1
    over: tuple[str, ...] | None = None  # of several: the beginnings of its parameters' names; without it, all that are left


class SGDTable(Table):
    kind: Literal["sgd"]
    lr: Positive = 0.1
    momentum: Below1 = 0.0
    nesterov: bool = False
    weight_decay: NotNegative = 0.0
    over: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _nesterov(self) -> SGDTable:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov with a momentum above 0")
        return self


class MuonTable(Table):
    """Muon for the hidden matrices, `[optimizer.rest]` (AdamW) for embeddings, heads and vectors."""

    kind: Literal["muon"]
    lr: Positive = 0.02
    momentum: Below1 = 0.95
    weight_decay: NotNegative = 0.1
    rest: AdamWTable = AdamWTable()
    over: tuple[str, ...] | None = None


OPTIMIZERS: dict[str, type[Table]] = {"adamw": AdamWTable, "sgd": SGDTable, "muon": MuonTable}


# --- [lora] -----------------------------------------------------------------------------------------------------------
def _targets(value: Any) -> str | tuple[str, ...]:
    if value == "all-linear":
        return value
    if not isinstance(value, list | tuple) or not value or not all(isinstance(v, str) and v.strip() for v in value):
        raise ValueError('"all-linear" or a list of names of layers, such as ["q_proj", "v_proj"]')
    return tuple(value)


class LoraTable(Table):
    """The model is frozen; beside its linear layers thin matrices are trained, in the format of `peft`."""

    r: Count = 16  # TRL's, as alpha is
    alpha: Positive = 32.0
    dropout: Below1 = 0.0
    targets: Annotated[Any, AfterValidator(_targets)] = "all-linear"  # or the ends of layers' names


# --- the rest ---------------------------------------------------------------------------------------------------------
class ScheduleTable(Table):
    kind: Literal["constant", "linear", "cosine", "wsd", "infinite"] = "cosine"
    warmup: Share = 0.02
    final: Share | None = None
    decay: Share | None = None  # wsd
    cooldown: Share | None = None  # infinite
    constant: Share | None = None  # infinite
    anneal: Share | None = None  # infinite


class BudgetTable(Table):
    """One quantity, or a `limit` on a weighted sum: weights = { tokens = 1.0, "prepare.tokens" = 0.5 }."""

    tokens: Count | None = None
    steps: Count | None = None
    samples: Count | None = None
    flops: Positive | None = None
    seconds: Positive | None = None
    limit: Positive | None = None
    weights: Annotated[dict[str, Positive], Field(min_length=1)] | None = None


PAIRS = ("dpo", "ipo", "orpo", "simpo")
POLICIES = ("grpo", "dr-grpo", "dapo", "reinforce", "rloo")
"""The on-policy objectives."""


READING = ("causal", "prefix", "spans", "infilling", "masked", "unlikelihood")
"""Objectives over texts."""
READING_KEYS = {
    "causal": (), "prefix": (), "spans": ("ratio", "mean_span", "two_way", "marks"), "infilling": ("order", "marks"),
    "masked": ("ratio", "marks"), "unlikelihood": ("alpha",),
}  # fmt: skip
"""What each of them may be told."""


class _Reading(Table):
    """What is predicted of a text; what is not given is the objective's own."""

    ratio: Part | None = None  # spans, masked: the share of tokens taken out
    mean_span: Annotated[Real, Field(ge=1)] | None = None  # spans: tokens
    two_way: bool | None = None  # spans: the text with holes is read in both directions, and the loss is on the spans alone
    order: Literal["psm", "spm", "both"] | None = None  # infilling: prefix first, or suffix first
    alpha: NotNegative | None = None  # unlikelihood: its weight
    marks: Annotated[tuple[Text, ...], Field(min_length=1)] | None = None  # a pretrained model's own tokens that stand for the marks


class ReadingTable(_Reading):
    """One of several objectives over the same texts, as `[objectives.NAME]`: the sampler mixes them as it mixes domains."""

    kind: Literal["causal", "prefix", "spans", "infilling", "masked", "unlikelihood"] = "causal"


class ObjectiveTable(_Reading):
    """Texts read ratio to marks, preferences beta to normalised, on-policy ones kl to failures; what is not given is the method's own."""

    label_smoothing: Share = 0.0  # of cross entropy, on images and classes
    kind: Literal[
        "causal", "prefix", "spans", "infilling", "masked", "unlikelihood",
        "dpo", "ipo", "orpo", "simpo", "grpo", "dr-grpo", "dapo", "reinforce", "rloo",
    ] | None = None  # fmt: skip
    beta: Positive | None = None  # dpo, ipo, simpo
    gamma: NotNegative | None = None  # simpo
    weight: Positive | None = None  # orpo
    normalised: bool | None = None  # dpo: means over tokens, not sums
    kl: NotNegative | None = None  # weight of the KL to the model as it was
    clip_low: NotNegative | None = None  # grpo, dr-grpo, dapo
    clip_high: NotNegative | None = None
    entropy: NotNegative | None = None  # weight of the bonus, nats
    verifier: Text | None = None  # "my_module:score" or "./my_verifier.py:score"; a task has its own
    verifier_seconds: Positive | None = None  # most that one call of `verifier` may take; any time where not given
    failures: Literal["stop", "zero"] | None = None  # what a verifier that raises or gives no number does; stop where not given


PAIR_KEYS = ("beta", "gamma", "weight", "normalised")
POLICY_KEYS = ("kl", "clip_low", "clip_high", "entropy", "verifier", "verifier_seconds", "failures")
CLIPPED = ("grpo", "dr-grpo", "dapo")
"""Those with a ratio to clip."""


class EvaluateTable(Table):
    """What is measured on held-out data. Without `measures`: the loss, and the accuracy where there are classes; of on-policy
    objectives, or where there is [evaluate.verifier], what the verifier accepts."""

    measures: Annotated[tuple[Annotated[str, AfterValidator(measure)], ...], Field(min_length=1)] | None = None
    limit: Count | None = None  # samples, spread evenly; 256 of a text and all of other data where not given
    batch: Count = 32
    verifier: VerifierTable | None = None
    lm_eval: HarnessTable | None = None


class MethodTable(BaseModel):
    """`use` names a paper (its one method, or "slug:Class"); the other keys are the method's own settings."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)
    use: Text

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


def _none(value: Any) -> Any:
    return None if value == "none" else value


def _micro_batch(value: Any) -> int | str | None:
    if value is None or value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError('a whole number >= 1, or "auto"')


Clip = Annotated[Positive | None, BeforeValidator(_none)]


def _share(value: float) -> float:
    if not 0 < value <= 1:
        raise ValueError("a share of the budget, above 0 and at most 1")
    return value


Interval = Annotated[Real, AfterValidator(_share)]


class RunTable(Table):
    """How the run goes. Shares are of the budget."""

    seed: Annotated[Whole, Field(ge=0)] = 0
    device: Text = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    activation_checkpointing: bool = False  # blocks are computed again in the backward pass: less memory, the same numbers
    clip: Clip = 1.0  # of the gradients' norm, or "none"
    accumulate: Count = 1  # batches an update
    micro_batch: Annotated[Any, AfterValidator(_micro_batch)] = None  # most samples computed at once, or "auto": the most that fit
    feedback_every: Count = 1  # updates between what a sampler is told
    log_every: Count = 1  # updates
    evaluate_every: Interval = 0.1
    checkpoint_every: Interval = 0.1
    keep_checkpoints: Count = 2
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()  # that are shown what goes to metrics.jsonl
    folder: Text = "runs/train"


def kind_of_data(table: Any) -> str:
    """Which of `DATA` a `[data]` table is, by the key that names the data."""
    if not isinstance(table, Mapping):
        table = {name: True for name, value in dict(table).items() if value is not None} if isinstance(table, Table) else {}
    return next((key for key in ("table", "images", "task", "rows") if key in table), "text")


def kind_of_model(table: Any) -> str:
    if isinstance(table, BaseModel):
        return (
            "use"
            if isinstance(table, PaperModel)
            else "pretrained"
            if isinstance(table, PretrainedTable)
            else str(getattr(table, "kind", ""))
        )
    if not isinstance(table, Mapping):
        return "transformer"
    return next((key for key in ("use", "pretrained") if key in table), str(table.get("kind", "transformer")))


def _kind(default: str) -> Any:
    return lambda table: str(table.get("kind", default)) if isinstance(table, Mapping) else getattr(table, "kind", default)


Model = Annotated[
    Annotated[TransformerTable, Tag("transformer")]
    | Annotated[RecurrentTable, Tag("gru")]
    | Annotated[RecurrentTable, Tag("lstm")]
    | Annotated[RecurrentTable, Tag("elman")]
    | Annotated[PerceptronTable, Tag("mlp")]
    | Annotated[ConvolutionTable, Tag("cnn")]
    | Annotated[PaperModel, Tag("use")]
    | Annotated[PretrainedTable, Tag("pretrained")],
    Discriminator(kind_of_model),
]
Data = Annotated[
    Annotated[TextData, Tag("text")]
    | Annotated[RowsData, Tag("rows")]
    | Annotated[TaskData, Tag("task")]
    | Annotated[ImageData, Tag("images")]
    | Annotated[TableData, Tag("table")],
    Discriminator(kind_of_data),
]
Sampler = Annotated[
    Annotated[ShuffleTable, Tag("shuffle")]
    | Annotated[WeightedTable, Tag("weighted")]
    | Annotated[MixtureTable, Tag("mixture")]
    | Annotated[OnlineTable, Tag("online")]
    | Annotated[CurriculumTable, Tag("curriculum")],
    Discriminator(_kind("shuffle")),
]
Optimizer = Annotated[
    Annotated[AdamWTable, Tag("adamw")] | Annotated[SGDTable, Tag("sgd")] | Annotated[MuonTable, Tag("muon")],
    Discriminator(_kind("adamw")),
]


class Recipe(Table):
    """A whole recipe; `etude.recipe.config.parse` makes it and checks what goes across tables."""

    schema_: Literal[1] = Field(alias="schema")
    model: Model = TransformerTable()
    lora: LoraTable | None = None
    data: Data = TextData()
    sampler: Sampler = ShuffleTable()
    objective: ObjectiveTable = ObjectiveTable()
    objectives: Annotated[dict[str, ReadingTable], Field(min_length=1)] | None = None
    rollouts: RolloutsTable | None = None
    optimizer: Optimizer = AdamWTable()
    optimizers: Annotated[dict[str, Optimizer], Field(min_length=1)] | None = None
    schedule: ScheduleTable = ScheduleTable()
    budget: BudgetTable = BudgetTable(tokens=500_000)
    methods: tuple[MethodTable, ...] = ()
    evaluate: EvaluateTable = EvaluateTable()
    run: RunTable = RunTable()
