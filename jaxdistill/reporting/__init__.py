"""Reports of a run: metric files, TensorBoard curves, sample images, console output, HTML page."""
