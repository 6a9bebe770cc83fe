"""What each arm does: a chain of stages from one base, all of them spending the same number of tokens."""

from __future__ import annotations

from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from torch import nn

from etude.engine.ledger import Budget, Ledger
from etude.engine.optim import AdamW, Muon
from etude.engine.protocols import Completion, Sampling
from etude.engine.streams import derive, numpy_rng
from etude.engine.trainer import Trainer
from etude.evidence.study import Job, Outcome
from etude.generate.local import LocalGenerator
from etude.learn.preference import DPO
from etude.learn.problems import ProblemPool, Verified
from etude.learn.round import RoundConfig
from etude.learn.values import ValueModel
from etude.learn.warmstart import warm_start
from etude.nn.transformer import TransformerConfig
from etude.papers.improvement.tulu3 import stages, tasks
from etude.papers.improvement.tulu3.chain import BASE, Chain, Here
from etude.papers.improvement.tulu3.leaks import demonstrations
from etude.papers.improvement.tulu3.preferences import Preferences, preferences
from etude.papers.improvement.tulu3.settings import Settings
from etude.papers.improvement.tulu3.tasks import END, TOKENIZER

PROCESSED = ("tokens", "generated_tokens", "prompt_tokens")
"""What counts as a token of a stage: trained on, written or read before writing."""
SFT, DPO_STAGE, REWARD, RLVR = "SFT", "DPO", "reward model", "RLVR"


def model_config(s: Settings) -> TransformerConfig:
    return TransformerConfig(
        vocab=s.vocab, width=s.width, depth=s.depth, heads=s.heads, kv_heads=s.kv_heads, hidden=s.hidden, context=s.context, tied=s.tied,
        rope_base=s.rope_base,
    )  # fmt: skip


def teaching(s: Settings) -> Muon:
    """Of the base: under AdamW a model this small took several times as long to learn to copy from its prompt."""
    return Muon(lr=s.base_lr, weight_decay=0.01, rest=AdamW(lr=s.base_lr / 8, weight_decay=0.01))


def processed(ledger: Ledger) -> int:
    return round(sum(ledger.total(quantity) for quantity in PROCESSED))


def tokens(limit: float) -> Budget:
    return Budget(weights=dict.fromkeys(PROCESSED, 1.0), limit=max(1.0, limit))


class Bench:
    """A job's base, data and evaluations, and the chain that its arm makes."""

    def __init__(self, job: Job) -> None:
        self.job, self.s = job, job.settings
        # No loss is told: whether the base is taught now or was before must not show in what a run reports.
        rows = tasks.base_rows(self.s.base_rows, self.s.base_wrong, job.seed)
        self.base = warm_start(
            rows, name="four families", config=model_config(self.s), tokenizer=TOKENIZER, end=END, steps=self.s.base_updates,
            batch_size=self.s.base_batch, optimizer=teaching(self.s), seed=job.seed,
            progress=lambda share, loss: job.progress(0.2 * share, None),
        )  # fmt: skip
        self.evaluations = {which: tasks.evaluation(which, job.seed, self.s.num_test) for which in tasks.EVALUATIONS}
        self.data = demonstrations(self.s, job.seed, self.evaluations)
        self.chain = Chain(self.base.model, job.part("chain").folder)
        self.curves: dict[str, list[float]] = {"success": [], "tokens": [], "flops": []}
        self._pairs: Preferences | None = None
        self.note(BASE)

    def seed(self, *names: str) -> int:
        return derive(self.job.seed, *names)

    # --- stages -------------------------------------------------------------------------------------------------------
    def sft(self, limit: int) -> str:
        s = self.s

        def make(parent: nn.Module, here: Here) -> Trainer[Any]:
            budget = tokens(limit)
            more = self.common(SFT, here)
            return stages.sft(parent, self.data.rows, end=END, lr=s.sft_lr, batch=s.sft_batch, budget=budget, warmup=s.sft_warmup, **more)

        self.chain.run(SFT, make, made_of=(s, limit))
        return self.note(SFT)

    def dpo(self, normalised: bool, until: int) -> str:
        """until: tokens of the chain by the end of this stage, so that what one stage spends over or under the next makes good."""
        s, name = self.s, DPO_STAGE
        loss = DPO(beta=s.dpo_beta, normalised=True) if normalised else DPO(beta=s.plain_beta)
        spent = processed(self.ledger())

        def make(parent: nn.Module, here: Here) -> Trainer[Any]:
            rows = self.pairs(here.ledger).rows
            budget = tokens(until - spent - processed(here.ledger))
            lr = s.dpo_lr if normalised else s.plain_lr
            return stages.dpo(
                parent, rows, lr=lr, batch=s.dpo_batch, budget=budget, loss=loss, warmup=s.dpo_warmup, **self.common(name, here)
            )

        self.chain.run(name, make, parent=SFT, made_of=(s, normalised, until))
        return self.note(name)

    def rlvr(self, parent: str) -> str:
        """To the end of the budget. The value net begins as a reward model, which pays for the pairs where no DPO stage has."""
        s, paid = self.s, parent == DPO_STAGE

        def make_reward(start: nn.Module, here: Here) -> Trainer[Any]:
            rows = self.pairs(Ledger() if paid else here.ledger).rows
            budget = Budget(steps=s.reward_updates)
            return stages.reward_model(start, rows, lr=s.reward_lr, batch=s.reward_batch, budget=budget, **self.common(REWARD, here))

        value = self.chain.run(REWARD, make_reward, parent=SFT, like=ValueModel.from_policy, made_of=(s, paid))
        left = s.total_tokens - processed(self.ledger())

        def make(start: nn.Module, here: Here) -> Trainer[Any]:
            assert isinstance(value, ValueModel)
            size = s.round_prompts * s.samples
            rounds = RoundConfig(prompts=s.round_prompts, samples=s.samples, epochs=s.epochs, minibatch=size)
            return stages.rlvr(
                start, value, self.pool(), sampling=sampling(s), lr=s.rlvr_lr, value_lr=s.value_lr, budget=tokens(left), rounds=rounds,
                kl=s.kl, unfinished=s.unfinished, value_weight=s.value_weight, value_clip=s.value_clip, **self.common(RLVR, here),
            )  # fmt: skip

        self.chain.run(RLVR, make, parent=parent, made_of=(s, parent))
        return self.note(RLVR)

    def common(self, stage: str, here: Here) -> dict[str, Any]:
        """What all stages are given alike."""
        return {
            "context": self.s.context, "tokenizer": TOKENIZER, "seed": self.seed(stage), "folder": here.folder,
            "progress": lambda share, loss: self.job.progress(0.2 + 0.7 * share, loss),
        }  # fmt: skip

    def pairs(self, ledger: Ledger) -> Preferences:
        """Made once, from the SFT stage's policy and the base, two answers each; charged where they are made."""
        if self._pairs is None:
            s = self.s
            items = tasks.mixed(self.job.seed, "pairs", s.pair_prompts)
            prompts = [TOKENIZER.encode(p.prompt).astype(np.int64) for _, p in items]
            models = [self.chain.model(name) for name in (SFT, BASE)]
            sources = [(LocalGenerator(model, TOKENIZER, ledger=ledger), sampling(s), 2) for model in models]

            def mark(place: int, answer: Completion) -> float:
                """1 to 5: 5 for a right answer, 2 for a wrong one, 1 without an end; but now and then the judge errs."""
                ledger.charge("judge", labels=1)
                rng = numpy_rng(self.job.seed, "judge", place, answer.tokens.tobytes().hex())
                if rng.random() < s.judge_errs:
                    return float(rng.integers(1, 6))
                return 1.0 if answer.finish != "stop" else 5.0 if tasks.verify(*items[place], answer.text) else 2.0

            self._pairs = preferences(sources, prompts, mark, seed=self.seed("pairs"))
        return self._pairs

    def pool(self) -> ProblemPool:
        """Questions without answers, a verifier for each family."""
        s, count = self.s, -(-self.s.rl_prompts // len(tasks.families()))
        return ProblemPool.join([
            ProblemPool.given(family.task, list(islice(tasks.problems(name, self.job.seed, "rl"), count)), partial(Verified, paid=s.paid))
            for name, family in tasks.families().items()
        ])  # fmt: skip

    # --- measuring ----------------------------------------------------------------------------------------------------
    def note(self, stage: str) -> str:
        """A point of the curves: development success after a stage."""
        ledger = self.ledger()
        self.curves["success"].append(self.success(stage, "development", 0.0)["success"])
        self.curves["tokens"].append(processed(ledger))
        self.curves["flops"].append(ledger.total("flops"))
        return stage

    def ledger(self) -> Ledger:
        """Of all stages; without the base, which all arms share."""
        total = Ledger()
        for ledger in self.chain.ledgers.values():
            total.merge(ledger)
        return total

    def success(self, stage: str, which: str, temperature: float) -> dict[str, float]:
        """The mean over families of how often answers are right, each family's, and what else is seen of the answers."""
        generator = LocalGenerator(self.chain.model(stage), TOKENIZER)
        told: dict[str, float] = {}
        ended, lengths = [], []
        for name, items in self.evaluations[which].items():
            how = sampling(self.s, temperature)
            groups = generator.complete([p.prompt for p in items], how, n=4 if temperature else 1, seed=self.seed("evaluation", name))
            answers = [(p, c) for p, group in zip(items, groups, strict=True) for c in group]
            right = [c.finish == "stop" and tasks.verify(name, p, c.text) == 1 for p, c in answers]
            told[name] = float(np.mean(right))
            ended += [c.finish == "stop" for _, c in answers]
            lengths += [len(c.tokens) for _, c in answers]
        mean = float(np.mean(list(told.values())))
        return {"success": mean, **told, "finished": float(np.mean(ended)), "answer tokens": float(np.mean(lengths))}

    def outcome(self, last: str) -> Outcome:
        greedy, drawn = self.success(last, "development", 0.0), self.success(last, "development", 1.0)
        unseen = self.success(last, "unseen", 0.0)
        metrics = {f"success, {name}" if name in tasks.families() else name: v for name, v in greedy.items()}
        metrics |= {"sampled success": drawn["success"], "unseen success": unseen["success"]}
        metrics |= {f"unseen success, {name}": unseen[name] for name in tasks.families()} | self.data.told()
        metrics |= {f"tokens, {name}": float(processed(ledger)) for name, ledger in self.chain.ledgers.items()}
        if {DPO_STAGE, REWARD} & set(self.chain.stages):
            pairs = self.pairs(Ledger())  # paid for already; made again where the stages were read from disk
            metrics |= {"pairs": float(len(pairs.rows)), "pairs, on-policy": pairs.on_policy}
        ledger = self.ledger()
        ledger.charge("stages", stage_tokens=processed(ledger))
        self.base.charge(ledger)
        curves = {f"success / {x}": (self.curves[x], self.curves["success"]) for x in ("tokens", "flops")}
        parameters = sum(p.numel() for p in self.base.model.parameters())
        return Outcome(metrics=metrics, curves=curves, ledger=ledger.as_dict(), parameters=parameters)


def sampling(s: Settings, temperature: float = 1.0) -> Sampling:
    return Sampling(temperature=temperature, max_tokens=s.max_tokens, stop_tokens=(END,))


def base(job: Job) -> Outcome:
    """The base as it is."""
    return Bench(job).outcome(BASE)


def chain(job: Job, dpo: str = "", rlvr: bool = False) -> Outcome:
    """SFT, then what is asked for. dpo: "normalised", "plain" or none. The tokens of a stage that is left out go to SFT."""
    bench = Bench(job)
    s: Settings = job.settings
    last = bench.sft(s.sft_tokens + (0 if dpo else s.dpo_tokens) + (0 if rlvr else s.rlvr_tokens))
    if dpo:
        last = bench.dpo(dpo == "normalised", s.total_tokens - (s.rlvr_tokens if rlvr else 0))
    if rlvr:
        last = bench.rlvr(last)
    return bench.outcome(last)
