"""Measurements of the compiler, and the models they are taken on."""
