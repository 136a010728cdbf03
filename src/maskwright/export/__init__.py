"""Trained models for use elsewhere.

ONNX: ``graphs.py`` is what is exported, ``onnx_writer.py`` writes and checks files, ``onnx_models.py`` knows which model becomes which
file. ``onnx_file.py``, ``onnx_predictors.py`` and ``onnx_sam.py`` run them, with ``onnxruntime`` and without PyTorch.

The Hugging Face hub: ``hub.py`` pushes and fetches, ``card.py`` writes the model card, ``hub_names.py`` reads ``hf://OWNER/NAME``.
"""
