"""Predicting and scoring with a semantic segmenter."""
