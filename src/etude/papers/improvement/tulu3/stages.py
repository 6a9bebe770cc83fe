"""The stages, each a trainer of a copy of its parent: SFT, DPO, the reward model, and RLVR by PPO.

Each takes the parent model and gives a `Trainer`; what it is measured against (the reference of DPO, of the KL in RLVR's reward) is a
frozen copy of that parent and of nothing older. Defaults are those of the 8B run, where they do not depend on its size; batch sizes,
learning rates and budgets belong to one's own model and are asked for.

    SFT     sum of the nll of the answers' tokens over a batch / their number       section 4
    DPO     -log sig(5 [mean log p/q of the chosen - mean log p/q of the rejected])   section 5
    RLVR    r = 10 if verified, -10 without an end, else 0; less 0.05 log(p/q) at each token; PPO   section 6, tables 21 and 22

Source: arXiv 2411.15124; `docs/tulu3.md` and `open_instruct/ppo_vllm_thread_ray_gtrl.py` of allenai/open-instruct.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import nn

from etude.data.stream import DataStream
from etude.data.tokenizers import Tokenizer
from etude.engine.ledger import Budget
from etude.engine.optim import AdamW, OptimizerSpec, Several
from etude.engine.protocols import Generator, Sampling, Source
from etude.engine.schedule import Linear
from etude.engine.trainer import Trainer
from etude.generate.local import LocalGenerator
from etude.learn.advantages import Unfinished
from etude.learn.estimators import GeneralisedAdvantages
from etude.learn.finetune import Finetune
from etude.learn.logprobs import frozen_copy
from etude.learn.onpolicy import RolloutStream
from etude.learn.pairs import PairSource
from etude.learn.policy import PolicyConfig
from etude.learn.ppo import PPO
from etude.learn.preference import DPO, PairLoss, Preference
from etude.learn.problems import ProblemPool
from etude.learn.rollouts import Collector
from etude.learn.round import RoundConfig
from etude.learn.rows import CompletionSource
from etude.learn.values import ActorCritic, BradleyTerry, ValueModel

M = TypeVar("M", bound=nn.Module)

NORMALISED = DPO(beta=5.0, normalised=True)  # docs/tulu3.md: --dpo_loss_type dpo_norm --dpo_beta 5
ROUNDS = RoundConfig(prompts=224, samples=1, epochs=4, minibatch=224)  # table 21: one mini-batch, K = 4


def trainable(model: M) -> M:
    """A copy to go on from, whatever was frozen."""
    return copy.deepcopy(model).requires_grad_(True).train()


def adamw(lr: float) -> AdamW:
    """Theirs: no weight decay."""
    return AdamW(lr=lr, weight_decay=0.0)


def sft(
    parent: nn.Module, rows: Sequence[Any] | CompletionSource, *, lr: float, batch: int, budget: Budget, context: int,
    tokenizer: Tokenizer | None = None, end: int | None = None, warmup: float = 0.03, seed: int = 0, **trainer: Any,
) -> Trainer[Any]:  # fmt: skip
    """Supervised fine-tuning on (prompt, answer) rows. lr: falls linearly to 0 after `warmup`, a share of the budget. batch: rows.

    end: token id that closes each answer. trainer: what else `Trainer` takes (folder, accumulate, evaluators, methods, ...).
    Raises BadInput naming the row: an empty prompt or answer, more tokens than the context holds.
    """
    source = rows if isinstance(rows, CompletionSource) else CompletionSource(rows, context=context, tokenizer=tokenizer, end=end)
    return _trainer(trainable(parent), source, Finetune(), lr, batch, budget, warmup, seed, trainer)


def dpo(
    parent: nn.Module, pairs: Sequence[Any] | PairSource, *, lr: float, batch: int, budget: Budget, context: int,
    tokenizer: Tokenizer | None = None, end: int | None = None, loss: PairLoss = NORMALISED, warmup: float = 0.1, seed: int = 0,
    **trainer: Any,
) -> Trainer[Any]:  # fmt: skip
    """Preference tuning on (prompt, chosen, rejected) triples, against a frozen copy of the parent. The rest as in `sft`; batch: pairs.

    loss: length-normalised DPO by default; `DPO(beta=0.1)` is the plain one, for whose sums a beta of 5 saturates.
    Raises BadInput naming the pair: chosen = rejected, an empty completion, more tokens than the context holds.
    """
    objective = Preference(loss, frozen_copy(parent))
    return _trainer(trainable(parent), _pairs(pairs, context, tokenizer, end), objective, lr, batch, budget, warmup, seed, trainer)


def reward_model(
    parent: nn.Module, pairs: Sequence[Any] | PairSource, *, lr: float, batch: int, budget: Budget, context: int, width: int | None = None,
    tokenizer: Tokenizer | None = None, end: int | None = None, seed: int = 0, **trainer: Any,
) -> Trainer[Any]:  # fmt: skip
    """A scalar reward model on a copy of the parent (theirs: the SFT model), by Bradley and Terry; RLVR's value net begins as it.

    width: of the parent's hidden states, where it has no `config.width`. The rest as in `dpo`.
    """
    model = ValueModel.from_policy(parent) if width is None else ValueModel(trainable(parent), width)
    return _trainer(model, _pairs(pairs, context, tokenizer, end), BradleyTerry(), lr, batch, budget, 0.0, seed, trainer)


def rlvr(
    parent: nn.Module, value: ValueModel, pool: ProblemPool, *, tokenizer: Tokenizer, sampling: Sampling, context: int, lr: float,
    budget: Budget, value_lr: float | None = None, rounds: RoundConfig = ROUNDS,
    kl: float = 0.05, unfinished: float | None = -10.0, value_weight: float = 0.1, value_clip: float = 0.2, failures: str = "stop",
    generator: Callable[[nn.Module], Generator] | None = None, seed: int = 0, **trainer: Any,
) -> Trainer[ActorCritic]:  # fmt: skip
    """PPO on verified rewards. The trained model is an `ActorCritic`: the answerer is its `.policy`.

    value:      where the value net begins (a copy is trained): a reward model, whose own score is never added to the reward.
    pool:       problems with `Verified` environments, one verifier for each task family.
    unfinished: the reward without an end token, whatever was verified; None leaves it to the verifier.
    failures:   of a verifier that raises or gives no number: "stop", or "zero" to go on (each is named in `rollouts.jsonl`).
    The KL in the reward is to the parent. clip: 1 unless given in `trainer`, over policy and value net together.
    """
    shaping = () if unfinished is None else (Unfinished(penalty=unfinished),)
    rules = Collector(pool, tokenizer, sampling, context=context, shaping=shaping, failures=failures)
    stream = RolloutStream(
        generator or (lambda model: LocalGenerator(model, tokenizer, context=context)), rules, rounds, seed=seed,
        advantages=GeneralisedAdvantages(gamma=1.0, lam=0.95, kl=kl), reference=frozen_copy(parent) if kl else None,
    )  # fmt: skip
    policy = PolicyConfig(mean_over="tokens", kl=0.0, clip_low=0.2, clip_high=0.2)
    spec = Several({"policy": (adamw(lr), ("policy.",)), "value": (adamw(lr if value_lr is None else value_lr), ("value.",))})
    return Trainer(
        ActorCritic(trainable(parent), trainable(value)), stream, PPO(policy, value_clip=value_clip, value_weight=value_weight),
        **({"optimizer": spec, "schedule": Linear(), "budget": budget, "seed": seed} | trainer),
    )  # fmt: skip


def _pairs(pairs: Sequence[Any] | PairSource, context: int, tokenizer: Tokenizer | None, end: int | None) -> PairSource:
    return pairs if isinstance(pairs, PairSource) else PairSource(pairs, context=context, tokenizer=tokenizer, end=end)


def _trainer(
    model: nn.Module, source: Source, objective: Any, lr: float, batch: int, budget: Budget, warmup: float, seed: int, more: dict[str, Any]
) -> Trainer[Any]:
    stream = DataStream(source, min(batch, len(source)), seed, drop_last=True)
    optimizer: OptimizerSpec = adamw(lr)
    given = {"optimizer": optimizer, "schedule": Linear(warmup=warmup), "budget": budget, "seed": seed} | more
    return Trainer(model, stream, objective, **given)
