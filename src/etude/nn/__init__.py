"""Models: a Llama-style transformer, recurrent nets, perceptrons, small convolutions, and surgery on them."""
