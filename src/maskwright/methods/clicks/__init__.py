"""The click agent at work: how it acts, is scored and shown."""
