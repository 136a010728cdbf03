"""A frozen SAM that prompts itself: how it acts, predicts and is scored (AlignSAM)."""
