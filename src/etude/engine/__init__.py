"""The engine: trainer, events, optimizers, schedules, checkpoints, random streams and the ledger. It knows no paper."""
