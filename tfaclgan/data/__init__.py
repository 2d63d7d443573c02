"""Records, the tf.data pipeline and augmentation; knows no method."""
