"""Generators, discriminators and encoders by family."""
