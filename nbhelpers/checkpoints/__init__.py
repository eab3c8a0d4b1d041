"""Checkpoints: the manifest, verified downloads, and readers that never run pickled code."""

from nbhelpers.checkpoints.downloads import download, fetch, save_checkpoint, sha256
from nbhelpers.checkpoints.entries import Entry, dataset_facts, entry, manifest, write_entry
from nbhelpers.checkpoints.readers import Weights, read_weights

__all__ = [
    "Entry",
    "Weights",
    "dataset_facts",
    "download",
    "entry",
    "fetch",
    "manifest",
    "read_weights",
    "save_checkpoint",
    "sha256",
    "write_entry",
]
