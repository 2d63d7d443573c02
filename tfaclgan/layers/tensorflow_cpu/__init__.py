"""What TensorFlow's CPU computes in another way than with its own kernels; written in TensorFlow, loaded only there."""
