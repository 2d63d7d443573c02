"""Layers that more than one network family uses; keras and keras.ops only, but for `tensorflow_cpu/`."""
