from etude.loop.wording import cut, metrics_in_words, row_in_words


def test_a_sample_is_shown_with_its_reward_first_and_without_tokens():
    rollout = {"round": 3, "prompt_id": 0, "prompt": "3+4=", "completion": "7", "reward": 1.0, "used": True, "ids": [3, 4, 5, 6, 7]}
    assert row_in_words(rollout) == "reward: 1  round: 3  prompt_id: 0  prompt: 3+4=  completion: 7  used: yes"
    attempts = [{"text": "9*", "tokens": [9, 3]}, {"text": "9*2\n", "tokens": [9, 3, 2]}]
    row = {"id": "2-0", "request": "2-0", "question": [8, 9, 10, 18, 13], "attempts": attempts}
    judged = row | {"judgement": {"id": "2-0", "attempts": [-1.0, 0.5], "kept": None}}
    assert row_in_words(judged) == "judgement: -1; 0.5  attempts: 9*; 9*2 | "
    ends = {"id": "a", "ends": [{"text": "b=5", "right": False}, {"text": "b=6", "right": True}], "seen": []}
    assert row_in_words(ends) == "ends: text: b=5, right: no; text: b=6, right: yes"


def test_what_would_move_a_terminals_cursor_is_not_written_to_it():
    assert row_in_words({"completion": "a\x1b[2J\rb\n"}) == "completion: a\ufffd[2J\ufffdb | "


def test_metrics_and_cuts():
    assert metrics_in_words({"reward": 0.25, "rows": 12.0, "FLOPs": 1.5e12}) == "reward 0.25  rows 12  FLOPs 1.5e+12"
    assert cut("abc", 3) == "abc"
    assert cut("abcd", 3) == "ab…"
