"""How the study of backtracking does an arena's work: it compares what to show before learning, not ways to learn."""

improvement = "it compares warm-ups on written searches that turn back; here none are written, and its learning is plain GRPO"
