"""SAM in context: references, pseudo-masks, the pool, and how references are chosen (SAMIX)."""
