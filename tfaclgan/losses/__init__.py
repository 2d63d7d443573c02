"""Loss terms as pure functions of tensors; keras.ops only."""
