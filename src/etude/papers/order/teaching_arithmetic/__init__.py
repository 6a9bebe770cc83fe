"""Teaching arithmetic to small transformers: how an example is written decides how many are needed.

The first digit of a sum depends on all digits and every carry, the last one on two digits alone. Written from its last digit, each
digit of the answer is a function of three: the two digits of its place and the carry, which the digits before it tell.

    plain       128+367=495          a function of six digits for the first digit that is said
    reverse     128+367=594          c_i = (a_i + b_i + carry_i) mod 10: two digits and a carry for each
    simplified  A->5 , C->1 ...      the digits and carries said as working, then the sum; detailed: every step in full

    prompt, completion = rendered(128, 367, form="reverse")                       # etude.data.tasks.arithmetic
    pairs = balanced_additions(2_500, numpy_rng(0, "pairs"))                      # digits and carries equally often
    family = etude.task("arithmetic", operator="-", form="detailed")              # grades what was generated

Source: Lee et al. 2023, arXiv 2307.03381; authors' code lee-ny/teaching_arithmetic at 7e489fa.
Scaled down: 0.2M parameters, one padded example a row and the loss on answers alone, instead of 10.6M on windows of 256 characters out of
one stream (`rows = "stream"` is that; a model of this size learnt nothing from it in 3.6M tokens). It still tests the claim, which is
about what the same network learns from the same pairs written differently.
"""

from etude.papers.order.teaching_arithmetic.data import Examples, examples, read
from etude.papers.order.teaching_arithmetic.settings import Settings
from etude.papers.order.teaching_arithmetic.study import STUDY

__all__ = ["STUDY", "Examples", "Settings", "examples", "read"]
