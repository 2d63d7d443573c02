"""Weights that other projects published, read without their code and turned into run directories."""
