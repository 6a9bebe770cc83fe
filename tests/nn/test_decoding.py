import pytest
import torch

from etude.engine.streams import initialise
from etude.nn.decoding import AttentionState, align_ends, one_query, pad_right, padded
from etude.nn.recurrent import RecurrentConfig, RecurrentLM
from etude.nn.transformer import Block, Transformer, TransformerConfig

VOCAB = 11
MODELS = {
    "transformer": lambda: Transformer(TransformerConfig(vocab=VOCAB, width=16, depth=2, heads=4, init_std=0.3)),
    "grouped": lambda: Transformer(TransformerConfig(vocab=VOCAB, width=16, depth=2, heads=4, kv_heads=2, init_std=0.3)),
    "shifted": lambda: Transformer(TransformerConfig(vocab=VOCAB, width=16, depth=2, heads=4, init_std=0.3, shifted=True)),
    "gru": lambda: RecurrentLM(RecurrentConfig(cell="gru", vocab=VOCAB, width=8, depth=2, init_std=0.5)),
    "lstm": lambda: RecurrentLM(RecurrentConfig(cell="lstm", vocab=VOCAB, width=8, init_std=0.5)),
}
EACH = pytest.mark.parametrize("kind", MODELS)


def _model(kind: str):
    return initialise(MODELS[kind](), 0).eval()


def _tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(VOCAB, shape, generator=torch.Generator().manual_seed(seed))


def _whole(model, tokens) -> torch.Tensor:
    return model.head(model(tokens)["hidden"]).detach()


@EACH
def test_reading_in_parts_equals_reading_at_once(kind):
    model, tokens = _model(kind), _tokens(3, 12)
    whole = _whole(model, tokens)
    state = model.begin(tokens[:, :4])
    parts = [state.logits[:, None]]
    for start, end in ((4, 5), (5, 9), (9, 10), (10, 12)):
        parts.append(model.extend(tokens[:, start:end], state))
    torch.testing.assert_close(torch.cat(parts, 1), whole[:, 3:], rtol=0, atol=1e-5)
    torch.testing.assert_close(state.logits, whole[:, -1], rtol=0, atol=1e-5)


@EACH
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_changes_nothing(kind, side):
    model, lengths = _model(kind), (5, 1, 3, 5)
    rows = [_tokens(1, n, seed=n) for n in lengths]
    tokens, mask = torch.full((4, 6), 7), torch.zeros(4, 6, dtype=torch.bool)
    for i, row in enumerate(rows):
        place = slice(0, row.shape[1]) if side == "right" else slice(6 - row.shape[1], 6)
        tokens[i, place], mask[i, place] = row[0], True
    state, more = model.begin(tokens, mask), _tokens(4, 3, seed=9)
    first = state.logits
    after = [model.extend(more[:, :1], state), model.extend(more[:, 1:], state)]
    got = torch.cat((first[:, None], *after), 1)
    for i, row in enumerate(rows):
        alone = _whole(model, torch.cat((row, more[i : i + 1]), 1))[0, -4:]
        torch.testing.assert_close(got[i], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["transformer", "grouped"])
@pytest.mark.parametrize("side", ["left", "right", "none"])
def test_a_prefix_is_read_both_ways_whatever_the_padding(kind, side):
    model, lengths = _model(kind), (5, 2, 4, 5) if side != "none" else (6, 6)
    tokens, mask = torch.full((len(lengths), 6), 7), torch.zeros(len(lengths), 6, dtype=torch.bool)
    prefix = torch.zeros_like(mask)
    for i, n in enumerate(lengths):
        start = 0 if side == "right" else 6 - n
        tokens[i, start : start + n], mask[i, start : start + n] = _tokens(n, seed=i), True
        prefix[i, start : start + n - 1] = True
    state, more = model.begin(tokens, None if side == "none" else mask, prefix), _tokens(len(lengths), 2, seed=9)
    got = torch.cat((state.logits[:, None], model.extend(more[:, :1], state), model.extend(more[:, 1:], state)), 1)
    for i in range(len(lengths)):
        row, own = torch.cat((tokens[i][mask[i]], more[i]))[None], torch.cat((prefix[i][mask[i]], torch.zeros(2, dtype=torch.bool)))[None]
        alone = model.head(model(row, prefix=own)["hidden"]).detach()[0, -3:]
        torch.testing.assert_close(got[i], alone, rtol=0, atol=1e-5)
        assert lengths[i] == 2 or (alone - _whole(model, row)[0, -3:]).abs().max() > 1e-3  # one token alone has no second way


@EACH
@pytest.mark.parametrize("steps", [(1, 1, 1, 1), (4,)])
@pytest.mark.parametrize("ragged", [False, True])
def test_rewinding_equals_never_having_read(kind, steps, ragged):
    model, tokens = _model(kind), _tokens(2, 5)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2]) if ragged else None
    state, more = model.begin(tokens, mask), _tokens(2, 4, seed=1)
    for part in more.split(steps, 1):
        model.extend(part, state)
    state.rewind(3)
    expected = model.begin(tokens, mask)
    model.extend(more[:, :1], expected)
    torch.testing.assert_close(state.logits, expected.logits, rtol=0, atol=1e-5)
    other = _tokens(2, 2, seed=2)
    torch.testing.assert_close(model.extend(other, state), model.extend(other, expected), rtol=0, atol=1e-5)
    state.rewind(5)  # two of `other`, one of `more`, two of the prompts
    shorter = [tokens[0, :3], tokens[1, :1] if ragged else tokens[1, :3]]
    fresh = model.begin(*padded(shorter))
    torch.testing.assert_close(state.logits, fresh.logits, rtol=0, atol=1e-5)


@EACH
def test_rewinding_too_far_is_refused(kind):
    model = _model(kind)
    state = model.begin(_tokens(2, 3), torch.tensor([[True] * 3, [True, True, False]]))
    with pytest.raises(ValueError, match="rewind by 2 tokens: expected 0 to 1, one less than the shortest row has"):
        state.rewind(2)
    before = state.logits
    state.rewind(0)
    assert torch.equal(before, state.logits)


@EACH
def test_selected_rows_go_their_own_way(kind):
    model, tokens = _model(kind), _tokens(3, 4)
    state = model.begin(tokens, torch.tensor([[True] * 4, [True] * 2 + [False] * 2, [True] * 4]))
    model.extend(_tokens(3, 1, seed=3), state)
    kept = state.logits
    chosen = state.select([2, 1, 1])
    assert len(chosen) == len(state) == 3
    torch.testing.assert_close(chosen.logits, kept[[2, 1, 1]])
    more = _tokens(3, 2, seed=4)
    forked = model.extend(more, chosen)
    assert torch.equal(state.logits, kept)
    again = state.select(torch.tensor([1]))
    torch.testing.assert_close(model.extend(more[1:2], again), forked[1:2], rtol=0, atol=1e-5)
    chosen.rewind(2)
    torch.testing.assert_close(chosen.logits, kept[[2, 1, 1]], rtol=0, atol=1e-5)
    assert not torch.equal(forked[1], forked[2])


@EACH
def test_rewinding_rows_that_share_their_padding(kind):
    model, tokens = _model(kind), _tokens(2, 5)
    state = model.begin(tokens, torch.tensor([[True] * 5, [True] * 2 + [False] * 3])).select([1])
    more = _tokens(1, 4, seed=1)
    model.extend(more[:, :2], state)
    state.rewind(1)  # into the extension
    model.extend(more[:, 1:], state)
    state.rewind(3)
    torch.testing.assert_close(state.logits, model.begin(torch.cat((tokens[1:, :2], more[:, :1]), 1)).logits, rtol=0, atol=1e-5)


def test_memory_grows_when_it_is_used_up():
    model = _model("grouped")
    tokens = _tokens(2, 200)
    state = model.begin(tokens[:, :3])
    room = state.capacity
    logits = [model.extend(tokens[:, i : i + 1], state) for i in range(3, 200)]
    assert room < 200 <= state.capacity
    torch.testing.assert_close(torch.cat(logits, 1), _whole(model, tokens)[:, 3:], rtol=0, atol=1e-4)


def test_double_precision_stays():
    model = _model("transformer").double()
    tokens = _tokens(1, 6)
    state = model.begin(tokens[:, :5])
    torch.testing.assert_close(model.extend(tokens[:, 5:], state)[:, 0], _whole(model, tokens)[:, -1])


def test_attention_of_one_position_by_hand():
    # Scores 0 and ln 3 after scaling by 1 / sqrt(4): weights 1/4 and 3/4. The bias takes the second away.
    queries, values = torch.tensor([[[2.0, 0, 0, 0]]]), torch.tensor([[[4.0, 0, 0, 1], [8.0, 0, 0, 1]]])
    keys = torch.zeros(1, 2, 4)
    keys[0, 1, 0] = torch.log(torch.tensor(3.0))
    torch.testing.assert_close(one_query(queries, keys, values), torch.tensor([[[7.0, 0, 0, 1]]]))
    bias = torch.tensor([[[0.0, -torch.inf]]])
    torch.testing.assert_close(one_query(queries, keys, values, bias), torch.tensor([[[4.0, 0, 0, 1]]]))


def test_aligning():
    tokens = torch.tensor([[1, 2, 0, 0], [0, 3, 4, 5], [6, 7, 8, 0]])
    mask = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1], [1, 1, 1, 0]]).bool()
    aligned, first = align_ends(tokens, mask)
    assert first.tolist() == [1, 0, 0]
    assert aligned[0, 1:].tolist() == [1, 2]
    assert aligned[1:].tolist() == [[3, 4, 5], [6, 7, 8]]
    assert pad_right(aligned, first)[0, :2].tolist() == [1, 2]
    assert align_ends(tokens, torch.ones(3, 4, dtype=torch.bool))[1] is None


@pytest.mark.parametrize("row", [[0, 0, 0], [1, 0, 1], [0, 1, 0]])
def test_a_mask_with_holes_or_without_tokens_is_refused(row):
    with pytest.raises(ValueError, match="mask: expected at least one token in each row"):
        align_ends(torch.zeros(1, 3, dtype=torch.int64), torch.tensor([row]).bool())


class _Doubled(Block):
    def forward(self, *arguments, **named):
        return 2 * super().forward(*arguments, **named)


def test_a_transformer_with_other_blocks_says_that_it_is_not_incremental():
    model = _model("transformer")
    assert model.incremental
    model.blocks[1] = _Doubled(model.config)
    assert not model.incremental
    model = _model("transformer")
    hook = model.blocks[0].attention.register_forward_hook(lambda *a: None)
    assert not model.incremental
    hook.remove()
    assert model.incremental
    assert isinstance(model.begin(_tokens(1, 2)), AttentionState)
