"""How the study of mode interpolation does an arena's work: it filters samples of another kind of model."""

improvement = "it filters the samples of a diffusion model by the steps that drew them, which a language model does not have"
