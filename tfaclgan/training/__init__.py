"""The outer loop: steps, files, schedules, checkpoints, logs and samples."""
