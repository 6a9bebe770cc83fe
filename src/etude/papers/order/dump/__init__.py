"""DUMP: draw the data distribution whose rollouts have the largest advantages, or that has been tried least, most often.

    L[d] = mean |A| of the last 300 rollouts of d          u[d] = L[d] + sqrt(2 ln(N + 1) / (n[d] + 1))          p = softmax(u / 0.1)

Under GRPO a group teaches only where its rollouts differ, and the more the nearer its success is to one half; so |A| tells what is
neither mastered nor out of reach. It comes with the training's own rollouts: nothing extra is generated, judged or charged.

    pool = ProblemPool([Domain("sums", problems, make_environment), ...])        # your own distributions; or ProblemPool.of(task, ...)
    stream = RolloutStream(make_generator, Collector(pool, ...), RoundConfig(prompts=16, samples=8), seed=0)
    Trainer(model, stream, PolicyGradient(GRPO), methods=[Dump()], budget=Budget(steps=500), folder=folder).run()

Shares and learnability of each distribution are in the run's `metrics.jsonl`; after the run, shares in `Dump.sampler.history`. In a
recipe over domains, where nothing has an advantage, `use = "dump"` with `signal = "loss"` schedules by mean loss: not the paper's signal.
Source: Wang et al. 2025, arXiv 2504.09710; authors' code ZhentingWang/DUMP at 235e85d.
Scaled down: copying 2 to 8 letters instead of Knights and Knaves with 3 to 14 people, 0.2M parameters instead of 7B. The base copies
unreliably, as it was shown demonstrations with wrong letters, and one wrong letter fails an answer, so that success falls with the
length. It still tests the claim, which is about how rollouts are shared out among distributions of different success.
"""

from etude.papers.order.dump.bandit import learnability, probabilities, upper_bounds
from etude.papers.order.dump.sampler import Bandit, Dump
from etude.papers.order.dump.settings import Settings
from etude.papers.order.dump.study import STUDY

__all__ = ["STUDY", "Bandit", "Dump", "Settings", "learnability", "probabilities", "upper_bounds"]
