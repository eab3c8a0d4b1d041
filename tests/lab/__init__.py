"""Tests in JupyterLab. A package, so that its fixtures live until its last test."""
