"""The studies behind docs/results: presets, router, calibration, ablation, zero-shot, recommendation."""
