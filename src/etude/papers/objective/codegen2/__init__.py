"""CodeGen2: one decoder learns half of its sequences from left to right and half with spans taken out, and can infill at the end.

    u < rate    text with marks in place of spans, then each mark with its span; read and learnt as any text
    else        the text as it is, every token predicted from those before

    etude.train(model, data, methods=[SpanMixture()])                       # bytes; other tokenizers name `marks`, ids that they do not use
    middles = infill(LocalGenerator(model), [(left, right)], Marks.of(SPARE_BYTES))     # token ids

Spans lie inside one file each. `rate` 0 is causal training bit for bit, 1 span corruption alone; with `prefix` the holed text is read
both ways and only the spans are learnt. Rows keep their length: what marks cost is paid in text. To steer the mixture by losses instead
of drawing it, put the same objectives side by side: `Dispatched({"causal": CausalLM(), "spans": SpanCorruption(marks)})` over an
`ObjectiveSource`, with any mixture of domains as sampler.
Source: Nijkamp et al. 2023, arXiv 2305.02309; the prompt of the model card of Salesforce/codegen2-1B. No training code was published.
Scaled down: 0.14M parameters on SymPy's modules and the King James Bible instead of 1B on BigPython, the Stack and the Pile. It still
tests the lessons, which compare objectives, attention and data for one network at one budget of tokens; but what a network of this size
fills into code says little, so that a made language stands beside it.
"""

from etude.papers.objective.codegen2.holes import Hole, holes, infill, parses
from etude.papers.objective.codegen2.mixture import SpanMixture, mixed
from etude.papers.objective.codegen2.settings import Settings
from etude.papers.objective.codegen2.study import STUDY

__all__ = ["STUDY", "Hole", "Settings", "SpanMixture", "holes", "infill", "mixed", "parses"]
