"""`hf`: etude's methods in a trainer of transformers or TRL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from etude.adapt.adapter import Adapter
from etude.adapt.checks import HERE, check_methods, check_trainer
from etude.adapt.data import GivenOrder, Labels, Numbers
from etude.engine.arguments import typed
from etude.engine.protocols import Method, Objective, Sampler

T = TypeVar("T")


@typed(f"{HERE}, ")
def hf(
    trainer: T,
    methods: Sequence[Method] | Method = (),
    *,
    sampler: Sampler | None = None,
    domains: Labels = None,
    difficulty: Numbers = None,
    objective: Objective | None = None,
) -> T:
    """Applies methods to a trainer that one has built, in place, and returns it. Call it before `trainer.train()`.

    trainer: a `transformers.Trainer`, or TRL's `SFTTrainer` or `GRPOTrainer` (or a subclass), of one process on one device.
    methods: of the slots sampler, schedule and surgery, or such as act on gradients or give rows weights; list order does not matter.
             sampler:   its order replaces the trainer's: the ids of etude's own run of the same data, seed, batch size and accumulation
                        whose budget is the trainer's number of updates. Each batch is drawn when it is needed.
             schedule:  replaces the learning rate's; the trainer's `learning_rate` is its peak.
             gradients: `gradients` before the trainer's clipping, `clipped` after it.
             weights:   `batch` may add "weights" [B], which multiply each row's loss (GRPO: its advantage) and leave the divisor alone.
             surgery:   is done now, once: the model that the trainer has counts as the trained base, whatever share of the budget
                        the method would have waited for.
    sampler: one of `etude.data.samplers`, for who wants an order without a method: `FixedMixture({"code": 1, "web": 3}, update_every=64)`,
             `OnlineMixture(by_loss, update_every=64)`, `Curriculum(update_every=64)`.
    domains: for samplers that weigh domains: a column of the training rows, or one label a row.
    difficulty: for samplers that go by it: a column of numbers, one number a row, or a function of a row.
    objective: of a decoder that predicts the next token, in a Trainer or an SFTTrainer; evaluation stays the trainer's own.
             `SpanCorruption`, `Infilling`: rows, labels and attention mask are written anew before each update, by draws of the run's
                        seed, the update and the row's number. The trainer's loss (also a smoothed one, or your own) is of these rows.
                        A row keeps its length: where its marks do not fit beside the text, the text's end is left out.
             `Unlikelihood`: its term is added to the trainer's plain loss; an SFTTrainer runs a second forward pass, for its metrics.
             `Sometimes(SpanCorruption(marks), 0.5)`: a coin for each update. None or `CausalLM()`: the trainer's own.
    What a sampler goes by (shares of domains, how far a curriculum has come) is in the trainer's logs.
    With no method and no objective every loss is the bare trainer's, bit for bit. The methods' state lies beside the trainer's
    checkpoints, in `checkpoint-N/etude`, and `resume_from_checkpoint` puts it back.
    Raises BadInput for another trainer, one that has trained, several processes, a method of another slot, an objective that has no
    place there, and for what a method or an objective refuses.
    """
    check_trainer(trainer)
    given = [methods] if isinstance(methods, Method) else [*methods]
    hooks = check_methods([*given, GivenOrder(sampler)] if sampler is not None else given, trainer)
    adapter = Adapter(trainer, hooks, domains, difficulty, objective)
    from etude.adapt.callback import adapt

    adapt(trainer, adapter)
    return trainer
