"""Numbers of an independent implementation, for ``test_binary_metrics.py``: run in an environment of its own, as it pins numpy.

    python -m venv sod && sod/bin/pip install pysodmetrics==1.6.2 && sod/bin/python tests/engine/pysodmetrics/make.py

Writes ``reference.npz`` beside itself: predictions and masks (uint8), and what the package says of each pair.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from py_sod_metrics import MAE, BERHandler, Emeasure, Fmeasure, FmeasureV2, IOUHandler, Smeasure
from scipy.ndimage import gaussian_filter

HERE = Path(__file__).parent


def pairs() -> tuple[np.ndarray, np.ndarray]:
    """Predictions 0..255 and masks 0/1, (12, 37, 52): from good to senseless, and corner cases."""
    rng = np.random.default_rng(7)
    fields = np.stack([gaussian_filter(rng.normal(size=(37, 52)), 5) for _ in range(12)])
    masks = fields > np.quantile(fields, rng.uniform(0.5, 0.95, 12), axis=(1, 2)).diagonal()[:, None, None]
    noisy = (
        gaussian_filter(masks.astype(float), (0, 2, 2))
        + rng.normal(size=masks.shape) * np.linspace(0, 0.6, 12)[:, None, None]
    )
    predictions = (np.clip(noisy, 0, 1) * 255).round().astype(np.uint8)
    predictions[1] = masks[1] * 255  # perfect
    masks[2], masks[3] = False, True
    predictions[4], predictions[5] = 0, 255
    masks[6] = False
    masks[6, 20, 30] = True
    predictions[7] = 100
    masks[8] = np.arange(52) >= 26  # its centre of mass is at a border of pixels
    return predictions, masks.astype(np.uint8)


def main() -> None:
    predictions, masks = pairs()
    images = []
    pooled_ber = FmeasureV2(
        {"ber": BERHandler(with_dynamic=False, with_adaptive=False, with_binary=True, sample_based=False)}
    )
    for prediction, mask in zip(predictions, masks):
        probability, truth = prediction / 255, mask.astype(bool)
        f, e, s, mae = Fmeasure(), Emeasure(), Smeasure(), MAE()
        for metric in (f, e, s, mae):
            metric.step(probability, truth, normalize=False)
        hard_e, hard_f = Emeasure(), Fmeasure()
        hard = (probability >= 0.5).astype(np.float64)
        hard_e.step(hard, truth, normalize=False)
        iou = FmeasureV2({"iou": IOUHandler(with_dynamic=False, with_adaptive=False, with_binary=True)})
        iou.step(hard, truth, normalize=False)
        pooled_ber.step(hard, truth, normalize=False)
        hard_f.step(hard, truth, normalize=False)
        images.append(
            {
                "f_curve": np.flip(f.get_results()["fm"]["curve"]),
                "f_adaptive": float(f.get_results()["fm"]["adp"]),
                "f": float(hard_f.get_results()["fm"]["curve"][0]),  # passed by what is 255 in a hard mask
                "e_curve": np.flip(e.get_results()["em"]["curve"]),
                "e_adaptive": float(e.get_results()["em"]["adp"]),
                "e": float(hard_e.get_results()["em"]["curve"][0]),
                "s": float(s.get_results()["sm"]),
                "mae": float(mae.get_results()["mae"]),
                "iou": float(iou.get_results()["iou"]["binary"]),
            }
        )
    scores = {name: np.array([image[name] for image in images]) for name in images[0]}
    ber = float(pooled_ber.get_results()["ber"]["binary"])
    np.savez_compressed(HERE / "reference.npz", predictions=predictions, masks=masks, ber=ber, **scores)


if __name__ == "__main__":
    main()
