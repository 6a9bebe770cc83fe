"""DITTO: a short tuning on rows that repeat one of their own sentences, in which each copy is to be less likely than the last.

A language model likes to say a sentence again, and the more often it has stood there, the more so; greedy decoding then never leaves it.

    x = prefix, s, s, s, ...        loss = -log(1 - |P[n, l] - decay * P[n-1, l]|)  for n >= 1, no gradient through P[n-1, l]

The rows are made of the training's own, as they come: a random sentence, after the one before it, again and again to the end. Half of
the updates learn from them, the others next tokens as before. It goes with any model and any rows of tokens:

    ditto = etude.method("ditto")(ends=".?!", tokenizer=tokenizer)       # without a tokenizer: bytes; or token ids as ends
    etude.train(model, source, methods=[ditto], budget=etude.Budget(steps=150))
    print(Continuations(prompts, 100, end_ids(tokenizer, ".?!"))(model))         # how much it repeats itself now

Source: Xu et al. 2022, arXiv 2206.02369; authors' code Jxu-Thu/DITTO at 35f5a22.
Scaled down: the King James Bible in byte pairs and 0.14M parameters instead of Wikitext-103 and 16 layers of width 1,024; so small a model
is helped to learn copying (`echoes.py`). It still tests the claim, as its base finds sentences likelier the more often they were said.
Greedily it loops for other reasons too, which are not what the method is against: hence drawn continuations beside them.
"""

from etude.papers.objective.ditto.method import Ditto, end_ids
from etude.papers.objective.ditto.probe import Continuations, SelfReinforcement, repetitions
from etude.papers.objective.ditto.repetition import PseudoRepetition, penalty, repeated, sentences
from etude.papers.objective.ditto.settings import Settings
from etude.papers.objective.ditto.study import STUDY

__all__ = [
    "STUDY", "Continuations", "Ditto", "PseudoRepetition", "SelfReinforcement", "Settings", "end_ids", "penalty", "repeated", "repetitions",
    "sentences",
]  # fmt: skip
