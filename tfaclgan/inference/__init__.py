"""Using a trained run: translation of arrays, files and folders."""
