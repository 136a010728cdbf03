"""Fixtures for the tests of the engine."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Syncing is what takes the time; test_checkpoints.py checks that it is done, and in the right order."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
