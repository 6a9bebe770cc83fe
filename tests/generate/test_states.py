import pytest
import torch
from torch import nn

from etude.engine.protocols import Sampling
from etude.engine.streams import initialise
from etude.errors import BadInput
from etude.generate.local import LocalGenerator
from etude.generate.states import PrefixReading, Rereading, decoder_of, logits_at, vocabulary
from etude.nn.decoding import padded
from etude.nn.recurrent import RecurrentConfig, RecurrentLM
from etude.nn.transformer import Transformer, TransformerConfig


class Stranger(nn.Module):
    """A causal model with absolute positions that returns logits and knows nothing of etude."""

    def __init__(self, vocab=9, width=8, longest=32):
        super().__init__()
        self.embed, self.place = nn.Embedding(vocab, width), nn.Embedding(longest, width)
        self.out = nn.Linear(width, vocab)

    def forward(self, tokens):
        x = self.embed(tokens) + self.place(torch.arange(tokens.shape[1]))
        return self.out(x.cumsum(1).tanh())


def _transformer() -> Transformer:
    return initialise(Transformer(TransformerConfig(vocab=9, width=8, depth=1, heads=2, init_std=0.3)), 0)


def _stranger() -> Stranger:
    torch.manual_seed(0)
    return Stranger().eval()


def test_a_stranger_is_read_anew_and_exactly():
    model = _stranger()
    decoder = decoder_of(model)
    assert isinstance(decoder, Rereading)
    rows = [torch.tensor([1, 2, 3, 4]), torch.tensor([5, 6])]
    state = decoder.begin(*padded(rows))
    more = torch.tensor([[7, 8], [0, 1]])
    got = torch.cat((state.logits[:, None], decoder.extend(more, state)), 1)
    for i, row in enumerate(rows):
        torch.testing.assert_close(got[i], model(torch.cat((row, more[i]))[None])[0, -3:].detach(), rtol=0, atol=1e-6)
    one = state.select([1, 1])
    assert len(one) == 2
    one.rewind(2)
    torch.testing.assert_close(one.logits[0], model(rows[1][None])[0, -1].detach(), rtol=0, atol=1e-6)
    torch.testing.assert_close(state.logits, got[:, -1])
    with pytest.raises(ValueError, match="rewind by 2 tokens: expected 0 to 1"):
        one.rewind(2)


def test_rereading_equals_the_states_of_our_own_models():
    for model in (_transformer(), initialise(RecurrentLM(RecurrentConfig(vocab=9, width=8, init_std=0.5)), 0)):
        assert decoder_of(model) is model
        tokens, mask = padded([torch.tensor([1, 2, 3]), torch.tensor([4])])
        own, anew = model.begin(tokens, mask), Rereading(model).begin(tokens, mask)
        torch.testing.assert_close(own.logits, anew.logits, rtol=0, atol=1e-6)
        for _ in range(3):
            new = own.logits.argmax(-1, keepdim=True)
            torch.testing.assert_close(model.extend(new, own), anew.reader.extend(new, anew), rtol=0, atol=1e-6)


class _Shifted(Transformer):
    def forward(self, tokens, document_ids=None, positions=None):
        out = super().forward(tokens, document_ids, positions)
        return {"hidden": out["hidden"].roll(1, -1)}


def test_what_overrides_forward_alone_does_not_inherit_its_parents_states():
    model = _Shifted(TransformerConfig(vocab=9, width=8, depth=1, heads=2))
    assert isinstance(decoder_of(model), Rereading)
    plain = _transformer()
    plain.register_forward_hook(lambda *a: None)
    assert isinstance(decoder_of(plain), Rereading)


@pytest.mark.parametrize(("output", "found"), [(lambda t: t.float(), "an output of shape (1, 3)"), (lambda t: (t,), "an output of tuple")])
def test_an_output_that_is_no_logits(output, found):
    class Odd(nn.Module):
        def forward(self, tokens):
            return output(tokens)

    with pytest.raises(BadInput) as caught:
        logits_at(Odd(), torch.zeros(1, 3, dtype=torch.int64), slice(0, 3))
    assert str(caught.value) == f"model: found {found}, expected logits (1, 3) by vocabulary, or a dict with `hidden`"


def test_vocabulary():
    assert vocabulary(_transformer()) == 9
    assert vocabulary(_stranger()) == 9
    assert vocabulary(nn.Linear(2, 2)) is None


def test_prompts_are_read_both_ways_up_to_their_separator():
    model, separator = _transformer(), 8
    prompts = [[1, 2, 3, 8, 4], [5, 8, 8, 6], [1, 2, 3, 4]]
    inside = [4, 2, 0]
    arrays = [torch.tensor(p).numpy() for p in prompts]
    done = LocalGenerator(PrefixReading(model, separator)).complete(arrays, Sampling(temperature=0, max_tokens=4))
    for prompt, count, (found,) in zip(prompts, inside, done, strict=True):
        row = torch.tensor([prompt + found.tokens.tolist()])
        prefix = (torch.arange(row.shape[1]) < count)[None]
        logprobs = model.head(model(row, prefix=prefix)["hidden"]).detach().log_softmax(-1)[0, len(prompt) - 1 : -1]
        assert logprobs.argmax(1).tolist() == found.tokens.tolist()
        torch.testing.assert_close(torch.from_numpy(found.logprobs), logprobs.max(1).values, rtol=0, atol=1e-5)
    with pytest.raises(BadInput, match="takes no prefix"):
        PrefixReading(_stranger(), separator)
