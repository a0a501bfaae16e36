"""Metrics of segmentation masks."""
