"""Data: corpora, tokenizers, sources of samples, samplers and the stream that draws from them."""
