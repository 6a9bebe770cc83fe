"""Methods in a trainer that one already has: `etude.adapt.hf(trainer, methods)` for transformers' `Trainer` and TRL's.

    trainer = transformers.Trainer(model=model, args=args, train_dataset=rows)
    etude.adapt.hf(trainer, [etude.method("cyclical-curriculum")()])
    trainer.train()

Needs transformers and accelerate (TRL for its trainers); nothing of them is imported before a trainer is given.
"""

from etude.adapt.trainer import hf

__all__ = ["hf"]
